"""The HTTP between Lambdas and the core, as V1's clients speak it, on loopback alone.

    POST BASE              post work; X-Amz-InvocationId comes back
    GET  BASE              wait for its result
    GET  BASE/work         a worker waits for work; 204 means ask again, 410 that no more comes
    POST BASE/work         a worker posts a result, or an error with X-Amz-Function-Error
    PUT  BASE/initialized  a worker says whether its handler could be imported

with BASE = /2016-11-01/functions/ARN. Errors are HTTP statuses with one sentence as their body.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import functools
import hmac
import json
import logging
import select
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from aiohttp import ClientPayloadError, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.log import server_logger

from localcore.errors import LocalCoreError, RefusedError
from localcore.invocations import HANDLED, REQUEST, UNHANDLED, Result
from localcore.router import Arrival, Router

HOST = "127.0.0.1"
BASE = "/2016-11-01/functions/{arn}"
INVOCATION_ID = "X-Amz-InvocationId"
CONTEXT = "X-Amz-Client-Context"
KIND = "X-Amz-Invocation-Type"
FUNCTION_ERROR = "X-Amz-Function-Error"
CALLER = "caller"
SLOWEST_HEAD = 10.0
"""Seconds that a head may take to arrive, and what follows an answer to go: then the connection is cut."""
LARGEST_HEAD = 2**15
MOST_LINES = 100
"""Of a head: the library keeps each, however many there are, in many times its bytes."""
MOST_WAITING = 256
"""Connections on which no request with a token is served; of more the oldest are cut."""
MOST_IN_HAND = 256
"""Requests of one function at a time, as many as it may have threads."""
SLOWEST_BODY = 60.0
"""Seconds that a body may take to arrive."""
MOST_ARRIVING = 32 * 1024 * 1024
"""Bytes of all bodies that are not whole yet; those of one function are twice a payload at most."""
LINGERING = 10.0
"""Seconds in which the rest of a refused body is read and dropped: who is still sending does not read the answer."""
SLOWEST_END = 5.0
"""Seconds that requests in hand have at the end, twice: to be answered, and to notice that they are cancelled."""
MOMENT = 0.05
"""Seconds that a connection takes at most from its acceptance to its protocol."""

log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Listener:
    """What listens; `cleanup` ends it."""

    def __init__(self, runner: web.AppRunner, listening: asyncio.Server, waiting: dict[_Connection, None]) -> None:
        """Hold what is to be ended, and the port."""
        self._runner = runner
        self._listening = listening
        self._waiting = waiting
        self.port: int = listening.sockets[0].getsockname()[1]

    async def cleanup(self) -> None:
        """Take no more, and have what is in hand end."""
        # What was just accepted becomes a connection first: Python 3.13 fails to make one in a server that is closed.
        for each in self._listening.sockets:
            asyncio.get_running_loop().remove_reader(each.fileno())
        await asyncio.sleep(MOMENT)
        self._listening.close()
        for connection in list(self._waiting):
            connection.cut()
        await cast(web.Server, self._runner.server).shutdown(SLOWEST_END)
        await self._runner.cleanup()


async def serve(router: Router, tokens: Mapping[str, str], port: int) -> Listener:
    """Listen; `tokens` maps names of functions to their tokens. `cleanup` of what is returned ends it."""
    server_logger.addFilter(_in_a_line)
    runner = web.AppRunner(application(router, tokens))
    await runner.setup()
    server = cast(web.Server, runner.server)
    server.request_handler = functools.partial(_receive, server.request_handler)
    waiting: dict[_Connection, None] = {}
    make = functools.partial(_Connection, server, waiting)
    try:
        listening = await asyncio.get_running_loop().create_server(make, HOST, port)
    except OSError as error:
        await runner.cleanup()
        raise LocalCoreError(
            f"The local core cannot listen on {HOST}:{port} ({error.strerror}); stop what does, or change the port."
        ) from error
    return Listener(runner, listening, waiting)


def application(router: Router, tokens: Mapping[str, str]) -> web.Application:
    """Return the application that serves the router."""
    ipc = _Ipc(router, tokens)
    app = web.Application(middlewares=[_answer_errors, ipc.admit])
    # Not add_get, which would serve HEAD too: that would take work and throw it away.
    app.router.add_route("POST", BASE, ipc.post_work)
    app.router.add_route("GET", BASE, ipc.get_result)
    app.router.add_route("GET", f"{BASE}/work", ipc.get_work)
    app.router.add_route("POST", f"{BASE}/work", ipc.post_result)
    app.router.add_route("PUT", f"{BASE}/initialized", ipc.initialized)
    return app


class _Connection(web.RequestHandler):
    """A connection, and one request on it: what says nothing, or too much, must not keep out what asks.

    The library bounds neither the time of a head nor its size, so it is given whole heads alone, each with its body.
    """

    def __init__(self, server: web.Server, waiting: dict[_Connection, None]) -> None:
        options: dict[str, Any] = {"access_log": None, "auto_decompress": False, "lingering_time": LINGERING}
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._all_waiting = waiting
        self._received = b""
        self._has_head = False
        self._left = 0
        self._cutting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.wait()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._has_head:
            # A second request behind the first would be kept as long as that is served.
            part = data[: self._left]
            self._left -= len(part)
            if part:
                super().data_received(part)
            return
        self._received = (self._received + data).lstrip(b"\r\n")
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if len(head) > LARGEST_HEAD or head.count(b"\n") > MOST_LINES:
            self.cut()
        elif end and isinstance(self.transport, asyncio.Transport):
            self._has_head = True
            self._received = rest
            self.transport.pause_reading()
            super().data_received(head + b"\r\nConnection: close" + end)

    def wait(self) -> None:
        """Be one of those that are cut when they take too long or are too many."""
        if self.transport is None:
            return
        self._cutting = asyncio.get_running_loop().call_later(SLOWEST_HEAD, self.cut)
        self._all_waiting[self] = None
        if len(self._all_waiting) > MOST_WAITING:
            next(iter(self._all_waiting)).cut()

    def read_on(self, size: int) -> None:
        """Take a body of this size, and drop what follows."""
        self._left = size
        if isinstance(self.transport, asyncio.Transport):
            self.transport.resume_reading()
        rest, self._received = self._received, b""
        self.data_received(rest)

    def wait_no_more(self) -> None:
        """Be served, which may take its time."""
        self._all_waiting.pop(self, None)
        if self._cutting is not None:
            self._cutting.cancel()

    def cut(self) -> None:
        """End it at once."""
        self.wait_no_more()
        if isinstance(self.transport, asyncio.Transport):
            self.transport.abort()


async def _receive(handler: Handler, request: web.Request) -> web.StreamResponse:
    """Take what follows a head, also where the library refuses it before anything of ours is asked."""
    cast(_Connection, request.protocol).read_on(request.content_length or 0)
    return await handler(request)


def _in_a_line(record: logging.LogRecord) -> bool:
    """Have what a client did told in a line, no HTTP or gone before its answer: traces of it would fill the journal."""
    error = record.exc_info[1] if record.exc_info else None
    # Of all that is no ASCII, aiohttp stumbles over an Expect.
    if isinstance(error, HttpProcessingError | ConnectionError | UnicodeEncodeError):
        said = error.message if isinstance(error, HttpProcessingError) else str(error)
        record.msg = "A request is no HTTP, or who sent it is gone (%r)."
        record.args = (said.partition("\n")[0][:100],)
        record.levelno, record.levelname, record.exc_info = logging.WARNING, "WARNING", None
    return True


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except RefusedError as error:
        return web.Response(status=error.status, text=f"{error}\n")
    except (web.HTTPException, ConnectionError):
        raise
    except Exception:
        log.exception("A request could not be served.")
        return web.Response(status=500, text="The local core failed on this; see its journal.\n")


class _Ipc:
    def __init__(self, router: Router, tokens: Mapping[str, str]) -> None:
        self._router = router
        self._tokens = [(name, token.encode()) for name, token in tokens.items()]
        self._in_hand: Counter[str] = Counter()
        self._arriving: Counter[str] = Counter()

    @web.middleware
    async def admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Serve who has a token, and has not too much in hand."""
        connection = cast(_Connection, request.protocol)
        caller = self._caller(request)
        if "Transfer-Encoding" in request.headers:
            raise RefusedError(411, "A body comes with its Content-Length; send no chunks.")
        if self._in_hand[caller] >= MOST_IN_HAND:
            raise RefusedError(503, f"{caller} has {MOST_IN_HAND} requests in hand; wait for their answers.")
        connection.wait_no_more()
        request[CALLER] = caller
        self._in_hand[caller] += 1
        try:
            return await handler(request)
        finally:
            self._in_hand[caller] -= 1
            connection.wait()

    async def post_work(self, request: web.Request) -> web.StreamResponse:
        caller, function = request[CALLER], self._function(request)
        context = _decoded_context(request.headers.get(CONTEXT, ""))
        payload = await self._body(request)
        kind = request.headers.get(KIND, REQUEST)
        id_ = self._router.post_work(caller, function, kind, context, payload)
        return web.Response(headers={INVOCATION_ID: id_})

    async def get_result(self, request: web.Request) -> web.StreamResponse:
        caller, function, id_ = request[CALLER], self._function(request), _invocation_id(request)
        result = await self._router.result(caller, function, id_)
        if result is None:
            # Who asks again finds the next router, or none: a broken connection says so, an answer would be final.
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=503)
        headers = {FUNCTION_ERROR: result.error} if result.error else {}
        response = web.Response(body=result.payload, headers=headers)
        if await _sent(request, response):
            self._router.fetched(id_)
        return response

    async def get_work(self, request: web.Request) -> web.StreamResponse:
        function = self._own_function(request)
        arrival = await self._router.work_arrives(function)
        if arrival is Arrival.NO_MORE:
            raise RefusedError(410, f"There is no more work for {function}; end, you will be started when there is.")
        if arrival is Arrival.NOTHING or _is_gone(request):
            return web.Response(status=204)
        invocation = self._router.take(function)
        context = base64.b64encode(json.dumps(invocation.context).encode()).decode()
        response = web.Response(
            body=invocation.payload,
            headers={INVOCATION_ID: invocation.id, CONTEXT: context},
            content_type="application/octet-stream",
        )
        handed = False
        try:
            handed = await _sent(request, response)
        finally:
            if handed:
                self._router.handed(invocation)
            else:
                self._router.put_back(invocation)
        return response

    async def post_result(self, request: web.Request) -> web.StreamResponse:
        function, id_ = self._own_function(request), _invocation_id(request)
        error = request.headers.get(FUNCTION_ERROR, "")
        if error not in ("", HANDLED, UNHANDLED):
            raise RefusedError(400, f"{FUNCTION_ERROR} is {error[:50]!r}; use {HANDLED}, {UNHANDLED} or none.")
        try:
            result = Result(await self._body(request), error)
        except RefusedError as refusal:
            if refusal.status == 503:
                # It tries again.
                raise
            # The worker has done its part: who waits shall not wait for a time-out.
            self._router.post_result(function, id_, Result.unhandled(f"The result of {function} is refused: {refusal}"))
            raise
        self._router.post_result(function, id_, result)
        return web.Response()

    async def initialized(self, request: web.Request) -> web.StreamResponse:
        function = self._own_function(request)
        try:
            said: Any = json.loads(await self._body(request))
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict) or not isinstance(said.get("Success"), bool):
            raise RefusedError(400, 'The body must be JSON: {"Success": true or false, "Response": "..."}.')
        self._router.initialized(function, said["Success"], str(said.get("Response", "")))
        return web.Response()

    def _caller(self, request: web.Request) -> str:
        """Return the name of the function whose token this is; all are compared, so that time says nothing."""
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        found = ""
        for name, token in self._tokens:
            if hmac.compare_digest(given, token):
                found = name
        if not found:
            raise RefusedError(401, "The token in Authorization is not known; send AWS_CONTAINER_AUTHORIZATION_TOKEN.")
        return found

    def _function(self, request: web.Request) -> str:
        return self._router.name_of(request.match_info["arn"])

    def _own_function(self, request: web.Request) -> str:
        caller, function = request[CALLER], self._function(request)
        if caller != function:
            raise RefusedError(403, f"The token is that of {caller}; it may not act for {function}.")
        return function

    async def _body(self, request: web.Request) -> bytes:
        """Read a body that is within the limit, while there is room for it."""
        caller, most = request[CALLER], self._router.limits.payload
        if (request.content_length or 0) > most:
            raise RefusedError(413, f"The body is over {most} bytes; send less.")
        body = bytearray()
        try:
            async with asyncio.timeout(SLOWEST_BODY):
                async for part in request.content.iter_any():
                    body += part
                    self._arriving[caller] += len(part)
                    if self._arriving[caller] > 2 * most or self._arriving.total() > MOST_ARRIVING:
                        raise RefusedError(503, "Too much arrives at the same time; send it again later.")
        except (TimeoutError, ConnectionError, ClientPayloadError) as error:
            raise RefusedError(400, "The body did not arrive whole; send it again.") from error
        finally:
            self._arriving[caller] -= len(body)
        return bytes(body)


