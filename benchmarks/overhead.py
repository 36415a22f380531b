#!/usr/bin/env python3
"""What the local core adds to an inference, and whether it loses, doubles or reorders requests.

    sudo python3 overhead.py                              on a device
    ssh pi-1 sudo python3 - < benchmarks/overhead.py      the same, from elsewhere, if sudo asks for no password

Starts a local core of its own beside the device's: the real router, connector and worker as plain processes, with a
Lambda written for V1 and a model that answers in about a millisecond; in a folder, on a port, and at the broker under
a name and on topics that nothing else uses. Asks at a steady rate, then singly, and compares each answer with the
model's. Of single requests it takes the time from MQTT in to MQTT out; the model's own is taken here, on the same
input: reading, decoding and resizing the picture count as added. Units, which bound and confine, are not part of it.

Ends with 1 if one of these does not hold: no request is lost, answered twice, wrongly or out of order; the router's
memory (its own pages, and its journal, which on a device is memory too) has grown by 10 % at most since request 100;
on x86_64, the median of what is added is under 20 ms (--most-added) in one round of 50 single requests. What else runs
on the machine only ever adds, so there are more rounds, up to 72, until that holds in one.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import importlib
import json
import math
import os
import platform
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt

ROOT = Path("/opt/pi-fleet")
MEMORY = Path("/dev/shm")  # noqa: S108 the folder in it has a random name and is for this user alone
FUNCTION = "arn:aws:lambda:us-east-1:000000000000:function:overhead:1"
SERVICE = "GG-ML-INF-image-classification-overhead"
REFERENCE, MOST_GROWTH = 100, 10.0
ROUND, ROUNDS = 50, 72
PATIENCE = 60.0

# The mean colour through a softmax. Made with onnx.helper, opset 9, IR version 5: "data" (1 x 3 x 224 x 224) through
# AveragePool (5 x 5), GlobalAveragePool, Flatten, Gemm (transB, weight (arange(15).reshape(5, 3) - 7) / 1024), Softmax.
MODEL = base64.b64decode(
    "CAUSADr0AgowCgRkYXRhEgRzb2Z0IgtBdmVyYWdlUG9vbCoVCgxrZXJuZWxfc2hhcGVABUAFoAEHCh8KBHNvZnQSBG1lYW4iEUdsb2JhbEF2ZXJhZ"
    "2VQb29sChUKBG1lYW4SBGZsYXQiB0ZsYXR0ZW4KLgoEZmxhdAoGd2VpZ2h0CgRiaWFzEgNzdW0iBEdlbW0qDQoGdHJhbnNCGAGgAQIKIQoDc3VtEg"
    "Rwcm9iIgdTb2Z0bWF4KgsKBGF4aXMYAaABAhILbWVhbiBjb2xvdXIqTAgFCAMQAUIGd2VpZ2h0SjwAAOC7AADAuwAAoLsAAIC7AABAuwAAALsAAIC"
    "6AAAAAAAAgDoAAAA7AABAOwAAgDsAAKA7AADAOwAA4DsqIAgFEAFCBGJpYXNKFAAAAAAAAAAAAAAAAAAAAAAAAAAAWiAKBGRhdGESGAoWCAESEgoC"
    "CAEKAggDCgMI4AEKAwjgAWIWCgRwcm9iEg4KDAgBEggKAggBCgIIBUIECgAQCQ=="
)

LAMBDA = """
import json
import os

import greengrass_machine_learning_sdk as ml
import greengrasssdk

client = greengrasssdk.client("iot-data")
inference = ml.client("inference")


def function_handler(event, context):
    with open("picture.jpg", "rb") as f:
        picture = f.read()
    response = inference.invoke_inference_service(
        AlgoType="image-classification", ServiceName="overhead", ContentType="image/jpeg", Body=picture
    )
    answer = {"number": event["number"], "predictions": json.loads(response["Body"].read().decode())}
    client.publish(topic=os.environ["ANSWERS"], payload=json.dumps(answer))
