# SPDX-License-Identifier: Apache-2.0
"""The state record: what roles left behind on a device, and from which inputs.

A role that is pending has begun and has not been recorded since: whatever its entries say, it runs. Inputs are kept as
a keyed hash of their fingerprint, since secrets are among them. When in doubt (no record, another format, a checksum
that is wrong), all roles run.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.edge.pi_fleet.plugins.module_utils.device import RECORD, Device, read_text, utc, write_text
from ansible_collections.edge.pi_fleet.plugins.module_utils.release import RELEASE
from ansible_collections.edge.pi_fleet.plugins.module_utils.state_observe import ABSENT, Entries, Manages
from ansible_collections.edge.pi_fleet.plugins.module_utils.units import is_unit

PATH = RECORD
FORMAT = 3
THERE = "there"
"""What differs of an entry that only one of two observations has."""
RELEASED = re.compile(rf"(path /.+?)/(releases/{RELEASE.pattern})(?:/.*)?")
"""What belongs to a release: its store, and where `current` leads if it is that one's."""
IDENTITY = ("type", "state", "loaded")
"""Attributes that say whether a file, a package or an account, and a unit are there."""


@dataclass
class Role:
    """What is known of a role since it was recorded."""

    inputs: str
    manages: Manages
    entries: Entries
    found: Entries | None = None
    """Of a role that is pending: what there was when it began."""
    differing: list[str] = field(default_factory=list)
    """Of one that is not: entries that were not as they were recorded when others began."""

    @property
    def pending(self) -> bool:
        """Whether it has begun since."""
        return self.found is not None


@dataclass(frozen=True)
class Difference:
    """One attribute that is not as it was recorded."""

    role: str
    entry: str
    attribute: str
    found: str
    wanted: str

    def __str__(self) -> str:
        """Return it as a line of a report; hashes say nothing to people."""
        if self.attribute == "sha256":
            return f"{self.entry}: its content is another one"
        if self.attribute == "files":
            return f"{self.entry}: files of it are other ones"
        if self.attribute == "acl":
            return f"{self.entry}: its ACL is another one"
        if self.attribute == THERE:
            return f"{self.entry}: it {'is there, and was not' if self.found else 'is gone'}"
        return f"{self.entry}: {self.attribute} is {self.found or 'none'}, was {self.wanted or 'none'}"


