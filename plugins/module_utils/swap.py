"""Swap of a wanted size, by whatever mechanism a device has.

A `Plan` is refused before its first step, or carried out; what a killed run leaves is healed by the next.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from ansible_collections.edge.pi_fleet.plugins.module_utils import swap_config
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import (
    CONTAINER,
    Device,
    DeviceError,
    read_text,
    write_text,
)
from ansible_collections.edge.pi_fleet.plugins.module_utils.swap_mechanism import (
    Mechanism,
    RpiSwap,
    Step,
    Target,
    mechanism,
)

STATE_PATH = "/var/lib/pi-fleet/swap.json"


@dataclass(frozen=True)
class Record:
    """What was configured before the first change, kept on the device until it is wanted again."""

    mechanism: str
    former: Any
    restored: bool = False


@dataclass(frozen=True)
class Request:
    """What a run asks for; `restore_after_install`: that each run ends with `restore`; `stay_free`: MiB of disk."""

    size: int
    restore: bool = False
    restore_after_install: bool = False
    state_path: str = STATE_PATH
    stay_free: int = 0


def read_record(device: Device, state_path: str, name: str) -> Record | None:
    """Return the record of mechanism `name`; one from before a change of mechanism says nothing."""
    text = read_text(device.path(state_path))
    if text is None:
        return None
    try:
        record = Record(**json.loads(text))
    except (ValueError, TypeError):
        raise DeviceError(f"{state_path} holds no former swap size: remove it and run again.") from None
    return record if record.mechanism == name else None


def write_record(device: Device, state_path: str, record: Record) -> None:
    """Write the record for root only, at once or not at all."""
    write_text(device.path(state_path), json.dumps(asdict(record)) + "\n", mode=0o600)


@dataclass(frozen=True)
class Plan:
    """What a run would do. Making one changes nothing and refuses what cannot be done."""

    device: Device
    request: Request
    mechanism: Mechanism
    target: Target
    container: bool
    steps: list[Step]
    nothing_to_restore: bool = False

    def diff(self) -> dict[str, str]:
        """Return the file of configuration as it is and as it will be."""
        name = self.device.name(self.mechanism.config)
        before = self.mechanism.text or ""
        after = before if self.nothing_to_restore else self.target.text or ""
        return {"before": before, "after": after, "before_header": name, "after_header": name}

    def carry_out(self) -> None:
        """Take all steps, then ask the kernel whether they worked."""
        for step in self.steps:
            step.do()
        now = mechanism(self.device)
        # rpi-swap acts at the next boot; in a container nothing does.
        if self.nothing_to_restore or self.container or isinstance(now, RpiSwap):
            return
        if now.is_active(self.target):
            return
        found = now.active()
        raise DeviceError(
            f"{now.name} was set to {_size(self.target.mib)} of swap and the kernel has "
            f"{found.kib if found else 0} KiB: look at {now.device.name(now.config)} for what overrules it."
        )


def target_for(found: Mechanism, record: Record | None, request: Request) -> Target:
    """Return what `request` wants: the size, or what was there before once the installs are over."""
    back = request.restore or (request.restore_after_install and record is not None and record.restored)
    if back and record is not None:
        return found.for_former(record.former)
    return found.for_size(request.size)


def make_plan(device: Device, request: Request, *, dry: bool = False) -> Plan:
    """Return the plan for `request`; DeviceError if it cannot be carried out. `dry`: what came before was not done."""
    if request.size < 0:
        raise DeviceError(
            f"swap_size is {request.size}; wanted are MiB, or 0 for no swap: correct it in the inventory."
        )
    found = mechanism(device)
    record = read_record(device, request.state_path, found.name)
    container = device.is_container()
    target = target_for(found, record, request)
    if request.restore and record is None:
        if dry and not found.is_configured(found.for_size(request.size)):
            # By now the size would be set, and recorded what was there before, which is what is there.
            back = Step("go back to the former size", lambda: None)
            return Plan(device, request, found, found.for_former(found.former()), container, [back])
        return Plan(device, request, found, target, container, [], nothing_to_restore=True)
    found.refuse(target, container, request.stay_free)
    steps = found.steps(target, container)

    def keep(changed: Record) -> Step:
        return Step("keep the former size", lambda: write_record(device, request.state_path, changed))

    if request.restore and record is not None and not record.restored:
        steps.append(keep(replace(record, restored=True)))
    elif not request.restore and not request.restore_after_install and record is not None and record.restored:
        steps.insert(0, keep(replace(record, restored=False)))
    elif record is None and not found.is_configured(target):
        steps.insert(0, keep(Record(found.name, found.former())))
    return Plan(device, request, found, target, container, steps)


@dataclass(frozen=True)
class Report:
    """What stands, for the module's result."""

    mechanism: str
    wanted_mib: int | None
    active_kib: int
    activation: str
    reboot_required: bool
    message: str


def report(plan: Plan, done: bool) -> Report:
    """Return what stands after `plan`, or what would (`done` False: check mode)."""
    found = mechanism(plan.device)
    active = found.active()
    later = isinstance(found, RpiSwap) and not found.is_active(plan.target)
    wanted = f"{_size(plan.target.mib)} of swap by {found.name}"
    if plan.nothing_to_restore:
        activation, later, message = "active", False, "nothing to restore: no former size was recorded"
    elif plan.container:
        activation, later, message = "waits", False, f"{wanted} configured, activation waits: {CONTAINER}"
    elif later:
        activation, message = "next_boot", f"{wanted} from the next boot on"
    else:
        activation, message = "active", f"{wanted} {'active' if done else 'wanted'}"
    return Report(found.name, plan.target.mib, active.kib if active else 0, activation, later, message)


def _size(mib: int | None) -> str:
    return "the default amount" if mib is None else f"{mib} MiB"


def swap_reboot_reason(device: Device, state_path: str = STATE_PATH) -> str | None:
    """Return why the device's swap needs a boot, or None; in a container no boot would help."""
    found = mechanism(device)
    if not isinstance(found, RpiSwap) or device.is_container():
        return None
    if found.text is None:
        record = read_record(device, state_path, found.name)
        if record is None or not record.restored or found.is_active(found.for_former(record.former)):
            return None
        return "swap: what was there before was put back and starts with the next boot"
    size = swap_config.rpi_size(found.text)
    if found.is_active(found.for_size(size)):
        return None
    return f"swap: {size} MiB by rpi-swap are configured and start with the next boot"


def swap_waits(device: Device) -> str | None:
    """Return what of the swap's configuration a container can never activate, or None."""
    found = mechanism(device)
    size = found.configured_mib()
    if not size or not device.is_container():
        return None
    return f"swap: {size} MiB by {found.name}: {CONTAINER}"


def check_swap(
    device: Device, size: int, restore_after_install: bool = False, state_path: str = STATE_PATH
) -> tuple[bool, str, str]:
    """Return (ok, found, wanted) for the swap that a role with these inputs leaves behind."""
    found = mechanism(device)
    record = read_record(device, state_path, found.name)
    target = target_for(found, record, Request(size, False, restore_after_install, state_path))
    wanted = f"{_size(target.mib)} by {found.name}"
    if not found.is_configured(target):
        return False, f"configured {_size(found.configured_mib())}", wanted
    if device.is_container():
        return True, f"configured {_size(target.mib)}, activation waits: container", wanted
    active = found.active()
    if found.is_active(target):
        return True, f"active {active.kib if active else 0} KiB", wanted
    return False, f"configured {_size(target.mib)}, active {active.kib if active else 0} KiB", wanted
