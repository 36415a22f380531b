# SPDX-License-Identifier: Apache-2.0
"""One run at a time: a device knows which run of site.yml provisions it.

A run that begins leaves a note on the device, and takes it away when it has ended. One that is killed leaves it there.
Whoever asks from the same control node sees whether that run is still there. For others a note counts while the SSH
connection is there by which the run came last, and for a quarter of an hour at least: connections are closed when a
device waits for others, and when it reboots, after which the run says that it goes on.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.edge.pi_fleet.plugins.module_utils.device import (
    Device,
    from_utc,
    read_text,
    remove,
    utc,
    write_text,
)

PATH = "/var/lib/pi-fleet/run.json"
LEASE = 15 * 60
"""Seconds for which a note counts since the run was seen last, whatever became of the connection."""
PATIENCE = 60
"""Seconds to wait for what a killed run has started on the device, and that goes on there."""
IDENTITY = ("machine", "boot", "pid", "started")
"""What tells one run from all others: a control node, its last start, and a process there."""
Run = Mapping[str, Any]


@dataclass(frozen=True)
class Process:
    """A process that is there."""

    name: str
    parent: int
    started: str


def this_node(root: Path = Path("/")) -> dict[str, str]:
    """Return what tells this machine, or this container on it, from all others, and its last start from others."""
    try:
        namespace = str((root / "proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    machine = (read_text(root / "etc/machine-id") or "").strip()
    if not re.fullmatch("[0-9a-f]{32}", machine):
        machine = os.uname().nodename
    boot = (read_text(root / "proc/sys/kernel/random/boot_id") or "").strip()
    return {"machine": f"{machine} {namespace}".strip(), "boot": boot}


def process(pid: int, root: Path = Path("/")) -> Process | None:
    """Return a process, or nothing if there is none, or one that has ended and only was not asked how."""
    try:
        text = read_text(root / "proc" / str(pid) / "stat")
    except ProcessLookupError:
        text = None
    if text is None:
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    return None if fields[0] in "ZX" else Process(name, int(fields[1]), fields[19])


def is_alive(pid: int, started: str, root: Path = Path("/")) -> bool:
    """Say whether a process is still there, and not another one with its number."""
    found = process(pid, root)
    return found is not None and found.started == started


def has_ended(run: Run) -> bool:
    """Say whether a run was one of this control node, and is gone."""
    here = this_node()
    if run["machine"] != here["machine"]:
        return False
    if run["boot"] != here["boot"]:
        return True
    try:
        os.kill(run["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        # Somebody else's, which /proc may hide.
        return False
    # macOS tells nobody when a process was started.
    return bool(run["started"]) and not is_alive(run["pid"], run["started"])


def take(device: Device, run: Run, ended: Run | None = None) -> Run | None:
    """Have the device be a run's; return the run whose it is already, if that is not known to have ended."""
    with _alone(device):
        other = holder(device, run, ended)
        if other is None:
            _write(device, run, since=utc())
        return other


def keep(device: Device, run: Run) -> None:
    """Have the device go on being a run's, if it was this one's, by the connection that there is now."""
    with _alone(device):
        found = _note(device)
        if found is not None and _same(found, run):
            _write(device, run, found["since"])


def release(device: Device, run: Run) -> None:
    """Have the device be nobody's, if it was this run's."""
    with _alone(device):
        found = _note(device)
        if found is not None and _same(found, run):
            remove(device.path(PATH))


def holder(device: Device, run: Run, ended: Run | None = None) -> Run | None:
    """Return the other run that provisions the device."""
    found = _note(device)
    if found is None or _same(found, run):
        return None
    if ended and _same(found, ended):
        return found if _goes_on(device, found["by"]) else None
    here = this_node(device.root)
    if found["machine"] == here["machine"]:
        # A device that provisions itself.
        there = found["boot"] == here["boot"] and is_alive(found["pid"], found["started"], device.root)
        return found if there else None
    if found["machine"] == run["machine"]:
        # Whoever asks knows better: see has_ended.
        return found
    lately = abs(time.time() - from_utc(found["seen"])) < LEASE
    by = found["by"]
    return found if lately or (by and is_alive(by[0], by[1], device.root)) else None


def sentence(other: Run) -> str:
    """Say who provisions a device, and what to do."""
    return (
        f"{other['who']} (process {other['pid']} there) provisions it since {other['since']}: wait until that run has"
        f" ended, then run again. If it was killed, it counts for {LEASE // 60} minutes at least, or until"
        f" 'sudo rm {PATH}' on the device."
    )


def _note(device: Device) -> Run | None:
    try:
        found = json.loads(read_text(device.path(PATH)) or "null")
        found.setdefault("seen", found["since"])
        from_utc(found["seen"])
        return {key: found[key] for key in (*IDENTITY, "who", "since", "seen", "by")}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _write(device: Device, run: Run, since: str) -> None:
    note = {**run, "since": since, "seen": utc(), "by": _connection(device)}
    write_text(device.path(PATH), json.dumps(note) + "\n", mode=0o600)


def _same(one: Run, other: Run) -> bool:
    return all(one[key] == other[key] for key in IDENTITY)


def _ancestors(device: Device) -> list[tuple[int, Process]]:
    """Return this process and those that it stems from."""
    found, pid = [], os.getpid()
    while one := process(pid, device.root):
        found.append((pid, one))
        pid = one.parent
    return found


def _connection(device: Device) -> tuple[int, str] | None:
    """Return the SSH connection by which this run came, if it came by one."""
    return next(((pid, one.started) for pid, one in _ancestors(device) if one.name.startswith("sshd")), None)


def _goes_on(device: Device, by: tuple[int, str] | None) -> bool:
    """Say whether something that a run has started on the device outlives it, and does not end soon."""
    deadline = time.monotonic() + PATIENCE
    while by and is_alive(by[0], by[1], device.root) and _started_by(device, by[0]):
        if time.monotonic() > deadline:
            return True
        time.sleep(0.5)
    return False


def _started_by(device: Device, connection: int) -> bool:
    """Say whether processes stem from a connection that is kept, beside those of whoever asks by the same one."""
    own = {pid for pid, _ in _ancestors(device)}
    names = [path.name for path in device.path("/proc").iterdir() if path.name.isdigit()]
    found = {int(name): process(int(name), device.root) for name in names}
    return any(one and one.parent == connection and pid not in own for pid, one in found.items())


@contextmanager
def _alone(device: Device) -> Iterator[None]:
    """Read and write the note as the only one who does."""
    path = device.path(f"{PATH}.lock")
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
