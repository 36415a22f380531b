"""The journal of accepted work: what was accepted survives the router, though not the device's next boot.

One file a record, in a directory of memory (tmpfs), so that nothing wears and nothing needs fsync. Its name is
`SEQUENCE.STATE`, and changes with the state; its content is a line with the CRC-32 of all that follows, a line of JSON
with the fields, and the payload.
"""

from __future__ import annotations

import json
import logging
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = re.compile(r"([0-9]{12})\.([a-z]+(?:-[0-9]+)?)")
PART = ".part"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One record as it was found; `state` is what the router made of it last."""

    sequence: int
    state: str
    fields: Mapping[str, Any]
    payload: bytes


class Journal:
    """Writes, renames and removes records; all of it atomic, all of it in order of sequence."""

    def __init__(self, directory: Path) -> None:
        """Use the directory, which is made if it is not there; `load` must come before anything is added."""
        self.directory = directory
        self._damaged = directory / "damaged"
        self._last = 0

    def load(self) -> tuple[list[Record], list[str]]:
        """Return the records in order, and the names of the files that were damaged and set aside."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        records: dict[int, Record] = {}
        damaged = []
        for path in sorted(self.directory.iterdir()):
            if path.suffix == PART:
                # Nobody was told that this was accepted.
                path.unlink()
            elif path.is_file():
                record = self._read(path)
                if record is None:
                    damaged.append(path.name)
                    self._set_aside(path)
                else:
                    records[record.sequence] = self._newer(records.get(record.sequence), record)
        return [records[sequence] for sequence in sorted(records)], damaged

    def add(self, state: str, fields: Mapping[str, Any], payload: bytes) -> int:
        """Write a record and return its sequence; raise OSError if that cannot be done."""
        self._last += 1
        self._write(self._last, state, fields, payload)
        return self._last

    def move(self, sequence: int, old: str, new: str) -> None:
        """Change the state of a record."""
        self._path(sequence, old).rename(self._path(sequence, new))

    def replace(self, sequence: int, old: str, new: str, fields: Mapping[str, Any], payload: bytes) -> None:
        """Change the state of a record and all that is in it."""
        self._write(sequence, new, fields, payload)
        self.remove(sequence, old)

    def remove(self, sequence: int, state: str) -> None:
        """Remove a record."""
        self._path(sequence, state).unlink(missing_ok=True)

    def _path(self, sequence: int, state: str) -> Path:
        return self.directory / f"{sequence:012d}.{state}"

    def _write(self, sequence: int, state: str, fields: Mapping[str, Any], payload: bytes) -> None:
        head = json.dumps(fields).encode() + b"\n"
        part = self.directory / f"{sequence:012d}{PART}"
        try:
            with part.open("wb") as file:
                file.write(_checksum(head, payload) + b"\n")
                file.write(head)
                file.write(payload)
            part.rename(self._path(sequence, state))
        except OSError:
            part.unlink(missing_ok=True)
            raise

    def _read(self, path: Path) -> Record | None:
        name = NAME.fullmatch(path.name)
        if name is None:
            return None
        sequence = int(name[1])
        self._last = max(self._last, sequence)
        checksum, _, rest = path.read_bytes().partition(b"\n")
        line, newline, payload = rest.partition(b"\n")
        if checksum != _checksum(line + newline, payload):
            return None
        return Record(sequence, name[2], json.loads(line), payload)

    def _newer(self, one: Record | None, other: Record) -> Record:
        """Choose between two states of one record, which a kill amid `replace` leaves: 'done' is the later one."""
        if one is None:
            return other
        newer, older = (one, other) if one.state == "done" else (other, one)
        self.remove(older.sequence, older.state)
        return newer

    def _set_aside(self, path: Path) -> None:
        self._damaged.mkdir(mode=0o700, exist_ok=True)
        path.rename(self._damaged / path.name)
        log.error(
            "The journal's file %s is damaged and was moved to %s; look there what was lost.", path, self._damaged
        )


def _checksum(head: bytes, payload: bytes) -> bytes:
    return b"%08x" % zlib.crc32(payload, zlib.crc32(head))