"""


def group(name: str) -> dict[str, Any]:
    """Return the group, in the shape of V1's definitions; its topics begin with `name`."""
    job = "arn:aws:sagemaker:us-east-1:000000000000:training-job/overhead"
    model = {"SageMakerMachineLearningModelResourceData": {"DestinationPath": "/model", "SageMakerJobArn": job}}
    parameters = {
        "MLModelDestinationPath": "/model",
        "MLModelResourceId": "model",
        "MLModelSageMakerJobArn": job,
        "LocalInferenceServiceName": "overhead",
        "LocalInferenceServiceTimeoutSeconds": "10",
        "LocalInferenceServiceMemoryLimitKB": "524288",
    }
    connector = "arn:aws:greengrass:us-east-1::/connectors/ImageClassificationARMv7/versions/2"
    configuration = {"Pinned": True, "MemorySize": 131072, "Timeout": 10, "Executable": "overhead.function_handler"}
    functions = [{"Id": "function", "FunctionArn": FUNCTION, "FunctionConfiguration": configuration}]
    subscriptions = [
        {"Id": "asks", "Source": "cloud", "Subject": f"{name}/asks", "Target": FUNCTION},
        {"Id": "answers", "Source": FUNCTION, "Subject": f"{name}/answers", "Target": "cloud"},
    ]
    return {
        "Core": {"ThingName": name},
        "FunctionDefinition": {"Functions": functions},
        "ConnectorDefinition": {"Connectors": [{"Id": "c", "ConnectorArn": connector, "Parameters": parameters}]},
        "ResourceDefinition": {"Resources": [{"Id": "model", "Name": "model", "ResourceDataContainer": model}]},
        "SubscriptionDefinition": {"Subscriptions": subscriptions},
    }


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds; return whether it does."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    return condition()


class Client:
    """A client of the broker that notes when it asked and when what was answered; no session of it outlasts it."""

    def __init__(self, address: tuple[str, int], client_id: str, name: str = "") -> None:
        """Connect, and subscribe to the answers of the core `name`; end the program if that cannot be done."""
        self.asked: dict[int, float] = {}
        self.answers: list[tuple[int, float, list[float]]] = []
        self.failures: list[str] = []
        self._name = name
        ready: list[bool] = []
        options: dict[str, Any] = {"client_id": client_id, "clean_session": True}
        if hasattr(mqtt, "CallbackAPIVersion"):
            options["callback_api_version"] = mqtt.CallbackAPIVersion.VERSION2
        self._client: Any = mqtt.Client(**options)
        self._client.on_socket_open = self._send_at_once
        self._client.on_connect = lambda client, *_: client.subscribe(
            [(f"{name}/answers", 1), (f"pi-fleet/{name}/errors", 1)]
        )
        self._client.on_subscribe = lambda *_: ready.append(True)
        self._client.on_message = lambda _c, _d, message: self._take(message.topic, json.loads(message.payload))
        with contextlib.suppress(OSError):
            self._client.connect(*address)
            self._client.loop_start()
        if not until(lambda: bool(ready), 10):
            sys.exit("The broker {}:{} does not answer; start it, or name another by --broker.".format(*address))

    @staticmethod
    def _send_at_once(_client: Any, _data: Any, sock: Any) -> None:
        # Or the kernel keeps a request back until what was sent before it is acknowledged, which takes up to 40 ms.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _take(self, topic: str, said: Any) -> None:
        if topic.endswith("/errors"):
            self.failures.append(f"{said['function']}: {said['message']}")
        else:
            self.answers.append((said["number"], time.monotonic(), said["predictions"]))

    def ask(self, number: int) -> None:
        """Send a request."""
        self.asked[number] = time.monotonic()
        self._client.publish(f"{self._name}/asks", json.dumps({"number": number}), qos=1)

    def answered(self, number: int, seconds: float = 0) -> bool:
        """Wait for the answer to a request; return whether it is there."""
        return until(lambda: any(each == number for each, _, _ in reversed(self.answers)), seconds)

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()


