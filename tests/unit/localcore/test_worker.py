"""The Lambda worker, run as its unit runs it: a process of its own, beside a core."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_core import HANG, SECONDS, TOKEN, Core, Reply
from fake_unit import ARN, ROUTER, Unit
from greengrass_ipc_python_sdk.ipc_client import WorkItem
from localcore import work_loop, worker
from localcore.errors import LocalCoreError

ECHO = "def function_handler(event, context):\n    return event\n"
SLOW_ECHO = "import time\n" + ECHO.replace("return", "print('busy')\n    time.sleep(0.5)\n    return")
PHOTO = Path(__file__).resolve().parents[3] / "files" / "photos" / "rocket.jpg"


@pytest.fixture
def core() -> Iterator[Core]:
    fake = Core()
    fake.start()
    yield fake
    fake.close()


@pytest.fixture
def unit(core: Core, tmp_path: Path) -> Iterator[Unit]:
    for name in ("folder", "elsewhere", "run"):
        (tmp_path / name).mkdir()
    made = Unit(core, tmp_path / "folder")
    yield made
    made.kill()


# --- events and results


def test_events_are_handled_in_order_by_a_module_imported_once(core: Core, unit: Unit) -> None:
    unit.run("seen = []\ndef function_handler(event, context):\n    seen.append(event)\n    return seen\n")
    given = [core.give(event) for event in (1, "zwei", {"drei": [3.5, None]})]
    answers = [core.answer() for _ in given]
    assert [number for number, _, _ in answers] == given
    assert json.loads(answers[2][1]) == [1, "zwei", {"drei": [3.5, None]}]
    assert {error for _, _, error in answers} == {""}


CONTEXT = """
def function_handler(event, context):
    time_left = context.get_remaining_time_in_millis()
    return {
        "names": [name for name in vars(context) if not name.startswith("_")],
        "id": context.aws_request_id, "arn": context.invoked_function_arn, "name": context.function_name,
        "version": context.function_version, "memory": context.memory_limit_in_mb, "log": context.log_group_name,
        "stream": context.log_stream_name, "identity": context.identity, "left": time_left,
        "custom": context.client_context.custom, "env": context.client_context.env,
        "client": context.client_context.client,
    }
"""


def test_the_context_says_what_v1s_said(core: Core, unit: Unit) -> None:
    unit.environment["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] = "128"
    unit.run(CONTEXT)
    number = core.give({}, {"custom": {"subject": "/request/x"}, "env": {"a": "b"}, "client": {"app_title": "t"}})
    said = core.result()
    assert 15_000 < said.pop("left") <= 20_000
    assert said == {
        "names": [
            "aws_request_id", "invoked_function_arn", "function_name", "function_version", "memory_limit_in_mb",
            "log_group_name", "log_stream_name", "identity", "client_context",
        ],
        "id": number, "arn": ARN, "name": "sample", "version": "3", "memory": "128", "identity": None,
        "log": "/aws/greengrass/Lambda/eu-central-1/000000000000/sample", "stream": "pi-1",
        "custom": {"subject": "/request/x"}, "env": {"a": "b"}, "client": {"app_title": "t"},
    }  # fmt: skip


def context(said: object = None, **changes: Any) -> worker.Context:
    encoded = "" if said is None else base64.b64encode(json.dumps(said).encode()).decode()
    chosen = worker.Settings(changes.get("arn", ARN), "a.b", 10.0, "json")
    return worker.Context(chosen, WorkItem("1", b"", encoded), {})


@pytest.mark.parametrize("said", [None, {}, {"custom": None}, {"custom": [1]}, {"env": "x", "client": 3}])
def test_a_context_without_a_topic_has_an_empty_custom(said: object) -> None:
    made = context(said).client_context
    assert (made.custom, made.env, made.client) == ({}, {}, None)


def test_a_function_without_a_version_is_the_latest() -> None:
    assert context(arn="arn:aws:lambda:us-east-1:000000000000:function:f").function_version == "$LATEST"


def test_no_time_left_is_none_left(monkeypatch: pytest.MonkeyPatch) -> None:
    made = context()
    later = time.monotonic() + 60
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert made.get_remaining_time_in_millis() == 0


def test_a_client_context_that_cannot_be_read_is_a_handled_error(core: Core, unit: Unit) -> None:
    unit.run(ECHO)
    core.give({}, raw_context="bm8=")
    assert "client context is no JSON" in core.failure()["errorMessage"]
    core.give("next")
    assert core.result() == "next"


BINARY = """
def function_handler(event, context):
    return {b"none": None, b"text": "\\u00fc", b"number": 7, b"view": memoryview(b"view")}.get(event, event[::-1])
