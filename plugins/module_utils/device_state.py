# SPDX-License-Identifier: Apache-2.0
"""Ask a device once whether it still is what it was made, and record what it was made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, utc
from ansible_collections.edge.pi_fleet.plugins.module_utils.kernel_cmdline import locate
from ansible_collections.edge.pi_fleet.plugins.module_utils.state_observe import HALTED, Entries, Manages, Observer
from ansible_collections.edge.pi_fleet.plugins.module_utils.state_record import (
    Difference,
    Record,
    compare,
    load,
    save,
)
from ansible_collections.edge.pi_fleet.plugins.module_utils.state_restore import Restorer
from ansible_collections.edge.pi_fleet.plugins.module_utils.swap_mechanism import mechanism
from ansible_collections.edge.pi_fleet.plugins.module_utils.units import OWED


@dataclass(frozen=True)
class Probe:
    """A device as it is, beside what is recorded of it."""

    record: Record
    why: str
    """Why there is no record, if there is none."""
    found: dict[str, Entries]
    differences: list[Difference]
    reboot_reasons: list[str]

    def to_run(self, fingerprints: Mapping[str, str], everything: bool) -> dict[str, str]:
        """Return the roles that have something to do, or all, each with the reason."""
        if self.why:
            return dict.fromkeys(fingerprints, self.why)
        reasons = self.record.to_run(fingerprints, self.differences)
        if everything:
            return {name: reasons.get(name, "everything was asked for") for name in fingerprints}
        return reasons

    @property
    def told(self) -> list[Difference]:
        """Return what differs once, of the first role that manages it: several may manage one user."""
        first: dict[tuple[str, str], Difference] = {}
        for difference in self.differences:
            first.setdefault((difference.entry, difference.attribute), difference)
        return list(first.values())

    @property
    def checked(self) -> int:
        """How many things were looked at."""
        return sum(map(len, self.found.values()))


def probe(device: Device) -> Probe:
    """Look at all that is recorded; change nothing."""
    record, why = load(device)
    observer = Observer(device)
    found = observer.observe({name: role.manages for name, role in record.roles.items()})
    return Probe(record, why, found, compare_all(device, record, found), observer.reboot_reasons)


def compare_all(device: Device, record: Record, found: Mapping[str, Entries]) -> list[Difference]:
    """Return what differs of all roles, and of which units a restart is owed, wherever a run was killed."""
    owed = sorted(f"unit {path.name}" for path in device.path(OWED).glob("*"))
    differences = []
    for name, role in record.roles.items():
        differences += compare(device, name, role.entries, found[name])
        differences += [Difference(name, unit, "restart", "owed", "") for unit in owed if unit in role.entries]
    return differences


def since(device: Device, difference: Difference) -> str:
    """Return when what differs was changed last, in UTC; nothing where a device does not keep that."""
    kind, _, name = difference.entry.partition(" ")
    if kind == "unit" and difference.attribute == "active" and difference.found != HALTED:
        shown = ["--property=StateChangeTimestamp", "--timestamp=unix", "--value", "--", name]
        changed = device.run(["systemctl", "show", *shown])[1].strip().removeprefix("@")
        return utc(int(changed)) if changed.isdigit() else ""
    if kind == "package" and difference.attribute == "files":
        return ""
    if difference.attribute == "shadowed by":
        name = (difference.found or difference.wanted).partition(" ")[0]
    elif kind == "package":
        name = "/var/lib/dpkg/status" if not difference.found else f"/var/lib/dpkg/info/{name}.list"
    elif kind in ("user", "group"):
        shadow = "shadow" if kind == "user" else "gshadow"
        files = {"groups": "group", "administrators": shadow, "password": shadow, "expiry": shadow}
        name = f"/etc/{files.get(difference.attribute, 'passwd' if kind == 'user' else 'group')}"
    elif difference.entry == "kernel command line":
        name = device.name(locate(device) or device.root)
    elif difference.entry == "swap" and difference.attribute == "MiB":
        name = device.name(mechanism(device).config)
    elif kind not in ("path", "seen"):
        return ""
    path = device.path(name)
    try:
        # Of what is gone its folder tells.
        moment = path.lstat().st_ctime if os.path.lexists(path) else path.parent.stat().st_ctime
    except OSError:
        return ""
    return utc(moment)


@dataclass(frozen=True)
class Begun:
    """What a run begins with on a device."""

    seen: Probe
    run: dict[str, str]
    """Roles that have something to do, each with the reason."""
    restored: list[str]
    left: list[str]
    """What of it could not be put back, each with what to do."""


def begin(device: Device, fingerprints: Mapping[str, str], everything: bool, dry: bool = False) -> Begun:
    """Note which roles begin, and put back what they do not see; or only say what would be put back."""
    seen = probe(device)
    run = seen.to_run(fingerprints, everything)
    if not run:
        return Begun(seen, run, [], [])
    restorer, found, roles = Restorer(device, dry), seen.found, seen.record.roles
    differing = {
        name: [difference.entry for difference in seen.differences if difference.role == name]
        for name, fingerprint in fingerprints.items()
        # What an earlier run with other inputs left half done is for the role to finish.
        if name in roles and (not roles[name].pending or roles[name].inputs == seen.record.keyed(fingerprint))
    }
    restorer.restore(roles, found, differing)
    if dry:
        return Begun(seen, run, restorer.done, restorer.left)
    if restorer.done:
        found = Observer(device).observe({name: role.manages for name, role in roles.items()})
    # What was put back for one role may be another one's to mend, as is the restart that is owed now.
    differences = compare_all(device, seen.record, found)
    reasons = {**seen.record.to_run(fingerprints, differences), **run}
    run = {name: reasons[name] for name in fingerprints if name in reasons}
    seen.record.begin(list(run), found, differences, accept=everything)
    save(device, seen.record)
    return Begun(seen, run, restorer.done, restorer.left)


def record(device: Device, fingerprints: Mapping[str, str], declared: Mapping[str, Manages]) -> list[Difference]:
    """Record what the roles that ran left behind; return what differs from before, and none of them touched."""
    known, _ = load(device)
    others = {name: role.manages for name, role in known.roles.items() if not role.pending}
    found = Observer(device).observe({**others, **{name: declared[name] for name in fingerprints}})
    untouched = known.end(device, fingerprints, declared, found)
    save(device, known)
    return untouched
