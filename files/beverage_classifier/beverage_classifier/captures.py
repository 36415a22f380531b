"""Captures on disk: written whole or not at all, never over another one.

A capture is `<epoch millis>.jpg` until its event is answered; then it is discarded, or kept as
`<epoch millis>_<category>_<confidence>.jpg`. Hard links give a file its name, because a rename would replace
a file that has that name already.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from beverage_classifier.errors import ClassifierError

# Whatever the umask: the group collects the pictures, and others have no business with them.
MODE = 0o660


@dataclass(frozen=True)
class Capture:
    """A picture that is on disk, and the time in milliseconds that its name says."""

    path: Path
    millis: int

    def keep(self, category: str, confidence: float) -> Path:
        """Rename the capture after its prediction and return the new path."""
        try:
            kept, _ = _link(self.path, self.millis, f"_{category}_{confidence}.jpg")
            self.path.unlink()
            _sync(self.path.parent)
        except OSError as error:
            raise ClassifierError(
                f"The capture {self.path} cannot be renamed after its prediction ({error.strerror}); check "
                "the directory and its permissions."
            ) from error
        return kept

    def discard(self) -> None:
        """Remove the capture, if nobody else took it meanwhile."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise ClassifierError(
                f"The capture {self.path} cannot be removed ({error.strerror}); check the permissions of its directory."
            ) from error


def save(directory: Path, picture: bytes) -> Capture:
    """Write `picture` to `directory` under the time it is now, or the next millisecond that is free."""
    millis = time.time_ns() // 1_000_000
    try:
        temporary = _write(directory, picture)
        try:
            path, millis = _link(temporary, millis, ".jpg")
        finally:
            temporary.unlink()
        _sync(directory)
    except OSError as error:
        raise ClassifierError(
            f"A capture cannot be written to {directory} ({error.strerror}); check that the directory "
            "exists, is writable and has room."
        ) from error
    return Capture(path, millis)


def _write(directory: Path, picture: bytes) -> Path:
    """Write `picture` under a hidden name that is not taken for a capture, safe from a power cut."""
    descriptor, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(picture)
            file.flush()
            os.fchmod(descriptor, MODE)
            os.fsync(descriptor)
    except BaseException:
        Path(name).unlink()
        raise
    return Path(name)


def _link(existing: Path, millis: int, suffix: str) -> tuple[Path, int]:
    """Give `existing` a second name, the first free one of `<millis><suffix>` and those after it."""
    while True:
        path = existing.with_name(f"{millis}{suffix}")
        try:
            path.hardlink_to(existing)
        except FileExistsError:
            millis += 1
        else:
            return path, millis


def _sync(directory: Path) -> None:
    """Make the names in `directory` safe from a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
