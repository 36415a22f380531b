"""The IPC over real sockets: what V1's clients send, and what nobody should."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import resource
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from localcore import ipc
from localcore.errors import LocalCoreError
from localcore.group import Group
from localcore.journal import Journal
from localcore.router import Limits, Router

ARN = "arn:aws:lambda:us-east-1:000000000000:function"
CLASSIFIER = f"{ARN}:beverage_classifier:1"
HELPER = f"{ARN}:helper:1"
ROUTER = "arn:aws:lambda:::function:GGRouter"
CONNECTOR = "arn:aws:lambda:us-east-1:aws:function:GG-ML-INF-image-classification-beverage-classifier"
TOKENS = {
    "beverage_classifier": "a" * 64,
    "helper": "b" * 64,
    "GG-ML-INF-image-classification-beverage-classifier": "c" * 64,
}
LIMITS = Limits(poll=0.3, idle=0.2, payload=100_000)


class FakeCloud:
    """Remembers what went to the broker."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []

    def has_room(self, size: int) -> bool:
        return True

    def publish(self, topic: str, payload: bytes) -> None:
        self.messages.append((topic, payload))


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Core:
    router: Router
    cloud: FakeCloud
    port: int
    session: aiohttp.ClientSession

    async def ask(
        self,
        method: str,
        path: str,
        token: str = "a" * 64,
        body: Any = None,
        context: object = None,
        **headers: str,
    ) -> Reply:
        sent = {"Authorization": token, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if context is not None:
            encoded = context if isinstance(context, bytes) else json.dumps(context).encode()
            sent["X-amz-client-context"] = base64.b64encode(encoded).decode()
        url = f"http://127.0.0.1:{self.port}/2016-11-01/functions/{path}"
        async with self.session.request(method, url, data=body, headers=sent) as response:
            return Reply(response.status, dict(response.headers), await response.read())

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def request(self, method: str, path: str, token: str = "a" * 64, *lines: str) -> bytes:
        head = [f"{method} /2016-11-01/functions/{path} HTTP/1.1", "Host: localhost", f"Authorization: {token}", *lines]
        return "\r\n".join([*head, "", ""]).encode()


Test = Callable[[Core], Coroutine[Any, Any, None]]
Run = Callable[..., None]


@pytest.fixture
def in_core(tmp_path: Path, group: Group) -> Run:
    """Return what runs a test's coroutine with a core that listens, in a loop of its own."""

    def run(test: Test, limits: Limits = LIMITS) -> None:
        async def main() -> None:
            journal = Journal(tmp_path / "journal")
            journal.load()
            cloud = FakeCloud()
            router = Router(group, "pi-1", limits, journal, tmp_path / "wanted", cloud)
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            runner = await ipc.serve(router, TOKENS, port)
            try:
                async with aiohttp.ClientSession(auto_decompress=False) as session, asyncio.timeout(30):
                    await test(Core(router, cloud, port, session))
            finally:
                router.close()
                begun = time.monotonic()
                await runner.cleanup()
            assert time.monotonic() - begun < 5

        asyncio.run(main())

    return run


# --- the calls of V1


def test_a_question_and_its_answer(in_core: Run) -> None:
    async def test(core: Core) -> None:
        context = {"custom": {"a": "é"}, "env": {}}
        posted = await core.ask(
            "POST", HELPER, body=b"question", context=context, X_Amz_Invocation_Type="RequestResponse"
        )
        id_ = posted.headers["X-Amz-InvocationId"]
        assert (posted.status, posted.body) == (200, b"")
        asker = asyncio.create_task(core.ask("GET", HELPER, X_amz_invocationid=id_))

        work = await core.ask("GET", f"{HELPER}/work", "b" * 64)
        assert (work.status, work.body, work.headers["X-Amz-InvocationId"]) == (200, b"question", id_)
        got = json.loads(base64.b64decode(work.headers["X-Amz-Client-Context"]))
        assert got == {"custom": {"a": "é", "source": CLASSIFIER}, "env": {}}
        assert not asker.done()
        done = await core.ask("POST", f"{HELPER}/work", "b" * 64, b"answer", X_Amz_InvocationId=id_)
        assert (done.status, done.body) == (200, b"")

        answer = await asker
        assert (answer.status, answer.body) == (200, b"answer")
        assert "X-Amz-Function-Error" not in answer.headers
        assert (await core.ask("GET", HELPER, X_Amz_InvocationId=id_)).status == 404

    in_core(test)


@pytest.mark.parametrize("error", ["Handled", "Unhandled"])
def test_an_error_of_the_handler(in_core: Run, error: str) -> None:
    async def test(core: Core) -> None:
        id_ = (await core.ask("POST", HELPER)).headers["X-Amz-InvocationId"]
        await core.ask("GET", f"{HELPER}/work", "b" * 64)
        said = b'{"errorMessage": "no"}'
        headers = {"X_Amz_InvocationId": id_, "X_Amz_Function_Error": error}
        assert (await core.ask("POST", f"{HELPER}/work", "b" * 64, said, **headers)).status == 200
        answer = await core.ask("GET", HELPER, X_Amz_InvocationId=id_)
        assert (answer.status, answer.body, answer.headers["X-Amz-Function-Error"]) == (200, said, error)

    in_core(test)


def test_a_message(in_core: Run) -> None:
    async def test(core: Core) -> None:
        context = {"custom": {"source": "x", "subject": "/response/x", "queueFullPolicy": ""}}
        # As urllib sends it, with a content type that means nothing here.
        form = {"Content_Type": "application/x-www-form-urlencoded"}
        reply = await core.ask("POST", ROUTER, body=b"a=b", context=context, X_Amz_Invocation_Type="Event", **form)
        assert reply.status == 200
        assert reply.headers["X-Amz-InvocationId"]
        assert core.cloud.messages == [("/response/x", b"a=b")]

    in_core(test)


def test_an_initialisation(in_core: Run) -> None:
    async def test(core: Core) -> None:
        id_ = (await core.ask("POST", HELPER)).headers["X-Amz-InvocationId"]
        said = b'{"Success": false, "Response": "No module named boto3"}'
        assert (await core.ask("PUT", f"{HELPER}/initialized", "b" * 64, said)).status == 200
        assert b"No module named boto3" in (await core.ask("GET", HELPER, X_Amz_InvocationId=id_)).body
        assert (await core.ask("PUT", f"{HELPER}/initialized", "b" * 64, b'{"Success": true}')).status == 200

    in_core(test)


def test_a_worker_without_work_asks_again_or_ends(in_core: Run) -> None:
    async def test(core: Core) -> None:
        pinned = await core.ask("GET", f"{CLASSIFIER}/work")
        assert (pinned.status, pinned.body) == (204, b"")
        assert (await core.ask("GET", f"{HELPER}/work", "b" * 64)).status == 410

    in_core(test)


def test_arns_may_be_encoded_or_not(in_core: Run) -> None:
    async def test(core: Core) -> None:
        for path in (CONNECTOR, CONNECTOR.replace(":", "%3A")):
            with core.connect() as client:
                client.sendall(core.request("POST", path, "a" * 64, "Content-Length: 0"))
                assert (await asyncio.to_thread(client.recv, 4096)).startswith(b"HTTP/1.1 200")

    in_core(test)


# --- what is refused


@pytest.mark.parametrize(
    ("method", "path", "token", "headers", "status"),
    [
        ("POST", HELPER, "", {}, 401),
        ("POST", HELPER, "d" * 64, {}, 401),
        ("POST", HELPER, "é", {}, 401),
        ("GET", f"{HELPER}/work", "A" * 64, {}, 401),
        ("GET", f"{HELPER}/work", "a" * 64, {}, 403),
        ("POST", f"{HELPER}/work", "a" * 64, {"X_Amz_InvocationId": "x"}, 403),
        ("PUT", f"{HELPER}/initialized", "a" * 64, {}, 403),
        ("GET", "arn:aws:lambda:::function:GGSecretManager:1/work", "a" * 64, {}, 403),
        ("POST", HELPER, "c" * 64, {}, 403),
        ("POST", f"{ARN}:other:1", "a" * 64, {}, 404),
        ("POST", "helper", "a" * 64, {}, 404),
        ("GET", HELPER, "a" * 64, {}, 400),
        ("GET", HELPER, "a" * 64, {"X_Amz_InvocationId": "x"}, 404),
        ("POST", f"{HELPER}/work", "b" * 64, {}, 400),
        ("POST", f"{HELPER}/work", "b" * 64, {"X_Amz_InvocationId": "x"}, 404),
        ("POST", f"{HELPER}/work", "b" * 64, {"X_Amz_InvocationId": "x", "X_Amz_Function_Error": "Some"}, 400),
        ("PUT", f"{HELPER}/initialized", "b" * 64, {}, 400),
        ("POST", HELPER, "a" * 64, {"X_Amz_Invocation_Type": "DryRun"}, 400),
        ("POST", HELPER, "a" * 64, {"X_Amz_Client_Context": "x"}, 400),
        ("POST", HELPER, "a" * 64, {"X_Amz_Client_Context": "W10="}, 400),
        ("POST", HELPER, "a" * 64, {"X_Amz_Client_Context": "eyJjdXN0b20iOiAxfQ=="}, 400),
        ("HEAD", f"{HELPER}/work", "b" * 64, {}, 405),
        ("DELETE", HELPER, "a" * 64, {}, 405),
        ("GET", f"{HELPER}/other", "a" * 64, {}, 404),
    ],
)
def test_what_is_wrong_is_said_and_the_next_is_served(
    in_core: Run, method: str, path: str, token: str, headers: dict[str, str], status: int
) -> None:
    async def test(core: Core) -> None:
        reply = await core.ask(method, path, token, **headers)
        assert reply.status == status
        if method in ("GET", "POST", "PUT") and not path.endswith("other"):
            assert reply.body.endswith(b".\n")
            assert reply.body.count(b"\n") == 1
        assert (await core.ask("POST", HELPER)).status == 200

    in_core(test)


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /x HTTP/1.1\r\nno header\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: x\r\nExpect: \xff\r\n\r\n",
    ],
)
def test_what_is_no_request_is_told_in_a_line(in_core: Run, caplog: pytest.LogCaptureFixture, request_: bytes) -> None:
    async def test(core: Core) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", core.port)
        writer.write(request_)
        assert (await reader.read()).startswith(b"HTTP/1.")
        writer.close()

    in_core(test)
    (told,) = [record for record in caplog.records if record.name == "aiohttp.server"]
    assert told.levelname == "WARNING"
    assert told.getMessage().startswith("A request is no HTTP, or who sent it is gone (")
    assert (told.exc_info, len(told.getMessage().splitlines())) == (None, 1)


