"""What a program that does a function's work is made of: the Lambda worker and the connector.

    take_token() -> None                              the token from standard input, which then is /dev/null
    serve(arn, load, *, code, timeout) -> NoReturn    load once, say so, do one piece of work after another

`load()` returns `handle(work: WorkItem) -> bytes`, which answers one piece of work, or raises. A LocalCoreError is a
refusal that the asker gets as one sentence; any other exception also goes to the journal with its traceback. An
exception in `load` is reported as a failed initialisation, and ends the program. systemd is told how that went, as the
status that `systemctl status` shows.
"""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import json
import logging
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypeVar

from greengrass_ipc_python_sdk.ipc_client import IPCClient, IPCException, WorkItem

from localcore import service_manager
from localcore.errors import LocalCoreError

T = TypeVar("T")
Handle = Callable[[WorkItem], bytes]

AUTHORIZATION_VARIABLE = "AWS_CONTAINER_AUTHORIZATION_TOKEN"
TOKEN = re.compile(rb"[!-~]{16,256}")
LONGEST_WAIT = 60.0
RETRY_SECONDS = 1.0
# What the core says to a worker that is not needed any more; it is away when it cannot be reached, or says so.
GONE = 410
AWAY = (None, 503)
# V1's bound of a payload, in bytes; the core takes no more.
LARGEST_ANSWER = 6 * 1024 * 1024
LONGEST_MESSAGE = 100_000
# Statuses of the service, which rollouts wait for: plugins/module_utils/workers.py reads them.
READY = "Initialised."
FAILED = "Could not be initialised: "
STANDARD_ERROR = 2

_log = logging.getLogger(__name__)


def take_token() -> None:
    """Read the function's token from standard input and leave /dev/null there.

    The token is in `os.environ`, where V1's SDK looks for it, but not in the environment that programs started by
    the function inherit, and where others of its user could read it.
    """
    with open(0, "rb", closefd=False) as source:
        token = source.read(4096).strip()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if not TOKEN.fullmatch(token):
        raise LocalCoreError("Standard input holds no token; start this program by its systemd unit.")
    os.environ[AUTHORIZATION_VARIABLE] = token.decode("ascii")
    os.unsetenv(AUTHORIZATION_VARIABLE)


def serve(arn: str, load: Callable[[], Handle], *, code: Path, timeout: float) -> NoReturn:
    """Do the work of the function `arn` until the core has no more of it, or SIGTERM comes; ends the process.

    `code` is the folder that `load` loads from: where starts fail, those of another release of it do not count.
    `timeout` is the limit of one piece of work in seconds: at its end the process ends too, at once.
    """
    try:
        status = _Loop(arn, code, timeout).run(load)
    except (LocalCoreError, IPCException) as error:
        _log.error("%s", error)
        status = 1
    except BaseException as error:
        _log.critical("%s ends.", arn, exc_info=error)
        status = 1
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # it is the function's, and may be anything by now
            stream.flush()
    # Not sys.exit: a thread that the function left running would keep the process for ever.
    os._exit(status)


class _Stopped(BaseException):
    """SIGTERM came while there was nothing to do."""


