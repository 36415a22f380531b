"""Flags on the kernel's command line, which the firmware reads from the first line of cmdline.txt.

Sources: Raspberry Pi documentation, "Kernel command line"; the kernel's parameters, `cgroup_disable=`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ansible_collections.edge.pi_fleet.plugins.module_utils.device import (
    CONTAINER,
    RECORD,
    Device,
    DeviceError,
    read_text,
)

FIRMWARE = "/boot/firmware/cmdline.txt"
FORMER = "/boot/cmdline.txt"
STUB = "DO NOT EDIT"


def locate(device: Device) -> Path | None:
    """Return the cmdline.txt that the firmware reads; None where there is none, as on a plain Debian."""
    firmware, former = device.path(FIRMWARE), device.path(FORMER)
    if firmware.exists():
        return firmware
    text = read_text(former)
    if text is not None and STUB in text:
        raise DeviceError(f"{FORMER} points to {FIRMWARE}, which is not there: mount the boot partition.")
    return None if text is None else former


def split_first(text: str) -> tuple[str, str]:
    """Return the one line that counts, and all that follows it, its line end included."""
    end = min((found for found in (text.find("\r"), text.find("\n")) if found >= 0), default=len(text))
    return text[:end], text[end:]


def add_flags(text: str, flags: list[str]) -> str:
    """Return `text` with those of `flags` at the end of the first line that it lacks; the rest stays."""
    line, rest = split_first(text)
    missing = [flag for flag in dict.fromkeys(flags) if flag not in line.split()]
    if not missing:
        return text
    return " ".join([*filter(None, [line.rstrip()]), *missing]) + rest


def lost_flags(text: str, flags: list[str]) -> list[str]:
    """Return those of `flags` that someone left on a later line, where nothing reads them."""
    _, rest = split_first(text)
    return [flag for flag in dict.fromkeys(flags) if flag in rest.split()]


def contradictions(line: str, flags: list[str]) -> list[str]:
    """Return the words of `line` that undo one of `flags`: `cgroup_disable=memory`, `cgroup_memory=0`."""
    against = set()
    for flag in flags:
        key, _, value = flag.partition("=")
        if key.endswith("_enable"):
            against.add((f"{key.removesuffix('_enable')}_disable", value))
        if value in ("0", "1"):
            against.add((key, "1" if value == "0" else "0"))
    return [
        word
        for word in line.split()
        for key, _, values in [word.partition("=")]
        if any((key, value) in against for value in values.split(","))
    ]


def check_flags(flags: list[str]) -> None:
    """Raise DeviceError for a flag that is not one word."""
    for flag in flags:
        if flag.split() != [flag]:
            raise DeviceError(f"The flag {flag!r} is not one word: give a list of words such as cgroup_memory=1.")


def memory_controller_on(device: Device) -> bool:
    """Whether the kernel can limit the memory of a unit, by either hierarchy of cgroups."""
    if "memory" in (read_text(device.path("/sys/fs/cgroup/cgroup.controllers")) or "").split():
        return True
    rows = (row.split() for row in (read_text(device.path("/proc/cgroups")) or "").splitlines())
    return any(row[:1] == ["memory"] and row[-1] == "1" for row in rows)


def not_booted_with(device: Device, flags: list[str]) -> list[str]:
    """Return those of `flags` that the running kernel was not started with."""
    booted = (read_text(device.path("/proc/cmdline")) or "").split()
    return [flag for flag in flags if flag not in booted]


@dataclass(frozen=True)
class Wanted:
    """What a run finds and wants; `before` and `after` are the whole text of `path`."""

    path: Path | None
    before: str
    after: str
    missing_at_boot: list[str]
    controller: bool
    container: bool
    lost: list[str]

    @property
    def reboot_required(self) -> bool:
        """Whether a boot would bring the controller: without it, with new flags, on a kernel of one's own."""
        return bool(self.path and self.missing_at_boot and not self.controller and not self.container)

    @property
    def activation(self) -> str:
        """`absent` (no file), `waits` (container), `next_boot` (where one is needed) or `active`."""
        if self.path is None:
            return "absent"
        if self.container:
            return "waits"
        return "next_boot" if self.reboot_required else "active"


