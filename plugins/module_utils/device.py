"""The device that a module acts on: its files, its commands, and whether its kernel is its own."""

from __future__ import annotations

import calendar
import errno
import fcntl
import grp
import os
import pwd
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

Runner = Callable[[list[str]], tuple[int, str, str]]
"""Runs a command and returns exit code, standard output and standard error: `AnsibleModule.run_command`."""

UTC = "%Y-%m-%dT%H:%M:%SZ"
CONTAINER = "this is a container, its kernel is the host's"
RECORD = "/var/lib/pi-fleet/state.json"
"""What the last run left behind: see state_record.py."""
MANAGED = "# This file belongs to pi-fleet: the next run overwrites what is changed here.\n"


class DeviceError(Exception):
    """One sentence: what was found, what was wanted, and what to do next."""


class ImmutableError(DeviceError, PermissionError):
    """What is to be changed was made immutable, of which the kernel's own words say nothing."""


def _free_bytes(path: Path) -> int:
    """Return the bytes that `path`'s file system has left, without the blocks reserved for root."""
    there = path
    while not there.exists():
        there = there.parent
    found = os.statvfs(there)
    return found.f_bavail * found.f_frsize


def _allocate(path: Path, size: int) -> None:
    """Make `path`, for root only, of `size` bytes without holes: the kernel refuses to swap on holes."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.posix_fallocate(handle, 0, size)
    finally:
        os.close(handle)


@dataclass(frozen=True)
class Device:
    """Where a module looks and what it may call; unit tests put a folder and fakes here."""

    run: Runner
    root: Path = Path("/")
    page_bytes: int = field(default_factory=lambda: os.sysconf("SC_PAGE_SIZE"))
    free_bytes: Callable[[Path], int] = _free_bytes
    allocate: Callable[[Path, int], None] = _allocate

    def path(self, absolute: str) -> Path:
        """Return the place of a device's absolute path."""
        return self.root / absolute.lstrip("/")

    def name(self, path: Path) -> str:
        """Return what the device calls `path`, for sentences and commands."""
        return f"/{path.relative_to(self.root)}"

    def command(self, *argv: str) -> str:
        """Run a command and return its output; DeviceError with its last words if it fails."""
        code, output, errors = self.run(list(argv))
        if code != 0:
            said = (errors.strip() or output.strip() or "it said nothing").splitlines()[-1]
            raise DeviceError(f"'{' '.join(argv)}' failed with exit code {code} ({said}): mend it and run again.")
        return output

    def is_container(self) -> bool:
        """Whether the kernel is a host's: swap, sysctl and the kernel command line are not ours to change."""
        code, _, _ = self.run(["systemd-detect-virt", "--container", "--quiet"])
        return code == 0


def read_text(path: Path) -> str | None:
    """Return a file's text byte for byte (line ends, undecodable bytes), or None if there is no file."""
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


# FS_IOC_GETFLAGS and two of its flags, see ioctl_iflags(2).
GET_FLAGS = 2 << 30 | struct.calcsize("l") << 16 | ord("f") << 8 | 1
FIXED = {0x10: ("immutable", "i"), 0x20: ("open for appending alone", "a")}


@contextmanager
def naming_immutable() -> Iterator[None]:
    """Have ImmutableError name what keeps its attributes, a path or its folder, where the kernel permits nothing."""
    try:
        yield
    except PermissionError as error:
        names = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
        for path in dict.fromkeys(each for name in names for each in (name, name.parent)):
            for flag, (word, letter) in FIXED.items():
                if _flags(path) & flag:
                    sentence = f"{path} is {word}: run 'sudo chattr -{letter} {path}' on the device, and run again."
                    raise ImmutableError(sentence) from None
        raise


