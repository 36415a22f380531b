"""The client of the core's IPC: work is posted to functions, fetched by them, and answered.

    POST FUNCTION ARN        post work to a function      GET  FUNCTION ARN/work         wait for work
    GET  FUNCTION ARN        wait for its result          POST FUNCTION ARN/work         answer it
                                                          PUT  FUNCTION ARN/initialized  be ready, or not

Only the standard library is needed. The core may restart at any time: a refused connection is tried again for
CORE_RESTART_SECONDS, and so is one that broke where asking twice does no harm.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

API = "/2016-11-01/functions"
DEFAULT_PORT = "8000"
CORE_RESTART_SECONDS = 10.0
RETRY_SECONDS = 0.1
# The core answers all but a wait at once; a wait for work after 50 seconds at the latest.
ANSWER_SECONDS = 30.0
WORK_SECONDS = 75.0
# A result may take as long as its function may: after each such time the core is asked whether it still lives.
RESULT_SECONDS = 120.0
LONGEST_REASON = 2000

AUTHORIZATION = "Authorization"
INVOCATION_ID = "X-Amz-InvocationId"
CLIENT_CONTEXT = "X-Amz-Client-Context"
INVOCATION_TYPE = "X-Amz-Invocation-Type"
FUNCTION_ERROR = "X-Amz-Function-Error"


# The SDK catches it by this name, hence no suffix Error.
class IPCException(Exception):  # noqa: N818
    """What the core refused, or why it cannot be reached; `status` is its HTTP status, None without an answer."""

    def __init__(self, message: str, status: int | None = None) -> None:
        """Hold one sentence and the status."""
        super().__init__(message)
        self.status = status


class Readable(Protocol):
    """A file, or what is read like one."""

    def read(self) -> bytes | str:
        """Return what is left to read."""


PLAIN = (bytes, bytearray, memoryview, str)
Payload = bytes | bytearray | memoryview | str | Readable | None


@dataclass(frozen=True)
class WorkItem:
    """One piece of work for a function; `client_context` is as the caller sent it: base64, or ''."""

    invocation_id: str
    payload: bytes
    client_context: str = ""

    def context(self) -> dict[str, Any]:
        """Return the client context, {} when there is none; ValueError if it is no base64 of a JSON object."""
        if not self.client_context:
            return {}
        try:
            context = json.loads(base64.b64decode(self.client_context, validate=True))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"The client context is no JSON in base64 ({error}); correct the caller.") from error
        if not isinstance(context, dict):
            raise ValueError("The client context is no JSON object; correct the caller.")
        return context


@dataclass(frozen=True)
class WorkResult:
    """How a piece of work ended: `func_err` is '', 'Handled' or 'Unhandled', and then the payload says why."""

    payload: bytes
    func_err: str


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class IPCClient:
    """Speaks to the core at `endpoint`, port GG_DAEMON_PORT, as the function that the token names."""

    def __init__(self, endpoint: str = "localhost", port: int | None = None) -> None:
        """Remember where the core is; nothing is sent yet."""
        # The core listens on IPv4's loopback. Whoever listens on ::1, first in many an /etc/hosts, is not the core,
        # and shall not be handed this function's token.
        self._host = "127.0.0.1" if endpoint == "localhost" else endpoint
        number = str(port or os.environ.get("GG_DAEMON_PORT") or DEFAULT_PORT)
        if not (number.isdecimal() and int(number) <= 65_535):
            raise IPCException(f"The core's port is {number!r}; set GG_DAEMON_PORT to a number to 65535.")
        self._port = int(number)
        self._token = os.environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")

    def post_work(
        self,
        function_arn: str,
        payload: Payload,
        client_context: bytes | str = b"",
        invocation_type: str = "RequestResponse",
    ) -> str:
        """Post work to a function and return the id of the invocation.

        The payload is bytes, text (sent as UTF-8), None (nothing) or a file; the context is base64 of JSON or
        empty; the type is 'RequestResponse' or 'Event'. Raises IPCException, as all methods do.
        """
        headers: dict[str, bytes | str] = {INVOCATION_TYPE: invocation_type}
        if client_context:
            headers[CLIENT_CONTEXT] = client_context
        # Not repeatable: a core that accepted the work before the connection broke would do it twice.
        answer = self._ask("POST", function_arn, headers, _encoded(payload), repeatable=False)
        return _invocation_id(answer)

    def get_work_result(self, function_arn: str, invocation_id: str) -> WorkResult:
        """Wait, for as long as it takes, until an invocation has ended, and return how."""
        answer = self._wait("GET", function_arn, {INVOCATION_ID: invocation_id})
        return WorkResult(answer.body, answer.headers.get(FUNCTION_ERROR, ""))

    def get_work(self, function_arn: str) -> WorkItem:
        """Wait until there is work for the function, and return it."""
        while True:
            answer = self._ask("GET", f"{function_arn}/work", {}, seconds=WORK_SECONDS)
            if answer.status != http.client.NO_CONTENT:
                return WorkItem(_invocation_id(answer), answer.body, answer.headers.get(CLIENT_CONTEXT, ""))

    def post_work_result(self, function_arn: str, invocation_id: str, payload: Payload) -> None:
        """Answer a piece of work."""
        self._ask("POST", f"{function_arn}/work", {INVOCATION_ID: invocation_id}, _encoded(payload))

    def post_handler_err(self, function_arn: str, invocation_id: str, error: Payload) -> None:
        """Answer a piece of work by an error of the handler: JSON with the key `errorMessage`."""
        headers: dict[str, bytes | str] = {INVOCATION_ID: invocation_id, FUNCTION_ERROR: "Handled"}
        self._ask("POST", f"{function_arn}/work", headers, _encoded(error))

    def put_initialization_result(self, function_arn: str, success: bool, response: str) -> None:
        """Tell the core that the function is ready for work, or why it cannot be."""
        result = json.dumps({"Success": success, "Response": response}).encode()
        self._ask("PUT", f"{function_arn}/initialized", {}, result)

    def _wait(self, method: str, path: str, headers: dict[str, bytes | str]) -> _Answer:
        """Ask until there is an answer, however late, from a core that is alive."""
        while True:
            try:
                return self._ask(method, path, headers, seconds=RESULT_SECONDS)
            except IPCException as error:
                if not isinstance(error.__cause__, TimeoutError):
                    raise
            try:
                self._ask("GET", "", {})
            except IPCException as error:
                if error.status is None:
                    raise IPCException("The local core does not answer any more; restart localcore.service.") from error

    def _ask(
        self,
        method: str,
        path: str,
        headers: dict[str, bytes | str],
        body: bytes | None = None,
        *,
        seconds: float | None = None,
        repeatable: bool = True,
    ) -> _Answer:
        """Return the core's answer; ask again while it restarts."""
        seconds = ANSWER_SECONDS if seconds is None else seconds
        broken_since: float | None = None
        while True:
            try:
                answer = self._exchange(method, f"{API}/{path}", headers, body, seconds)
                break
            except TimeoutError as error:
                reason = f"it gave no answer within {seconds:g} seconds"
                raise IPCException(f"The local core cannot be asked to {method} {path}: {reason}.") from error
            except (OSError, http.client.HTTPException, ValueError) as error:
                now = time.monotonic()
                broken_since = now if broken_since is None else broken_since
                repeat = isinstance(error, ConnectionRefusedError) or (repeatable and _may_have_restarted(error))
                if not repeat or now - broken_since >= CORE_RESTART_SECONDS:
                    raise IPCException(
                        f"The local core cannot be asked to {method} {path} at {self._host}:{self._port} "
                        f"({_reason(error)}); check that localcore.service runs."
                    ) from error
            time.sleep(RETRY_SECONDS)
        if answer.status >= http.client.MULTIPLE_CHOICES:
            text = " ".join(answer.body[:LONGEST_REASON].decode("utf-8", "replace").split())
            raise IPCException(
                f"The local core refused to {method} {path} (HTTP {answer.status}): {text}", answer.status
            )
        return answer

    def _exchange(
        self, method: str, path: str, headers: dict[str, bytes | str], body: bytes | None, seconds: float
    ) -> _Answer:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=seconds)
        try:
            try:
                connection.request(method, path, body, {AUTHORIZATION: self._token, **headers})
            except (BrokenPipeError, ConnectionResetError):
                # A core that refuses a body need not read all of it, and says why before it hangs up.
                if connection.sock is None:
                    raise
            response = connection.getresponse()
            return _Answer(response.status, response.headers, response.read())
        finally:
            connection.close()


def _encoded(payload: Payload) -> bytes:
    """Return the bytes of a payload; TypeError for what cannot be one."""
    content = payload if payload is None or isinstance(payload, PLAIN) else _read(payload)
    if content is None:
        return b""
    return content.encode() if isinstance(content, str) else bytes(content)


def _read(source: object) -> bytes | str:
    read: Callable[[], object] | None = getattr(source, "read", None)
    content = read() if callable(read) else None
    if not isinstance(content, bytes | str):
        raise TypeError(
            f"A payload is bytes, text, None or a file, not {type(source).__name__}; use json.dumps for anything else."
        )
    return content


def _invocation_id(answer: _Answer) -> str:
    invocation_id = answer.headers.get(INVOCATION_ID)
    if not invocation_id:
        raise IPCException(f"The local core's answer has no {INVOCATION_ID}; check what listens on GG_DAEMON_PORT.")
    return invocation_id


def _may_have_restarted(error: Exception) -> bool:
    return isinstance(error, ConnectionError | http.client.IncompleteRead)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
