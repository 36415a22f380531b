# SPDX-License-Identifier: Apache-2.0
"""Files and folders with text, owner and mode, many at once: a module execution costs a Pi more than all of them."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass

from ansible_collections.edge.pi_fleet.plugins.module_utils.device import (
    Device,
    DeviceError,
    ids,
    own,
    read_text,
    write_text,
)

OPTIONS = {
    "path": {"type": "str", "required": True},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
}


@dataclass(frozen=True)
class Managed:
    """What shall stand at a path, or nothing."""

    path: str
    owner: str
    group: str
    mode: int

    def ids(self) -> tuple[int, int]:
        """Return the numbers of owner and group."""
        try:
            return ids(self.owner, self.group)
        except KeyError as error:
            raise DeviceError(
                f"{self.path} cannot be given to {self.owner}:{self.group} ({error}): make them."
            ) from None

    def _owned_otherwise(self, found: os.stat_result) -> bool:
        try:
            wanted = (*self.ids(), self.mode)
        except DeviceError:
            # A dry run has made nobody.
            return True
        return (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) != wanted


@dataclass(frozen=True)
class File(Managed):
    """A file."""

    content: str

    def differs(self, device: Device) -> bool:
        """Say whether the file's text, owner, group or mode is another one."""
        path = device.path(self.path)
        if path.is_dir():
            raise DeviceError(f"{self.path} is a folder, where a file shall be: move it away, and run again.")
        return read_text(path) != self.content or self._owned_otherwise(path.stat())

    def make(self, device: Device) -> None:
        """Write it, at once."""
        write_text(device.path(self.path), self.content, self.mode, self.ids())


@dataclass(frozen=True)
class Folder(Managed):
    """A folder; what is in it is not looked at."""

    def differs(self, device: Device) -> bool:
        """Say whether it is missing, or its owner, group or mode is another one."""
        try:
            found = device.path(self.path).lstat()
        except FileNotFoundError:
            return True
        # Where somebody else may write, a link would give away what it leads to.
        if not stat.S_ISDIR(found.st_mode):
            raise DeviceError(f"{self.path} is no folder, where one shall be: move it away, and run again.")
        return self._owned_otherwise(found)

    def make(self, device: Device) -> None:
        """Make it, and the folders above that are missing."""
        path = device.path(self.path)
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        own(path, self.ids(), self.mode)


@dataclass(frozen=True)
class Absent:
    """A path at which nothing shall stand."""

    path: str

    def differs(self, device: Device) -> bool:
        """Say whether there is something."""
        return os.path.lexists(device.path(self.path))

    def make(self, device: Device) -> None:
        """Remove it, a folder with all that is in it."""
        path = device.path(self.path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