@dataclass
class Record:
    """All that is recorded of a device."""

    roles: dict[str, Role] = field(default_factory=dict)
    key: str = field(default_factory=lambda: secrets.token_hex(32))
    at: str = ""
    """When all roles were recorded last, in UTC."""
    system: str = ""
    """What the device is, an input of all roles."""

    def keyed(self, fingerprint: str) -> str:
        """Return what is kept of a fingerprint, on this system."""
        return hmac.new(bytes.fromhex(self.key), f"{fingerprint} {self.system}".encode(), hashlib.sha256).hexdigest()

    def to_run(self, fingerprints: Mapping[str, str], differences: Sequence[Difference]) -> dict[str, str]:
        """Return the roles that have something to do, in their order, each with the reason."""
        drifted: dict[str, list[str]] = {}
        for difference in differences:
            drifted.setdefault(difference.role, []).append(str(difference))
        reasons = {}
        for name, fingerprint in fingerprints.items():
            role = self.roles.get(name)
            if role is None:
                reasons[name] = "it was never recorded"
            elif role.pending:
                reasons[name] = "an earlier run began with it and was not recorded"
            else:
                others = not hmac.compare_digest(role.inputs, self.keyed(fingerprint))
                found = [*(["its inputs are other ones"] if others else []), *drifted.get(name, [])]
                if found:
                    reasons[name] = "; ".join(found)
        return reasons

    def begin(
        self, names: Sequence[str], found: Mapping[str, Entries], differences: Sequence[Difference], accept: bool
    ) -> None:
        """Note that roles begin, and what there is before they do; or that whatever they leave behind is accepted."""
        for name, role in self.roles.items():
            role.differing = sorted({each.entry for each in differences if each.role == name})
        for name in names:
            role = self.roles.setdefault(name, Role(inputs="", manages={}, entries={}))
            if accept:
                role.inputs = ""
            if not role.pending:
                role.found = dict(found.get(name, {}))

    def end(
        self,
        device: Device,
        fingerprints: Mapping[str, str],
        declared: Mapping[str, Manages],
        found: Mapping[str, Entries],
    ) -> list[Difference]:
        """Record what the roles that ran left behind; return what differs still, and that none of them touched.

        What was not as it was recorded when a role began, and is left so by it, is not as it should be, whatever the
        role was given: it stays recorded as it was, unless everything was asked for.
        """
        untouched: list[Difference] = []
        for name, fingerprint in fingerprints.items():
            former, inputs = self.roles.get(name), self.keyed(fingerprint)
            entries = dict(found[name])
            if former is not None and former.inputs:
                before = former.found or {}
                # What it declares anew, or no longer, is not left by it.
                known = {*(before.keys() & entries), *(former.entries if former.manages == declared[name] else ())}
                left = [
                    difference
                    for difference in compare(device, name, former.entries, entries)
                    if difference.entry in known
                    and not judged(difference, entries, declared[name])
                    # No role mounts anything: what it makes on a mount that came or went is not where it shall be.
                    and (difference.attribute == "mounted" or is_untouched(difference, before, entries))
                ]
                for each in left:
                    if as_a_whole(each):
                        put(entries, each.entry, former.entries)
                    else:
                        entries[each.entry] = dict(entries[each.entry])
                        put(entries[each.entry], each.attribute, former.entries[each.entry])
                untouched += left
            self.roles[name] = Role(inputs, dict(declared[name]), entries)
        # What several roles manage is recorded for all of them: a Lambda's folder is in that of all Lambdas.
        shared = {entry for name in fingerprints for entry in found[name]}
        shared |= {
            f"path {folder}" for entry in shared if entry.startswith("path ") for folder in Path(entry[5:]).parents
        }
        for name, role in self.roles.items():
            if name not in fingerprints and not role.pending:
                for each in compare(device, name, role.entries, found[name]):
                    if each.entry in shared and each.entry not in role.differing:
                        put(role.entries, each.entry, found[name])
        self.at = utc()
        return untouched


def judged(difference: Difference, entries: Entries, manages: Manages) -> bool:
    """Say whether a role that ends has judged a difference, and lets it be: files of others, and why to reboot.

    Of a release that is not the current one whatever is gone: nothing runs it, and no role can bring it back.
    """
    entry = difference.entry
    if difference.attribute == "written":
        # Its role has hashed what is in it.
        return True
    if found := RELEASED.fullmatch(entry):
        return entry not in entries and entries.get(f"{found[1]}/current", {}).get("target", found[2]) != found[2]
    if entry.removeprefix("path ") in manages.get("edited", ()):
        return difference.attribute in ("sha256", "type")
    return entry == "reboot" or entry.startswith("seen ")


def as_a_whole(difference: Difference) -> bool:
    """Say whether what differs is all of an entry: one that is gone or something else, or is what a role is given."""
    return difference.attribute in (THERE, *IDENTITY) or difference.entry in ("swap", "host name")


def is_untouched(difference: Difference, before: Entries, now: Entries) -> bool:
    """Say whether what differs is as it was when its role began, whatever else the role did to the entry."""
    one, other = before.get(difference.entry, ABSENT), now.get(difference.entry, ABSENT)
    if as_a_whole(difference) and difference.attribute not in ("state", "loaded"):
        # What ran when its role began may have looked at less.
        return one.items() <= other.items()
    # Only of what a boot starts is recorded whether it is active.
    attributes = ["start at boot", "active"] if difference.attribute == "active" else [difference.attribute]
    return all(one.get(attribute) == other.get(attribute) for attribute in attributes)


def put(entries: dict[str, Any], entry: str, source: Mapping[str, Any]) -> None:
    """Have an entry, or an attribute of one, as it is in others, or not at all."""
    entries.pop(entry, None)
    if entry in source:
        entries[entry] = source[entry]


