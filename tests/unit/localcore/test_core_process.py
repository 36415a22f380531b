"""The router as a process: how it starts, ends, is killed, and what requests leave in its memory."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ARN = "arn:aws:lambda:us-east-1:000000000000:function"
CLASSIFIER = f"{ARN}:beverage_classifier:1"
HELPER = f"{ARN}:helper:1"
ROUTER = "arn:aws:lambda:::function:GGRouter"
CONNECTOR_NAME = "GG-ML-INF-image-classification-beverage-classifier"
TOKENS = {"beverage_classifier": "a" * 64, "helper": "b" * 64, CONNECTOR_NAME: "c" * 64}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Process:
    """`python3 -m localcore` as its unit runs it; nobody listens where it looks for the broker."""

    def __init__(self, folder: Path, definition: dict[str, Any]) -> None:
        self.folder = folder
        self.port = free_port()
        self.group = folder / "group.json"
        self.settings = folder / "localcore.json"
        self.credentials = folder / "credentials.json"
        self.group.write_text(json.dumps(definition))
        self.settings.write_text(json.dumps({"device": "pi-1", "port": self.port, "broker": {"port": free_port()}}))
        secrets = {"greengrass-Key": {"SecretString": "hush"}}
        self.credentials.write_text(json.dumps({"tokens": TOKENS, "secrets": secrets}))
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        self.process: subprocess.Popen[str] | None = None

    def launch(self, **environment: str) -> subprocess.Popen[str]:
        package = Path(sys.modules["localcore"].__path__[0]).parent
        variables = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(package),
            "RUNTIME_DIRECTORY": str(self.folder / "run"),
            "STATE_DIRECTORY": str(self.folder / "state"),
            **environment,
        }
        command = [sys.executable, "-m", "localcore", "--group", str(self.group), "--settings", str(self.settings)]
        with self.credentials.open() as credentials:
            self.process = subprocess.Popen(
                command, env=variables, stdin=credentials, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        return self.process

    def start(self) -> None:
        """Start, and wait until systemd would be told that it is ready."""
        address = f"\0localcore-{os.getpid()}-{self.port}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(address)
            notified.settimeout(10)
            self.launch(NOTIFY_SOCKET=f"@{address[1:]}")
            assert notified.recv(100) == b"READY=1"
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)

    def end(self, number: int) -> tuple[int, str]:
        assert self.process is not None
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=10)
        self.connection.close()
        return self.process.returncode, said

    def ask(self, method: str, path: str, body: bytes = b"", token: str = "a" * 64, **headers: str) -> Any:
        """Return the answer's headers and body; the connection is kept, or most of the time would go into new ones."""
        sent = {"Authorization": token, **{name.replace("_", "-"): value for name, value in headers.items()}}
        self.connection.request(method, f"/2016-11-01/functions/{path}", body, sent)
        reply = self.connection.getresponse()
        content = reply.read()
        assert reply.status == 200, content
        return reply.headers, content

    def post(self, payload: bytes, function: str = HELPER, kind: str = "RequestResponse", custom: Any = None) -> str:
        context = base64.b64encode(json.dumps({"custom": custom or {}}).encode()).decode()
        headers = {"X_Amz_Invocation_Type": kind, "X_Amz_Client_Context": context}
        return str(self.ask("POST", function, payload, **headers)[0]["X-Amz-InvocationId"])

    def work(self) -> tuple[str, bytes]:
        headers, payload = self.ask("GET", f"{HELPER}/work", token="b" * 64)
        return headers["X-Amz-InvocationId"], payload

    def answer(self, id_: str, payload: bytes) -> None:
        self.ask("POST", f"{HELPER}/work", payload, "b" * 64, X_Amz_InvocationId=id_)

    def result(self, id_: str, function: str = HELPER) -> tuple[bytes, str]:
        headers, payload = self.ask("GET", function, X_Amz_InvocationId=id_)
        return payload, headers.get("X-Amz-Function-Error", "")

    @property
    def memory(self) -> int:
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(line.split()[1])


@pytest.fixture
def core(tmp_path: Path, definition: dict[str, Any]) -> Iterator[Process]:
    process = Process(tmp_path, definition)
    yield process
    process.connection.close()
    if process.process is not None:
        process.process.kill()
        process.process.communicate()


def test_it_starts_answers_and_ends_cleanly(core: Process) -> None:
    core.start()
    id_ = core.post(b"question")
    assert core.work() == (id_, b"question")
    core.answer(id_, b"answer")
    assert core.result(id_) == (b"answer", "")
    begun = time.monotonic()
    code, said = core.end(signal.SIGTERM)
    assert (code, time.monotonic() - begun < 5) == (0, True), said
    assert [line for line in said.splitlines() if not line.startswith("<4>Broker")] == []


def test_it_ends_at_once_though_a_worker_waits(core: Process) -> None:
    core.start()
    with socket.create_connection(("127.0.0.1", core.port)) as worker:
        head = ["Host: localhost", f"Authorization: {TOKENS['beverage_classifier']}", "", ""]
        worker.sendall("\r\n".join([f"GET /2016-11-01/functions/{CLASSIFIER}/work HTTP/1.1", *head]).encode())
        time.sleep(0.2)
        begun = time.monotonic()
        assert core.end(signal.SIGTERM)[0] == 0
        assert time.monotonic() - begun < 3
        assert worker.recv(100).startswith(b"HTTP/1.1 204")