def _flags(path: Path) -> int:
    """Return what `lsattr` shows of a file or folder; 0 of anything else, and where a file system keeps none."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return 0
    try:
        found = fcntl.ioctl(handle, GET_FLAGS, bytes(struct.calcsize("l")))
    except OSError:
        return 0
    finally:
        os.close(handle)
    return int.from_bytes(found[:4], sys.byteorder)


@naming_immutable()
def write_text(path: Path, text: str, mode: int | None = None, owner: tuple[int, int] | None = None) -> None:
    """Replace a file at once: after a loss of power it is the old one or the new one, never half of either.

    The temporary file has one fixed name, so that what a killed run leaves is reused by the next one.
    `mode` None keeps the mode and the owner of the file that is there. `owner` is a user and a group, else who writes.
    Links to files are followed, as an editor does; one to anything else, as of a masked unit to /dev/null, is replaced.
    """
    there = path.resolve()
    path = there if there.is_file() or not there.exists() else path.parent.resolve() / path.name
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.pi-fleet-new")
    new.unlink(missing_ok=True)
    try:
        _write(new, path, text, mode, owner)
        new.rename(path)
    except OSError as error:
        # A full card tells no name, and half a file would keep it full.
        with suppress(OSError):
            new.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from None
    sync(path.parent)


def _write(new: Path, path: Path, text: str, mode: int | None, owner: tuple[int, int] | None) -> None:
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(text.encode("utf-8", "surrogateescape"))
        old = path.stat() if path.exists() else None
        # The boot partition is vfat, which has neither owners nor modes and refuses to be asked for any.
        with suppress(PermissionError):
            if mode is None and old is not None:
                os.fchown(stream.fileno(), old.st_uid, old.st_gid)
                os.fchmod(stream.fileno(), old.st_mode & 0o7777)
            else:
                if owner is not None:
                    os.fchown(stream.fileno(), *owner)
                os.fchmod(stream.fileno(), 0o644 if mode is None else mode)
        stream.flush()
        os.fsync(stream.fileno())


@naming_immutable()
def switch_link(path: Path, target: str) -> None:
    """Have a link lead to a target, in one step, and keep that over a loss of power."""
    new = path.with_name(f".{path.name}.pi-fleet-new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.rename(path)
    sync(path.parent)


@naming_immutable()
def own(path: Path, numbers: tuple[int, int], mode: int | None) -> None:
    """Give what stands at a path to a user and a group, which takes bits of its mode away, and a mode; links have none.

    It is one thing all the time: who owns the folder may put a link in its place meanwhile, to what is not his.
    """
    handle = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    there = Path("/proc/self/fd", str(handle))
    try:
        os.chown(there, *numbers)
        if mode is not None:
            there.chmod(mode)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(handle)


@naming_immutable()
def remove(path: Path) -> None:
    """Remove a file, if it is there, and keep that over a loss of power."""
    path.unlink(missing_ok=True)
    if path.parent.exists():
        sync(path.parent)


def sync(path: Path) -> None:
    """Write a file's or a folder's content through to the card."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def ids(owner: str, group: str) -> tuple[int, int]:
    """Return the numbers of an owner and a group, given by name or number; KeyError if one is not there."""
    uid = int(owner) if owner.isdigit() else pwd.getpwnam(owner).pw_uid
    gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    return uid, gid


# `setcap` gives a program rights as `setfacl` gives users some to a file.
ACLS = ("system.posix_acl_access", "system.posix_acl_default", "security.capability")


def acl(path: Path | str) -> str:
    """Return what `setfacl` and `setcap` made of a file or folder, in the kernel's words; nothing where nobody did."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        names = []
    return " ".join(f"{name}={os.getxattr(path, name, follow_symlinks=False).hex()}" for name in ACLS if name in names)


def set_acl(path: Path, wanted: str) -> None:
    """Have a file or folder the ACLs that `acl` returned, and no other."""
    values = dict(each.split("=") for each in wanted.split())
    for name in ACLS:
        if name in values:
            os.setxattr(path, name, bytes.fromhex(values[name]), follow_symlinks=False)
        elif name in os.listxattr(path, follow_symlinks=False):
            os.removexattr(path, name, follow_symlinks=False)


def utc(moment: float | None = None) -> str:
    """Return a time, now if none is given, as records and reports have it."""
    return time.strftime(UTC, time.gmtime(moment))


def from_utc(text: str) -> float:
    """Return the time that `utc` wrote; ValueError if it is none."""
    return calendar.timegm(time.strptime(text, UTC))