def test_a_failure_of_the_core_is_said_and_logged(
    in_core: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(core: Core) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Router, "post_work", None)
            assert (await core.ask("POST", HELPER)).status == 500
        assert (await core.ask("POST", HELPER)).status == 200

    in_core(test)
    assert "could not be served" in caplog.text


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize(
    ("head", "token", "status"),
    [
        ("Content-Length: 1073741824", "a" * 64, 413),
        ("Content-Length: 1073741824", "d" * 64, 401),
        ("Transfer-Encoding: chunked", "a" * 64, 411),
        ("Transfer-Encoding: chunked", "d" * 64, 401),
    ],
)
def test_a_body_of_a_gigabyte_is_refused_at_once_and_not_kept(
    in_core: Run, monkeypatch: pytest.MonkeyPatch, head: str, token: str, status: int
) -> None:
    monkeypatch.setattr(ipc, "LINGERING", 1.0)

    async def test(core: Core) -> None:
        before = peak()

        def send() -> tuple[bytes, float]:
            with core.connect() as client:
                begun = time.monotonic()
                client.sendall(core.request("POST", HELPER, token, head))
                part = b"x" * 65536
                if "chunked" in head:
                    part = b"10000\r\n" + part + b"\r\n"
                for _ in range(200):
                    client.sendall(part)
                return client.recv(4096), time.monotonic() - begun

        reply, seconds = await asyncio.to_thread(send)
        assert reply.startswith(f"HTTP/1.1 {status}".encode())
        assert seconds < 3
        assert peak() - before < 16 * 2**20
        assert (await core.ask("POST", HELPER)).status == 200

    in_core(test)


