# SPDX-License-Identifier: Apache-2.0
"""Units that run releases: what of them has said that it is ready.

Lambdas and connectors tell systemd how they fare, as its StatusText; files/localcore/localcore/work_loop.py says the
words, which systemd forgets when it starts them again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping

from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, read_text
from ansible_collections.edge.pi_fleet.plugins.module_utils.units import FOLDER

READY = "Initialised."
FAILED = "Could not be initialised: "
PATTERNS = ("lambda@*.service", "connector@*.service")
RUNS = re.compile(r"(/opt/pi-fleet/\S+)/releases/([0-9a-f]{16})")
"""How a unit's file names each release that it runs: its store's path, and the release."""


class WorkerError(Exception):
    """One sentence: which worker is not ready, and what to look at."""


def texts(device: Device, patterns: Iterable[str] = PATTERNS) -> dict[str, str]:
    """Return the text of units by name."""
    folder = device.path(FOLDER)
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    return {path.name: read_text(path) or "" for path in paths}


def renamed(text: str, releases: Mapping[str, str]) -> str:
    """Return a unit's text with other releases, given by the paths of their stores."""
    return RUNS.sub(lambda found: f"{found[1]}/releases/{releases.get(found[1], found[2])}", text)


def wait_until_ready(
    device: Device, names: Iterable[str], timeout: float, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Wait until all workers that run have said that they are ready; WorkerError for the first that cannot be.

    One that does not run has nobody who wants it: it is started when there is work for it.
    """
    end = time.monotonic() + timeout
    waiting = list(names)
    while waiting := [name for name in waiting if not _is_ready(device, name)]:
        if time.monotonic() >= end:
            raise WorkerError(
                f"{', '.join(waiting)} did not report to be initialised within {timeout:g} s: "
                f"'journalctl -u {waiting[0]}' tells why."
            )
        sleep(0.2)


def _is_ready(device: Device, name: str) -> bool:
    _, output, _ = device.run(["systemctl", "show", "--property=ActiveState,StatusText", name])
    shown = dict(line.partition("=")[::2] for line in output.splitlines())
    said = shown.get("StatusText", "")
    if said.startswith(FAILED):
        raise WorkerError(
            f"{name} could not be initialised ({said.removeprefix(FAILED)}): 'journalctl -u {name}' tells where."
        )
    return shown.get("ActiveState") == "inactive" or said == READY
