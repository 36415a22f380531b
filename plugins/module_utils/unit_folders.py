# SPDX-License-Identifier: Apache-2.0
"""What lies in the folders in which systemd looks for units, as it will be once systemd has read it: systemd.unit(5).

Systemd itself says what it has read, and of some files that are new nothing until it reads all again. What generators
write is not looked at: it is written anew then.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device

# Of what has the same name, the first one counts.
FOLDERS = (
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/etc/systemd/system",
    "/etc/systemd/system.attached",
    "/run/systemd/system",
    "/run/systemd/system.attached",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
)
WANTING = (".wants", ".requires", ".upholds")
"""How folders end in which a link has a unit started with another one."""
NO_LINK = "ignored:"
"""How one begins that is in such a folder and has nothing started: no link, or one to nothing."""


class UnitFolders:
    """The folders of a device, each listed once."""

    def __init__(self, device: Device) -> None:
        """Look at this device."""
        self._device = device

    def file(self, name: str) -> str:
        """Return the file that a unit is read from; nothing if there is none."""
        paths = (f"{folder}/{name}" for folder in FOLDERS if name in self._listed[folder])
        return next(paths, "")

    def drop_ins(self, name: str) -> list[str]:
        """Return the drop-ins that a unit is read with."""
        found: dict[str, str] = {}
        for path in self._beside(name, ".d"):
            if path.endswith(".conf"):
                found.setdefault(Path(path).name, path)
        return list(found.values())

    def links(self, name: str) -> list[str]:
        """Return the links by which others have a unit started, and it has others started."""
        by_others = [path for path in (f"{folder}/{name}" for folder in self._wanting) if self._lies(path)]
        its_own = [path for kind in WANTING for path in self._beside(name, kind) if self._starts(path)]
        # In the place of one that has, or before it.
        return [*(path if self._starts(path) else f"{NO_LINK}{path}" for path in by_others), *its_own]

    def _lies(self, path: str) -> bool:
        return os.path.lexists(self._device.path(path))

    def _starts(self, path: str) -> bool:
        there = self._device.path(path)
        try:
            # One to /dev/null, or to an empty file.
            return there.is_symlink() and there.stat().st_size > 0
        except OSError:
            # The name is what counts, wherever it leads.
            return True

    def same(self, one: str, other: str) -> bool:
        """Say whether two paths lead to one file."""
        return os.path.realpath(self._device.path(one)) == os.path.realpath(self._device.path(other))

    def _beside(self, name: str, kind: str) -> Iterator[str]:
        """Return what is in a unit's folders of a kind, in systemd's order."""
        *own, of_all = [f"{each}{kind}" for each in names(name)]
        places = [(top, folder) for top in FOLDERS for folder in own] + [(top, of_all) for top in FOLDERS]
        for top, folder in places:
            if folder in self._listed[top]:
                yield from (f"{top}/{folder}/{each}" for each in self._names(f"{top}/{folder}"))

    @cached_property
    def _wanting(self) -> list[str]:
        return [f"{top}/{each}" for top in FOLDERS for each in self._listed[top] if each.endswith(WANTING)]

    @cached_property
    def _listed(self) -> dict[str, list[str]]:
        return {folder: self._names(folder) for folder in FOLDERS}

    def _names(self, folder: str) -> list[str]:
        try:
            found = sorted(path.name for path in self._device.path(folder).iterdir())
        except OSError:
            # Systemd reads nothing there either.
            return []
        return [name for name in found if not name.startswith(".")]


def names(unit: str) -> list[str]:
    """Return the names for which systemd reads folders beside a unit: its own, those of its kinds, and its type."""
    stem, _, kind = unit.rpartition(".")
    prefix, at, instance = stem.partition("@")
    found = []
    while prefix:
        found += [f"{prefix}{at}{instance}.{kind}", *([f"{prefix}@.{kind}"] if instance else [])]
        # Of a-b.service there are those of a-.service.
        before, dash, _ = prefix.rstrip("-").rpartition("-")
        prefix = before + dash
    return [*found, kind]