"""


def test_a_binary_function_gets_and_gives_bytes(core: Core, unit: Unit) -> None:
    unit.environment["ENCODING_TYPE"] = "binary"
    unit.run(BINARY)
    known = {b"\xff\x00": b"\x00\xff", b"": b"", b"none": b"", b"text": b"\xc3\xbc", b"view": b"view"}
    for payload, answer in known.items():
        core.give(payload)
        assert core.answer()[1:] == (answer, "")
    core.give(b"number")
    assert "returned int; return bytes" in core.failure()["errorMessage"]


RESULTS = """
def function_handler(event, context):
    recursive = []
    recursive.append(recursive)
    known = {"none": None, "set": {1}, "bytes": b"x", "recursive": recursive, "text": "\\u00fc"}
    return known.get(event, event) if isinstance(event, str) else event
"""


def test_a_json_function_gets_and_gives_json(core: Core, unit: Unit) -> None:
    unit.run(RESULTS)
    core.give("none")
    assert core.answer()[1:] == (b"", "")
    core.give(b"")
    assert core.result() == {}
    core.give("text")
    assert core.result() == "ü"
    for said in ("set", "bytes", "recursive"):
        core.give(said)
        failure = core.failure()
        assert "The handler returned what is no JSON" in failure["errorMessage"]
        assert "stackTrace" not in failure
    for payload in (b"any payload", b"\xff", b"{", b"[" * 100_000):
        core.give(payload)
        assert "payload is no JSON" in core.failure()["errorMessage"]
    assert "Traceback" not in unit.journal()


# --- failures of the handler


def test_an_error_of_the_handler_is_answered_and_written_down(core: Core, unit: Unit) -> None:
    unit.run("def deep():\n    raise KeyError('no \\u00fc')\n" + ECHO.replace("event\n", "deep()\n"))
    core.give(1)
    failure = core.failure()
    assert (failure["errorMessage"], failure["errorType"]) == ("'no ü'", "KeyError")
    assert [line.strip().split("\n")[0].rpartition(", ")[2] for line in failure["stackTrace"]] == [
        "in function_handler",
        "in deep",
    ]
    assert "sample.py" in failure["stackTrace"][0]
    unit.wait_for("KeyError: 'no ü'")
    assert "Traceback (most recent call last)" in unit.journal()
    core.give(2)
    assert core.failure()["errorType"] == "KeyError"


def test_an_error_that_cannot_say_what_it_is_is_named(core: Core, unit: Unit) -> None:
    unit.run(
        "class Odd(Exception):\n    def __str__(self):\n        raise ValueError\n"
        "def function_handler(event, context):\n    raise Odd\n"
    )
    core.give(1)
    assert core.failure()["errorMessage"] == "Odd"


@pytest.mark.parametrize("error", ["SystemExit(0)", "KeyboardInterrupt"])
def test_a_handler_that_asks_to_end_is_reported_and_ends(core: Core, unit: Unit, error: str) -> None:
    unit.run(f"def function_handler(event, context):\n    raise {error}\n")
    core.give(1)
    assert core.failure()["errorType"] == error.partition("(")[0]
    assert unit.end() == 1


@pytest.mark.parametrize("work", ["time.sleep(60)", "ctypes.PyDLL(None).sleep(60)"])
def test_the_timeout_ends_the_worker_whatever_holds_it(core: Core, unit: Unit, work: str) -> None:
    unit.environment["LAMBDA_TIMEOUT"] = "0.3"
    unit.run("import ctypes, time\n" + ECHO.replace("return event", f"return event and {work}"))
    core.give(0)
    assert core.result() == 0
    time.sleep(0.5)  # the limit is one event's, not the worker's
    core.give(1)
    started = time.monotonic()
    assert unit.end() == 1
    assert time.monotonic() - started < 5
    assert "Timeout (0:00:00.300000)!" in unit.journal()
    assert "in function_handler" in unit.journal()
    assert core.answers.empty()


def test_a_result_that_is_too_large_is_a_handled_error(core: Core, unit: Unit) -> None:
    unit.run(ECHO.replace("return event", "return 'x' * event"))
    most = 6 * 1024 * 1024
    core.give(most - 1)  # and two quotes
    assert core.failure()["errorMessage"] == f"The result has {most + 1} bytes; return {most} at most."
    core.give(most - 2)
    assert len(core.result()) == most - 2


def test_a_message_that_is_too_long_is_cut(core: Core, unit: Unit) -> None:
    unit.run(ECHO.replace("return event", "raise ValueError('x' * 10_000_000)"))
    core.give(1)
    assert core.failure()["errorMessage"] == "x" * 100_000


def test_an_answer_that_comes_too_late_is_written_down_and_work_goes_on(core: Core, unit: Unit) -> None:
    core.poll = SECONDS
    unit.run(ECHO)
    core.wait_until_asked()
    core.faults = [Reply(404, b"The invocation has ended.")]
    core.give(1)
    core.give(2)
    assert core.result() == 2
    unit.wait_for("The invocation has ended")


# --- the start


def failed_start(unit: Unit, source: str) -> str:
    unit.start(source)
    result = unit.core.initialised.get(timeout=SECONDS)
    assert result["Success"] is False
    assert unit.end() == 1
    said: str = result["Response"]
    return said


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import boto3", "needs the module boto3, which this device lacks: get python3-boto3 from Debian (add it to"),
        ("import serial.tools", "needs the module serial, which this device lacks: get python3-serial from Debian"),
        ("from yaml_of_theirs import load", "get python3-yaml-of-theirs from Debian (add it to local_core_packages)"),
        ("print 'Python 2'", "sample_that_fails.py:1 is no Python 3 (Missing parentheses in call to 'print'"),
        (
            "def handler(event, context):\n    pass",
            "fails.py has no function function_handler; correct the",
        ),
        ("function_handler = 7", "has no function function_handler"),
    ],
)
def test_what_a_function_lacks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str) -> None:
    (tmp_path / "sample_that_fails.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    with pytest.raises(LocalCoreError) as error:
        worker.load(worker.Settings(ARN, "sample_that_fails.function_handler", 10.0, "json"))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import boto3", "needs the module boto3, which this device lacks"),
        ("open('/no/such/camera')", "FileNotFoundError: [Errno 2] No such file or directory: '/no/such/camera'"),
        ("raise SystemExit('no camera')", "SystemExit: no camera"),
    ],
)
def test_a_function_that_cannot_be_imported_is_reported(unit: Unit, source: str, said: str) -> None:
    assert said in failed_start(unit, source)
    assert said in unit.journal()


def test_a_handler_that_is_not_there_is_reported(unit: Unit) -> None:
    unit.environment["LAMBDA_HANDLER"] = "other.function_handler"
    said = failed_start(unit, "")
    assert said.startswith(f"{unit.folder} holds no module other for the handler other.function_handler; correct")


def test_a_failure_is_written_down_with_its_traceback(unit: Unit) -> None:
    failed_start(unit, "def open_camera():\n    return 1 / 0\ncamera = open_camera()\n")
    assert "in open_camera" in unit.journal()
    assert "ZeroDivisionError" in unit.journal()


@pytest.mark.parametrize("handler", ["package.module.function_handler", "package/module.function_handler"])
def test_a_handler_may_be_in_a_package(core: Core, unit: Unit, handler: str) -> None:
    (unit.folder / "package").mkdir()
    (unit.folder / "package" / "module.py").write_text("def function_handler(event, context):\n    return __name__\n")
    unit.environment["LAMBDA_HANDLER"] = handler
    unit.run("")
    core.give(1)
    assert core.result() == "package.module"


def test_the_functions_folder_comes_first(core: Core, unit: Unit) -> None:
    # Lambdas bring modules along that the device has in another version.
    (unit.folder.parent / "elsewhere" / "helper.py").write_text("PLACE = 'elsewhere'")
    (unit.folder / "helper.py").write_text("PLACE = 'folder'")
    unit.run("import helper, sys\ndef function_handler(event, context):\n    return [helper.PLACE, sys.path[0]]\n")
    core.give(1)
    assert core.result() == ["folder", str(unit.folder)]


def test_the_cores_own_modules_are_not_the_folders(core: Core, unit: Unit) -> None:
    # A zip of 2018 has the SDK, and beside it the modules of the core of that year.
    for package, module in (("greengrass_common", "env_vars"), ("greengrass_ipc_python_sdk", "ipc_client")):
        (unit.folder / package).mkdir()
        (unit.folder / package / "__init__.py").write_text("")
        (unit.folder / package / f"{module}.py").write_text("import urllib2")
    unit.run(
        "import greengrasssdk, greengrass_common.env_vars as env\nfrom greengrass_ipc_python_sdk import ipc_facade\n"
        + ECHO.replace("return event", "return [env.MY_FUNCTION_ARN, env.AUTH_TOKEN]")
    )
    core.give(1)
    assert core.result() == [ARN, TOKEN]


def test_a_core_that_starts_later_is_waited_for(core: Core, unit: Unit) -> None:
    core.close()
    unit.start("print('imported')\n" + ECHO)
    unit.wait_for("imported")
    core.start()
    assert core.initialised.get(timeout=SECONDS)["Success"] is True
    core.give(1)
    assert core.result() == 1


def test_a_core_that_restarts_while_an_event_is_handled_gets_the_answer(core: Core, unit: Unit) -> None:
    unit.run(SLOW_ECHO)
    core.give("kept")
    unit.wait_for("busy")
    core.close()
    time.sleep(0.7)
    core.start()
    assert core.result() == "kept"


def test_a_refused_worker_ends_with_the_cores_sentence(unit: Unit) -> None:
    unit.token = "f" * 64
    unit.start(ECHO)
    assert unit.end() == 1
    assert "(HTTP 401): The token is unknown." in unit.journal()
    assert "Traceback" not in unit.journal()


@pytest.mark.parametrize("token", ["", "short", "with spaces in the middle of it"])
def test_without_a_token_nothing_is_started(unit: Unit, token: str) -> None:
    unit.token = token
    unit.start("print('imported')")
    assert unit.end() == 1
    assert unit.journal() == "Standard input holds no token; start this program by its systemd unit.\n"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("MY_FUNCTION_ARN", "", "MY_FUNCTION_ARN is not set"),
        ("MY_FUNCTION_ARN", "sample", "'sample' is no ARN"),
        ("LAMBDA_HANDLER", "", "LAMBDA_HANDLER must be module.function, not ''"),
        ("LAMBDA_HANDLER", "handler", "not 'handler'; correct"),
        ("LAMBDA_HANDLER", "module.", "not 'module.'"),
        ("LAMBDA_HANDLER", "module.1", "not 'module.1'"),
        ("LAMBDA_TIMEOUT", "", "LAMBDA_TIMEOUT must be a number of seconds"),
        ("LAMBDA_TIMEOUT", "0", "LAMBDA_TIMEOUT must be"),
        ("LAMBDA_TIMEOUT", "nan", "LAMBDA_TIMEOUT must be"),
        ("LAMBDA_TIMEOUT", "inf", "LAMBDA_TIMEOUT must be"),
        ("ENCODING_TYPE", "xml", "ENCODING_TYPE must be json or binary, not 'xml'"),
    ],
)
def test_settings_that_cannot_be_meant_are_named(variable: str, value: str, said: str) -> None:
    environment = {"MY_FUNCTION_ARN": ARN, "LAMBDA_HANDLER": "a.b", "LAMBDA_TIMEOUT": "10", variable: value}
    with pytest.raises(LocalCoreError, match=said):
        worker.settings(environment)


def test_json_is_the_encoding_where_none_is_said() -> None:
    said = worker.settings({"MY_FUNCTION_ARN": ARN, "LAMBDA_HANDLER": "a.b.c", "LAMBDA_TIMEOUT": "2.5"})
    assert said == worker.Settings(ARN, "a.b.c", 2.5, "json")


# --- what others can see of it

SECRETIVE = """
import ctypes, os, subprocess
def function_handler(event, context):
    return {
        "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),
        "input": os.path.samestat(os.fstat(0), os.stat(os.devnull)),
        "token": os.environ["AWS_CONTAINER_AUTHORIZATION_TOKEN"],
        "child": subprocess.run(["env"], capture_output=True, text=True, check=True).stdout,
    }
