# SPDX-License-Identifier: Apache-2.0
"""What stops a run before it touches a device: each refusal is one sentence (what, found, wanted, next step)."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device
from ansible_collections.edge.pi_fleet.plugins.module_utils.field_data import FOLDER

RELEASES = ("bookworm", "trixie")
ARCHITECTURES = ("armhf", "arm64", "amd64")
CLOCK_TOLERANCE = 60
"""Seconds. TLS and apt begin to fail when a clock is off by more."""

# Asks for what decides whether Python modules can run at all, so it is shell: the oldest devices have no Python 3.8.
QUESTION = """
. /etc/os-release
echo "release=${VERSION_CODENAME:-$ID}"
echo "architecture=$(dpkg --print-architecture)"
echo "machine=$(uname -m)"
echo "armv6=$(grep -c -m1 'ARMv6' /proc/cpuinfo)"
echo "python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)"
echo "offline=$(sed -n 's|^// pi-fleet offline ||p' /etc/apt/apt.conf.d/99pi-fleet-offline 2>/dev/null)"
echo "left=$(stat --file-system --format='%f %S' / | { read -r blocks size; echo $((blocks * size / 1048576)); })"
echo "written=$([ -w / ] && echo yes)"
echo "clock=$(date +%s)"
"""
LEAST_LEFT = 32
"""MiB without which no module of Ansible can unpack itself: 16 of them ext4 keeps from everybody."""

# Whoever installs a package holds one of these; the kernel tells by whom.
APT_LOCKS = (
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/lock",
    "/var/lib/apt/lists/lock",
    "/var/cache/apt/archives/lock",
)


@dataclass(frozen=True)
class Answer:
    """What a device answered to QUESTION."""

    release: str
    architecture: str
    machine: str
    armv6: bool
    python: str
    offline: str
    """The bundle that its apt uses in place of archives: what role offline wrote last."""
    left: int
    """MiB that root can still write on /."""
    writable: bool
    clock: int

    @classmethod
    def parse(cls, text: str) -> Answer:
        """Read the lines `key=value`; what is missing is empty or 0."""
        pairs = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        clock, left = pairs.get("clock", ""), pairs.get("left", "")
        return cls(
            release=pairs.get("release", ""),
            architecture=pairs.get("architecture", ""),
            machine=pairs.get("machine", ""),
            armv6=pairs.get("armv6", "0") == "1" or pairs.get("machine", "").startswith("armv6"),
            python=pairs.get("python", ""),
            offline=pairs.get("offline", ""),
            left=int(left) if left.isdecimal() else 0,
            writable=pairs.get("written") == "yes",
            clock=int(clock) if clock.isdecimal() else 0,
        )


def refusals(answer: Answer, asked: float, answered: float) -> list[str]:
    """Return why this device cannot be provisioned; `asked` and `answered` are the control node's clock around it."""
    sentences = []
    if answer.release not in RELEASES:
        sentences.append(
            f"The device runs {answer.release or 'an unknown system'}; supported are Bookworm (Debian 12) and Trixie"
            " (Debian 13): flash a current Raspberry Pi OS."
        )
    if answer.armv6:
        sentences.append(
            f"The device's processor is ARMv6 ({answer.machine}), for which Debian's armhf packages are not built:"
            " use a Pi Zero 2, Pi 2 or newer."
        )
    elif answer.architecture not in ARCHITECTURES:
        sentences.append(
            f"The device's userland is {answer.architecture or 'unknown'}; wanted is one of"
            f" {', '.join(ARCHITECTURES)}: flash a 32-bit or 64-bit Raspberry Pi OS."
        )
    if not answer.python:
        sentences.append("The device has no python3, which Ansible needs: install it with 'sudo apt install python3'.")
    if not answer.writable:
        sentences.append(
            "The device's card is read-only, as the kernel makes it when it cannot read or write it: see 'dmesg' there,"
            " then 'sudo reboot', and write a new card if that does not last."
        )
    elif answer.left < LEAST_LEFT:
        sentences.append(
            f"The device's card is full ({answer.left} MiB left on /, and {LEAST_LEFT} MiB are the least to begin"
            " with): see 'df -h /', run 'sudo apt clean', or collect field data and remove it there."
        )
    behind = asked - answer.clock
    ahead = answer.clock - answered
    off = max(behind, ahead)
    if off > CLOCK_TOLERANCE:
        sentences.append(
            f"The device's clock is {_duration(off)} {'behind' if behind > ahead else 'ahead of'} the control node's,"
            f" and TLS and apt need it within a minute: run 'sudo date -u -s @{int(answered)}' on the device, and see"
            " that systemd-timesyncd reaches a time server."
        )
    return sentences


