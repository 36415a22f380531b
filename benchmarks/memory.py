#!/usr/bin/env python3
"""What the Lambda and the connector take in memory, beyond `python3 -c pass`, while they answer events.

    sudo python3 memory.py

Runs on a device, or beside folders laid out like one: starts the real worker and the real connector against a small
stand-in of the local core, lets the Lambda answer some events with pictures replayed from a folder, and prints what
/proc says then: the most that was resident (peak), what is resident; of that what is of the program's own making
(anonymous: without swap a limit cannot take it back, as it can the pages of libraries), and the part that no other
program shares (PSS; only root sees it). Ends with 1 if the Lambda's peak is over its limit. A camera's driver comes on
top. Under qemu-user the emulator's own memory counts as well.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from dataclasses import astuple, dataclass, fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path("/opt/pi-fleet")
API = "/2016-11-01/functions/"
LAMBDA = "arn:aws:lambda:us-east-1:000000000000:function:beverage_classifier:1"
CONNECTOR = "arn:aws:lambda:us-east-1:aws:function:GG-ML-INF-image-classification-beverage-classifier"
ENVIRONMENT = {
    "ROUTER_FUNCTION_ARN": "arn:aws:lambda:::function:GGRouter",
    "GGC_MAX_INTERFACE_VERSION": "1.5",
    "AWS_REGION": "us-east-1",
    "LAMBDA_HANDLER": "beverage_classifier.function_handler",
}
OWN_MEMORY = "for name in ('status', 'smaps_rollup'): print(open(f'/proc/self/{name}').read())"


class Core(ThreadingHTTPServer):
    """As much of the local core as two workers need: it knows every function and every token."""

    daemon_threads = True

    def __init__(self) -> None:
        """Listen on a free port of loopback."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.work: defaultdict[str, queue.Queue[tuple[str, str, bytes]]] = defaultdict(queue.Queue)
        self.answers: defaultdict[str, queue.Queue[tuple[bytes, str]]] = defaultdict(queue.Queue)
        self.starts: defaultdict[str, queue.Queue[bytes]] = defaultdict(queue.Queue)
        self._numbers = itertools.count(1)

    def post(self, arn: str, body: bytes, context: str = "") -> str:
        """Give work to a function and return the id of the invocation."""
        number = str(next(self._numbers))
        self.work[arn].put((number, context, body))
        return number


