"""What scripts share that tests run on a device as root: the IPC as a function meets it, and a client of the broker.

Its text goes before theirs; a device has Python and Debian's packages alone.
"""

from __future__ import annotations

import base64
import json
import queue
import socket
import struct
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import Any

TOKENS = json.loads(Path("/etc/pi-fleet/private/localcore.json").read_text())["tokens"]
FIELD_DATA = Path("/home/ggc_user/raw_field_data")
FUNCTIONS = "http://127.0.0.1:8000/2016-11-01/functions/"
INFERENCE = "arn:aws:lambda:us-east-1:aws:function:GG-ML-INF-image-classification-beverage-classifier"
REQUEST, RESPONSE = "/request/classify/beverage_container", "/response/prediction/beverage_container"
ANSWERS = (RESPONSE, "pi-fleet/+/errors", "/article/response", "echo/answer")
TIMEOUT = 15


def call(
    method: str, path: str, body: bytes | None, token: str | None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Speak to the IPC; return status, headers and body."""
    request = urllib.request.Request(FUNCTIONS + path, data=body, method=method)
    for name, value in {**headers, **({"Authorization": token} if token else {})}.items():
        request.add_header(name.replace("_", "-"), value)
    try:
        with urllib.request.urlopen(request, timeout=180) as reply:
            return reply.status, {name.lower(): value for name, value in reply.headers.items()}, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, {name.lower(): value for name, value in error.headers.items()}, error.read()


def invoke(arn: str, payload: bytes, custom: dict[str, str], token: str | None) -> dict[str, Any]:
    """Ask a function and wait for its result."""
    context = base64.b64encode(json.dumps({"custom": custom}).encode()).decode()
    code, headers, body = call(
        "POST", arn, payload, token, X_Amz_Client_Context=context, X_Amz_Invocation_Type="RequestResponse"
    )
    if code != 200:
        return {"status": code, "error": "", "body": body.decode()}
    code, headers, body = call("GET", arn, None, token, X_Amz_InvocationId=headers["x-amz-invocationid"])
    return {"status": code, "error": headers.get("x-amz-function-error", ""), "body": body.decode()}


def infer(
    picture: bytes, kind: str = "image/jpeg", token: str | None = TOKENS.get("beverage_classifier")
) -> dict[str, Any]:
    """Have a picture classified, as the Lambda does."""
    return invoke(INFERENCE, picture, {"Content-Type": kind}, token)


def bomb(side: int = 40000) -> bytes:
    """Return a PNG of a few bytes that says it is `side` x `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def gibibyte() -> dict[str, Any]:
    """Announce a body of 1 GiB, send the first of it, and return what the router says."""
    head = (
        f"POST /2016-11-01/functions/{INFERENCE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {2**30}\r\n"
        f"Authorization: {TOKENS['beverage_classifier']}\r\nX-Amz-Invocation-Type: RequestResponse\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", 8000), 30) as connection:
        connection.sendall(head.encode() + bytes(65536))
        said = connection.recv(65536).decode()
    return {"status": int(said.split()[1]), "body": said.partition("\r\n\r\n")[2] or said}


class Client:
    """A client of the device's broker that collects answers and errors."""

    def __init__(self) -> None:
        from paho.mqtt import client as mqtt

        versions = getattr(mqtt, "CallbackAPIVersion", None)
        self.messages: queue.Queue[tuple[str, Any]] = queue.Queue()
        ready: queue.Queue[bool] = queue.Queue()
        self.client = mqtt.Client(versions.VERSION2) if versions else mqtt.Client()
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = lambda client, *_: client.subscribe([(topic, 1) for topic in ANSWERS])
        self.client.on_subscribe = lambda *_: ready.put(True)
        self.client.on_message = lambda _c, _d, message: self.messages.put((message.topic, json.loads(message.payload)))
        self.client.connect("127.0.0.1", 1883)
        self.client.loop_start()
        ready.get(timeout=10)

    def publish(self, topic: str = REQUEST, payload: bytes = b"hello") -> float:
        """Publish a message and return the time."""
        begun = time.monotonic()
        self.client.publish(topic, payload, qos=1)
        return begun

    def wait(self, begun: float, timeout: float = TIMEOUT) -> dict[str, Any]:
        """Return the next answer or error, with the seconds since `begun`; its topic is None if none comes."""
        try:
            topic, message = self.messages.get(timeout=timeout)
        except queue.Empty:
            return {"topic": None, "message": None, "seconds": time.monotonic() - begun}
        return {"topic": topic, "message": message, "seconds": time.monotonic() - begun}

    def ask(self, topic: str = REQUEST, payload: bytes = b"hello", timeout: float = TIMEOUT) -> dict[str, Any]:
        """Publish a message and return the next answer or error."""
        return self.wait(self.publish(topic, payload), timeout)

    def forget(self, seconds: float = 0.5) -> None:
        """Drop what comes in some time."""
        time.sleep(seconds)
        while not self.messages.empty():
            self.messages.get()


def pictures() -> list[str]:
    """Return the names of the field data."""
    return sorted(path.name for path in FIELD_DATA.iterdir())


def photo() -> bytes:
    """Return a good JPEG."""
    return sorted(Path("/opt/pi-fleet/camera/current").glob("*.jpg"))[0].read_bytes()