"""


def test_the_token_is_the_functions_alone(core: Core, unit: Unit) -> None:
    unit.run(SECRETIVE)
    core.give(1)
    seen = core.result()
    assert seen["dumpable"] == 0
    assert seen["input"] is True
    assert seen["token"] == TOKEN
    assert "MY_FUNCTION_ARN" in seen["child"]
    process = Path(f"/proc/{unit.process.pid}")
    for each in (seen["child"], unit.journal(), (process / "cmdline").read_text()):
        assert TOKEN not in each
    # Its own user cannot read this at all; root, who has the tokens anyway, finds none.
    try:
        environment = (process / "environ").read_text()
    except PermissionError:
        assert os.geteuid() != 0
    else:
        assert os.geteuid() == 0
        assert "MY_FUNCTION_ARN" in environment and TOKEN not in environment


def test_what_the_function_says_is_in_the_journal_at_once(core: Core, unit: Unit) -> None:
    unit.run(
        "import logging, sys, time\ndef function_handler(event, context):\n"
        "    print('printed \\udcff'); print('to stderr', file=sys.stderr); context.log('by the context')\n"
        "    logging.info('logged'); logging.getLogger('mine').warning('warned'); logging.debug('hidden')\n"
        "    time.sleep(60)\n"
    )
    core.give(1)
    for said in ("printed \\udcff", "to stderr", "by the context", "INFO root: logged", "WARNING mine: warned"):
        unit.wait_for(said)
    assert "hidden" not in unit.journal()


# --- the end


@pytest.mark.parametrize("thread", ["", "threading.Timer(60, print).start()"])
def test_no_more_work_is_the_end(core: Core, unit: Unit, thread: str) -> None:
    unit.run(f"import threading\n{thread}\n" + ECHO.replace("return", "print('the last', end='')\n    return"))
    core.give(1)
    core.end_work()
    assert core.result() == 1
    assert unit.end() == 0
    assert unit.journal() == "the last"


def test_sigterm_ends_an_idle_worker_at_once(core: Core, unit: Unit) -> None:
    core.poll = SECONDS
    unit.run("import threading\nthreading.Timer(60, print).start()\ndef function_handler(event, context):\n    pass\n")
    core.wait_until_asked()
    started = time.monotonic()
    unit.process.send_signal(signal.SIGTERM)
    assert unit.end() == 0
    assert time.monotonic() - started < 2
    assert unit.journal() == ""


def test_sigterm_ends_a_worker_that_waits_for_the_core(core: Core, unit: Unit) -> None:
    core.close()
    unit.start("print('imported')\n" + ECHO)
    unit.wait_for("imported")
    unit.wait_for_handler(signal.SIGTERM)
    unit.process.send_signal(signal.SIGTERM)
    assert unit.end() == 0


def test_sigterm_lets_an_event_be_finished_and_takes_no_other(core: Core, unit: Unit) -> None:
    unit.run(SLOW_ECHO)
    core.give(1)
    core.give(2)
    unit.wait_for("busy")
    unit.process.send_signal(signal.SIGTERM)
    assert core.result() == 1
    assert unit.end() == 0
    assert core.answers.empty()
    assert core.work.qsize() == 1


def test_sigterm_does_not_outlive_the_timeout(core: Core, unit: Unit) -> None:
    unit.environment["LAMBDA_TIMEOUT"] = "0.5"
    unit.run("import time\ndef function_handler(event, context):\n    print('busy')\n    time.sleep(60)\n")
    core.give(1)
    unit.wait_for("busy")
    unit.process.send_signal(signal.SIGTERM)
    assert unit.end() == 1


def test_a_functions_own_handler_of_sigterm_stays(core: Core, unit: Unit) -> None:
    unit.run(
        "import os, signal\nsignal.signal(signal.SIGTERM, lambda *_: (print('mine'), os._exit(7)))\n"
        "def function_handler(event, context):\n    pass\n"
    )
    unit.process.send_signal(signal.SIGTERM)
    assert unit.end() == 7
    unit.wait_for("mine")


# --- starting again and again


def test_starts_without_any_work_done_wait_longer_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{tmp_path}:/other")
    monkeypatch.setattr(time, "sleep", waited.append)
    for _ in range(10):
        work_loop._Starts.of_this_service(tmp_path).wait()
    assert waited == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    work_loop._Starts.of_this_service(tmp_path).forget()
    work_loop._Starts.of_this_service(tmp_path).wait()
    assert len(waited) == 9


def test_starts_of_another_release_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a rollback, which is not to wait for what the bad release has piled up."""
    waited: list[float] = []
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(time, "sleep", waited.append)
    current = tmp_path / "current"
    for release, starts in (("bad", 3), ("good", 1), ("bad", 1)):
        (tmp_path / release).mkdir(exist_ok=True)
        current.unlink(missing_ok=True)
        current.symlink_to(release)
        for _ in range(starts):
            work_loop._Starts.of_this_service(current).wait()
    assert waited == [1, 2]


