"""What reads bytes of strangers, each as a function of bytes: any exception that gets out of one is a finding."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from ansible_collections.edge.pi_fleet.plugins.module_utils.model_source import ModelError, read_source
from ansible_collections.edge.pi_fleet.plugins.module_utils.mxnet_params import read_params
from localcore import ipc
from localcore.errors import LocalCoreError
from localcore.group import parse
from localcore.images import to_input
from localcore.invocations import REQUEST
from localcore.journal import Journal
from localcore.router import Limits, Router

CORPUS = Path(__file__).parent / "corpus"
ARN = "arn:aws:lambda:us-east-1:000000000000:function"
TOKENS = {"one": "a" * 64, "other": "b" * 64}
METHODS = ("POST", "GET", "PUT", "DELETE")
PATHS = (f"{ARN}:other:1", f"{ARN}:one:1/work", f"{ARN}:one:1/initialized", "arn:aws:lambda:::function:GGRouter", "x")
# A device's answers take no longer; more is a hang.
PATIENCE = 10.0


def params(data: bytes) -> None:
    """Read the weights of a model."""
    with contextlib.suppress(ModelError):
        read_params(data, "model.params")


def archive(data: bytes) -> None:
    """Read a model.tar.gz."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "model.tar.gz")
        path.write_bytes(data)
        with contextlib.suppress(ModelError):
            read_source(path)


def group(data: bytes) -> None:
    """Read the JSON of a group that somebody exported."""
    try:
        definition = json.loads(data)
    except (ValueError, RecursionError):
        return
    with contextlib.suppress(LocalCoreError):
        parse(definition)


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


class Core(threading.Thread):
    """The IPC, listening, with two functions."""

    def __init__(self) -> None:
        """Start it and wait until it listens."""
        super().__init__(daemon=True)
        self.port = 0
        self._ready = threading.Event()
        self.start()
        self._ready.wait(30)

    def run(self) -> None:
        """Serve for ever."""
        asyncio.run(self._serve())

    async def _serve(self) -> None:
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
    """Requests to the IPC: a byte says which, a line each is the kind, the context and the id, the rest is the body."""

    core: Core | None = None

    def __call__(self, data: bytes) -> None:
        """Send a request; it is answered, by less than a failure of the core."""
        if self.core is None:
            self.core = Core()
        choice = data[0] if data else 0
        kind, context, id_, body = (*data[1:].split(b"\n", 3), b"", b"", b"", b"")[:4]
        headers = [
            b"Host: localhost",
            b"Connection: close",
            b"Authorization: " + (list(TOKENS.values())[choice % 2].encode() if choice < 240 else kind),
            b"X-Amz-Invocation-Type: " + (kind if choice & 64 else REQUEST.encode()),
            b"X-Amz-Client-Context: " + (base64.b64encode(context) if choice & 128 else context),
            b"X-Amz-InvocationId: " + id_,
            f"Content-Length: {len(body)}".encode(),
        ]
        line = f"{METHODS[choice // 2 % 4]} /2016-11-01/functions/{PATHS[choice // 8 % 5]} HTTP/1.1".encode()
        head = b"\r\n".join(part.replace(b"\r", b"") for part in (line, *headers))
        with socket.create_connection((ipc.HOST, self.core.port), PATIENCE) as connection:
            connection.sendall(head + b"\r\n\r\n" + body)
            said = connection.recv(4096)
        # Without an answer it was cut off, as who asks for a result that is not there for this router.
        if said:
            assert said.startswith(b"HTTP/1.") and said.split()[1] != b"500", said


TARGETS: dict[str, Callable[[bytes], None]] = {
    "params": params,
    "archive": archive,
    "group": group,
    "picture": picture,
    "context": context,
    "ipc": Ipc(),
}
