"""What reads bytes of strangers, each as a function of bytes: any exception that gets out of one is a finding."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.edge.pi_fleet.plugins.module_utils import group as groups
from ansible_collections.edge.pi_fleet.plugins.module_utils import model_source
from ansible_collections.edge.pi_fleet.plugins.module_utils.model import make_artifact
from ansible_collections.edge.pi_fleet.plugins.module_utils.model_source import (
    ModelError,
    Onnx,
    SageMaker,
    read_source,
)
from ansible_collections.edge.pi_fleet.plugins.module_utils.mxnet_params import read_params
from localcore import ipc
from localcore.errors import LocalCoreError
from localcore.group import PRIVILEGED_GROUPS, PRIVILEGED_NODE, parse
from localcore.images import to_input
from localcore.invocations import REQUEST
from localcore.journal import Journal
from localcore.router import Limits, Router

CORPUS = Path(__file__).parent / "corpus"
CODE = Path(__file__).resolve().parents[2] / "files" / "beverage_classifier"
ARN = "arn:aws:lambda:us-east-1:000000000000:function"
TOKENS = {"one": "a" * 64, "other": "b" * 64}
RAW = 255
METHODS = ("POST", "GET", "PUT", "DELETE")
PATHS = (f"{ARN}:other:1", f"{ARN}:one:1/work", f"{ARN}:one:1/initialized", "arn:aws:lambda:::function:GGRouter", "x")
# A device's answers take no longer; more is a hang.
PATIENCE = 10.0
LABELS = ("cup", "can", "clutter")
MODEL = CORPUS.parent / "model"


def tighten() -> None:
    """Have bounds of GiB, which no input here would meet, be ones of KiB in this process."""
    model_source.LARGEST.update(json=16 * 1024, params=32 * 1024, onnx=32 * 1024)
    model_source.LARGEST_ARCHIVE = 128 * 1024


def params(data: bytes) -> None:
    """Read the weights of a model."""
    with contextlib.suppress(ModelError):
        read_params(data, "model.params")


def archive(data: bytes) -> None:
    """Read a model.tar.gz, and convert what is in it."""
    with tempfile.TemporaryDirectory() as directory, contextlib.suppress(ModelError):
        path = Path(directory, "model.tar.gz")
        path.write_bytes(data)
        given = read_source(path)
        assert isinstance(given, SageMaker)
        assert len(given.params) <= model_source.LARGEST["params"]
        assert max(len(given.symbol), len(given.shapes)) <= model_source.LARGEST["json"]
        make_artifact(given, LABELS, "fuzz")


def symbol(data: bytes) -> None:
    """Convert a graph with weights that are whole; what follows the first line break is the shape of its input."""
    graph, _, shapes = data.partition(b"\n")
    weights = (MODEL / "weights").read_bytes()
    with contextlib.suppress(ModelError):
        make_artifact(SageMaker("model", "weights", graph, weights, shapes), LABELS, "fuzz")


def onnx(data: bytes) -> None:
    """Check an ONNX file of a user's, and make it what devices take."""
    with contextlib.suppress(ModelError):
        make_artifact(Onnx("model.onnx", data), LABELS, "fuzz")


def group(data: bytes) -> None:
    """Take the JSON of a group that somebody exported, and do with it what the action does."""
    functions = [{"name": "beverage_classifier", "src": str(CODE), "handler": "beverage_classifier.function_handler"}]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "group.json")
        path.write_bytes(data)
        try:
            taken = groups.take(path, functions)
            parsed = parse(taken)
        except (groups.InventoryError, LocalCoreError):
            return
    groups.check_inventory(parsed, functions, [], [])
    groups.check_resources(parsed)
    groups.check_code(parsed, functions)
    groups.cloud_topics(parsed)
    json.dumps([taken, groups.describe_connectors(parsed)])
    for unit in groups.describe_functions(parsed, functions).values():
        lines = [*unit["devices"], *unit["groups"], *unit["binds"]["ro"], *unit["binds"]["rw"]]
        assert not any("\n" in line or "%" in line for line in [*lines, unit["name"], unit["handler"]]), unit
        assert not PRIVILEGED_GROUPS.keys() & set(unit["groups"]), unit
        assert not any(PRIVILEGED_NODE.fullmatch(node.split()[0]) for node in unit["devices"]), unit


def picture(data: bytes) -> None:
    """Decode a picture that somebody sent."""
    with contextlib.suppress(LocalCoreError):
        to_input(data, None, 24, 24)


def context(data: bytes) -> None:
    """Read a client context, and hand on what is in it."""
    with contextlib.suppress(LocalCoreError):
        decoded = ipc._decoded_context(base64.b64encode(data).decode())
        json.dumps({**decoded, "custom": {**decoded.get("custom", {}), "source": ARN}})
    with contextlib.suppress(LocalCoreError):
        ipc._decoded_context(data.decode("latin-1"))