@pytest.mark.parametrize("content", ["", "many", "9" * 30])
def test_a_count_that_is_none_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    waited: list[float] = []
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(time, "sleep", waited.append)
    starts = work_loop._Starts.of_this_service(tmp_path)
    (tmp_path / "failures").write_text(f"{content} {starts.releases}")
    starts.wait()
    assert waited == ([60] if content.isdecimal() else [])


def test_the_worker_backs_off_until_it_does_work(core: Core, unit: Unit, tmp_path: Path) -> None:
    count = tmp_path / "run" / "failures"
    unit.environment["RUNTIME_DIRECTORY"] = str(count.parent)
    failed_start(unit, "1 / 0")
    assert count.read_text().split()[0] == "1"
    started = time.monotonic()
    unit.run("def function_handler(event, context):\n    return event['a']\n")
    assert time.monotonic() - started > 1
    assert count.read_text().split()[0] == "2"
    unit.wait_for("Start number 2 without any work done: waiting 1 s.")
    core.give(1)  # fails, but is handled
    core.failure()
    core.give({"a": 2})
    assert core.result() == 2
    assert not count.exists()


def test_systemd_is_told_whether_it_is_initialised(unit: Unit) -> None:
    """As a status of one line, whatever the exception says."""
    address = f"\0worker-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(address)
        notified.settimeout(SECONDS)
        unit.environment["NOTIFY_SOCKET"] = f"@{address[1:]}"
        failed_start(unit, "raise RuntimeError('out of cups\\nREADY=1')")
        assert notified.recv(1000) == b"STATUS=Could not be initialised: RuntimeError: out of cups READY=1"
        unit.run("def function_handler(event, context):\n    pass\n")
        assert notified.recv(1000) == b"STATUS=Initialised."