class Handler(BaseHTTPRequestHandler):
    """V1's IPC."""

    server: Core

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        arn, _, leaf = self.path.removeprefix(API).partition("/")
        number, context, error = (
            self.headers.get(f"X-Amz-{name}", "") for name in ("InvocationId", "Client-Context", "Function-Error")
        )
        match self.command, leaf:
            case "POST", "":
                self._reply(b"", InvocationId=self.server.post(arn, body, context))
            case "GET", "":
                body, error = self.server.answers[number].get()
                self._reply(body, Function_Error=error)
            case "GET", "work":
                number, context, body = self.server.work[arn].get()
                self._reply(body, InvocationId=number, Client_Context=context)
            case "POST", "work":
                self._reply(b"")
                self.server.answers[number].put((body, error))
            case "PUT", "initialized":
                self._reply(b"")
                self.server.starts[arn].put(body)

    do_GET = do_POST = do_PUT = _serve  # noqa: N815 the server looks for these names

    def _reply(self, body: bytes, **headers: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            if value:
                self.send_header(f"X-Amz-{name.replace('_', '-')}", value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing: the table is all that is wanted."""


@dataclass(frozen=True)
class Memory:
    """MiB of a process; PSS is not a number where it may not be read."""

    peak: float
    now: float
    anonymous: float
    pss: float

    @classmethod
    def parse(cls, text: str) -> Memory:
        """Read the lines of /proc/PID/status and of /proc/PID/smaps_rollup."""
        kib = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines() if line.endswith(" kB")}
        return cls(*(kib.get(key, math.nan) / 1024 for key in ("VmHWM", "VmRSS", "RssAnon", "Pss")))

    @classmethod
    def of(cls, process: int) -> Memory:
        """Return the memory of a running process."""
        text = Path(f"/proc/{process}/status").read_text(encoding="ascii")
        with contextlib.suppress(PermissionError):
            text += Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
        return cls.parse(text)

    def __sub__(self, other: Memory) -> Memory:
        """Return how much more it is than `other`."""
        return Memory(*(mine - its for mine, its in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Program:
    """A program that does a function's work, as its unit starts it."""

    name: str
    arn: str
    python: Path
    module: str
    folder: Path

    def start(self, core: Core, environment: dict[str, str], token: Path, seconds: float) -> subprocess.Popen[bytes]:
        """Start it and wait until it is ready for work."""
        added = {"MY_FUNCTION_ARN": self.arn, "GG_DAEMON_PORT": str(core.server_address[1])}
        argv: list[str | Path] = [self.python, "-m", self.module]
        with token.open() as stdin:
            process = subprocess.Popen(argv, cwd=self.folder, env={**os.environ, **environment, **added}, stdin=stdin)
        try:
            result = json.loads(core.starts[self.arn].get(timeout=seconds))
        except queue.Empty:
            process.kill()
            sys.exit(f"The {self.name} did not start within {seconds:g} s; see what it says above.")
        if not result["Success"]:
            sys.exit(f"The {self.name} cannot start: {result['Response']}")
        return process

    def alone(self) -> Memory:
        """Return the memory of its interpreter that does nothing."""
        argv: list[str | Path] = [self.python, "-c", OWN_MEMORY]
        return Memory.parse(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)


def measure(options: argparse.Namespace) -> dict[str, tuple[Memory, Memory]]:
    """Run both programs through some events; return the memory of each, and of its interpreter alone."""
    programs = [
        Program("connector", CONNECTOR, options.system_python, "localcore.connector", options.model),
        Program("Lambda", LAMBDA, options.python, "localcore.worker", options.function),
    ]
    core = Core()
    threading.Thread(target=core.serve_forever, daemon=True).start()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        camera, token = folder / "camera.json", folder / "token"
        camera.write_text(json.dumps({"source": "directory", "directory": str(options.pictures)}), encoding="utf-8")
        token.write_text("0123456789abcdef" * 4, encoding="ascii")
        environment = {
            **ENVIRONMENT,
            "PYTHONPATH": os.pathsep.join((str(options.localcore), str(options.lib))),
            "PI_CAMERA_CONFIG": str(camera),
            "FIELD_DATA": str(folder),
            "CONNECTOR_MODEL": str(options.model),
            "CONNECTOR_TIMEOUT": str(options.seconds),
            "LAMBDA_TIMEOUT": str(options.seconds),
        }
        processes = []
        for program in programs:
            processes.append(stack.enter_context(program.start(core, environment, token, options.seconds)))
            stack.callback(processes[-1].kill)
        for _ in range(options.events):
            body, error = core.answers[core.post(LAMBDA, b"{}")].get(timeout=options.seconds)
            if error:
                sys.exit(f"The Lambda failed: {body.decode()}")
        found = [Memory.of(process.pid) for process in processes]
    return {program.name: (memory, program.alone()) for program, memory in zip(programs, found, strict=True)}


def main() -> int:
    """Print the table; return 1 if the Lambda is over its limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for option, default, what in (
        ("--localcore", ROOT / "localcore/current", "release of the local core"),
        ("--lib", ROOT / "lib", "folder of pi_camera.py"),
        ("--function", ROOT / "lambda/beverage_classifier/current", "release of the Lambda"),
        ("--model", ROOT / "model/beverage-classifier/current", "release of the model"),
        ("--pictures", ROOT / "camera/current", "folder of the pictures that the camera replays"),
        ("--python", ROOT / "venv/bin/python", "interpreter of the Lambda"),
        ("--system-python", Path("/usr/bin/python3"), "interpreter of the connector"),
    ):
        parser.add_argument(option, type=lambda path: Path(path).absolute(), default=default, help=what)
    parser.add_argument("--events", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=300.0, help="limit of one event")
    parser.add_argument("--limit", type=float, default=128.0, help="MiB that the Lambda may take")
    options = parser.parse_args()
    measured = measure(options)
    columns = [field.name for field in fields(Memory)]
    print(f"{'MiB beyond python3 -c pass':28}" + "".join(f"{column:>12}" for column in columns))
    for name, (whole, alone) in measured.items():
        print(f"{name:28}" + "".join(f"{value:12.1f}" for value in astuple(whole - alone)))
    whole, alone = measured["Lambda"]
    if (peak := (whole - alone).peak) > options.limit:
        print(f"The Lambda takes {peak:.1f} MiB where {options.limit:g} MiB are its limit.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
