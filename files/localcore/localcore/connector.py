"""The connector: classifies pictures for Lambdas, as V1's image classification connector did.

    python3 -m localcore.connector

A worker of the IPC like any Lambda; its unit sets MY_FUNCTION_ARN, GG_DAEMON_PORT, CONNECTOR_TIMEOUT (seconds) and
CONNECTOR_MODEL (a directory, see `inference`), and gives the token as standard input. A request's payload is the
content of a JPEG or PNG file; `Content-Type` and `Accept` in the custom part of its client context are checked if they
are there. The reply is `{"Body": "[p0,p1,...]", "ContentType": "application/json"}`, the probabilities in the order of
the model's labels. What cannot be answered is a Handled error of one sentence.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from greengrass_ipc_python_sdk.ipc_client import WorkItem

from localcore import process, work_loop
from localcore.errors import LocalCoreError

if TYPE_CHECKING:
    from localcore.inference import Model

CONTENT_TYPE = "application/json"
# The body is text, so whoever accepts any text gets what they can read.
ACCEPTED = ("*/*", "application/*", CONTENT_TYPE)
# Of 255. A sensor in the dark gives some noise.
DARK = 10

_log = logging.getLogger("localcore.connector")


@dataclass(frozen=True)
class Settings:
    """What the unit says."""

    arn: str
    model: Path
    timeout: float


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Return the settings; raise LocalCoreError for one that is missing or cannot be meant."""
    values = {}
    for name in ("MY_FUNCTION_ARN", "CONNECTOR_MODEL", "CONNECTOR_TIMEOUT"):
        values[name] = environment.get(name, "")
        if not values[name]:
            raise LocalCoreError(f"{name} is not set; start this program by its systemd unit.")
    try:
        timeout = float(values["CONNECTOR_TIMEOUT"])
    except ValueError:
        timeout = math.nan
    if not 0 < timeout < math.inf:
        raise LocalCoreError(
            f"CONNECTOR_TIMEOUT must be a number of seconds, unlike {values['CONNECTOR_TIMEOUT']!r}; correct it."
        )
    return Settings(values["MY_FUNCTION_ARN"], Path(values["CONNECTOR_MODEL"]), timeout)


def load(directory: Path) -> work_loop.Handle:
    """Load the model in `directory` and return what answers requests with it."""
    # Imported now and not above: if a library is missing or does not fit, the core is told.
    from localcore.inference import Model

    model = Model(directory)
    _log.info(
        "Serving the model %s (%s) with %s.", model.description.source, model.description.sha256[:12], model.backend
    )
    return lambda work: answer(model, work)


def answer(model: Model, work: WorkItem) -> bytes:
    """Return the reply to one request; raise LocalCoreError for one that cannot be answered."""
    from localcore import images

    custom = _custom_context(work)
    content_type = _text(custom, "Content-Type")
    _check_accept(_text(custom, "Accept"))
    shape = model.description
    pixels = images.to_input(work.payload, content_type, shape.width, shape.height)
    if pixels.max() < DARK:
        _log.warning("The picture is all black: see that the camera's lens is free, and that there is light.")
    # json writes each number so that it reads back as the same one.
    body = json.dumps(model.infer(pixels), separators=(",", ":"))
    return json.dumps({"Body": body, "ContentType": CONTENT_TYPE}).encode()


def _custom_context(work: WorkItem) -> Mapping[str, Any]:
    try:
        custom = work.context().get("custom", {})
    except ValueError as error:
        raise LocalCoreError(str(error)) from error
    if not isinstance(custom, dict):
        raise LocalCoreError("The custom part of the client context is no JSON object; correct the caller.")
    return custom


def _text(custom: Mapping[str, Any], name: str) -> str | None:
    value = custom.get(name)
    if not (value is None or isinstance(value, str)):
        raise LocalCoreError(f"{name} in the client context is {value!r}, which is no text; correct the caller.")
    return value


def _check_accept(accept: str | None) -> None:
    """Refuse an Accept whose media ranges, as in HTTP, do not include the reply's."""
    if accept is None:
        return
    ranges = [each.split(";")[0].strip().lower() for each in accept.split(",")]
    if not any(each in ACCEPTED or each.startswith("text/") for each in ranges):
        raise LocalCoreError(f"Accept is {accept!r} where {CONTENT_TYPE} is given; ask for that, or leave it out.")


def main() -> NoReturn:
    """Serve requests until the core or systemd ends this."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        process.hide()
        work_loop.take_token()
        settings = from_environment(os.environ)
    except LocalCoreError as error:
        sys.exit(str(error))
    work_loop.serve(settings.arn, lambda: load(settings.model), code=settings.model, timeout=settings.timeout)


if __name__ == "__main__":
    main()