def _duration(seconds: float) -> str:
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}s"
    return f"{int(seconds)} seconds"


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock of apt."""

    pid: int
    command: str

    def __str__(self) -> str:
        """Return what a person calls it."""
        return f"{self.command} (process {self.pid})"


def apt_holder(device: Device) -> Holder | None:
    """Return who holds a lock of apt or dpkg, or None. Opens the files for reading only; takes no lock."""
    for lock in APT_LOCKS:
        try:
            handle = os.open(device.path(lock), os.O_RDONLY)
        except OSError:
            continue
        try:
            pid = _lock_owner(handle)
        finally:
            os.close(handle)
        if pid:
            return Holder(pid, _command(pid))
    return None


def _lock_owner(handle: int) -> int:
    # struct flock on 64-bit: l_type, l_whence, l_start, l_len, l_pid. Python's fcntl wants it packed, natively aligned;
    # glibc's flock on 32-bit has 64-bit offsets too (Python is built with large files), 4 bytes of padding before them.
    layout = "hhqqi" if struct.calcsize("P") == 8 else "hhxxxxqqi"
    request = struct.pack(layout, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    request = request.ljust(struct.calcsize(layout + "0q"), b"\0")
    answer = fcntl.fcntl(handle, fcntl.F_GETLK, request)
    kind, _, _, _, pid = struct.unpack_from(layout, answer)
    return 0 if kind == fcntl.F_UNLCK else int(pid)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "somebody"


def wait_for_apt(
    holder: Callable[[], Holder | None], limit: float, sleep: Callable[[float], None] = time.sleep
) -> str | None:
    """Wait until nobody holds apt; return a refusal when the limit has passed."""
    waited = 0.0
    while (held := holder()) is not None:
        if waited >= limit:
            return (
                f"apt is held by {held} after {int(waited)} s of waiting; it must be free: let that finish (a fresh"
                " card updates itself), or raise preflight_apt_timeout."
            )
        sleep(2)
        waited += 2
    return None


def disk_refusal(free_mib: int, needed_mib: int, what: str) -> str | None:
    """Return a refusal if the root file system has less free than needed."""
    if free_mib >= needed_mib:
        return None
    return (
        f"The device has {free_mib} MiB free on / and needs {needed_mib} MiB {what}: collect its field data, remove"
        " what is not needed, or use a larger card."
    )


def guard_refusal(device: Device, min_free: str) -> str | None:
    """Return a refusal if the guard of field data would stop what a run starts; what is no limit role field_data tells.

    By the limit that the run brings: a guard that had a higher one so far is no reason to leave it so.
    """
    folder = device.path(FOLDER)
    limit = re.fullmatch(r"([1-9][0-9]*)([KMG])|([1-9][0-9]?)%", min_free, re.ASCII)
    if limit is None:
        return None
    if limit[3]:
        there = next(each for each in (folder, *folder.parents) if each.exists())
        found = os.statvfs(there)
        wanted = found.f_blocks * found.f_frsize * int(limit[3]) // 100
    else:
        wanted = int(limit[1]) * 1024 ** (1 + "KMG".index(limit[2]))
    free = device.free_bytes(folder)
    if free >= wanted:
        return None
    return (
        f"The device has {free // 1024**2} MiB free for {FOLDER} and field_data_min_free is {min_free}, below which the"
        " guard stops Lambdas and connectors: collect its field data and remove it there, make room, or choose less."
    )


def lists_refusal(device: Device) -> str | None:
    """Return a refusal of a dry run if apt knows no package yet, as on a fresh card: it could foresee nothing."""
    if any(device.path("/var/lib/apt/lists").glob("*_Packages*")):
        return None
    return (
        "The device has never fetched apt's package lists, so a dry run cannot tell what would be installed: run 'sudo"
        " apt-get update' on the device first, or run without --check."
    )


def installed(device: Device) -> tuple[list[str], bool]:
    """Return the Debian packages that are installed, and whether dpkg has something to finish, as after a kill."""
    _, output, _ = device.run(["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n"])
    states = [line.split(" ", 1) for line in output.splitlines()]
    unfinished = any(state not in ("installed", "config-files", "not-installed") for _, state in states)
    # What a killed dpkg noted and did not file yet: apt refuses to work beside it.
    unfinished |= any(device.path("/var/lib/dpkg/updates").glob("[0-9]*"))
    return sorted({name for name, state in states if state == "installed"}), unfinished