def test_what_was_accepted_survives_a_kill(core: Process) -> None:
    core.start()
    done, running, waiting = (core.post(payload) for payload in (b"1", b"2", b"3"))
    core.answer(core.work()[0], b"one")
    assert core.work() == (running, b"2")
    core.end(signal.SIGKILL)
    core.start()
    assert core.result(done) == (b"one", "")
    core.answer(running, b"two")
    assert core.result(running) == (b"two", "")
    assert core.work() == (waiting, b"3")
    # The worker asks again: it was killed over this one.
    last = core.post(b"4")
    assert core.work() == (last, b"4")
    assert core.result(waiting)[1] == "Unhandled"


def test_a_shadow_survives_a_kill_and_a_secret_is_never_said(core: Process) -> None:
    shadow, secrets = "arn:aws:lambda:::function:GGShadowService", "arn:aws:lambda:::function:GGSecretManager:1"
    core.start()
    topic = "$aws/things/pi-1/shadow"
    update = core.post(b'{"state": {"reported": {"a": 1}}}', shadow, custom={"subject": f"{topic}/update"})
    assert json.loads(core.result(update, shadow)[0])["version"] == 1
    secret = core.post(b'{"SecretId": "greengrass-Key"}', secrets)
    assert json.loads(core.result(secret, secrets)[0])["SecretString"] == "hush"
    said = core.end(signal.SIGKILL)[1]
    core.start()
    get = core.post(b"", shadow, custom={"subject": f"{topic}/get"})
    assert json.loads(core.result(get, shadow)[0])["state"] == {"reported": {"a": 1}}
    said += core.end(signal.SIGTERM)[1]
    written = b"".join(
        path.read_bytes() for path in core.folder.rglob("*") if path.is_file() and path != core.credentials
    )
    assert "hush" not in said
    assert b"hush" not in written


def test_its_memory_is_for_nobody_else_and_its_input_is_closed(core: Process) -> None:
    core.start()
    assert core.process is not None
    entry = Path(f"/proc/{core.process.pid}")
    # What a non-dumpable process has in /proc belongs to root, whoever runs it; and nothing of it can be dumped.
    assert entry.stat().st_uid == 0
    assert (entry / "fd/0").readlink() == Path(os.devnull)
    assert "hush" not in (entry / "cmdline").read_text()
    assert "hush" not in (entry / "environ").read_text()


def test_requests_leave_its_memory_as_it_was(core: Process) -> None:
    core.start()
    picture = os.urandom(20_000)
    before = 0
    for number in range(400):
        if number == 100:
            before = core.memory
        id_ = core.post(picture)
        assert core.work()[0] == id_
        core.answer(id_, b"[0.1,0.9]")
        assert core.result(id_) == (b"[0.1,0.9]", "")
        core.post(b"{}", ROUTER, "Event", {"subject": "/response/x"})
    # Messages wait for the broker, which is not there.
    assert core.memory < before * 1.1
    assert len(list((core.folder / "run" / "journal").iterdir())) == 400


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("group", b"{", "The group "),
        ("group", b"[]", "- The group must be an object"),
        ("group", None, "cannot be read"),
        ("settings", b"{}", "must have a text as device"),
        ("settings", None, "cannot be read"),
        ("credentials", b'{"hush"', "The credentials of the local core are no JSON"),
        ("credentials", b"", "The credentials of the local core are no JSON"),
    ],
)
def test_what_it_cannot_start_with_is_said_without_a_traceback(
    core: Process, file: str, content: bytes | None, said: str
) -> None:
    path: Path = getattr(core, file)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    process = core.launch()
    output, errors = process.communicate(timeout=10)
    assert (process.returncode, output) == (1, "")
    assert errors.startswith("<3>")
    assert said in errors
    assert "Traceback" not in errors
    assert "hush" not in errors


@pytest.mark.parametrize("variable", ["RUNTIME_DIRECTORY", "STATE_DIRECTORY"])
@pytest.mark.parametrize("value", ["", "relative", "/proc/nowhere"])
def test_directories_that_cannot_be_used_are_one_sentence(core: Process, variable: str, value: str) -> None:
    process = core.launch(**{variable: value})
    errors = process.communicate(timeout=10)[1]
    assert process.returncode == 1
    assert errors.startswith("<3>")
    assert errors.count("\n") == 1


def test_a_port_that_is_taken_is_one_sentence(core: Process) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", core.port))
        other.listen()
        process = core.launch()
        errors = process.communicate(timeout=10)[1]
    assert (process.returncode, errors.count("\n")) == (1, 1)
    assert f"cannot listen on 127.0.0.1:{core.port}" in errors


def test_a_closed_standard_input_is_one_sentence(core: Process) -> None:
    command = f"exec {sys.executable} -m localcore --group {core.group} --settings {core.settings} <&-"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(sys.modules["localcore"].__path__[0]).parent)}
    result = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=10)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("<3>Standard input cannot be read")
