# SPDX-License-Identifier: Apache-2.0
"""Which releases a device has proven to answer with, so that it can go back to them.

The history is a list, the newest last; each entry is what ran together, a release by the name of its store:
`localcore`, `lambda/NAME`, `model/NAME`, as they are below /opt/pi-fleet. What runs now is proven if it is the last
entry. There are no times in it: devices that were proven with the same releases have the same history.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, DeviceError, read_text, write_text
from ansible_collections.edge.pi_fleet.plugins.module_utils.release import RELEASE, Store

FILE = "/var/lib/pi-fleet/releases.json"
ROOT = "/opt/pi-fleet"
STORES = ("localcore", "lambda/*", "model/*")
LENGTH = 20

FACT = {"pi_fleet_unproven": True}
"""What modules return as facts when they touched what answers: the run owes a proof. `PROVEN` takes it back."""
PROVEN = {"pi_fleet_unproven": False}

Releases = Mapping[str, str]
"""Releases that run together, by the name of their store."""


def store_name(path: str) -> str | None:
    """Return the name in the history of the store at an absolute path; None if what is there answers nobody."""
    whole = PurePosixPath(path)
    if not whole.is_relative_to(ROOT):
        return None
    name = whole.relative_to(ROOT)
    return str(name) if any(name.match(pattern) and len(name.parts) <= 2 for pattern in STORES) else None


def stores(device: Device) -> dict[str, Store]:
    """Return the stores of a device by name, the local core first."""
    root = device.path(ROOT)
    return {
        str(path.relative_to(root)): Store(path)
        for pattern in STORES
        for path in sorted(root.glob(pattern))
        if (path / "current").is_symlink()
    }


def running(found: Mapping[str, Store]) -> dict[str, str]:
    """Return the current release of each store."""
    return {name: identifier for name, store in found.items() if (identifier := store.current_identifier())}


def read(device: Device) -> list[Releases]:
    """Return the history; DeviceError if its file is none of ours."""
    text = read_text(device.path(FILE))
    if text is None:
        return []
    try:
        entries = json.loads(text)
        whole = all(RELEASE.fullmatch(release) for entry in entries for release in entry.values())
    except (ValueError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise DeviceError(f"{FILE} is no list of releases: remove it, and run site.yml, which begins a new one.")
    return list(entries)


def write(device: Device, entries: Sequence[Releases]) -> None:
    """Keep a history: its newest entries, one of several that follow each other and are the same."""
    kept = [entry for entry, before in zip(entries, [None, *entries], strict=False) if entry != before]
    text = json.dumps(kept[-LENGTH:], indent=2, sort_keys=True)
    write_text(device.path(FILE), f"{text}\n", mode=0o644)


def latest(entries: Sequence[Releases], name: str) -> list[str]:
    """Return the releases that a store has had, the newest first."""
    found = [entry[name] for entry in reversed(entries) if name in entry]
    return list(dict.fromkeys(found))
