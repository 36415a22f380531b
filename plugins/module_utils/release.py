# SPDX-License-Identifier: Apache-2.0
"""Releases: immutable directories named by their content, and the link `current` that points to one of them.

A release's name is a hash of its files' names, executable bits and bytes, so what stands on a device can be proven
by hashing it again. A release appears under its name only when it is complete, and `current` changes by rename: a
run killed at any point leaves either the former state or the new one.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import IO

from ansible_collections.edge.pi_fleet.plugins.module_utils.device import switch_link, sync

# What Python writes beside sources is not content.
IGNORED = ("__pycache__", "*.pyc")

# Nothing else in the folder of the releases is ours to remove.
RELEASE = re.compile(r"[0-9a-f]{16}")
LEFTOVER = re.compile(r"\.(incoming|outgoing)-[0-9a-f]{16}")


class ReleaseError(Exception):
    """One sentence: what is wrong with a release, and what to do."""


@dataclass(frozen=True)
class Content:
    """The files of a release: path inside the release to the file that holds its bytes."""

    files: dict[PurePosixPath, Path]

    @property
    def identifier(self) -> str:
        """Name of the release with this content."""
        digest = hashlib.sha256()
        for name, path in sorted(self.files.items()):
            executable = "x" if os.access(path, os.X_OK) else "-"
            with path.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            digest.update(f"{content} {executable} {name}\n".encode())
        return digest.hexdigest()[:16]

    def write_archive(self, archive: Path) -> None:
        """Write the files as a tar archive whose bytes depend on nothing but the content."""
        with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
            for name, path in sorted(self.files.items()):
                data = path.read_bytes()
                member = tarfile.TarInfo(str(name))
                member.size = len(data)
                member.mode = 0o755 if os.access(path, os.X_OK) else 0o644
                tar.addfile(member, io.BytesIO(data))


def gather(sources: Iterable[str], patterns: Sequence[str] = ("*",)) -> Content:
    """Collect the files of a release.

    A folder whose path ends in `/` gives its content, another one itself by its name, a file itself. Files are taken
    whose names match a pattern. Raises ReleaseError where a source is missing or nothing is found.
    """
    files: dict[PurePosixPath, Path] = {}
    for source in sources:
        path = Path(source)
        if path.is_dir():
            base = path if source.endswith("/") else path.parent
            found = [(file.relative_to(base), file) for file in sorted(path.rglob("*")) if file.is_file()]
        elif path.is_file():
            found = [(Path(path.name), path)]
        else:
            raise ReleaseError(f"{source} is not there; name a file or folder of the control node.")
        for relative, file in found:
            ignored = any(fnmatch(part, pattern) for part in relative.parts for pattern in IGNORED)
            if not ignored and any(fnmatch(file.name, pattern) for pattern in patterns):
                files[PurePosixPath(relative)] = file
    if not files:
        raise ReleaseError(f"{', '.join(sources)} holds no file that matches {', '.join(patterns)}.")
    return Content(files)


@dataclass(frozen=True)
class Store:
    """The releases of one thing on a device, under one directory."""

    path: Path

    @property
    def releases(self) -> Path:
        """Directory of the releases."""
        return self.path / "releases"

    @property
    def current(self) -> Path:
        """The link."""
        return self.path / "current"

    def current_identifier(self) -> str | None:
        """Return the release that `current` points to, or None where there is no link; refuse anything else there."""
        if self.current.is_symlink():
            return self.current.readlink().name
        if self.current.exists():
            raise ReleaseError(f"{self.current} is no link, and not ours to replace; move it away and run again.")
        return None

    def holds(self, identifier: str) -> bool:
        """Say whether this release is there, whole and unchanged."""
        release = self.releases / identifier
        if not release.is_dir():
            return False
        try:
            return gather([f"{release}/"]).identifier == identifier
        except (ReleaseError, OSError):
            return False

    def unpack(self, identifier: str, archive: Path) -> None:
        """Add a release from its archive, in place of a damaged one of the same name."""
        release, incoming = self.releases / identifier, self.releases / f".incoming-{identifier}"
        self._clear_leftovers()
        self.releases.mkdir(mode=0o755, parents=True, exist_ok=True)
        incoming.mkdir(mode=0o755)
        try:
            with tarfile.open(archive, "r:") as tar:
                for member in tar:
                    self._write(incoming, member.name, tar.extractfile(member), member.mode)
        except (tarfile.TarError, KeyError) as error:
            raise ReleaseError(f"What arrived for {release} cannot be read ({error}); run again.") from error
        for folder, _, _ in os.walk(incoming):
            Path(folder).chmod(0o755)
            sync(Path(folder))
        if gather([f"{incoming}/"]).identifier != identifier:
            shutil.rmtree(incoming)
            raise ReleaseError(f"What arrived for {release} is not what was sent; run again.")
        if release.exists():
            self._retire(release)
        incoming.rename(release)
        sync(self.releases)
        self._clear_leftovers()

    def switch(self, identifier: str) -> None:
        """Point `current` to a release, in one step."""
        switch_link(self.current, f"releases/{identifier}")

    def surplus(self, keep: int, latest: Sequence[str] = ()) -> list[Path]:
        """Return what is to be removed: leftovers, damaged releases, and those beyond `keep`, never the current one.

        Of the others those stay that ran last, which `latest` names in that order, then the newest.
        """
        if not self.releases.is_dir():
            return []
        current = self.current_identifier()
        others = [p for p in self.releases.iterdir() if p.name != current and RELEASE.fullmatch(p.name)]
        # A link or a file by such a name is none of ours.
        others = [p for p in others if p.is_dir() and not p.is_symlink()]
        others.sort(key=lambda p: (p.stat().st_mtime, p.name), reverse=True)
        others.sort(key=lambda p: latest.index(p.name) if p.name in latest else len(latest))
        kept: list[Path] = []
        for path in others:
            # What is too many anyway need not be hashed.
            if len(kept) < keep - 1 and self.holds(path.name):
                kept.append(path)
        return [*self._leftovers(), *(path for path in others if path not in kept)]

    def prune(self, keep: int, latest: Sequence[str] = ()) -> None:
        """Remove the surplus."""
        for release in self.surplus(keep, latest):
            shutil.rmtree(release if LEFTOVER.fullmatch(release.name) else self._retire(release))

    @staticmethod
    def _write(root: Path, name: str, data: IO[bytes] | None, mode: int) -> None:
        path = root / name
        if data is None or ".." in path.parts or not path.is_relative_to(root):
            raise ReleaseError(f"What arrived holds {name}, which no release of ours holds; run again.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            shutil.copyfileobj(data, stream)
            stream.flush()
            os.fsync(stream.fileno())
        path.chmod(mode & 0o755)

    def _retire(self, release: Path) -> Path:
        # What is removed loses its name first: a half-removed release is none.
        return release.rename(self.releases / f".outgoing-{release.name}")

    def _leftovers(self) -> list[Path]:
        if not self.releases.is_dir():
            return []
        return [path for path in self.releases.iterdir() if LEFTOVER.fullmatch(path.name)]

    def _clear_leftovers(self) -> None:
        for leftover in self._leftovers():
            shutil.rmtree(leftover)


def check_release(path: str) -> tuple[bool, str, str]:
    """Check, for verify, that `current` points to a release whose content is what its name says."""
    wanted = "current points to a whole release"
    store = Store(Path(path))
    try:
        identifier = store.current_identifier()
    except ReleaseError as error:
        return False, str(error), wanted
    if identifier is None:
        return False, "no link current", wanted
    if not store.holds(identifier):
        return False, f"{identifier} is missing or was changed", wanted
    return True, identifier, wanted
