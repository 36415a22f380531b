# SPDX-License-Identifier: Apache-2.0
"""What a wheel really holds: some are tagged for any machine and hold binaries of one.

The ELF header's fields are those of the System V ABI: byte 4 is the class (1 for 32 bits, 2 for 64), bytes 18 and 19
the machine in the byte order that byte 5 names (1 for little-endian).
"""

from __future__ import annotations

import hashlib
import lzma
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

# Debian's architecture, by ELF class and machine; all are little-endian.
ARCHITECTURES = {(1, 40): "armhf", (2, 183): "arm64", (2, 62): "amd64", (1, 3): "i386"}

# distribution-version(-build)?-python-abi-platform.whl, by the binary distribution format of packaging.python.org.
NAME = re.compile(r"^(?P<name>[^-]+)-(?P<version>[^-]+)(-\d[^-]*)?-(?P<python>[^-]+)-(?P<abi>[^-]+)-[^-]+\.whl$")

# What zipfile lets through of a damaged file.
UNREADABLE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError)


class WheelError(Exception):
    """One sentence: what is wrong with a wheel, and what to do."""


@dataclass(frozen=True)
class Wheel:
    """A wheel: what its name says, and the architectures of the binaries inside."""

    file: str
    name: str
    version: str
    pythons: tuple[str, ...]
    abis: tuple[str, ...]
    binaries: dict[str, str]

    def check(self, architecture: str, python: str) -> None:
        """Raise WheelError if a device of this architecture and Python (such as 3.11) cannot import it."""
        for binary, found in sorted(self.binaries.items()):
            if found != architecture:
                raise WheelError(
                    f"{self.file} holds {binary} for {found}, and the device's userland is {architecture}:"
                    f" name a wheel built for {architecture}."
                )
        tag = python.replace(".", "")
        fitting = {f"cp{tag}", "py3", *(f"py3{minor}" for minor in range(int(tag[1:]) + 1))}
        if "abi3" in self.abis:
            fitting |= {f"cp3{minor}" for minor in range(2, int(tag[1:]) + 1)}
        if not fitting & set(self.pythons):
            raise WheelError(
                f"{self.file} is for Python {'.'.join(self.pythons)}, and the device has Python {python}:"
                f" name a wheel built for {python}."
            )


def read_wheel(path: Path, sha256: str) -> Wheel:
    """Read a wheel whose sha256 must be as given; raise WheelError where it is not a wheel or another one."""
    if not path.is_file():
        raise WheelError(f"The wheel {path} is not there: name a file of the control node.")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256.lower():
        raise WheelError(f"{path} has the sha256 {found}, and {sha256 or 'none'} was given: check where it is from.")
    named = NAME.match(path.name)
    if named is None:
        raise WheelError(f"{path.name} is no wheel's name (NAME-VERSION-PYTHON-ABI-PLATFORM.whl): give it its own.")
    binaries = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                with archive.open(member) as stream:
                    header = stream.read(20)
                if header[:4] == b"\x7fELF" and len(header) == 20:
                    binaries[member.filename] = _architecture(header)
    except UNREADABLE as error:
        raise WheelError(f"{path} cannot be read as a wheel ({error}): fetch it again.") from error
    return Wheel(
        file=path.name,
        name=named["name"],
        version=named["version"],
        pythons=tuple(named["python"].split(".")),
        abis=tuple(named["abi"].split(".")),
        binaries=binaries,
    )


def _architecture(header: bytes) -> str:
    if header[5] != 1:
        return f"big-endian ELF machine {int.from_bytes(header[18:20], 'big')}"
    machine = int.from_bytes(header[18:20], "little")
    return ARCHITECTURES.get((header[4], machine), f"ELF machine {machine}")
