#!/usr/bin/env python3
"""Build the collection's artifact, dist/edge-pi_fleet-VERSION.tar.gz.

usage: build_collection.py [FOLDER]    another folder than dist for the artifact

The collection in the checkout is made of links, and `ansible-galaxy collection build` skips those that leave it: what
git knows behind each link is copied, and the copy is built.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLLECTION = ROOT / "collections" / "ansible_collections" / "edge" / "pi_fleet"


def files_below(path: Path) -> list[Path]:
    """Return the files that git knows at or below a path of the checkout and that are there."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", str(path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def copy_collection(target: Path) -> None:
    """Copy the collection, each link replaced by what it leads to."""
    for entry in sorted(COLLECTION.iterdir()):
        origin = entry.resolve()
        for file in files_below(origin):
            copy = target / entry.name / file.relative_to(origin)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)


def build(folder: Path) -> Path:
    """Build the artifact into a folder and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pi-fleet-collection-") as scratch:
        copy_collection(Path(scratch, "source"))
        arguments = ["ansible-galaxy", "collection", "build", "--force", "--output-path", scratch, f"{scratch}/source"]
        subprocess.run(arguments, cwd=scratch, check=True, stdout=subprocess.DEVNULL)
        built = next(Path(scratch).glob("edge-pi_fleet-*.tar.gz"))
        return Path(shutil.move(built, folder / built.name))


def main(arguments: list[str]) -> int:
    """Build the artifact and say where it is."""
    print(build(Path(arguments[0]) if arguments else ROOT / "dist"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
