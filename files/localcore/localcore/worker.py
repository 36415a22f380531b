"""The Lambda worker: imports a handler once, and calls it with one event after another.

`python3 -P -m localcore.worker`, in the function's folder, with the function's token as standard input. The environment
is V1's, and LAMBDA_HANDLER (module.function), LAMBDA_TIMEOUT (seconds for one event) and RUNTIME_DIRECTORY.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from greengrass_ipc_python_sdk.ipc_client import WorkItem

from localcore import arn as arns
from localcore import numpy_aliases, process, work_loop
from localcore.errors import LocalCoreError

ENCODINGS = ("json", "binary")
# Modules that Lambdas import, and the Debian packages that have them where the name does not say it.
PACKAGES = {
    "PIL": "python3-pil",
    "RPi": "python3-rpi.gpio",
    "cv2": "python3-opencv",
    "dateutil": "python3-dateutil",
    "paho": "python3-paho-mqtt",
    "serial": "python3-serial",
    "usb": "python3-usb",
    "yaml": "python3-yaml",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What the environment says about the function."""

    arn: str
    handler: str
    timeout: float
    encoding: str


def settings(environment: Mapping[str, str]) -> Settings:
    """Return the settings in the environment, or raise LocalCoreError for the first that cannot be meant."""
    arn, handler = environment.get("MY_FUNCTION_ARN", ""), environment.get("LAMBDA_HANDLER", "")
    if not arn:
        raise LocalCoreError("MY_FUNCTION_ARN is not set; start this program by its systemd unit.")
    arns.function_name(arn)
    module, _, function = handler.rpartition(".")
    if not (module and function.isidentifier()):
        raise LocalCoreError(f"LAMBDA_HANDLER must be module.function, not {handler!r}; correct {arn}'s Executable.")
    try:
        timeout = float(environment.get("LAMBDA_TIMEOUT", ""))
    except ValueError:
        timeout = 0.0
    if not 0 < timeout <= 1e6:
        raise LocalCoreError(f"LAMBDA_TIMEOUT must be a number of seconds; correct {arn}'s Timeout.")
    encoding = environment.get("ENCODING_TYPE") or "json"
    if encoding not in ENCODINGS:
        raise LocalCoreError(f"ENCODING_TYPE must be json or binary, not {encoding!r}; correct {arn}'s EncodingType.")
    return Settings(arn, handler, timeout, encoding)


@dataclass
class ClientContext:
    """What the caller says about itself; `custom` holds 'subject', the topic, if the event is a message."""

    custom: dict[str, Any] = field(default_factory=dict)
    env: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] | None = None


class Context:
    """The second argument of a handler, with the attributes that it has in AWS Lambda."""

    def __init__(self, chosen: Settings, work: WorkItem, environment: Mapping[str, str]) -> None:
        """Describe one invocation, which begins now; LocalCoreError if its client context cannot be read."""
        self._end = time.monotonic() + chosen.timeout
        self.aws_request_id = work.invocation_id
        self.invoked_function_arn = chosen.arn
        self.function_name = arns.function_name(chosen.arn)
        self.function_version = chosen.arn.removeprefix(arns.unqualified(chosen.arn)).removeprefix(":") or "$LATEST"
        self.memory_limit_in_mb = environment.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
        account = chosen.arn.split(":")[4]
        self.log_group_name = f"/aws/greengrass/Lambda/{arns.region(chosen.arn)}/{account}/{self.function_name}"
        self.log_stream_name = environment.get("AWS_IOT_THING_NAME", "")
        self.identity = None
        try:
            said = work.context()
        except ValueError as error:
            raise LocalCoreError(str(error)) from error
        custom, env, client = (_object(said.get(key)) for key in ("custom", "env", "client"))
        self.client_context = ClientContext(custom or {}, env or {}, client)

    def get_remaining_time_in_millis(self) -> int:
        """Return how long the handler may still take."""
        return max(0, round((self._end - time.monotonic()) * 1000))

    def log(self, message: object) -> None:
        """Write to the journal, as `print` does."""
        print(message, file=sys.stdout, flush=True)


