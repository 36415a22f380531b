# SPDX-License-Identifier: Apache-2.0
"""Collecting field data: what of a device's pictures the control node has, verified, and what it still wants.

A picture arrives in a hidden folder, is hashed there, compared with the sum that the device itself makes of it, and
only then gets its name, by a link that replaces nothing. The ledger says what was collected: a picture that somebody
labels or throws away afterwards is not collected again. A run killed anywhere is continued by the next one.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from ansible_collections.edge.pi_fleet.plugins.module_utils.device import read_text, sync, write_text
from ansible_collections.edge.pi_fleet.plugins.module_utils.field_data import (
    CHANGED,
    Listing,
    Signature,
    as_signature,
    is_plain,
)

STATE = ".collect"
"""Beside the pictures of a device: its ledger, its lock, and what is arriving."""

ROUNDS = 3
"""How often the device is asked for what was renamed or changed while it was collected."""

BATCH_PICTURES, BATCH_BYTES = 200, 32 * 1024**2
"""How much is verified and written down at once: what a killed run has to do again at most, and a line of progress."""

LOCK_PATIENCE = 60
DAY = 86400


class CollectError(Exception):
    """One sentence: what was found, what was wanted, and what to do next."""


@dataclass
class Entry:
    """A picture that was collected."""

    sha256: str
    file: str
    """Its name on the control node, which differs from the device's where another picture had that name."""
    collected: float
    """Seconds since the epoch."""
    signature: Signature | None = None
    """What the device said of it at the last look; None: it is not there any more."""
    pruned: float | None = None
    sheet: str | None = None
    """The contact sheet that shows it."""


