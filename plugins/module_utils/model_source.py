# SPDX-License-Identifier: Apache-2.0
"""What a model is made from: a SageMaker image classification artifact, packed or not, or an ONNX file.

SageMaker's artifact is a tar archive of `image-classification-symbol.json` (the graph), one or several
`image-classification-NNNN.params` (the weights after epoch NNNN) and `model-shapes.json` (the shape of the input).
Nothing is unpacked: members are read into memory, by name, within bounds.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import struct
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

SYMBOL, SHAPES = "image-classification-symbol.json", "model-shapes.json"
PARAMS = re.compile(r"image-classification-(\d{4,9})\.params")

# ResNet-200 with its weights in 64 bits has half a GiB.
LARGEST = {"json": 16 * 2**20, "params": 2**30, "onnx": 2**30}
LARGEST_ARCHIVE = 2 * 2**30

# What tarfile and gzip let through of a damaged archive.
UNREADABLE = (
    *(tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError, MemoryError, struct.error),
    *(RecursionError, LookupError, TypeError),
)

# Name, size and content of a file in an artifact.
Member = tuple[str, int, IO[bytes]]


class ModelError(Exception):
    """One sentence: which file is no model that can go to a device, why, and what to do."""


@dataclass(frozen=True)
class Onnx:
    """An ONNX file."""

    name: str
    data: bytes

    @property
    def digest(self) -> str:
        """Hash of what was given."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class SageMaker:
    """A SageMaker artifact: the files that are used of it, and the names by which sentences call them."""

    name: str
    params_name: str
    symbol: bytes
    params: bytes
    shapes: bytes

    @property
    def digest(self) -> str:
        """Hash of what was given; the same for a folder and its archive, however they are packed."""
        parts = (hashlib.sha256(part).hexdigest() for part in (self.symbol, self.params, self.shapes))
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def read_source(path: Path) -> SageMaker | Onnx:
    """Read what `path` holds; raise ModelError where it is neither of the kinds that are known."""
    try:
        if path.is_dir():
            return _gather(path, _members_of_folder(path))
        if not path.is_file():
            raise ModelError(f"{path} is not there: name a model.tar.gz, an unpacked folder or an ONNX file.")
        if path.suffix == ".onnx":
            with path.open("rb") as stream:
                return Onnx(str(path), _read(str(path), "onnx", path.stat().st_size, stream))
        return _gather(path, _members_of_archive(path))
    except ModelError:
        raise
    except UNREADABLE as error:
        raise ModelError(f"{path} cannot be read ({_reason(error)}): fetch it again.") from error


def _gather(path: Path, members: Iterator[Member]) -> SageMaker:
    """Take the graph, the shapes and the newest weights; older weights are let go as soon as newer ones are read."""
    found: dict[str, bytes] = {}
    seen: set[str] = set()
    newest, newest_epoch = "", -1
    for name, size, stream in members:
        weights = PARAMS.fullmatch(name)
        if name not in (SYMBOL, SHAPES) and weights is None:
            continue
        if name in seen:
            raise ModelError(f"{path} holds {name} twice, and only one can be meant: pack it again.")
        seen.add(name)
        if weights is None:
            found[name] = _read(f"{path}: {name}", "json", size, stream)
        elif int(weights[1]) > newest_epoch:
            found.pop(newest, None)
            newest, newest_epoch = name, int(weights[1])
            found[name] = _read(f"{path}: {name}", "params", size, stream)
    missing = [name for name in (SYMBOL, SHAPES) if name not in found]
    if not newest:
        missing.append("image-classification-NNNN.params")
    if missing:
        raise ModelError(f"{path} lacks {', '.join(missing)}: name what SageMaker's image classification wrote.")
    return SageMaker(str(path), f"{path}: {newest}", found[SYMBOL], found[newest], found[SHAPES])


def _members_of_folder(path: Path) -> Iterator[Member]:
    for entry in sorted(path.iterdir()):
        if entry.is_file():
            with entry.open("rb") as stream:
                yield entry.name, entry.stat().st_size, stream


def _members_of_archive(path: Path) -> Iterator[Member]:
    """Yield the regular files of an archive in their order, and read it to its end: there gzip has its checksum."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        limited = _Limited(path, gzip.GzipFile(fileobj=file) if packed else file)
        with tarfile.open(fileobj=limited, mode="r|") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts:
                    raise ModelError(f"{path} holds {member.name!r}, which leads out of it: do not trust this file.")
                if member.isdir():
                    continue
                stream = archive.extractfile(member) if member.isreg() and not member.issparse() else None
                if stream is None:
                    raise ModelError(f"{path} holds {member.name!r}, which is no regular file: pack it again.")
                yield name.name, member.size, stream
        while limited.read(2**20):
            pass


def _read(name: str, kind: str, size: int, stream: IO[bytes]) -> bytes:
    """Read a stream of a known size, if that is within the bound of its kind."""
    if size > LARGEST[kind]:
        raise ModelError(f"{name} is larger than {LARGEST[kind] // 2**20} MiB, and no image classification model is.")
    return stream.read()


class _Limited(io.BufferedIOBase):
    """A stream to read, ended by ModelError where it is longer than any artifact: a few kB can unpack to anything."""

    def __init__(self, path: Path, stream: IO[bytes] | gzip.GzipFile) -> None:
        self._path, self._stream, self._left = path, stream, LARGEST_ARCHIVE

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes."""
        data = self._stream.read(-1 if size is None else size)
        self._left -= len(data)
        if self._left < 0:
            raise ModelError(f"{self._path} unpacks to more than {LARGEST_ARCHIVE // 2**30} GiB, and no model does.")
        return data


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
