"""The facade: what AWS's own Machine Learning SDK, brought along by a Lambda, asks of the core's modules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_core import TOKEN, Core, Reply
from greengrass_ipc_python_sdk.ipc_facade import (
    GreengrassRuntimeException,
    GreengrassServiceClient,
    GreengrassServiceMessage,
)

ADDRESS = "arn:aws:lambda:us-east-1:aws:function:GG-ML-INF-image-classification-beverages"


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Iterator[Core]:
    fake = Core()
    monkeypatch.setenv("GG_DAEMON_PORT", str(fake.port))
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", TOKEN)
    fake.start()
    yield fake
    fake.close()


def test_a_response_comes_back(core: Core) -> None:
    core.services[ADDRESS] = lambda request: Reply(200, request.body + b" seen")
    output = GreengrassServiceClient().call(ADDRESS, GreengrassServiceMessage(b"e30=", b"picture"))
    assert output.error_response is None
    assert output.response == GreengrassServiceMessage("", b"picture seen")
    assert core.requests[0].headers["x-amz-client-context"] == "e30="
    assert core.requests[0].headers["x-amz-invocation-type"] == "RequestResponse"


@pytest.mark.parametrize(
    ("payload", "said"),
    [(b'{"errorMessage": "no picture"}', "no picture"), (b"plain \xff", "plain \ufffd"), (b"", "Handled")],
)
def test_a_handled_error_is_an_error_response(core: Core, payload: bytes, said: str) -> None:
    core.services[ADDRESS] = lambda _: Reply(200, payload, {"X-Amz-Function-Error": "Handled"})
    output = GreengrassServiceClient().call(ADDRESS, GreengrassServiceMessage("", b""))
    assert (output.response, output.error_response) == (None, said)


def test_any_other_function_error_is_a_runtime_exception(core: Core) -> None:
    core.services[ADDRESS] = lambda _: Reply(200, b'{"errorMessage": "dead"}', {"X-Amz-Function-Error": "Unhandled"})
    with pytest.raises(GreengrassRuntimeException, match=r"broke down \(Unhandled\): dead"):
        GreengrassServiceClient().call(ADDRESS, GreengrassServiceMessage("", b""))


def test_no_service_is_a_runtime_exception(core: Core) -> None:
    with pytest.raises(GreengrassRuntimeException, match=r"cannot be reached .*There is no such function"):
        GreengrassServiceClient().call(ADDRESS, GreengrassServiceMessage("", b""))
