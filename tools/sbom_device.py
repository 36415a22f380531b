#!/usr/bin/python3
"""Print as JSON what a device consists of: its system, Debian's packages, wheels, and releases. Runs on the device."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path

FIELDS = "${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\n"
STORES = Path("/opt/pi-fleet")


def system() -> list[str]:
    """Return name, version and codename of the system; a system that has no such word has an empty one."""
    words = dict(re.findall(r'^(\w+)="?([^"\n]*)', Path("/etc/os-release").read_text(), re.MULTILINE))
    return [words.get(word, "") for word in ("ID", "VERSION_ID", "VERSION_CODENAME")]


def packages() -> list[list[str]]:
    """Return name, version and architecture of each package that is installed."""
    argv = ["dpkg-query", "--show", f"--showformat={FIELDS}"]
    lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [line.split("\t") for line in lines]
    return [row[1:] for row in rows if row[0] == "installed"]


def wheels() -> list[list[str]]:
    """Return name and version of each distribution in a virtual environment of pi-fleet."""
    folders = sorted(STORES.rglob("site-packages/*.dist-info"))
    return [list(folder.name.removesuffix(".dist-info").rpartition("-")[::2]) for folder in folders]


def releases() -> list[list[str]]:
    """Return path below /opt/pi-fleet and release of all that was dropped, and of a model the sha256."""
    links = sorted(link for link in STORES.rglob("current") if link.is_symlink())
    return [[str(link.parent.relative_to(STORES)), link.resolve().name, *_model(link)] for link in links]


def _model(release: Path) -> list[str]:
    model = release / "model.onnx"
    return [hashlib.sha256(model.read_bytes()).hexdigest()] if model.is_file() else []


def main() -> None:
    """Entry point."""
    found = {
        "system": system(),
        "packages": packages(),
        "wheels": wheels(),
        "releases": releases(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
