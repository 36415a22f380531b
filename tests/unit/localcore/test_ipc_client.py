"""The IPC client: V1's requests on the wire, and what becomes of every way that a core can fail."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_core import CUT, DEAF, DROP, HANG, LATER, TOKEN, Core, Reply
from greengrass_ipc_python_sdk import ipc_client
from greengrass_ipc_python_sdk.ipc_client import IPCClient, IPCException, WorkItem

ARN = "arn:aws:lambda:us-east-1:000000000000:function:echo:1"
BASE = f"/2016-11-01/functions/{ARN}"


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Iterator[Core]:
    fake = Core()
    fake.services[ARN] = lambda request: Reply(200, request.body)
    monkeypatch.setenv("GG_DAEMON_PORT", str(fake.port))
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", TOKEN)
    monkeypatch.setattr(ipc_client, "RETRY_SECONDS", 0.01)
    fake.start()
    yield fake
    fake.close()


def seen(core: Core) -> list[tuple[str, str]]:
    return [(request.method, request.path) for request in core.requests]


# --- requests


def test_work_is_posted(core: Core) -> None:
    context = base64.b64encode(b'{"custom": {"subject": "a/b"}}')
    invocation = IPCClient(endpoint="localhost").post_work(ARN, b"\x00payload", context, "Event")
    [request] = core.requests
    assert invocation == "invocation-1"
    assert (request.method, request.path, request.body) == ("POST", BASE, b"\x00payload")
    assert request.headers["authorization"] == TOKEN
    assert request.headers["x-amz-invocation-type"] == "Event"
    assert request.context() == {"custom": {"subject": "a/b"}}


@pytest.mark.parametrize("context", [b"", ""])
def test_without_a_context_there_is_no_header(core: Core, context: bytes | str) -> None:
    IPCClient().post_work(ARN, None, context)
    assert "x-amz-client-context" not in core.requests[0].headers
    assert core.requests[0].headers["x-amz-invocation-type"] == "RequestResponse"


@pytest.mark.parametrize(
    ("payload", "sent"),
    [
        ("größer", "größer".encode()),
        (b"\xff\x00", b"\xff\x00"),
        (bytearray(b"array"), b"array"),
        (memoryview(b"view"), b"view"),
        (None, b""),
        ("", b""),
        (io.BytesIO(b"a file"), b"a file"),
        (io.StringIO("ein Text: ü"), "ein Text: ü".encode()),
    ],
)
def test_a_payload_is_bytes_text_nothing_or_a_file(core: Core, payload: Any, sent: bytes) -> None:
    client = IPCClient()
    result = client.get_work_result(ARN, client.post_work(ARN, payload))
    assert (result.payload, result.func_err) == (sent, "")
    assert core.requests[0].headers["content-length"] == str(len(sent))


@pytest.mark.parametrize("payload", [{"a": 1}, 7, ["text"], object()])
def test_what_is_no_payload_is_refused_before_anything_is_sent(core: Core, payload: Any) -> None:
    with pytest.raises(TypeError, match=r"A payload is bytes, text, None or a file, not \w+; use json.dumps"):
        IPCClient().post_work(ARN, payload)
    assert core.requests == []


@pytest.mark.parametrize("error", ["Handled", "Unhandled"])
def test_a_function_error_comes_with_its_payload(core: Core, error: str) -> None:
    core.services[ARN] = lambda _: Reply(200, b'{"errorMessage": "no"}', {"X-Amz-Function-Error": error})
    client = IPCClient()
    result = client.get_work_result(ARN, client.post_work(ARN, b""))
    assert (result.payload, result.func_err) == (b'{"errorMessage": "no"}', error)
    assert core.requests[1].headers["x-amz-invocationid"] == "invocation-1"


def test_work_is_awaited_over_empty_answers(core: Core) -> None:
    core.poll = 0.05
    threading.Timer(0.2, core.give, (b"event", {"custom": {"subject": "t"}})).start()
    work = IPCClient().get_work(ARN)
    assert (work.invocation_id, work.payload) == ("work-1", b"event")
    assert work.context() == {"custom": {"subject": "t"}}
    assert set(seen(core)) == {("GET", f"{BASE}/work")}
    assert len(core.requests) > 2


def test_work_is_answered(core: Core) -> None:
    client = IPCClient()
    client.post_work_result(ARN, "work-7", "fine")
    client.post_handler_err(ARN, "work-8", b'{"errorMessage": "not fine"}')
    assert core.answer() == ("work-7", b"fine", "")
    assert core.answer() == ("work-8", b'{"errorMessage": "not fine"}', "Handled")
    assert set(seen(core)) == {("POST", f"{BASE}/work")}


def test_the_initialisation_is_reported(core: Core) -> None:
    IPCClient().put_initialization_result(ARN, False, "no camera")
    assert core.initialised.get_nowait() == {"Success": False, "Response": "no camera"}
    assert seen(core) == [("PUT", f"{BASE}/initialized")]


# --- contexts


@pytest.mark.parametrize("said", ["%", "e30", "bm8=", "W10=", "/w==", base64.b64encode(b"[" * 100_000).decode()])
def test_a_context_that_cannot_be_read_is_an_error(said: str) -> None:
    with pytest.raises(ValueError, match=r"The client context is no JSON.*; correct the caller"):
        WorkItem("1", b"", said).context()


def test_no_context_is_an_empty_one() -> None:
    assert WorkItem("1", b"").context() == {}


# --- refusals and faults


def test_a_refusal_holds_the_cores_sentence_and_status(core: Core) -> None:
    with pytest.raises(
        IPCException, match=r"^The local core refused to POST .*:none \(HTTP 404\): There is no"
    ) as error:
        IPCClient().post_work(ARN.replace("echo:1", "none"), b"")
    assert error.value.status == 404
    assert len(core.requests) == 1


def test_a_wrong_token_is_refused(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "another")
    with pytest.raises(IPCException, match="The token is unknown") as error:
        IPCClient().get_work(ARN)
    assert error.value.status == 401


def test_a_body_that_the_core_does_not_read_is_refused_by_its_sentence(core: Core) -> None:
    core.faults = [DEAF]
    with pytest.raises(IPCException) as error:
        IPCClient().post_work(ARN, bytes(20_000_000))
    # The kernel may drop the sentence when the core hangs up first: it is an IPCException then too.
    assert error.value.status in (413, None)


def test_an_answer_without_an_id_is_none(core: Core) -> None:
    core.faults = [Reply(200, b"Hello, I am another server.")]
    with pytest.raises(IPCException, match="no X-Amz-InvocationId; check what listens on GG_DAEMON_PORT"):
        IPCClient().post_work(ARN, b"")


@pytest.mark.parametrize("arn", [f"{ARN}\r\nX: y", f"{ARN} ", "arn:ü"])
def test_an_arn_that_fits_no_request_is_an_ipc_exception(core: Core, arn: str) -> None:
    with pytest.raises(IPCException, match="cannot be asked to POST"):
        IPCClient().post_work(arn, b"")
    assert core.requests == []


@pytest.mark.parametrize("port", ["http", "70000", "-1"])
def test_a_port_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("GG_DAEMON_PORT", port)
    with pytest.raises(IPCException, match=f"'{port}'; set GG_DAEMON_PORT"):
        IPCClient()


def test_a_core_that_is_away_is_a_sentence_after_a_while(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    core.close()
    monkeypatch.setattr(ipc_client, "CORE_RESTART_SECONDS", 0.3)
    started = time.monotonic()
    with pytest.raises(
        IPCException, match=r"at 127\.0\.0\.1:\d+ \(.*refused\); check that localcore\.service runs"
    ) as error:
        IPCClient().post_work(ARN, b"")
    assert 0.3 <= time.monotonic() - started < 3
    assert error.value.status is None
    assert isinstance(error.value.__cause__, ConnectionRefusedError)


def test_a_core_that_restarts_is_waited_for(core: Core) -> None:
    core.close()
    threading.Timer(0.4, core.start).start()
    client = IPCClient()
    assert client.get_work_result(ARN, client.post_work(ARN, b"payload")).payload == b"payload"


@pytest.mark.parametrize("fault", [DROP, CUT])
def test_what_may_be_asked_twice_is_asked_again(core: Core, fault: str) -> None:
    client = IPCClient()
    invocation = client.post_work(ARN, b"payload")
    calls: list[Callable[[], object]] = [
        lambda: client.get_work_result(ARN, invocation),
        lambda: client.get_work(ARN),
        lambda: client.post_work_result(ARN, "1", b""),
        lambda: client.post_handler_err(ARN, "1", b""),
        lambda: client.put_initialization_result(ARN, True, ""),
    ]
    core.give(b"")
    for call in calls:
        core.requests.clear()
        core.faults = [fault, fault]
        call()
        assert len(core.requests) == 3


def test_work_is_not_posted_again_after_the_connection_broke(core: Core) -> None:
    core.faults = [DROP]
    with pytest.raises(IPCException, match="cannot be asked to POST") as error:
        IPCClient().post_work(ARN, b"")
    assert len(core.requests) == 1
    assert error.value.status is None


def test_patience_begins_when_the_connection_breaks(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipc_client, "CORE_RESTART_SECONDS", 0.4)
    client = IPCClient()
    invocation = client.post_work(ARN, b"payload")
    core.faults = [LATER]
    assert client.get_work_result(ARN, invocation).payload == b"payload"


def test_a_result_may_take_longer_than_one_connection(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipc_client, "RESULT_SECONDS", 0.2)
    client = IPCClient()
    invocation = client.post_work(ARN, b"payload")
    # No answer for its time; then the core shows that it lives (404 for no function); twice.
    core.faults = [HANG, Reply(404), HANG, Reply(401)]
    assert client.get_work_result(ARN, invocation).payload == b"payload"
    assert seen(core)[1:] == [("GET", BASE), ("GET", "/2016-11-01/functions/")] * 2 + [("GET", BASE)]


def test_a_core_that_hangs_does_not_hang_the_client(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RESULT_SECONDS", "WORK_SECONDS", "ANSWER_SECONDS"):
        monkeypatch.setattr(ipc_client, name, 0.1)
    core.faults = [HANG] * 9
    client = IPCClient()
    with pytest.raises(IPCException, match=r"does not answer any more; restart localcore\.service") as error:
        client.get_work_result(ARN, "1")
    assert error.value.status is None
    calls: list[Callable[[], object]] = [
        lambda: client.get_work(ARN),
        lambda: client.post_work(ARN, b""),
        lambda: client.post_work_result(ARN, "1", b""),
    ]
    for call in calls:
        with pytest.raises(IPCException, match=r"it gave no answer within 0\.1 seconds") as error:
            call()
        assert error.value.status is None


def test_a_long_poll_is_not_cut() -> None:
    assert ipc_client.WORK_SECONDS > 50 + 10


# --- where the token goes


def test_the_token_goes_to_the_core_alone_not_to_a_listener_on_ipv6(core: Core) -> None:
    try:
        other = socket.create_server(("::1", core.port), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with other:
        other.setblocking(False)
        IPCClient(endpoint="localhost").post_work(ARN, b"")
        with pytest.raises(BlockingIOError):
            other.accept()
    assert len(core.requests) == 1


def test_a_proxy_is_not_asked(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert IPCClient().post_work(ARN, b"")


def test_an_errors_text_is_bounded_and_one_line(core: Core) -> None:
    core.faults = [Reply(500, json.dumps({"a": "x\n" * 9000}).encode() + b"\xff")]
    with pytest.raises(IPCException) as error:
        IPCClient().post_work(ARN, b"")
    assert len(str(error.value)) < 2300
    assert "\n" not in str(error.value)
