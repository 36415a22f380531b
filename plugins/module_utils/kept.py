# SPDX-License-Identifier: Apache-2.0
"""What else than field data is to survive a reimaging: files and folders of a device, as one archive, and back.

An archive holds files, folders and links with their owners, modes and times. Putting back replaces nothing: what the
new card has in the place of a file is kept beside it.
"""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import shutil
import stat
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, own, read_text, sync, write_text

BESIDE = ".new-card"
CARD = "/var/lib/pi-fleet/card"
"""What a card is told by: a name that it is given when it is rescued. One that was written anew has none."""


class KeptError(Exception):
    """One sentence: what was found, what was wanted, and what to do next."""


@dataclass
class Saved:
    """What an archive was made of."""

    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 by path, read from the disk and not from the archive."""
    missing: list[str] = field(default_factory=list)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save(device: Device, paths: Iterable[str], archive: Path) -> Saved:
    """Write paths, with all that is below them, into an archive that belongs to the owner of its folder alone."""
    saved = Saved()
    members = []
    for name in paths:
        path = device.path(name)
        if path.is_symlink() or path.exists():
            members += list(_below(device, path))
        else:
            saved.missing.append(name)
    # One path may be below another one.
    members = list(dict.fromkeys(members))
    need = sum(path.lstat().st_size for path in members)
    if need > device.free_bytes(archive.parent):
        raise KeptError(
            f"What reimage_keeps names is {need // 1024**2} MiB, which {archive.parent} has not free for an archive:"
            " free space, or name less."
        )
    with os.fdopen(os.open(archive, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
        owner = archive.parent.stat()
        os.fchown(stream.fileno(), owner.st_uid, owner.st_gid)
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path in members:
                tar.add(path, arcname=device.name(path).lstrip("/"), recursive=False)
    saved.files = {device.name(path): file_sha256(path) for path in members if _is_file(path)}
    return saved


def check(archive: Path, files: Mapping[str, str], keeps: Iterable[str]) -> None:
    """Require that an archive holds each of these files, byte for byte, and nothing that is not at or below `keeps`.

    Who has taken over a device sends what he likes, and root puts it back.
    """
    tops = [_absolute(name) for name in keeps]
    found: dict[str, str] = {}
    links: set[PurePosixPath] = set()
    seen: set[PurePosixPath] = set()
    try:
        # No compression: a few bytes would be GiB.
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                path = _absolute(member.name)
                if why := _refused(path, member, tops, seen):
                    raise _refusal(path, why)
                seen.add(path)
                if member.issym():
                    links.add(path)
                elif data := tar.extractfile(member):
                    found[str(path)] = hashlib.file_digest(data, "sha256").hexdigest()  # type: ignore[arg-type]
    except tarfile.TarError as error:
        raise KeptError(f"The archive of what is kept cannot be read ({error}): run again.") from None
    for path in sorted(seen):
        if not links.isdisjoint(path.parents):
            raise _refusal(path, "lies beneath a link")
    wrong = sorted(path for path in found.keys() | files.keys() if found.get(path) != files.get(path))
    if wrong:
        raise KeptError(f"{', '.join(wrong)} changed while it was read: stop what writes it, and run again.")


def restore(device: Device, archive: Path, files: Mapping[str, str]) -> list[str]:
    """Put back what an archive holds; return the paths that were not as they are in it.

    What the new card has instead of a file or a link is kept beside it, under its name with `.new-card`.
    """
    restored = []
    with tarfile.open(archive, "r:") as tar:
        for member in tar:
            path = device.path(member.name)
            if ".." in PurePosixPath(member.name).parts:
                raise KeptError(f"The archive names {member.name}, which none of ours does: run again.")
            if member.isdir():
                done = not path.is_dir()
                path.mkdir(parents=True, exist_ok=True)
                _own(path, member)
            else:
                done = _put(path, member, None if member.issym() else tar.extractfile(member))
            if done:
                restored.append(device.name(path))
    wrong = [name for name, digest in files.items() if file_sha256(device.path(name)) != digest]
    if wrong:
        raise KeptError(f"{', '.join(wrong)} is not what was put back: run again.")
    return restored


def card(device: Device, name: str) -> str:
    """Return the name of a card; one that has none is given this one, if it is not empty."""
    found = (read_text(device.path(CARD)) or "").strip()
    if not found and name:
        write_text(device.path(CARD), f"{name}\n", mode=0o644)
        return name
    return found


def _below(device: Device, path: Path) -> Iterator[Path]:
    if path.is_symlink() or path.is_file():
        yield path
    elif path.is_dir():
        yield path
        for each in sorted(path.iterdir()):
            yield from _below(device, each)
    elif not stat.S_ISSOCK(path.lstat().st_mode):
        raise KeptError(f"{device.name(path)} is no file, folder or link: leave it out of reimage_keeps.")


def _absolute(name: str) -> PurePosixPath:
    return PurePosixPath("/", name.lstrip("/"))


def _refused(
    path: PurePosixPath, member: tarfile.TarInfo, tops: Iterable[PurePosixPath], seen: Collection[PurePosixPath]
) -> str:
    """Return why what an archive holds is none of what was to be kept; nothing if it may be put back."""
    if ".." in path.parts or not any(path.is_relative_to(top) for top in tops):
        return "is not in reimage_keeps"
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE) or member.issparse():
        return "is no file, folder or link of its own"
    return "is there twice" if path in seen else ""


def _refusal(path: PurePosixPath, why: str) -> KeptError:
    return KeptError(
        f"The archive of what is kept holds {path}, which {why}: correct reimage_keeps, or find out who has the device."
    )


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _put(path: Path, member: tarfile.TarInfo, content: IO[bytes] | None) -> bool:
    """Make a file or a link beside its place, move it there, and say whether that was needed."""
    new = path.with_name(f".{path.name}.pi-fleet-new")
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        new.unlink()
    if content is None:
        new.symlink_to(member.linkname)
    else:
        _write(new, content)
    if _same(path, new):
        new.unlink()
        return False
    _own(new, member)
    if path.is_symlink() or path.exists():
        path.rename(_free(path))
    new.rename(path)
    sync(path.parent)
    return True


def _free(path: Path) -> Path:
    """Return a name beside a path that nothing has."""
    candidate, number = path.with_name(f"{path.name}{BESIDE}"), 1
    while candidate.is_symlink() or candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}{BESIDE}-{number}")
    return candidate


def _same(path: Path, new: Path) -> bool:
    if path.is_symlink() or new.is_symlink():
        return path.is_symlink() and new.is_symlink() and path.readlink() == new.readlink()
    return path.is_file() and file_sha256(path) == file_sha256(new)


def _write(path: Path, content: IO[bytes]) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        shutil.copyfileobj(content, stream)
        stream.flush()
        os.fsync(stream.fileno())


def _own(path: Path, member: tarfile.TarInfo) -> None:
    """Give a path the owner, mode and time that it had; names of users count more than their numbers."""
    uid, gid = member.uid, member.gid
    with suppress(KeyError):
        uid = pwd.getpwnam(member.uname).pw_uid
    with suppress(KeyError):
        gid = grp.getgrnam(member.gname).gr_gid
    # Nobody but root can give it away.
    numbers = (uid, gid) if os.geteuid() == 0 else (-1, -1)
    own(path, numbers, None if member.issym() else member.mode & 0o7777)
    if not member.issym():
        os.utime(path, (member.mtime, member.mtime), follow_symlinks=False)
