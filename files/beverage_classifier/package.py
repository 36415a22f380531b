#!/usr/bin/env python3
"""Write the zip of the Lambda: its package, pi_camera and the Machine Learning SDK.

The same sources give the same bytes on every machine, so that the sha256 names the release.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import stat
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

FILES = Path(__file__).resolve().parents[1]
SOURCES = (
    "beverage_classifier/beverage_classifier",
    "camera/pi_camera.py",
    "localcore/greengrass_machine_learning_sdk",
)
DEFAULT_OUTPUT = Path("dist/beverage_classifier.zip")
MODIFIED = (1980, 1, 1, 0, 0, 0)
MODE = stat.S_IFREG | 0o644
UNIX = 3


class PackageError(Exception):
    """What went wrong, where, and what to do about it, in one sentence."""


def build(output: Path, files: Path = FILES) -> bytes:
    """Write the zip to `output`, replacing it at once, and return its bytes.

    `files` is the directory that holds SOURCES. Members lie at the top of the zip, as the console wants them.
    """
    try:
        content = _zip(_members(files))
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = output.with_name(f".{output.name}.{os.getpid()}")
        try:
            temporary.write_bytes(content)
            temporary.replace(output)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise PackageError(
            f"The zip {output} cannot be written ({error}); check the checkout and the output's directory."
        ) from error
    return content


def _members(files: Path) -> dict[str, bytes]:
    """Return the content of every member by its name in the zip."""
    members: dict[str, bytes] = {}
    for source in SOURCES:
        root = files / source
        found = [root] if root.is_file() else sorted(root.rglob("*.py"))
        if not found:
            raise PackageError(f"{root} holds no Python source; run this from a complete checkout.")
        for path in found:
            members[path.relative_to(root.parent).as_posix()] = path.read_bytes()
    return members


def _zip(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    # Stored and not compressed: what deflate gives differs between versions of zlib.
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            member = zipfile.ZipInfo(name, MODIFIED)
            member.create_system = UNIX
            member.external_attr = MODE << 16
            archive.writestr(member, members[name])
    return content.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the zip and print its path, size and sha256; print on standard error what is wrong."""
    parser = argparse.ArgumentParser(description="Write the zip that the AWS Lambda console takes.")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help=f"default: {DEFAULT_OUTPUT}")
    output: Path = parser.parse_args(arguments).output
    try:
        content = build(output)
    except PackageError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{output} {len(content)} bytes sha256 {hashlib.sha256(content).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