def test_an_orderly_end_is_no_failure(core: Core, unit: Unit, tmp_path: Path) -> None:
    unit.environment["RUNTIME_DIRECTORY"] = str(tmp_path / "run")
    unit.run("def function_handler(event, context):\n    pass\n")
    assert (tmp_path / "run" / "failures").exists()
    unit.process.send_signal(signal.SIGTERM)
    assert unit.end() == 0
    assert not (tmp_path / "run" / "failures").exists()


# --- Lambdas as they were written in 2018

INFERENCE = "arn:aws:lambda:eu-central-1:aws:function:GG-ML-INF-image-classification-beverage-classifier"
ARTICLE = """
import io
import json
import logging
import os
import time

import boto3
import greengrasssdk
import greengrass_machine_learning_sdk as ml
import numpy as np
import picamera

logging.basicConfig()
logger = logging.getLogger(__name__)
gg_client = greengrasssdk.client('iot-data')
ml_client = ml.client('inference')
s3 = boto3.client('s3')
camera = picamera.PiCamera(resolution=(400, 400))
categories = ['beer-mug', 'clutter', 'coffee-mug', 'soda-can', 'wine-bottle']
folder = os.environ['FOLDER'] + '/'


def function_handler(event, context):
    name = folder + str(int(round(time.time() * 1000))) + '.jpg'
    camera.capture(name)
    with open(name, 'rb') as f:
        content = f.read()
    try:
        response = ml_client.invoke_inference_service(
            AlgoType='image-classification', ServiceName='beverage-classifier', ContentType='image/jpeg', Body=content)
    except ml.GreengrassInferenceException as e:
        logger.info('inference exception: %s', e)
        raise
    predictions = response['Body'].read().decode('utf-8')
    values = np.fromstring(predictions[1:-1], dtype=np.float, sep=',')
    best = int(np.argmax(values))
    message = 'Classified image as {} with a confidence of {}'.format(categories[best], str(values[best]))
    gg_client.publish(topic='/response/prediction/beverage_container', payload=json.dumps({'message': message}))
    os.remove(name)
"""