class Nowhere:
    """A broker that takes everything."""

    def has_room(self, size: int) -> bool:
        """Say that there is room."""
        return True

    def publish(self, topic: str, payload: bytes) -> None:
        """Forget it."""


class Failures(logging.Handler):
    """What the core tells of failures of its own, in its log or to its loop."""

    def __init__(self) -> None:
        """Keep none yet."""
        super().__init__(logging.ERROR)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it, unless it is the router's word on a worker that says of itself that it failed."""
        if record.exc_info or record.name != "localcore.router":
            self.told.append(self.format(record))

    def met(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Keep what nobody waited for."""
        self.told.append(str(context))


class Core(threading.Thread):
    """The IPC, listening, with two functions."""

    def __init__(self) -> None:
        """Start it and wait until it listens."""
        super().__init__(daemon=True)
        self.port = 0
        self.failures = Failures()
        self._ready = threading.Event()
        self.start()
        self._ready.wait(30)

    def run(self) -> None:
        """Serve for ever."""
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        asyncio.get_running_loop().set_exception_handler(self.failures.met)
        logging.getLogger().addHandler(self.failures)
        functions = [
            {
                "Id": name,
                "FunctionArn": f"{ARN}:{name}:1",
                "FunctionConfiguration": {
                    "Pinned": True,
                    "MemorySize": 131072,
                    "Timeout": 1,
                    "EncodingType": "json",
                    "Executable": f"{name}.handler",
                },
            }
            for name in TOKENS
        ]
        subscription = {"Id": "ask", "Source": f"{ARN}:one:1", "Subject": "#", "Target": f"{ARN}:other:1"}
        definition = {
            "Name": "fuzz",
            "Core": {"ThingName": "fuzz"},
            "FunctionDefinition": {"Functions": functions},
            "SubscriptionDefinition": {"Subscriptions": [subscription]},
        }
        limits = Limits(poll=0.05, idle=0.05, payload=100_000)
        folder = Path(tempfile.mkdtemp(prefix="pi-fleet-fuzz-"))
        journal = Journal(folder / "journal")
        journal.load()
        router = Router(parse(definition), "fuzz", limits, journal, folder / "wanted", Nowhere())
        with socket.socket() as free:
            free.bind((ipc.HOST, 0))
            self.port = free.getsockname()[1]
        await ipc.serve(router, TOKENS, self.port)
        self._ready.set()
        await asyncio.Event().wait()


class Ipc:
    """Requests to the IPC.

    A byte says which, a line each is the kind, the context, the id and the error, the rest is the body.
    After a byte 255 all is sent as it is.
    """

    core: Core | None = None

    def __call__(self, data: bytes) -> None:
        """Send a request; it is answered, and nothing in the core fails of it, then or later."""
        if self.core is None:
            self.core = Core()
        choice = data[0] if data else 0
        sent = data[1:] if choice == RAW else self.request(choice, data[1:])
        said = b""
        connection = socket.create_connection((ipc.HOST, self.core.port), PATIENCE)
        # A refused one is answered, and the connection closed, before all of it is read.
        with connection, contextlib.suppress(ConnectionError):
            connection.sendall(sent)
            if choice == RAW:
                connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                said += part
        # Who asks for a result that is not there for this router is cut off.
        cut_off = METHODS[choice // 2 % 4] == "GET"
        assert said.startswith(b"HTTP/") or (not said and (choice == RAW or cut_off)), said
        assert choice == RAW or not said.startswith((b"HTTP/1.0 500", b"HTTP/1.1 500")), said
        assert not self.core.failures.told, self.core.failures.told

    def request(self, choice: int, data: bytes) -> bytes:
        """Return a request with a right length and headers that end where they should."""
        kind, context, id_, error, body = (*data.split(b"\n", 4), b"", b"", b"", b"", b"")[:5]
        headers = [
            b"Host: localhost",
            b"Connection: close",
            b"Authorization: " + (list(TOKENS.values())[choice % 2].encode() if choice < 240 else kind),
            b"X-Amz-Invocation-Type: " + (kind if choice & 64 else REQUEST.encode()),
            b"X-Amz-Client-Context: " + (base64.b64encode(context) if choice & 128 else context),
            b"X-Amz-InvocationId: " + id_,
            b"X-Amz-Function-Error: " + error,
            f"Content-Length: {len(body)}".encode(),
        ]
        line = f"{METHODS[choice // 2 % 4]} /2016-11-01/functions/{PATHS[choice // 8 % 5]} HTTP/1.1".encode()
        head = b"\r\n".join(part.replace(b"\r", b"") for part in (line, *headers))
        return head + b"\r\n\r\n" + body


TARGETS: dict[str, Callable[[bytes], None]] = {
    "params": params,
    "archive": archive,
    "symbol": symbol,
    "onnx": onnx,
    "group": group,
    "picture": picture,
    "context": context,
    "ipc": Ipc(),
}
