"""A core to talk to: V1's IPC on a port of its own, with everything recorded, and faults on demand."""

from __future__ import annotations

import base64
import itertools
import json
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

API = "/2016-11-01/functions/"
TOKEN = "0123456789abcdef" * 4
SECONDS = 20.0  # nothing in a test takes longer


@dataclass(frozen=True)
class Request:
    """One request as it came; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def context(self) -> dict[str, Any]:
        context: dict[str, Any] = json.loads(base64.b64decode(self.headers["x-amz-client-context"]))
        return context


@dataclass(frozen=True)
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


# What may go wrong with a connection, in place of a reply.
DROP = "drop"  # the connection breaks
LATER = "later"  # the connection breaks after 0.7 s
HANG = "hang"  # nothing ever comes
CUT = "cut"  # the body ends too early
DEAF = "deaf"  # refuses without reading the body, and hangs up
Fault = str


class Core:
    """Listens from `start()` until `close()`; may be started again on the same port."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.requests: list[Request] = []
        self.initialised: queue.Queue[dict[str, Any]] = queue.Queue()
        self.answers: queue.Queue[tuple[str, bytes, str]] = queue.Queue()
        self.work: queue.Queue[Reply] = queue.Queue()
        # What is told instead of asking further, in order: for one request each.
        self.faults: list[Reply | Fault] = []
        # The functions that can be posted to: what they make of a request.
        self.services: dict[str, Callable[[Request], Reply]] = {}
        self.poll = 0.2
        self._results: dict[str, Reply] = {}
        self._numbers = itertools.count(1)
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        core = self

        class Handler(_Handler):
            the_core = core

        self._server = _Server(("127.0.0.1", self.port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None

    def give(self, payload: bytes | object, context: dict[str, Any] | None = None, *, raw_context: str = "") -> str:
        """Give work to whoever asks next; return its id. What is no bytes is sent as JSON."""
        number = f"work-{next(self._numbers)}"
        headers = {"X-Amz-InvocationId": number}
        if context is not None:
            raw_context = base64.b64encode(json.dumps(context).encode()).decode()
        if raw_context:
            headers["X-Amz-Client-Context"] = raw_context
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.work.put(Reply(200, body, headers))
        return number

    def end_work(self) -> None:
        self.work.put(Reply(410, b"No more work."))

    def answer(self) -> tuple[str, bytes, str]:
        """Return the next answer of a worker: id, body, function error."""
        return self.answers.get(timeout=SECONDS)

    def result(self) -> Any:
        """Return the next answer, which must be a result in JSON."""
        _, body, error = self.answer()
        assert error == "", body
        return json.loads(body)

    def failure(self) -> dict[str, Any]:
        """Return the next answer, which must be a Handled error."""
        _, body, error = self.answer()
        assert error == "Handled", body
        failure: dict[str, Any] = json.loads(body)
        return failure

    def wait_until_asked(self) -> None:
        """Wait until a worker waits for work; a long `poll` keeps it there."""
        end = time.monotonic() + SECONDS
        while not any(request.path.endswith("/work") for request in list(self.requests)):
            assert time.monotonic() < end, self.requests
            time.sleep(0.01)

    def reply_to(self, request: Request) -> Reply | Fault:
        self.requests.append(request)
        if self.faults:
            return self.faults.pop(0)
        if request.headers.get("authorization") != TOKEN:
            return Reply(401, b"The token is unknown.")
        path = request.path.removeprefix(API)
        match request.method, path.rpartition("/")[2]:
            case "GET", "work":
                try:
                    return self.work.get(timeout=self.poll)
                except queue.Empty:
                    return Reply(204)
            case "POST", "work":
                headers = request.headers
                self.answers.put((headers["x-amz-invocationid"], request.body, headers.get("x-amz-function-error", "")))
                return Reply()
            case "PUT", "initialized":
                self.initialised.put(json.loads(request.body))
                return Reply()
            case "POST", _ if path in self.services:
                number = f"invocation-{next(self._numbers)}"
                self._results[number] = self.services[path](request)
                return Reply(200, b"", {"X-Amz-InvocationId": number})
            case "GET", _ if path in self.services:
                return self._results[request.headers["x-amz-invocationid"]]
        return Reply(404, b"There is no such function.")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that hang up, or are killed, are what is tested."""


class _Handler(BaseHTTPRequestHandler):
    the_core: Core

    def _serve(self) -> None:
        if DEAF in self.the_core.faults:
            self.the_core.faults.remove(DEAF)
            self._send(Reply(413, b"The body is too large."))
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.the_core.reply_to(Request(self.command, self.path, headers, body))
        if isinstance(reply, Reply):
            self._send(reply)
        elif reply == CUT:
            self._send(Reply(200, b"the first", {"Content-Length": "99", "X-Amz-InvocationId": "cut"}))
        elif reply == HANG:
            self.connection.recv(1)  # until the client hangs up
        else:
            time.sleep(0.7 if reply == LATER else 0)
            # A reset, as when the process at the other end was killed.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()

    do_GET = do_POST = do_PUT = _serve  # noqa: N815 the server looks for these names

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        headers = {"Content-Length": str(len(reply.body)), **reply.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing: what came is in `requests`."""