@pytest.fixture
def article(core: Core, unit: Unit, tmp_path: Path) -> Unit:
    """The article's Lambda on a device that replays a photo; boto3 is there, as Debian's package."""
    (tmp_path / "elsewhere" / "boto3.py").write_text("def client(name):\n    return name\n")
    (tmp_path / "shown").mkdir()
    shutil.copy(PHOTO, tmp_path / "shown")
    (tmp_path / "camera.json").write_text(json.dumps({"source": "directory", "directory": str(tmp_path / "shown")}))
    (tmp_path / "field_data").mkdir()
    unit.environment.update(PI_CAMERA_CONFIG=str(tmp_path / "camera.json"), FOLDER=str(tmp_path / "field_data"))
    core.services[ROUTER] = lambda _: Reply()
    return unit


def test_the_articles_lambda_runs_as_it_was_written(core: Core, article: Unit, tmp_path: Path) -> None:
    body = json.dumps({"Body": "[0.01,0.02,0.9,0.04,0.03]", "ContentType": "application/json"}).encode()
    core.services[INFERENCE] = lambda _: Reply(200, body)
    article.run(ARTICLE)
    for _ in range(2):
        core.give({"message": "any"}, {"custom": {"subject": "/request/classify/beverage_container"}})
        assert core.answer()[1:] == (b"", "")
    posted = [request for request in core.requests if request.method == "POST" and not request.path.endswith("/work")]
    question, answer = posted[:2]
    assert question.body.startswith(b"\xff\xd8") and question.context() == {"custom": {"Content-Type": "image/jpeg"}}
    assert json.loads(answer.body) == {"message": "Classified image as coffee-mug with a confidence of 0.9"}
    assert answer.headers["x-amz-invocation-type"] == "Event"
    assert answer.context()["custom"] == {
        "source": ARN,
        "subject": "/response/prediction/beverage_container",
        "queueFullPolicy": "",
    }
    assert list((tmp_path / "field_data").iterdir()) == []


