# SPDX-License-Identifier: Apache-2.0
"""The field data of a device: which pictures there are, what they hold, and the removal of what was collected.

Whoever is in ggc_group may put anything into the folder, and this runs as root: no link is followed, below the folder
or to it, and what is opened is what was looked at. Hidden names are pictures that are being written.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

FOLDER = "/home/ggc_user/raw_field_data"

Signature = tuple[int, int, int, int]
"""Inode, bytes, and the nanoseconds of the last change to the content and to the inode: another one, other content."""

WRITING = "is being written"
YOUNG = "is so young that it may be about to be named or discarded"
CHANGED = "changed meanwhile"
GONE = "is gone"


class FieldDataError(Exception):
    """One sentence: what was found, what was wanted, and what to do next."""


@dataclass
class Listing:
    """The pictures of a device by their names below the folder, and what was left out, by name, with the reason."""

    pictures: dict[str, Signature] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


def signature(status: os.stat_result) -> Signature:
    """Return what tells whether a file is the one that it was."""
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def as_signature(found: Sequence[int]) -> Signature:
    """Return a signature as JSON has it."""
    inode, size, content, change = found
    return inode, size, content, change


def is_plain(name: str) -> bool:
    """Say whether a name is one that a picture has: relative, printable UTF-8, no part of it hidden or `..`."""
    parts = PurePosixPath(name).parts
    return name != "" and name.isprintable() and name == "/".join(parts) and not any(part.startswith((".", "/")) for part in parts)


@dataclass(frozen=True)
class FieldData:
    """The folder of the field data."""

    folder: Path = Path(FOLDER)

    def find(self, min_age: float, now: float | None = None) -> Listing:
        """Return the pictures; those changed less than `min_age` seconds ago are left out.

        A time in the future says that the clock was put back, not that the picture is young. Of two names of one file,
        as a picture has while it is being renamed, the last in the alphabet counts: the one with the prediction.
        """
        found = Listing()
        names: dict[tuple[int, int], str] = {}
        for name, status in self._walk():
            if not is_plain(name):
                found.left[ascii(name)[1:-1]] = "has a name that cannot be collected: rename it"
                continue
            if 0 <= (time.time() if now is None else now) - status.st_mtime < min_age:
                found.left[name] = YOUNG
                continue
            file = status.st_dev, status.st_ino
            other = names.get(file, "")
            if other < name:
                found.pictures.pop(other, None)
                found.pictures[name] = signature(status)
                names[file] = name
        return found

    def sums(self, names: Iterable[str]) -> tuple[dict[str, tuple[str, Signature]], dict[str, str]]:
        """Return the SHA-256 and the signature of pictures, and why others have none."""
        found, left = {}, {}
        for name in names:
            try:
                with self._open(name) as (_, handle):
                    found[name] = _read(handle)
            except FieldDataError as error:
                left[name] = str(error)
        return found, left

    def remove(self, sums: Mapping[str, str], check_mode: bool = False) -> tuple[list[str], dict[str, str]]:
        """Remove pictures whose SHA-256 still is the given one; return the removed, and why others were not."""
        removed, left = [], {}
        for name, wanted in sums.items():
            try:
                with self._open(name) as (parent, handle):
                    found, before = _read(handle)
                    if found != wanted:
                        raise FieldDataError("is not what was collected")
                    there = os.stat(PurePosixPath(name).name, dir_fd=parent, follow_symlinks=False)
                    if signature(there) != before or _is_written(handle):
                        raise FieldDataError(CHANGED)
                    if not check_mode:
                        os.unlink(PurePosixPath(name).name, dir_fd=parent)
                        os.fsync(parent)
                removed.append(name)
            except FieldDataError as error:
                left[name] = str(error)
        return removed, left

    def _walk(self) -> Iterator[tuple[str, os.stat_result]]:
        if self.folder.is_symlink() or not self.folder.is_dir():
            raise FieldDataError(f"{self.folder} is no folder, so there is no field data: run site.yml first.")

        def refuse(error: OSError) -> None:
            if error.errno != errno.ENOENT:
                raise FieldDataError(f"{error.filename} cannot be read ({error.strerror}): mend it and run again.")

        for parent, folders, names, handle in os.fwalk(self.folder, onerror=refuse):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                # Named, discarded or collected meanwhile.
                with suppress(FileNotFoundError):
                    status = os.stat(name, dir_fd=handle, follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode) and not name.startswith("."):
                        yield str(Path(parent, name).relative_to(self.folder)), status

    @contextmanager
    def _open(self, name: str) -> Iterator[tuple[int, int]]:
        """Give the descriptors of a picture's folder and of the picture itself, reached without following a link."""
        *folders, last = PurePosixPath(name).parts
        handles = [os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)]
        try:
            for part in folders:
                handles.append(os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=handles[-1]))
            handles.append(os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=handles[-1]))
            if not stat.S_ISREG(os.fstat(handles[-1]).st_mode):
                raise FieldDataError(GONE)
            yield handles[-2], handles[-1]
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
                raise FieldDataError(GONE) from None
            raise
        finally:
            for handle in reversed(handles):
                os.close(handle)


def _read(handle: int) -> tuple[str, Signature]:
    """Return the SHA-256 and the signature of an open file that nobody writes, nor wrote while it was read."""
    if _is_written(handle):
        raise FieldDataError(WRITING)
    before = signature(os.fstat(handle))
    os.lseek(handle, 0, os.SEEK_SET)
    with open(handle, "rb", closefd=False) as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if signature(os.fstat(handle)) != before:
        raise FieldDataError(CHANGED)
    return digest, before


def _is_written(handle: int) -> bool:
    """Say whether anybody has an open file open for writing.

    The kernel knows: it grants a read lease only where nobody has, see F_SETLEASE in fcntl(2). The lease is given back
    at once; a writer that comes in between waits for that, and its signal is not ours to die of. A file's owner may ask
    for one, root in a container may not.
    """
    owner, self = os.fstat(handle).st_uid, os.geteuid()
    former = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        if self == 0:
            os.seteuid(owner)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        # Other errors are those of file systems without leases.
        return error.errno == errno.EAGAIN
    finally:
        if self == 0:
            os.seteuid(0)
        signal.signal(signal.SIGIO, former)
    return False