class Core:
    """Router, connector and worker, started as their units do, in a folder of their own."""

    def __init__(self, folder: Path, name: str, options: argparse.Namespace, picture: bytes) -> None:
        """Write all that they read."""
        self._folder, self._name, self._options = folder, name, options
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port: int = free.getsockname()[1]
        host, port = options.broker
        settings = {"device": name, "port": self._port, "broker": {"host": host, "port": port, "client_id": name}}
        sha256 = hashlib.sha256(MODEL).hexdigest()
        model = {"labels": list("abcde"), "width": 224, "height": 224, "sha256": sha256, "source": "overhead.py"}
        for part in ("model", "run", "state"):
            (folder / part).mkdir()
        for file, content in (("model/model", model), ("group", group(name)), ("settings", settings)):
            (folder / f"{file}.json").write_text(json.dumps(content))
        (folder / "model/model.onnx").write_bytes(MODEL)
        (folder / "overhead.py").write_text(LAMBDA)
        (folder / "picture.jpg").write_bytes(picture)

    def start(self) -> None:
        """Start all three."""
        tokens = {"overhead": secrets.token_hex(32), SERVICE: secrets.token_hex(32)}
        router = ["-P", "-m", "localcore", "--group", "group.json", "--settings", "settings.json"]
        folders = {"RUNTIME_DIRECTORY": str(self._folder / "run"), "STATE_DIRECTORY": str(self._folder / "state")}
        self._start("router", [sys.executable, *router], json.dumps({"tokens": tokens}), folders)
        settings = {"CONNECTOR_MODEL": "model", "CONNECTOR_TIMEOUT": "10"}
        settings["MY_FUNCTION_ARN"] = f"arn:aws:lambda:us-east-1:aws:function:{SERVICE}"
        self._start("connector", [sys.executable, "-P", "-m", "localcore.connector"], tokens[SERVICE], settings)
        settings = {
            "MY_FUNCTION_ARN": FUNCTION,
            "ROUTER_FUNCTION_ARN": "arn:aws:lambda:::function:GGRouter",
            "GGC_MAX_INTERFACE_VERSION": "1.5",
            "AWS_REGION": "us-east-1",
            "LAMBDA_HANDLER": "overhead.function_handler",
            "LAMBDA_TIMEOUT": "10",
            "ANSWERS": f"{self._name}/answers",
        }
        self._start("worker", [self._options.python, "-P", "-m", "localcore.worker"], tokens["overhead"], settings)

    def _start(self, name: str, argv: list[str], given: str, settings: dict[str, str]) -> None:
        # Nothing may be left in a release, not even bytecode.
        common = {"PATH": os.defpath, "PYTHONPATH": str(self._options.localcore), "PYTHONDONTWRITEBYTECODE": "1"}
        environment = {**common, "GG_DAEMON_PORT": str(self._port), **settings}
        with tempfile.TemporaryFile() as stdin, (self._folder / f"{name}.log").open("wb") as log:
            stdin.write(given.encode())
            stdin.seek(0)
            self._processes[name] = subprocess.Popen(
                argv, cwd=self._folder, env=environment, stdin=stdin, stdout=log, stderr=log
            )

    def said(self) -> str:
        """Return how the programs fare, and what they said last."""
        return "\n".join(
            f"The {name} {'runs' if process.poll() is None else 'has ended'}, and said:\n"
            + (self._folder / f"{name}.log").read_text()[-2000:]
            for name, process in self._processes.items()
        )

    def memory(self) -> float:
        """Return the MiB of the router's own pages and of its journal."""
        status = Path(f"/proc/{self._processes['router'].pid}/status").read_text()
        kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:"))
        for path in (self._folder / "run").rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # the work that it holds may end meanwhile
                kib += path.stat().st_blocks // 2
        return kib / 1024

    def end(self) -> None:
        """End all of them, and wait for it."""
        for process in reversed(self._processes.values()):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            process.kill()
            process.wait()


def time_model(localcore: Path, folder: Path, picture: bytes) -> tuple[str, list[float], list[float]]:
    """Return the runtime, what the model says of the picture, and the milliseconds of 50 inferences."""
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(localcore))
    images, inference = (importlib.import_module(f"localcore.{module}") for module in ("images", "inference"))
    model = inference.Model(folder)
    pixels = images.to_input(picture, "image/jpeg", 224, 224)
    said, taken = [], []
    for _ in range(50):
        begun = time.monotonic()
        said = model.infer(pixels)
        taken.append((time.monotonic() - begun) * 1000)
    return model.backend, said, taken


def warm_up(core: Core, client: Client) -> None:
    """Ask until there is an answer: a request from before the router has subscribed is lost."""
    for number in range(-1, -int(PATIENCE), -1):
        client.ask(number)
        # In order: the answer to the last one comes last.
        if client.answered(number, 1):
            client.asked.clear()
            client.answers.clear()
            return
    sys.exit(f"No request is answered within {PATIENCE:g} s: {' '.join(client.failures)}\n{core.said()}")


def ask_at_a_rate(core: Core, client: Client, requests: int, rate: float) -> tuple[float, float]:
    """Send requests at the rate; return the router's memory at request 100 and after the last answer."""
    at_reference = math.nan
    begun = time.monotonic()
    for number in range(1, requests + 1):
        time.sleep(max(0.0, begun + number / rate - time.monotonic()))
        client.ask(number)
        if math.isnan(at_reference) and len(client.answers) >= REFERENCE:
            at_reference = core.memory()
    count = -1
    while len(client.answers) > count and not client.answered(requests, PATIENCE):
        count = len(client.answers)
    return at_reference, core.memory()


def ask_singly(client: Client, rate: float, most: float) -> list[float]:
    """Send single requests, round after round, until one's median is below; return the best one's milliseconds."""
    best = [math.inf]
    for _ in range(ROUNDS):
        taken = []
        for number in range(len(client.asked) + 1, len(client.asked) + ROUND + 1):
            time.sleep(1 / rate)
            client.ask(number)
            if not client.answered(number, PATIENCE):
                return best
            taken.append((client.answers[-1][1] - client.asked[number]) * 1000)
        best = min(best, taken, key=statistics.median)
        if statistics.median(best) < most:
            break
    return best