def test_the_articles_lambda_keeps_the_picture_when_the_inference_fails(
    core: Core, article: Unit, tmp_path: Path
) -> None:
    error = Reply(200, b'{"errorMessage": "no picture"}', {"X-Amz-Function-Error": "Handled"})
    core.services[INFERENCE] = lambda _: error
    article.run(ARTICLE)
    core.give({})
    failure = core.failure()
    assert failure["errorType"] == "GreengrassInferenceException"
    assert "no picture" in failure["errorMessage"]
    assert len(list((tmp_path / "field_data").iterdir())) == 1


# AWS's own Machine Learning SDK, as a Lambda's folder has it, asks the modules beside it for this.
BUNDLED = """
from greengrass_common.env_vars import GGC_MAX_INTERFACE_VERSION
from greengrass_common.parse_version import parse_version
from greengrass_ipc_python_sdk.ipc_facade import (
    GreengrassRuntimeException, GreengrassServiceClient, GreengrassServiceMessage)
major, minor = parse_version(GGC_MAX_INTERFACE_VERSION)
assert int(major) == 1 and int(minor) >= 2
service = GreengrassServiceClient()


def function_handler(event, context):
    try:
        output = service.call(event, GreengrassServiceMessage(b'e30=', b'picture'))
    except GreengrassRuntimeException as error:
        return 'runtime: ' + str(error)
    return output.error_response or output.response.payload.decode()
"""


def test_a_lambda_may_bring_awss_own_machine_learning_sdk(core: Core, unit: Unit) -> None:
    core.services[INFERENCE] = lambda request: Reply(200, b"seen: " + request.body)
    unit.run(BUNDLED)
    core.give(INFERENCE)
    assert core.result() == "seen: picture"
    core.give(INFERENCE + "-other")
    assert core.result().startswith("runtime: ")


def test_a_function_is_stopped_in_the_midst_of_a_question(core: Core, unit: Unit) -> None:
    unit.environment["LAMBDA_TIMEOUT"] = "0.5"
    core.services[INFERENCE] = lambda _: Reply()
    core.poll = SECONDS
    unit.run(BUNDLED)
    core.wait_until_asked()
    core.faults = [HANG]
    core.give(INFERENCE)
    assert unit.end() == 1
    assert "Timeout" in unit.journal()