def want(device: Device, flags: list[str]) -> Wanted:
    """Return what is there and what should be; DeviceError if the line says the opposite of `flags`."""
    check_flags(flags)
    path = locate(device)
    before = "" if path is None else read_text(path) or ""
    line, _ = split_first(before)
    against = contradictions(line, flags)
    if path is not None and against:
        raise DeviceError(
            f"{device.name(path)} says {' '.join(against)}, which contradicts {' '.join(flags)}: remove one of them."
        )
    after = before if path is None else add_flags(before, flags)
    return Wanted(
        path,
        before,
        after,
        not_booted_with(device, flags),
        memory_controller_on(device),
        device.is_container(),
        lost_flags(before, flags),
    )


def validate(device: Device, flags: list[str]) -> None:
    """Raise DeviceError for what a run would fail on.

    On a recorded device the run itself takes away what was added to the line since, before its roles begin.
    """
    check_flags(flags)
    locate(device)
    if not device.path(RECORD).exists():
        want(device, flags)


def message(device: Device, wanted: Wanted) -> str:
    """Return what stands in one sentence."""
    if wanted.path is None:
        return f"neither {FIRMWARE} nor {FORMER} is there: this system's boot loader is not a Pi's"
    where = device.name(wanted.path)
    parts = {
        "waits": f"the flags are on the line of {where}, activation waits: {CONTAINER}",
        "next_boot": f"the flags are on the line of {where} and act from the next boot on",
        "active": f"the flags are on the line of {where}",
    }
    said = parts[wanted.activation]
    if wanted.activation == "active" and not wanted.controller:
        said += ", the kernel was started with them, and has no memory controller all the same"
    if wanted.lost:
        said += f"; {' '.join(wanted.lost)} on a later line are ignored by the firmware and were left there"
    return said


def cmdline_reboot_reason(device: Device) -> str | None:
    """Return why the memory controller needs a boot, or None; judged from the file, whoever wrote it."""
    path = locate(device)
    if path is None or memory_controller_on(device):
        return None
    line, _ = split_first(read_text(path) or "")
    waiting = not_booted_with(device, [word for word in line.split() if word.startswith("cgroup_")])
    if not waiting or device.is_container():
        return None
    return f"memory controller: {' '.join(waiting)} in {device.name(path)} act from the next boot on"


def cmdline_waits(device: Device) -> str | None:
    """Return which flags a container can never activate, or None."""
    path = locate(device)
    line, _ = split_first("" if path is None else read_text(path) or "")
    flags = [word for word in line.split() if word.startswith("cgroup_")]
    if path is None or not flags or not device.is_container():
        return None
    return f"memory controller: {' '.join(flags)} in {device.name(path)}: {CONTAINER}"


def check_cmdline(device: Device, flags: list[str]) -> tuple[bool, str, str]:
    """Return (ok, found, wanted) for the flags on the line; without cmdline.txt there is nothing to check."""
    wanted = " ".join(flags)
    path = locate(device)
    if path is None:
        return True, "no cmdline.txt: not a Pi's boot loader", wanted
    line, _ = split_first(read_text(path) or "")
    against = contradictions(line, flags)
    if against:
        return False, " ".join(against), wanted
    found = [flag for flag in flags if flag in line.split()]
    return found == flags, " ".join(found) or "none of them", wanted


def check_memory_controller(device: Device) -> tuple[bool, str, str]:
    """Return (ok, found, wanted) for the kernel's memory controller, which a container cannot switch on."""
    if memory_controller_on(device):
        return True, "on", "on"
    if device.is_container():
        return True, "off, activation waits: container", "on"
    return False, "off until the next boot" if cmdline_reboot_reason(device) else "off", "on"
