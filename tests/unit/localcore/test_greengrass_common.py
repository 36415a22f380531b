"""greengrass_common: what V1's SDKs ask of the modules beside them."""

from __future__ import annotations

import importlib
import os

import pytest
from greengrass_common import env_vars
from greengrass_common.function_arn_fields import FunctionArnFields
from greengrass_common.parse_version import parse_version
from hypothesis import given
from hypothesis import strategies as st

VARIABLES = {
    "AUTH_TOKEN": "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "GGC_MAX_INTERFACE_VERSION": "GGC_MAX_INTERFACE_VERSION",
    "MY_FUNCTION_ARN": "MY_FUNCTION_ARN",
    "ROUTER_FUNCTION_ARN": "ROUTER_FUNCTION_ARN",
    "SECRETS_MANAGER_FUNCTION_ARN": "SECRETS_MANAGER_FUNCTION_ARN",
    "SHADOW_FUNCTION_ARN": "SHADOW_FUNCTION_ARN",
}
ARN = "arn:aws:lambda:us-east-1:000000000000:function:beverage_classifier"


@pytest.mark.parametrize("name", VARIABLES)
def test_variables_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(os, "environ", {VARIABLES[name]: "value"})
    importlib.reload(env_vars)
    found = {each: getattr(env_vars, each) for each in VARIABLES}
    monkeypatch.undo()
    importlib.reload(env_vars)
    assert found == {**dict.fromkeys(VARIABLES), name: "value"}


@pytest.mark.parametrize(
    ("arn", "unqualified", "qualifier"),
    [
        (ARN, ARN, ""),
        (f"{ARN}:12", ARN, "12"),
        (f"{ARN}:$LATEST", ARN, "$LATEST"),
        (f"{ARN}:prod-1_a", ARN, "prod-1_a"),
        ("arn:aws:lambda:::function:GGRouter", "arn:aws:lambda:::function:GGRouter", ""),
        ("arn:aws:lambda:::function:GGSecretManager:1", "arn:aws:lambda:::function:GGSecretManager", "1"),
        (
            "arn:aws-cn:lambda:cn-north-1:aws:function:GG-ML-INF-image-classification-x",
            "arn:aws-cn:lambda:cn-north-1:aws:function:GG-ML-INF-image-classification-x",
            "",
        ),
    ],
)
def test_an_arn_is_taken_apart_and_put_together(arn: str, unqualified: str, qualifier: str) -> None:
    fields = FunctionArnFields(arn)
    assert (fields.unqualified_arn, fields.qualifier) == (unqualified, qualifier)
    assert FunctionArnFields.build_function_arn(unqualified, qualifier) == arn


def test_no_qualifier_is_none_or_nothing() -> None:
    assert FunctionArnFields.build_function_arn(ARN, None) == ARN


@pytest.mark.parametrize(
    "text",
    [
        "",
        "beverage_classifier",
        ARN + ":",
        ARN + ":1:2",
        ARN + "\n",
        "arn:aws:lambda",
        "arn:aws:s3:::bucket",
        " " + ARN,
    ],
)
def test_what_is_no_arn_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no ARN of a Lambda function; write it as arn:aws:lambda"):
        FunctionArnFields(text)


@given(st.text(max_size=80) | st.from_regex(r"arn:aws:lambda:[a-z0-9:-]*:function:[\w:$-]*", fullmatch=True))
def test_an_arn_is_refused_or_survives(text: str) -> None:
    try:
        fields = FunctionArnFields(text)
    except ValueError:
        return
    assert FunctionArnFields.build_function_arn(fields.unqualified_arn, fields.qualifier) == text


@pytest.mark.parametrize(("version", "parts"), [("1.5", ("1", "5")), ("1.10.2", ("1", "10")), ("2.0", ("2", "0"))])
def test_a_version_has_two_parts_that_count(version: str, parts: tuple[str, str]) -> None:
    assert parse_version(version) == parts


@pytest.mark.parametrize("version", [None, "", "1", "one.five", "1.5-rc", "1.5\n"])
def test_what_is_no_version_is_refused(version: str | None) -> None:
    with pytest.raises(ValueError, match=r"is no version such as 1\.5; set"):
        parse_version(version)
