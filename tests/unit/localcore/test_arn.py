"""ARNs of functions: what is taken from them, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from localcore import arn
from localcore.errors import LocalCoreError

NAME = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
REGION = st.sampled_from(["", "us-east-1", "eu-central-1", "cn-north-1"])
ACCOUNT = st.sampled_from(["", "aws", "000000000000"])


@given(region=REGION, account=ACCOUNT, name=NAME, qualifier=st.sampled_from(["", ":1", ":$LATEST", ":live"]))
def test_the_parts_of_an_arn_are_found(region: str, account: str, name: str, qualifier: str) -> None:
    unqualified = f"arn:aws:lambda:{region}:{account}:function:{name}"
    assert arn.function_name(unqualified + qualifier) == name
    assert arn.unqualified(unqualified + qualifier) == unqualified
    assert arn.region(unqualified + qualifier) == region


def test_the_cores_own_services_have_arns() -> None:
    names = [arn.function_name(service) for service in (arn.ROUTER, arn.SHADOW, arn.SECRETS)]
    assert names == ["GGRouter", "GGShadowService", "GGSecretManager"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "beverage_classifier",
        "arn:aws:lambda:us-east-1:000000000000:function:",
        "arn:aws:lambda:us-east-1:000000000000:layer:x:1",
        "arn:aws:iot:us-east-1:000000000000:thing/x",
        "arn:aws:lambda:us-east-1:12:function:x",
        "arn:aws:lambda:us-east-1:000000000000:function:x:1:2",
        "arn:aws:lambda:us-east-1:000000000000:function:../x",
        "arn:aws:lambda:us-east-1:000000000000:function:x\n",
        "arn:aws:lambda:us-east-1:000000000000:function:ä",
    ],
)
@pytest.mark.parametrize("part", [arn.function_name, arn.unqualified, arn.region])
def test_what_is_no_arn_of_a_function_is_refused_in_one_sentence(text: str, part: object) -> None:
    assert callable(part)
    with pytest.raises(LocalCoreError, match=r"is no ARN of a Lambda function; write arn:aws:lambda"):
        part(text)