def test_a_body_of_the_limit_is_taken_and_one_byte_more_is_not(in_core: Run) -> None:
    async def test(core: Core) -> None:
        assert (await core.ask("POST", HELPER, body=b"x" * 100_000)).status == 200
        assert (await core.ask("POST", HELPER, body=b"x" * 100_001)).status == 413

    in_core(test, Limits(payload=100_000, queue_bytes=10**6))


def test_a_body_is_what_it_is_and_not_what_it_unpacks_to(in_core: Run) -> None:
    async def test(core: Core) -> None:
        packed = b"\x1f\x8b no matter what"
        assert (await core.ask("POST", HELPER, body=packed, Content_Encoding="gzip")).status == 200
        assert (await core.ask("GET", f"{HELPER}/work", "b" * 64)).body == packed

    in_core(test)


def test_a_result_that_is_too_big_ends_the_invocation(in_core: Run) -> None:
    async def test(core: Core) -> None:
        id_ = (await core.ask("POST", HELPER)).headers["X-Amz-InvocationId"]
        await core.ask("GET", f"{HELPER}/work", "b" * 64)
        refused = await core.ask("POST", f"{HELPER}/work", "b" * 64, b"x" * 100_001, X_Amz_InvocationId=id_)
        assert refused.status == 413
        answer = await core.ask("GET", HELPER, X_Amz_InvocationId=id_)
        assert answer.headers["X-Amz-Function-Error"] == "Unhandled"
        assert b"over 100000 bytes" in answer.body

    in_core(test)


