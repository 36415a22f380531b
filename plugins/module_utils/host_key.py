# SPDX-License-Identifier: Apache-2.0
"""SSH host keys as sshd, `known_hosts` and people write them."""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.edge.pi_fleet.plugins.module_utils.device import read_text, write_text

HEADER = "# Host keys of this inventory's devices, by their names in it. Written by pi-fleet from what was verified.\n"


@dataclass(frozen=True)
class HostKey:
    """The public part of a host key: its type (`ssh-ed25519`) and its base64 text."""

    kind: str
    data: str

    @classmethod
    def parse(cls, text: str) -> HostKey:
        """Read `TYPE BASE64 [COMMENT]`; raise ValueError for anything else."""
        kind, data = text.split()[:2]
        blob = base64.b64decode(data, validate=True)
        length = int.from_bytes(blob[:4], "big")
        if blob[4 : 4 + length].decode("ascii", "replace") != kind:
            raise ValueError(f"no key of type {kind}")
        return cls(kind, data)

    @property
    def line(self) -> str:
        """The key as `known_hosts` has it after the name."""
        return f"{self.kind} {self.data}"

    @property
    def fingerprint(self) -> str:
        """What `ssh-keygen -l` prints: `SHA256:` and base64 without padding."""
        digest = hashlib.sha256(base64.b64decode(self.data)).digest()
        return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def known(text: str) -> dict[str, list[HostKey]]:
    """Return the keys of each name in the text of a `known_hosts`; hashed names and marked lines are left out."""
    found: dict[str, list[HostKey]] = {}
    for line in text.splitlines():
        names, _, key = line.strip().partition(" ")
        if not key or names.startswith(("#", "@", "|")):
            continue
        try:
            parsed = HostKey.parse(key)
        except (ValueError, binascii.Error):
            continue
        for name in names.split(","):
            found.setdefault(name, []).append(parsed)
    return found


def with_keys(text: str, name: str, keys: Sequence[HostKey]) -> str:
    """Return the text of a `known_hosts` in which a name has exactly these keys; all other lines stay as they are."""
    lines = text.splitlines() or [HEADER.rstrip()]
    mine = [line.split(" ")[0] == name for line in lines]
    place = mine.index(True) if True in mine else len(lines)
    lines[place:] = [
        *(f"{name} {key.line}" for key in keys),
        *(line for line, own in zip(lines[place:], mine[place:], strict=True) if not own),
    ]
    return "".join(f"{line}\n" for line in lines)


def known_keys(path: Path) -> dict[str, list[HostKey]]:
    """Return the keys of each name in a `known_hosts`, nothing where the file is not there."""
    return known(read_text(path) or "")


def record(path: Path, name: str, keys: Sequence[HostKey], check_mode: bool = False) -> bool:
    """Have a name known by exactly these keys; return whether that changes, or would change, the file.

    Runs for several devices side by side: the file is read and written under a lock on its folder.
    """
    if known_keys(path).get(name) == list(keys):
        return False
    if not check_mode:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent):
            write_text(path, with_keys(read_text(path) or "", name, keys), mode=0o644)
    return True


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes that ask for the same; a process that dies gives it back."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
