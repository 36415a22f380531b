"""The Machine Learning SDK: the V1 contract, against a core whose IPC is a recording."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import greengrass_machine_learning_sdk as sdk
import pytest
from hypothesis import given
from hypothesis import strategies as st

NAME = r"^[a-zA-Z0-9][a-zA-Z0-9-]{1,62}$"


class IPCError(Exception):
    """What the core's IPC client raises."""


class Core:
    """The modules that a core puts beside the SDK."""

    def __init__(self) -> None:
        self.posted: list[tuple[Any, ...]] = []
        self.awaited: list[tuple[str, str]] = []
        self.reply: bytes = json.dumps({"Body": "[0.1,0.9]", "ContentType": "text/plain"}).encode()
        self.function_error = ""
        self.broken: dict[str, Exception] = {}

    def client(self, endpoint: str) -> Core:
        assert endpoint == "localhost"
        return self

    def post_work(self, arn: str, payload: bytes, context: bytes, invocation_type: str) -> str:
        if "post" in self.broken:
            raise self.broken["post"]
        self.posted.append((arn, payload, json.loads(base64.b64decode(context)), invocation_type))
        return "invocation-1"

    def get_work_result(self, arn: str, invocation: str) -> SimpleNamespace:
        self.awaited.append((arn, invocation))
        if "result" in self.broken:
            raise self.broken["result"]
        return SimpleNamespace(payload=self.reply, func_err=self.function_error)


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Core:
    fake = Core()
    module = SimpleNamespace(IPCClient=fake.client, IPCException=IPCError)
    monkeypatch.setitem(sys.modules, "greengrass_ipc_python_sdk", SimpleNamespace(ipc_client=module))
    monkeypatch.setitem(sys.modules, "greengrass_ipc_python_sdk.ipc_client", module)
    monkeypatch.setenv("GGC_MAX_INTERFACE_VERSION", "1.5")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    return fake


def invoke(**changes: Any) -> dict[str, Any]:
    request: dict[str, Any] = {
        "AlgoType": "image-classification",
        "ServiceName": "beverage-classifier",
        "Body": b"\xff\xd8",
    }
    return sdk.client("inference").invoke_inference_service(**{**request, **changes})


# --- clients


def test_the_package_can_be_imported_without_a_core() -> None:
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]}
    program = "import greengrass_machine_learning_sdk as sdk; print(*sorted(sdk.__all__))"
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    exported = "GreengrassDependencyException GreengrassInferenceException StreamingBody client"
    assert result.stdout.strip() == exported


def test_the_feedback_client_is_refused_by_name(core: Core) -> None:
    with pytest.raises(sdk.GreengrassDependencyException, match="pi-fleet does not serve the 'feedback' client"):
        sdk.client("feedback")


def test_an_unknown_client_is_refused(core: Core) -> None:
    with pytest.raises(ValueError, match="'iot-data' is not known"):
        sdk.client("iot-data")