def test_half_a_body_is_no_request(in_core: Run) -> None:
    async def test(core: Core) -> None:
        with core.connect() as client:
            client.sendall(core.request("POST", HELPER, "a" * 64, "Content-Length: 10") + b"half")
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.05)
        assert (await core.ask("GET", f"{HELPER}/work", "b" * 64)).status == 410

    in_core(test)


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"x" * 100_000])
def test_garbage_does_no_harm(in_core: Run, garbage: bytes) -> None:
    async def test(core: Core) -> None:
        with core.connect() as client:
            client.sendall(garbage)
            await asyncio.sleep(0.05)
        assert (await core.ask("POST", HELPER)).status == 200

    in_core(test)


# --- who takes what others need


async def is_cut(client: socket.socket) -> bool:
    try:
        return await asyncio.to_thread(client.recv, 4096) == b""
    except ConnectionError:
        return True


def test_a_head_that_does_not_come_is_cut_and_no_long_poll_or_slow_body(
    in_core: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ipc, "SLOWEST_HEAD", 0.2)

    async def test(core: Core) -> None:
        worker = asyncio.create_task(core.ask("GET", f"{CLASSIFIER}/work"))
        with core.connect() as silent, core.connect() as half, core.connect() as slow:
            half.sendall(core.request("POST", HELPER)[:-2])
            slow.sendall(core.request("POST", HELPER, "a" * 64, "Content-Length: 2") + b"1")
            assert await is_cut(silent)
            assert await is_cut(half)
            await asyncio.sleep(0.3)
            slow.sendall(b"2")
            assert (await asyncio.to_thread(slow.recv, 4096)).startswith(b"HTTP/1.1 200")
        core.router.deliver("/request/x", b"picture")
        assert (await worker).body == b"picture"

    in_core(test, Limits(poll=3))


def test_of_too_many_that_say_nothing_the_oldest_are_cut(in_core: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipc, "MOST_WAITING", 5)

    async def test(core: Core) -> None:
        worker = asyncio.create_task(core.ask("GET", f"{CLASSIFIER}/work"))
        await asyncio.sleep(0.05)
        clients = []
        for _ in range(12):
            clients.append(core.connect())
            await asyncio.sleep(0.01)
        assert [await is_cut(client) for client in clients[:7]] == [True] * 7
        for client in clients[7:]:
            client.sendall(core.request("POST", HELPER, "a" * 64, "Content-Length: 0"))
            assert (await asyncio.to_thread(client.recv, 4096)).startswith(b"HTTP/1.1 200")
        for client in clients:
            client.close()
        core.router.deliver("/request/x", b"picture")
        assert (await worker).body == b"picture"

    in_core(test, Limits(poll=3))