def _is_gone(request: web.Request) -> bool:
    """Tell whether the client has closed its connection, be it so lately that the loop has not noticed."""
    if request.transport is None or request.transport.is_closing():
        return True
    poller = select.poll()
    poller.register(request.transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
    return bool(poller.poll(0))


async def _sent(request: web.Request, response: web.Response) -> bool:
    """Send a response and tell whether the kernel took all of it, which on loopback means that it arrives."""
    if request.transport is None:
        return False
    # With no room in the program's own buffer, `write_eof` returns only when all is written.
    request.transport.set_write_buffer_limits(high=0)
    try:
        await response.prepare(request)
        await response.write_eof()
    except ConnectionError:
        return False
    return True


def _invocation_id(request: web.Request) -> str:
    id_ = request.headers.get(INVOCATION_ID, "")
    if not id_:
        raise RefusedError(400, f"The header {INVOCATION_ID} is missing; send the id of the invocation.")
    return id_


def _decoded_context(header: str) -> dict[str, Any]:
    """Return the client context in a header: base64 of JSON, `{}` if there is none."""
    if not header:
        return {}
    try:
        context = json.loads(base64.b64decode(header, validate=True))
    except (binascii.Error, ValueError, RecursionError):
        context = None
    if not isinstance(context, dict) or not isinstance(context.get("custom", {}), dict):
        raise RefusedError(400, f'{CONTEXT} must be base64 of a JSON object such as {{"custom": {{}}}}.')
    return context