@pytest.mark.parametrize("version", ["1.2", "1.5", "1.10", "1.2.7"])
def test_a_core_that_fits_is_accepted(core: Core, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setenv("GGC_MAX_INTERFACE_VERSION", version)
    sdk.client("inference")


@pytest.mark.parametrize("version", ["1.1", "1.0", "0.9", "2.0", "2.2", "", "1", "one.two", "1.5-rc", "-1.5"])
def test_a_core_that_does_not_fit_is_refused(core: Core, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setenv("GGC_MAX_INTERFACE_VERSION", version)
    with pytest.raises(sdk.GreengrassDependencyException, match=r"GGC_MAX_INTERFACE_VERSION is .* 1\.2 or later"):
        sdk.client("inference")


@pytest.mark.parametrize("variable", ["GGC_MAX_INTERFACE_VERSION", "AWS_REGION"])
def test_what_a_core_sets_must_be_set(core: Core, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.delenv(variable)
    with pytest.raises(sdk.GreengrassDependencyException, match=variable):
        sdk.client("inference")


def test_without_the_cores_modules_there_is_no_client(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "greengrass_ipc_python_sdk.ipc_client", None)
    with pytest.raises(sdk.GreengrassDependencyException, match="core's modules cannot be imported") as refusal:
        sdk.client("inference")
    assert isinstance(refusal.value.__cause__, ImportError)


# --- requests


def test_the_service_is_found_by_its_name_and_gets_the_raw_body(core: Core) -> None:
    invoke(ContentType="image/jpeg", Accept="text/plain")
    arn = "arn:aws:lambda:eu-central-1:aws:function:GG-ML-INF-image-classification-beverage-classifier"
    context = {"custom": {"Content-Type": "image/jpeg", "Accept": "text/plain"}}
    assert core.posted == [(arn, b"\xff\xd8", context, "RequestResponse")]
    assert core.awaited == [(arn, "invocation-1")]


@pytest.mark.parametrize(
    ("arguments", "custom"),
    [
        ({}, {}),
        ({"ContentType": None, "Accept": None}, {}),
        ({"ContentType": "image/png"}, {"Content-Type": "image/png"}),
        ({"Accept": "text/plain"}, {"Accept": "text/plain"}),
    ],
)
def test_content_type_and_accept_are_optional(core: Core, arguments: dict[str, Any], custom: dict[str, str]) -> None:
    invoke(**arguments)
    assert core.posted[0][2] == {"custom": custom}


def test_a_bytearray_is_sent_as_bytes(core: Core) -> None:
    invoke(Body=bytearray(b"\x00picture"))
    assert type(core.posted[0][1]) is bytes


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("AlgoType", None),
        ("AlgoType", ""),
        ("AlgoType", "x"),
        ("AlgoType", "-image"),
        ("AlgoType", "image_classification"),
        ("AlgoType", "image\n"),
        ("AlgoType", 12),
        ("ServiceName", "a" * 64),
        ("ServiceName", "arn:aws:lambda"),
        ("ServiceName", None),
        ("Body", None),
        ("Body", "text"),
        ("ContentType", 7),
        ("Accept", b"text/plain"),
        ("Qualifier", "1"),
    ],
)
def test_a_wrong_argument_is_named_and_nothing_is_sent(core: Core, argument: str, value: object) -> None:
    with pytest.raises(ValueError, match=argument):
        invoke(**{argument: value})
    assert core.posted == []


@pytest.mark.parametrize("missing", ["AlgoType", "ServiceName", "Body"])
def test_a_missing_argument_is_named(core: Core, missing: str) -> None:
    request = {"AlgoType": "image-classification", "ServiceName": "beverages", "Body": b"x"}
    del request[missing]
    with pytest.raises(ValueError, match=f"{missing} is required"):
        sdk.client("inference").invoke_inference_service(**request)


@given(name=st.from_regex(NAME, fullmatch=True) | st.text(max_size=70))
def test_names_follow_the_contracts_pattern(name: str) -> None:
    fake = Core()
    module = SimpleNamespace(IPCClient=fake.client, IPCException=IPCError)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "greengrass_ipc_python_sdk", SimpleNamespace(ipc_client=module))
        patch.setitem(sys.modules, "greengrass_ipc_python_sdk.ipc_client", module)
        patch.setenv("GGC_MAX_INTERFACE_VERSION", "1.5")
        patch.setenv("AWS_REGION", "eu-central-1")
        if re.match(NAME, name) and "\n" not in name:
            invoke(ServiceName=name)
            assert fake.posted[0][0].endswith(f":GG-ML-INF-image-classification-{name}")
        else:
            with pytest.raises(ValueError, match="ServiceName"):
                invoke(ServiceName=name)


# --- replies


def test_the_reply_is_returned_with_its_body_as_a_stream(core: Core) -> None:
    reply = invoke()
    assert reply["ContentType"] == "text/plain"
    assert isinstance(reply["Body"], sdk.StreamingBody)
    assert reply["Body"].read() == b"[0.1,0.9]"
    assert reply["Body"].read() == b""


def test_further_keys_of_the_reply_are_passed_on(core: Core) -> None:
    core.reply = b'{"Body": "", "ContentType": "x", "Model": "epoch 6"}'
    assert invoke()["Model"] == "epoch 6"


def test_a_body_is_read_in_parts_and_closed() -> None:
    body = sdk.StreamingBody(b"predictions")
    assert [body.read(4), body.read(0), body.read(amt=99)] == [b"pred", b"", b"ictions"]
    body.close()
    with pytest.raises(ValueError, match="closed"):
        body.read()


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b'{"errorMessage": "no picture"}', ": no picture"),
        (b'{"other": 1}', ': {"other": 1}'),
        (b"[]", ": []"),
        (b"plain \xff", ": plain \ufffd"),
        (b"", ": "),
    ],
)
@pytest.mark.parametrize(
    ("function_error", "exception"),
    [
        ("Handled", sdk.GreengrassInferenceException),
        ("Unhandled", sdk.GreengrassDependencyException),
        ("Other", sdk.GreengrassDependencyException),
    ],
)
def test_an_error_of_the_service_is_told_apart(
    core: Core, payload: bytes, said: str, function_error: str, exception: type[Exception]
) -> None:
    core.reply, core.function_error = payload, function_error
    with pytest.raises(exception) as raised:
        invoke()
    assert type(raised.value) is exception
    assert str(raised.value).endswith(said)
    assert "GG-ML-INF-image-classification-beverage-classifier" in str(raised.value)


@pytest.mark.parametrize("step", ["post", "result"])
def test_a_service_that_is_not_there_is_a_dependency_error(core: Core, step: str) -> None:
    core.broken[step] = IPCError("HTTP Error 404: Not Found")
    with pytest.raises(sdk.GreengrassDependencyException, match=r"cannot be reached .*404") as raised:
        invoke()
    assert raised.value.__cause__ is core.broken[step]


@pytest.mark.parametrize(
    "reply", [b"", b"[0.1]", b"{}", b'{"Body": [0.1]}', b'{"Body": null}', b"null", b"\xff", b"{'Body': ''}"]
)
def test_a_reply_off_the_contract_is_a_dependency_error(core: Core, reply: bytes) -> None:
    core.reply = reply
    with pytest.raises(sdk.GreengrassDependencyException, match="reply of arn:aws:lambda"):
        invoke()


def test_a_lone_surrogate_in_a_reply_does_no_harm(core: Core) -> None:
    core.reply = b'{"Body": "\\ud800"}'
    assert invoke()["Body"].read() == b"?"