class Function:
    """A handler, and how events and results are encoded for it."""

    def __init__(self, chosen: Settings, handler: Callable[[Any, Context], Any]) -> None:
        """Remember what to call."""
        self._chosen = chosen
        self._handler = handler

    def handle(self, work: WorkItem) -> bytes:
        """Call the handler with the event of `work` and return its encoded result."""
        context = Context(self._chosen, work, os.environ)
        if self._chosen.encoding == "binary":
            return _binary_result(self._handler(work.payload, context))
        return _json_result(self._handler(_json_event(work.payload), context))


def load(chosen: Settings) -> Function:
    """Import the handler; LocalCoreError says what the function lacks."""
    module_name, _, function_name = chosen.handler.rpartition(".")
    try:
        module = importlib.import_module(module_name.replace("/", "."))
    except ModuleNotFoundError as error:
        _log.error("The import of %s failed.", chosen.handler, exc_info=error)
        raise LocalCoreError(_what_is_missing(chosen.handler, error)) from error
    except SyntaxError as error:
        _log.error("The import of %s failed.", chosen.handler, exc_info=error)
        raise LocalCoreError(
            f"{chosen.handler} cannot be imported, since {error.filename}:{error.lineno} is no Python 3 ({error.msg}); "
            "port it if it was written for Python 2.7."
        ) from error
    handler = getattr(module, function_name, None)
    if not callable(handler):
        raise LocalCoreError(
            f"{module.__file__} has no function {function_name}; correct the Executable of {chosen.arn} or the file."
        )
    return Function(chosen, handler)


def _what_is_missing(handler: str, error: ModuleNotFoundError) -> str:
    missing = error.name or str(error)
    module = missing.split(".")[0]
    if module == handler.split(".")[0].split("/")[0]:
        return (
            f"{Path.cwd()} holds no module {missing} for the handler {handler}; correct the Executable or the Lambda."
        )
    package = PACKAGES.get(module, f"python3-{module.lower().replace('_', '-')}")
    return (
        f"{handler} needs the module {missing}, which this device lacks: get {package} from Debian (add it to "
        "local_core_packages) or put the module into the Lambda's folder."
    )


def _object(value: object) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


def _json_event(payload: bytes) -> Any:
    if not payload:
        return {}  # as AWS Lambda does with an invocation without a payload
    try:
        return json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise LocalCoreError(
            f"The payload is no JSON ({error}); send JSON, or set the function's EncodingType to binary."
        ) from error


def _json_result(result: object) -> bytes:
    if result is None:
        return b""
    try:
        return json.dumps(result).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise LocalCoreError(
            f"The handler returned what is no JSON ({error}); return text, numbers, lists and dictionaries of them."
        ) from error


def _binary_result(result: object) -> bytes:
    if result is None:
        return b""
    if isinstance(result, str):
        return result.encode()
    if isinstance(result, bytes | bytearray | memoryview):
        return bytes(result)
    raise LocalCoreError(
        f"The handler returned {type(result).__name__}; return bytes, since the function's EncodingType is binary."
    )


def main() -> NoReturn:
    """Serve the function until there is no more work for it."""
    try:
        process.hide()
        work_loop.take_token()
        chosen = settings(os.environ)
    except LocalCoreError as error:
        sys.exit(str(error))
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    numpy_aliases.install()
    # Early SDKs of V1 came with these modules, for Python 2 and for a core of their time: many a folder has them.
    importlib.import_module("greengrass_common.env_vars")
    # V1's order for all the rest: the function's own folder first.
    sys.path.insert(0, str(Path.cwd()))
    work_loop.serve(chosen.arn, lambda: load(chosen).handle, code=Path.cwd(), timeout=chosen.timeout)


if __name__ == "__main__":
    main()
