# SPDX-License-Identifier: Apache-2.0
"""One run at a time: a device knows which run of site.yml provisions it.

The note is in /run, so that a device that starts anew has none. A run that is killed leaves it behind. It counts for
nothing when the process on the device is gone by which the run came, which OpenSSH keeps for ControlPersist; and at
once for whoever asks from the same control node, where the action plugin sees that the run is gone.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.edge.pi_fleet.plugins.module_utils.device import (
    Device,
    read_text,
    remove,
    utc,
    write_text,
)

PATH = "/run/pi-fleet/run.json"
IDENTITY = ("node", "pid", "started")
"""What tells one run from all others: a control node, and a process there."""
Run = Mapping[str, Any]


def node(root: Path = Path("/")) -> str:
    """Return what tells this kernel since its start, and this container on it, from all others."""
    boot = read_text(root / "proc/sys/kernel/random/boot_id")
    if boot is None:
        return os.uname().nodename
    return f"{boot.strip()} {(root / 'proc/self/ns/pid').readlink()}"


def process(pid: int, root: Path = Path("/")) -> tuple[str, int, str] | None:
    """Return a process's name, its parent, and when it was started; nothing if there is none."""
    text = read_text(root / "proc" / str(pid) / "stat")
    if text is None:
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    return name, int(fields[1]), fields[19]


def is_alive(pid: int, started: str, root: Path = Path("/")) -> bool:
    """Say whether a process is still there, and not another one with its number."""
    found = process(pid, root)
    return found is not None and found[2] == started


def take(device: Device, run: Run, ended: Run | None = None) -> Run | None:
    """Have the device be a run's; return the run whose it is already, if that is not known to have ended."""
    with _alone(device):
        other = holder(device, run, ended)
        if other is None:
            note = {**run, "since": utc(), "by": _process_of(device, run)}
            write_text(device.path(PATH), json.dumps(note) + "\n", mode=0o600)
        return other


def release(device: Device, run: Run) -> None:
    """Have the device be nobody's, if it was this run's."""
    with _alone(device):
        found = _note(device)
        if found is not None and _same(found, run):
            remove(device.path(PATH))


def holder(device: Device, run: Run, ended: Run | None = None) -> Run | None:
    """Return the other run that provisions the device."""
    found = _note(device)
    if found is None or _same(found, run) or (ended and _same(found, ended)):
        return None
    by = found["by"]
    return found if by and is_alive(by[0], by[1], device.root) else None


def sentence(other: Run) -> str:
    """Say who provisions a device, and what to do."""
    return (
        f"{other['who']} (process {other['pid']} there) provisions it since {other['since']}; wait until that run has"
        " ended, or end it (a killed one counts until its SSH connection is closed, two minutes), then run again."
    )


def _note(device: Device) -> Run | None:
    try:
        found = json.loads(read_text(device.path(PATH)) or "null")
        return {**{key: found[key] for key in (*IDENTITY, "who", "since")}, "by": found["by"]} if found else None
    except (ValueError, KeyError, TypeError):
        return None


def _same(one: Run, other: Run) -> bool:
    return all(one[key] == other[key] for key in IDENTITY)


def _process_of(device: Device, run: Run) -> tuple[int, str] | None:
    """Return the process on the device that is there as long as a run is: its connection, or the run itself."""
    if run["node"] == node(device.root):
        return run["pid"], run["started"]
    pid = os.getpid()
    while found := process(pid, device.root):
        name, parent, started = found
        if name.startswith("sshd"):
            return pid, started
        pid = parent
    return None


@contextmanager
def _alone(device: Device) -> Iterator[None]:
    """Read and write the note as the only one who does."""
    path = device.path(f"{PATH}.lock")
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