@dataclass
class Ledger:
    """What was collected from a device, by the name that a picture has there."""

    path: Path
    entries: dict[str, Entry] = field(default_factory=dict)
    looked: float | None = None
    """When the device was last asked, in seconds since the epoch."""

    @classmethod
    def load(cls, folder: Path) -> Ledger:
        """Read the ledger beside a device's pictures; one that is not there is empty."""
        path = folder / STATE / "ledger.json"
        try:
            found = json.loads(read_text(path) or '{"looked": null, "pictures": {}}')
            looked = found["looked"]
            entries = {name: Entry(**entry) for name, entry in found["pictures"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CollectError(
                f"{path} cannot be read ({error}): move it away, and the next run compares all pictures anew."
            ) from None
        for entry in entries.values():
            entry.signature = as_signature(entry.signature) if entry.signature else None
        return cls(path, entries, looked)

    def save(self) -> None:
        """Write the ledger, whole or not at all."""
        pictures = {name: asdict(entry) for name, entry in sorted(self.entries.items())}
        write_text(self.path, json.dumps({"looked": self.looked, "pictures": pictures}, indent=1) + "\n", mode=0o600)

    def standing(self) -> dict[str, Entry]:
        """Return what was on the device at the last look."""
        return {name: entry for name, entry in self.entries.items() if entry.signature}

    def note(self, listing: Listing) -> dict[str, str]:
        """Remember what is no longer on the device; return the former names of what seems to be renamed there."""
        self.looked = time.time()
        names = {signature[:3]: name for name, signature in listing.pictures.items() if name not in self.entries}
        renamed = {}
        for former, entry in self.standing().items():
            # A name that is left out of the list this time is still there.
            if former in listing.pictures or former in listing.left:
                continue
            if entry.signature and (name := names.get(entry.signature[:3])):
                renamed[name] = former
            else:
                entry.signature = None
        return renamed


class Remote(Protocol):
    """The device, as collecting needs it."""

    def look(self) -> Listing:
        """Return its pictures."""

    def sums(self, names: Sequence[str]) -> tuple[dict[str, tuple[str, Signature]], dict[str, str]]:
        """Return the SHA-256 and signature of pictures, and why others have none."""

    def pull(self, names: Sequence[str], folder: Path, lock: int) -> None:
        """Copy pictures into a folder; one that is gone is none. Whatever does so keeps the descriptor of the lock."""

    def remove(self, sums: Mapping[str, str]) -> tuple[Sequence[str], dict[str, str]]:
        """Remove pictures with these sums; return the removed, and why others were not."""


@dataclass
class Report:
    """What a collection did."""

    collected: list[str] = field(default_factory=list)
    size: int = 0
    """Bytes of what was collected."""
    renamed: int = 0
    had: int = 0
    """Pictures on the device that an earlier collection had."""
    beside: dict[str, str] = field(default_factory=dict)
    """Names that another picture had here, and the names that were given instead."""
    left: dict[str, str] = field(default_factory=dict)
    """What was not collected, and why."""
    pruned: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    """What was old enough to be removed from the device and was not, and why."""


@dataclass
class Collector:
    """The collection of one device's pictures into one folder."""

    host: str
    folder: Path
    labeled: Path
    device: Remote
    say: Callable[[str], None]
    again: bool = False
    """Whether to collect anew what was collected and is nowhere on the control node any more."""
    check_mode: bool = False
    report: Report = field(default_factory=Report)

    def collect(self) -> Report:
        """Collect what is not collected yet."""
        if self.check_mode:
            listing = self.device.look()
            self.report.left = dict(listing.left)
            self.report.collected = self._wanted(Ledger.load(self.folder), listing)
            return self.report
        make_private(self.folder / STATE)
        with lock(self.folder, self.host) as handle:
            ledger = Ledger.load(self.folder)
            for _ in range(ROUNDS):
                listing = self.device.look()
                self.report.left = dict(listing.left)
                renamed = ledger.note(listing)
                self.report.had = self._count_known(ledger, listing)
                wanted = self._wanted(ledger, listing)
                for batch in batches({name: listing.pictures[name][1] for name in wanted}):
                    self._take(ledger, renamed, batch, handle)
                    self._progress(len(listing.pictures))
                if self.report.left == listing.left:
                    break
            self._clear()
            ledger.save()
        return self.report

    def prune(self, keep_days: int, now: float | None = None) -> Report:
        """Have the device remove what was collected, is on the control node, and is older than `keep_days`."""
        oldest = (time.time() if now is None else now) - keep_days * DAY
        standing = Ledger.load(self.folder).standing()
        old = [name for name, entry in standing.items() if entry.signature and entry.signature[2] < oldest * 1e9]
        for begin in range(0, len(old), BATCH_PICTURES):
            sums = {}
            for name in old[begin : begin + BATCH_PICTURES]:
                if self.holds(standing[name]):
                    sums[name] = standing[name].sha256
                else:
                    self.report.kept[name] = "is not on the control node any more"
            removed, kept = self.device.remove(sums)
            self.report.kept |= kept
            self.report.pruned += removed
        if self.report.pruned and not self.check_mode:
            with lock(self.folder, self.host):
                ledger = Ledger.load(self.folder)
                for name in self.report.pruned:
                    ledger.entries[name].signature, ledger.entries[name].pruned = None, time.time()
                ledger.save()
        return self.report

    def holds(self, entry: Entry) -> bool:
        """Say whether the control node has a collected picture byte for byte, labelled or not."""
        return self.find(entry) is not None

    def find(self, entry: Entry) -> Path | None:
        """Return where a collected picture is now: where it was put, or below the folder of the labelled ones."""
        name = Path(entry.file).name
        for path in (self.folder / entry.file, *sorted(self.labeled.glob(f"*/{glob.escape(name)}"))):
            if path.is_file() and sha256(path) == entry.sha256:
                return path
        return None

    @property
    def _incoming(self) -> Path:
        return self.folder / STATE / "incoming"

    def _wanted(self, ledger: Ledger, listing: Listing) -> list[str]:
        """Return the pictures that the ledger does not know as they are now."""
        found = []
        for name, signature in sorted(listing.pictures.items()):
            if not is_plain(name):
                raise CollectError(f"{self.host} names a picture {name!a}, as no picture is named: look at it there.")
            entry = ledger.entries.get(name)
            if entry is None or entry.signature != signature or (self.again and not self.holds(entry)):
                found.append(name)
        return found

    def _count_known(self, ledger: Ledger, listing: Listing) -> int:
        return len((listing.pictures.keys() & ledger.entries.keys()) - set(self.report.collected))

    def _take(self, ledger: Ledger, renamed: Mapping[str, str], names: Sequence[str], lock: int) -> None:
        """Collect some pictures, and write down what was."""
        sums, left = self.device.sums(names)
        self.report.left |= left
        missing = []
        for name in names:
            if name not in sums:
                continue
            digest, signature = sums[name]
            known, former = ledger.entries.get(name), ledger.entries.get(renamed.get(name, ""))
            if known and known.sha256 == digest and not (self.again and not self.holds(known)):
                known.signature = signature
            elif former and former.sha256 == digest:
                self._rename(former, name)
                former.signature = signature
                ledger.entries[name] = ledger.entries.pop(renamed[name])
                self.report.renamed += 1
            elif there := self._there(name, digest):
                # A run was killed before it wrote this down, or the ledger was lost.
                self._write_down(ledger, name, there, sums[name])
            else:
                missing.append(name)
        if missing:
            make_private(self._incoming)
            self.device.pull(missing, self._incoming, lock)
        for name in missing:
            arrived, (digest, signature) = self._incoming / name, sums[name]
            right = arrived.is_file() and arrived.stat().st_size == signature[1]
            if right and sha256(arrived, through=True) == digest:
                self._write_down(ledger, name, self._place(arrived, name, digest), sums[name])
                self.report.size += signature[1]
            elif arrived.is_file():
                # The next round asks anew: what came may be what no file ever was.
                arrived.unlink()
                self.report.left[name] = CHANGED
            else:
                self.report.left[name] = "did not arrive: it is gone, or ggc_group may not read it"
        ledger.save()

    def _write_down(self, ledger: Ledger, name: str, file: str, found: tuple[str, Signature]) -> None:
        digest, signature = found
        ledger.entries[name] = Entry(digest, file, time.time(), signature)
        self.report.collected.append(name)

    def _rename(self, entry: Entry, name: str) -> None:
        """Rename a picture as the device did, unless somebody labelled or moved it."""
        path = self.folder / entry.file
        if path.is_file() and sha256(path) == entry.sha256:
            entry.file = self._place(path, name, entry.sha256)

    def _there(self, name: str, digest: str) -> str | None:
        """Return which of the names that a picture can get has its content already."""
        for candidate in _names(name, digest):
            if (self.folder / candidate).is_file() and sha256(self.folder / candidate) == digest:
                return candidate
        return None

    def _place(self, arrived: Path, name: str, digest: str) -> str:
        """Give a picture its name, or one beside it where another picture has that; return the name."""
        for candidate in _names(name, digest):
            target = self.folder / candidate
            make_private(target.parent)
            try:
                target.hardlink_to(arrived)
            except FileExistsError:
                continue
            sync(target.parent)
            arrived.unlink()
            if candidate != name:
                self.report.beside[name] = candidate
            return candidate
        raise CollectError(f"{target} is not what its name says: look at it, move it away, and run again.")

    def _progress(self, total: int) -> None:
        done = len(self.report.collected) + self.report.had
        self.say(f"{self.host}: {done} of {total} pictures, {mebibytes(self.report.size)} moved")

    def _clear(self) -> None:
        """Remove what arrived and is no picture any more: it was renamed, and came again, or was discarded."""
        for parent, folders, names in os.walk(self._incoming, topdown=False):
            for name in names:
                Path(parent, name).unlink()
            for name in folders:
                Path(parent, name).rmdir()


@contextmanager
def lock(folder: Path, host: str) -> Iterator[int]:
    """Keep other runs out of a device's folder.

    What moves pictures inherits the descriptor: where a run was killed, it may still be at it.
    """
    handle = os.open(folder / STATE / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for _ in range(LOCK_PATIENCE):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(1)
        else:
            raise CollectError(f"Another run collects from {host}: wait for it, then run again.")
        yield handle
    finally:
        os.close(handle)


def make_private(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for their owner alone; one that is there stays as it is."""
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def sha256(path: Path, through: bool = False) -> str:
    """Return the SHA-256 of a file; `through`: after it was written through to the disk."""
    with path.open("rb") as stream:
        if through:
            os.fsync(stream.fileno())
        return hashlib.file_digest(stream, "sha256").hexdigest()


def mebibytes(count: int) -> str:
    """Return a number of bytes as people read it."""
    return f"{count / 1024**2:.1f} MiB"


def _names(name: str, digest: str) -> tuple[str, str]:
    """Return the name that a picture gets, and the one beside it."""
    path = Path(name)
    return name, str(path.with_name(f"{path.stem}-{digest[:8]}{path.suffix}"))


def batches(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Yield names in parts that are small enough to be done again, by the bytes of each."""
    batch: list[str] = []
    for name, size in sizes.items():
        if batch and (len(batch) >= BATCH_PICTURES or size + sum(sizes[each] for each in batch) > BATCH_BYTES):
            yield batch
            batch = []
        batch.append(name)
    if batch:
        yield batch