NOBODY = b"GET / HTTP/1.1\r\n"
WORKER = f"GET /2016-11-01/functions/{CLASSIFIER}/work HTTP/1.1\r\nAuthorization: {'a' * 64}\r\n\r\n".encode()


@pytest.mark.parametrize("begin", [NOBODY, b"\r\n\r\n" + NOBODY, NOBODY + b"\r\n" + NOBODY, WORKER + NOBODY])
@pytest.mark.parametrize("line", [b"a: \r\n", b"a: %s\r\n" % (b"x" * 4000)])
def test_a_head_without_end_is_not_kept(in_core: Run, begin: bytes, line: bytes) -> None:
    async def test(core: Core) -> None:
        before = peak()

        def send() -> None:
            with core.connect() as client, contextlib.suppress(ConnectionError):
                client.sendall(begin)
                for _ in range(300):
                    client.sendall(line * (65536 // len(line)))

        await asyncio.to_thread(send)
        # What is sent, and kept by the library, is 19 MiB, or many times that in short lines.
        assert peak() - before < 8 * 2**20
        assert (await core.ask("POST", HELPER)).status == 200

    in_core(test)


@pytest.mark.parametrize("expected", ["100-continue", "something", "100-\xff"])
def test_whatever_is_expected_is_answered_without_a_wait(in_core: Run, expected: str) -> None:
    async def test(core: Core) -> None:
        with core.connect() as client:
            client.settimeout(3)
            client.sendall(core.request("POST", HELPER, "a" * 64, f"Expect: {expected}", "Content-Length: 2") + b"{}")
            while await asyncio.to_thread(client.recv, 4096):
                pass

    in_core(test)


def test_one_function_does_not_have_all_in_hand(in_core: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipc, "MOST_IN_HAND", 3)

    async def test(core: Core) -> None:
        id_ = (await core.ask("POST", HELPER)).headers["X-Amz-InvocationId"]
        waiting = [asyncio.create_task(core.ask("GET", HELPER, X_Amz_InvocationId=id_)) for _ in range(3)]
        await asyncio.sleep(0.1)
        refused = await core.ask("POST", HELPER)
        assert refused.status == 503
        assert b"has 3 requests in hand" in refused.body
        assert (await core.ask("GET", f"{HELPER}/work", "b" * 64)).status == 200
        assert (await core.ask("POST", f"{HELPER}/work", "b" * 64, X_Amz_InvocationId=id_)).status == 200
        await asyncio.gather(*waiting)
        assert (await core.ask("POST", HELPER)).status == 200

    in_core(test)


def stalled(core: Core, token: str, function: str = HELPER, path: str = "", *lines: str) -> socket.socket:
    """Send a body of the limit but for its last byte."""
    client = core.connect()
    client.sendall(core.request("POST", f"{function}{path}", token, "Content-Length: 100000", *lines) + b"x" * 99_999)
    return client


def test_what_arrives_of_one_function_is_bounded_and_others_are_served(in_core: Run) -> None:
    async def test(core: Core) -> None:
        first, second, third = (stalled(core, "a" * 64) for _ in range(3))
        with first, second, third:
            assert (await asyncio.to_thread(third.recv, 4096)).startswith(b"HTTP/1.1 503")
            assert (await core.ask("POST", CLASSIFIER, "b" * 64, b"x" * 100_000)).status == 200
            first.sendall(b"x")
            assert (await asyncio.to_thread(first.recv, 4096)).startswith(b"HTTP/1.1 200")
            assert (await core.ask("POST", HELPER, body=b"x" * 100_000)).status == 200

    in_core(test, Limits(payload=100_000))


def test_what_arrives_of_all_is_bounded_and_a_result_may_come_again(
    in_core: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ipc, "MOST_ARRIVING", 199_999)

    async def test(core: Core) -> None:
        id_ = (await core.ask("POST", HELPER)).headers["X-Amz-InvocationId"]
        await core.ask("GET", f"{HELPER}/work", "b" * 64)
        with stalled(core, "a" * 64) as first, stalled(core, "a" * 64):
            await asyncio.sleep(0.1)
            refused = await core.ask("POST", f"{HELPER}/work", "b" * 64, b"answer", X_Amz_InvocationId=id_)
            assert refused.status == 503
            first.sendall(b"x")
            assert (await asyncio.to_thread(first.recv, 4096)).startswith(b"HTTP/1.1 200")
            result = await core.ask("POST", f"{HELPER}/work", "b" * 64, b"answer", X_Amz_InvocationId=id_)
            assert result.status == 200
        assert (await core.ask("GET", HELPER, X_Amz_InvocationId=id_)).body == b"answer"

    in_core(test)


def test_the_end_does_not_wait_for_a_body_that_stalls(in_core: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipc, "SLOWEST_END", 0.2)

    async def test(core: Core) -> None:
        # The fixture asserts that the end is soon.
        client = stalled(core, "a" * 64)
        await asyncio.sleep(0.1)
        client.detach()

    in_core(test)


# --- connections that end


def test_work_is_not_given_to_a_worker_that_is_gone(in_core: Run) -> None:
    async def test(core: Core) -> None:
        for _ in range(10):
            with core.connect() as client:
                client.sendall(core.request("GET", f"{CLASSIFIER}/work"))
                await asyncio.sleep(0.02)
            # The loop has not run since the connection was closed.
            core.router.deliver("/request/x", b"picture")
            await asyncio.sleep(0.02)
            work = await core.ask("GET", f"{CLASSIFIER}/work")
            assert work.body == b"picture"
            await core.ask("POST", f"{CLASSIFIER}/work", X_Amz_InvocationId=work.headers["X-Amz-InvocationId"])
        assert core.cloud.messages == []

    in_core(test)


def test_work_that_the_worker_did_not_read_is_given_to_the_next(in_core: Run) -> None:
    async def test(core: Core) -> None:
        core.router.deliver("/request/x", b"x" * 20_000_000)
        with core.connect() as client:
            client.sendall(core.request("GET", f"{CLASSIFIER}/work"))
            assert await asyncio.to_thread(client.recv, 12) == b"HTTP/1.1 200"
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.1)
        work = await core.ask("GET", f"{CLASSIFIER}/work")
        assert len(work.body) == 20_000_000

    in_core(test, Limits(poll=0.3, payload=30_000_000))


def test_a_result_can_be_fetched_again_after_a_broken_connection(in_core: Run) -> None:
    async def test(core: Core) -> None:
        id_ = (await core.ask("POST", HELPER)).headers["X-Amz-InvocationId"]
        with core.connect() as client:
            client.sendall(core.request("GET", HELPER, "a" * 64, f"X-Amz-InvocationId: {id_}"))
            await asyncio.sleep(0.05)
        await core.ask("GET", f"{HELPER}/work", "b" * 64)
        await core.ask("POST", f"{HELPER}/work", "b" * 64, b"answer", X_Amz_InvocationId=id_)
        await asyncio.sleep(0.05)
        assert (await core.ask("GET", HELPER, X_Amz_InvocationId=id_)).body == b"answer"

    in_core(test)


def test_at_the_end_who_waits_for_a_result_finds_the_connection_broken(in_core: Run) -> None:
    async def test(core: Core) -> None:
        id_ = (await core.ask("POST", HELPER)).headers["X-Amz-InvocationId"]
        asker = asyncio.create_task(core.ask("GET", HELPER, X_Amz_InvocationId=id_))
        worker = asyncio.create_task(core.ask("GET", f"{CLASSIFIER}/work"))
        await asyncio.sleep(0.05)
        core.router.close()
        with pytest.raises(aiohttp.ClientError):
            await asker
        assert (await worker).status == 204

    in_core(test)


def test_only_loopback_is_listened_on(in_core: Run) -> None:
    async def test(core: Core) -> None:
        listening = [
            line.split()[1]
            for table in ("tcp", "tcp6")
            for line in Path("/proc/net", table).read_text().splitlines()[1:]
            if line.split()[3] == "0A" and line.split()[1].endswith(f":{core.port:04X}")
        ]
        assert listening == [f"0100007F:{core.port:04X}"]

    in_core(test)


def test_a_port_that_is_taken_is_one_sentence(in_core: Run) -> None:
    async def test(core: Core) -> None:
        with pytest.raises(LocalCoreError, match=f"cannot listen on 127.0.0.1:{core.port}"):
            await ipc.serve(core.router, TOKENS, core.port)

    in_core(test)