def compare(device: Device, role: str, wanted: Entries, found: Entries) -> list[Difference]:
    """Return what differs, entry by entry.

    Not a package that is newer than it was, for the release's updates do that; nor one that was not installed: it was
    not needed, and is somebody's.
    """
    differences = []
    for entry in sorted(wanted.keys() | found.keys()):
        if entry not in found and entry.startswith("unit ") and not is_unit(entry):
            # An earlier pi-fleet took a copy beside a unit for one.
            continue
        if entry not in wanted or entry not in found:
            there = ["yes" if entry in each else "" for each in (found, wanted)]
            differences.append(Difference(role, entry, THERE, *there))
            continue
        before, now = wanted[entry], found[entry]
        if entry.startswith("package ") and before["state"] != "installed":
            continue
        if before == now:
            continue
        # Of what is something else now, or is gone, nothing else need be said.
        others = [attribute for attribute in IDENTITY if before.get(attribute) != now.get(attribute)]
        attributes = others or sorted(before.keys() | now.keys())
        if before.get("state") == now.get("state"):
            # Of others an older record knows nothing. Whether a unit is active it says of those that a boot starts.
            attributes = [attribute for attribute in attributes if attribute in before or attribute == "active"]
        fine = fine_of_package(device, before, now) if entry.startswith("package ") else set()
        differences += [
            Difference(role, entry, attribute, now.get(attribute, ""), before.get(attribute, ""))
            for attribute in attributes
            if before.get(attribute) != now.get(attribute)
            and attribute not in fine
            and not (attribute == "links" and links_lasted_until_a_boot(before[attribute], now.get(attribute, "")))
        ]
    return differences


def fine_of_package(device: Device, before: Mapping[str, str], now: Mapping[str, str]) -> set[str]:
    """Return the attributes of a package in which it may differ."""
    fine = set()
    if now.get("held") != "yes":
        # Whoever held it lets its updates come again.
        fine.add("held")
    if before["version"] != now.get("version"):
        # Another version has other files.
        fine.add("files")
    if newer(device, before, now):
        fine.add("version")
    return fine


def links_lasted_until_a_boot(before: str, now: str) -> bool:
    """Say whether all that differs of a unit's links is that some were in memory, and are gone."""
    gone = set(before.split()) - set(now.split())
    return set(now.split()) < set(before.split()) and all(link.startswith("/run/") for link in gone)


def newer(device: Device, before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Say whether a package is installed as it was, in a later version."""
    if not before.get("state") == now.get("state") == "installed" or before["version"] == now["version"]:
        return False
    return device.run(["dpkg", "--compare-versions", now["version"], "gt", before["version"]])[0] == 0


def load(device: Device) -> tuple[Record, str]:
    """Return the record, and why it is an empty one if it is."""
    record, why = _read(device)
    record.system = system(device)
    return record, why


def _read(device: Device) -> tuple[Record, str]:
    text = read_text(device.path(PATH))
    if text is None:
        return Record(), "the device has no state record"
    try:
        document = json.loads(text)
        content = document["content"]
        if document["format"] != FORMAT:
            return Record(), "the state record is in another version's format"
        if document["sha256"] != checksum(content):
            return Record(), "the state record was changed or damaged"
        roles = {name: Role(**fields) for name, fields in content["roles"].items()}
        return Record(roles, content["key"], content["at"]), ""
    except (ValueError, KeyError, TypeError, AttributeError):
        return Record(), "the state record was changed or damaged"


def system(device: Device) -> str:
    """Return the device's release, machine and Python, for which roles choose packages and make environments."""
    release = re.search(r"^VERSION_CODENAME=(.*)$", read_text(device.path("/etc/os-release")) or "", re.MULTILINE)
    python = device.path("/usr/bin/python3")
    link = python.readlink().name if python.is_symlink() else ""
    return f"{release[1] if release else ''} {os.uname().machine} {sys.maxsize} {link}"


def save(device: Device, record: Record) -> None:
    """Write the record, for root alone."""
    content = {
        "at": record.at,
        "key": record.key,
        "roles": {name: asdict(role) for name, role in record.roles.items()},
    }
    document = {"format": FORMAT, "sha256": checksum(content), "content": content}
    write_text(device.path(PATH), json.dumps(document, indent=1) + "\n", mode=0o600)


def checksum(content: Any) -> str:
    """Return what proves that a record is whole."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