class _Loop:
    def __init__(self, arn: str, code: Path, timeout: float) -> None:
        self._arn = arn
        self._timeout = timeout
        self._client = IPCClient()
        self._starts = _Starts.of_this_service(code)
        self._idle = False
        self._stopping = False

    def run(self, load: Callable[[], Handle]) -> int:
        """Return the status for the process to end with: 0 if it was asked to, 1 if something is wrong."""
        self._starts.wait()
        handle = self._load(load)
        if handle is None:
            return 1
        # Unless the function has a handler of its own. Until now SIGTERM has simply ended the process.
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._stop)
        try:
            with self._waiting():
                self._until_answered(lambda: self._client.put_initialization_result(self._arn, True, ""))
            _show(READY)
            while (work := self._wait_for_work()) is not None:
                # Whatever comes of the work: a function that was given some has started.
                self._starts.forget()
                goes_on = self._do(handle, work)
                if not goes_on:
                    return 1
        except _Stopped:
            pass
        self._starts.forget()
        return 0

    def _load(self, load: Callable[[], Handle]) -> Handle | None:
        try:
            return load()
        except BaseException as error:
            _log_failure(f"{self._arn} cannot be started", error)
            _show(f"{FAILED}{_sentence(error)}")
            try:
                self._client.put_initialization_result(self._arn, False, _sentence(error))
            except IPCException as refusal:
                _log.error("%s", refusal)
        return None

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        """End at once if there is nothing to do, else after it is done (or its time is over)."""
        self._stopping = True
        if self._idle:
            raise _Stopped

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        self._idle = True
        try:
            if self._stopping:
                raise _Stopped
            yield
        finally:
            self._idle = False

    def _wait_for_work(self) -> WorkItem | None:
        """Return the next piece of work, or None when there will be no more."""
        try:
            with self._waiting():
                return self._until_answered(lambda: self._client.get_work(self._arn))
        except IPCException as error:
            if error.status != GONE:
                raise
        return None

    def _until_answered(self, ask: Callable[[], T]) -> T:
        """Return the answer of the core, however long it is away; IPCException if it refuses."""
        said = False
        while True:
            try:
                return ask()
            except IPCException as error:
                if error.status not in AWAY:
                    raise
                if not said:
                    _log.warning("%s Waiting for it.", error)
                    said = True
            if self._stopping:
                raise _Stopped
            time.sleep(RETRY_SECONDS)

    def _do(self, handle: Handle, work: WorkItem) -> bool:
        """Do a piece of work and answer it; False if the function asked the process to end."""
        goes_on = True
        answer, failure = b"", b""
        faulthandler.dump_traceback_later(self._timeout, exit=True, file=STANDARD_ERROR)
        try:
            answer = handle(work)
            if len(answer) > LARGEST_ANSWER:
                raise LocalCoreError(f"The result has {len(answer)} bytes; return {LARGEST_ANSWER} at most.")
        except Exception as error:
            failure = _report(work, error)
        except BaseException as error:
            failure = _report(work, error)
            goes_on = False
        finally:
            faulthandler.cancel_dump_traceback_later()
        try:
            if failure:
                self._until_answered(lambda: self._client.post_handler_err(self._arn, work.invocation_id, failure))
            else:
                self._until_answered(lambda: self._client.post_work_result(self._arn, work.invocation_id, answer))
        except IPCException as error:
            # The core has answered for this worker by now, or had no use for the answer: the next work may do better.
            _log.error("%s", error)
        return goes_on


@dataclass(frozen=True)
class _Starts:
    """How often the service was started without doing any work since, in a file that survives its restarts."""

    path: Path | None
    releases: str
    """What is started: starts of something else do not count."""

    @classmethod
    def of_this_service(cls, code: Path) -> _Starts:
        directory = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
        releases = f"{code.resolve()} {Path(__file__).resolve().parent}"
        return cls(Path(directory, "failures") if directory else None, releases)

    def wait(self) -> None:
        """Count this start; wait 1, 2, 4 ... 60 seconds if the ones before did no work."""
        if self.path is None:
            return
        try:
            count, _, releases = self.path.read_text().partition(" ")
            failures = int(count) if releases == self.releases else 0
        except (OSError, ValueError):
            failures = 0
        with contextlib.suppress(OSError):
            self.path.write_text(f"{failures + 1} {self.releases}")
        if failures > 0:
            seconds = min(LONGEST_WAIT, 2.0 ** min(failures - 1, 16))
            _log.warning("Start number %d without any work done: waiting %g s.", failures + 1, seconds)
            time.sleep(seconds)

    def forget(self) -> None:
        """Start without waiting the next time."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)


def _show(status: str) -> None:
    try:
        service_manager.say(status)
    except LocalCoreError as error:
        _log.warning("%s", error)


def _report(work: WorkItem, error: BaseException) -> bytes:
    """Write a failure to the journal, and return it as AWS Lambda's Python runtime does."""
    _log_failure(f"The work {work.invocation_id} failed", error)
    report: dict[str, object] = {"errorMessage": _text(error)}
    if not isinstance(error, LocalCoreError):
        report["errorType"] = type(error).__name__
        report["stackTrace"] = traceback.format_list(_frames_of_function(error))
    return json.dumps(report).encode()


def _frames_of_function(error: BaseException) -> list[traceback.FrameSummary]:
    frames = traceback.extract_tb(error.__traceback__)
    ours = Path(__file__).parent
    return list(itertools.dropwhile(lambda frame: Path(frame.filename).parent == ours, frames))


def _log_failure(what: str, error: BaseException) -> None:
    if isinstance(error, LocalCoreError):
        _log.warning("%s: %s", what, error)
    else:
        _log.error("%s.", what, exc_info=error)


def _sentence(error: BaseException) -> str:
    return _text(error) if isinstance(error, LocalCoreError) else f"{type(error).__name__}: {_text(error)}"


def _text(error: BaseException) -> str:
    try:
        return str(error)[:LONGEST_MESSAGE]
    except Exception:  # an exception of the function may fail at this too
        return type(error).__name__
