# SPDX-License-Identifier: Apache-2.0
"""The field data of a device: which pictures there are, what they hold, and the removal of what was collected.

Whoever is in ggc_group may put anything into the folder, and this runs as root: no link is followed, below the folder
or to it, and what is opened is what was looked at. Hidden names are pictures that are being written.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import hashlib
import os
import pwd
import shutil
import signal
import stat
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

FOLDER = "/home/ggc_user/raw_field_data"
OWNER, GROUP, MODE = "ggc_user", "ggc_group", 0o660
FOLDER_MODE = 0o2770
LARGEST_FILE = 64 * 1024**2
"""Bytes of a picture. A device that was taken over says and sends what it likes, and rsync would take it."""
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

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
    return (
        name != ""
        and name.isprintable()
        and name == "/".join(parts)
        and not any(part.startswith((".", "/")) for part in parts)
    )


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

    def put(self, archive: Path) -> tuple[list[str], dict[str, str]]:
        """Put back the pictures of an archive that are not there; return them, and why others were not.

        They appear whole and at once, and in the place of no other picture.
        """
        done, left = [], {}
        uid, gid = pwd.getpwnam(OWNER).pw_uid, grp.getgrnam(GROUP).gr_gid
        with tarfile.open(archive) as tar:
            for member in tar:
                content = tar.extractfile(member)
                if content is None or not is_plain(member.name):
                    raise FieldDataError(f"The archive holds {member.name}, which is no picture: run again.")
                try:
                    with self._folder_of(member.name, (uid, gid)) as parent:
                        if _put(parent, PurePosixPath(member.name).name, content, member.mtime, (uid, gid)):
                            done.append(member.name)
                except FileExistsError:
                    left[member.name] = "is not put back, as the device has another picture of this name"
        return done, left

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
    def _folder_of(self, name: str, owner: tuple[int, int] | None = None) -> Iterator[int]:
        """Give the descriptor of a picture's folder, reached without following a link; `owner`: made if missing."""
        handles = [os.open(self.folder, FOLDER_FLAGS)]
        try:
            for part in PurePosixPath(name).parts[:-1]:
                made = owner is not None and _make_folder(part, handles[-1])
                handles.append(os.open(part, FOLDER_FLAGS, dir_fd=handles[-1]))
                if owner and made:
                    os.fchown(handles[-1], *owner)
                    os.fchmod(handles[-1], FOLDER_MODE)
            yield handles[-1]
        finally:
            for handle in reversed(handles):
                os.close(handle)

    @contextmanager
    def _open(self, name: str) -> Iterator[tuple[int, int]]:
        """Give the descriptors of a picture's folder and of the picture itself, reached without following a link."""
        try:
            with self._folder_of(name) as parent:
                handle = os.open(PurePosixPath(name).name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
                try:
                    if not stat.S_ISREG(os.fstat(handle).st_mode):
                        raise FieldDataError(GONE)
                    yield parent, handle
                finally:
                    os.close(handle)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
                raise FieldDataError(GONE) from None
            raise


def _make_folder(name: str, parent: int) -> bool:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        return False
    return True


def _put(parent: int, name: str, content: IO[bytes], mtime: float, owner: tuple[int, int]) -> bool:
    """Write a picture, unless it is there already; raise FileExistsError where another one has its name."""
    hidden = f".{name}.part"
    with suppress(FileNotFoundError):
        os.unlink(hidden, dir_fd=parent)
    handle = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=parent)
    try:
        with open(handle, "r+b", closefd=False) as stream:
            shutil.copyfileobj(content, stream)
        os.fchown(handle, *owner)
        os.fchmod(handle, MODE)
        os.utime(handle, (mtime, mtime))
        os.fsync(handle)
        try:
            os.link(hidden, name, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            if _digest_at(parent, name) != _digest(handle):
                raise
            return False
        os.fsync(parent)
    finally:
        os.close(handle)
        os.unlink(hidden, dir_fd=parent)
    return True


def _digest_at(parent: int, name: str) -> str:
    handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
    try:
        return _digest(handle)
    finally:
        os.close(handle)


def _digest(handle: int) -> str:
    os.lseek(handle, 0, os.SEEK_SET)
    with open(handle, "rb", closefd=False) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read(handle: int) -> tuple[str, Signature]:
    """Return the SHA-256 and the signature of an open file that nobody writes, nor wrote while it was read."""
    if _is_written(handle):
        raise FieldDataError(WRITING)
    before = signature(os.fstat(handle))
    digest = _digest(handle)
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