def row(name: str, values: Sequence[float]) -> str:
    """Return a line of the table: the median, the value that 95 % are not above, and the greatest."""
    ordered = sorted(values)
    chosen = (statistics.median(ordered), ordered[math.ceil(0.95 * len(ordered)) - 1], ordered[-1])
    return f"{name:32}" + "".join(f"{value:10.2f}" for value in chosen)


def main() -> int:
    """Print a table and what holds; return 1 if something does not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--requests", type=int, default=1000, help=f"how many at the rate, {2 * REFERENCE} or more")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second")
    parser.add_argument("--most-added", type=float, default=20.0, help="milliseconds, on x86_64")
    replayed = next(iter(sorted(ROOT.glob("camera/current/*.jpg"))), ROOT / "camera/current/*.jpg")
    for option, default, what in (
        ("--localcore", ROOT / "localcore/current", "release of the local core"),
        ("--python", ROOT / "venv/bin/python", "interpreter of the Lambda, with greengrasssdk"),
        ("--picture", replayed, "a JPEG"),
    ):
        parser.add_argument(option, type=lambda path: Path(path).absolute(), default=default, help=what)
    parser.add_argument("--broker", default="127.0.0.1:1883", help="HOST:PORT of an MQTT broker that asks for no login")
    options = parser.parse_args()
    for path in (options.localcore, options.python, options.picture):
        if not path.exists():
            parser.error(f"{path} is not there; name another")
    if options.requests < 2 * REFERENCE:
        parser.error(f"--requests must be {2 * REFERENCE} or more")
    host, _, port = options.broker.rpartition(":")
    options.broker = (host, int(port))
    picture = options.picture.read_bytes()
    name = f"overhead-{secrets.token_hex(4)}"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Ended by SIGTERM."))
    with contextlib.ExitStack() as stack:
        memory = MEMORY if MEMORY.is_dir() else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{name}-", dir=memory)))
        core = Core(folder, name, options, picture)
        runtime, wanted, model = time_model(options.localcore, folder / "model", picture)
        client = Client(options.broker, f"{name}-client", name)
        stack.callback(client.close)
        # The router's session would outlast it: whoever connects under its name without one ends it.
        stack.callback(lambda: Client(options.broker, name).close())
        stack.callback(core.end)
        core.start()
        warm_up(core, client)
        before, after = ask_at_a_rate(core, client, options.requests, options.rate)
        most_added = options.most_added if platform.machine() == "x86_64" else math.inf
        whole = ask_singly(client, options.rate, statistics.median(model) + most_added)
        time.sleep(1.0)  # for what should not come: an answer that is given twice
    numbers = [number for number, _, _ in client.answers]
    lost, twice = len(client.asked) - len(set(numbers)), len(numbers) - len(set(numbers))
    wrong = sum(max(abs(a - b) for a, b in zip(said, wanted, strict=True)) > 1e-4 for _, _, said in client.answers)
    order = "in order" if numbers == sorted(numbers) else "out of order"
    added = [each - statistics.median(model) for each in whole]
    growth = (after / before - 1) * 100
    print(f"{platform.machine()}, {os.cpu_count()} cores, {runtime}; {options.picture.name}, {len(picture)} bytes")
    print(f"{'milliseconds':32}{'median':>10}{'95 %':>10}{'most':>10}")
    for what, values in (("MQTT in to MQTT out", whole), ("the model's own time", model), ("added", added)):
        print(row(what, values))
    print(f"{'MiB':32}{f'at {REFERENCE}':>10}{'at end':>10}\n{'router':32}{before:10.2f}{after:10.2f}")
    single = len(client.asked) - options.requests
    bars = {
        f"{options.requests} requests at {options.rate:g} a second and {single} single ones: "
        f"{lost} lost, {twice} answered twice, {wrong} wrongly, {order}": (lost, twice, wrong, order, client.failures)
        == (0, 0, 0, "in order", []),
        f"the router's memory grew by {growth:.1f} %, {MOST_GROWTH:g} % may be": growth <= MOST_GROWTH,
        f"{statistics.median(added):.1f} ms are added, less than {options.most_added:g} on x86_64 may be": (
            statistics.median(added) < most_added
        ),
    }
    for what, holds in bars.items():
        print(f"{'ok' if holds else 'NOT OK':8}{what}")
    broken = [what for what, holds in bars.items() if not holds]
    if broken:
        print(f"This does not hold: {'; '.join(broken)}.", *client.failures[:5], sep="\n", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
