# SPDX-License-Identifier: Apache-2.0
"""A Python virtual environment on a device, and the wheels in it.

The environment sees the system's packages: cv2, picamera2 and the like come from apt alone. What is installed is read
from the file system, which costs a Pi milliseconds where `pip list` costs it seconds.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Runner

PIP = "/usr/share/python-wheels/pip-*.whl"
"""Debian's pip, a dependency of python3-venv; a wheel that runs as it is."""


class VenvError(Exception):
    """One sentence: what is wrong with an environment or a wheel, and what to do."""


def normalise(name: str) -> str:
    """Return a distribution's name as `*.dist-info` directories and wheels spell it (PEP 503, then `_` for `-`)."""
    return re.sub(r"[-_.]+", "_", name).lower()


@dataclass(frozen=True)
class Venv:
    """A virtual environment at a path."""

    path: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.path / "bin" / "python"

    @property
    def site_packages(self) -> Path | None:
        """Where its packages are, or None while there is no such place."""
        return next(iter(sorted(self.path.glob("lib/python3.*/site-packages"))), None)

    def is_usable(self) -> bool:
        """Say whether it was made to its end, for the Python that is there, with the system's packages visible."""
        configuration = self.path / "pyvenv.cfg"
        if not configuration.is_file() or not self.python.exists() or self.site_packages is None:
            return False
        # python3 -m venv writes these last.
        scripts = [self.path / "bin" / name for name in ("activate", "activate.csh", "activate.fish", "Activate.ps1")]
        version = self.python.resolve().name
        return (
            "include-system-site-packages = true" in configuration.read_text()
            and self.site_packages.parent.name == version
            and all(script.is_file() and script.stat().st_size > 0 for script in scripts)
        )

    def create(self, run: Runner) -> None:
        """Make the environment, or make it anew over one that is half-made or of another Python.

        Without pip, which is 1000 files more and half of the time: Debian's installs into it.
        """
        arguments = ["python3", "-m", "venv", "--clear", "--system-site-packages", "--without-pip", str(self.path)]
        code, _, errors = run(arguments)
        if code != 0:
            raise VenvError(f"'{' '.join(arguments)}' failed: {last_line(errors)}; is python3-venv installed?")

    def problem(self, name: str, version: str) -> str | None:
        """Return what is wrong with a distribution in the environment, or None if it is whole."""
        if self.site_packages is None:
            return "no environment"
        found = {}
        for directory in sorted(self.site_packages.glob("*.dist-info")):
            distribution, _, there = directory.name.removesuffix(".dist-info").rpartition("-")
            if normalise(distribution) == normalise(name):
                found[there] = directory / "RECORD"
        if not found:
            return "not installed"
        if list(found) != [version]:
            return " and ".join(found)
        try:
            with found[version].open(newline="", encoding="utf-8") as stream:
                files = [(path, digest) for path, digest, _ in csv.reader(stream)]
            changed = [path for path, digest in files if digest and not _matches(self.site_packages / path, digest)]
        except (OSError, ValueError, csv.Error):
            # After a loss of power it may hold anything.
            files = []
        if not files:
            return "half-installed"
        return f"{changed[0]} was changed or is missing" if changed else None

    def install(self, run: Runner, name: str, version: str, wheels: Path) -> None:
        """Install a wheel from a folder of wheels, without its dependencies and without a network."""
        pip = max(Path(PIP).parent.glob(Path(PIP).name), default=None)
        if pip is None:
            raise VenvError(f"There is no {PIP} to install {name} with; is python3-venv installed?")
        arguments = [str(self.python), str(pip / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        arguments += ["--no-index", "--no-deps", "--force-reinstall", f"--find-links={wheels}", f"{name}=={version}"]
        code, _, errors = run(arguments)
        if code != 0:
            raise VenvError(f"pip could not install {name} {version} from {wheels}: {last_line(errors)}.")


def check_distribution(venv: str, name: str, version: str) -> tuple[bool, str, str]:
    """Check, for verify, that a distribution of this version is whole in the environment."""
    problem = Venv(Path(venv)).problem(name, version)
    return problem is None, problem or version, version


def last_line(text: str) -> str:
    """Return the last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")


def _matches(path: Path, digest: str) -> bool:
    algorithm, _, wanted = digest.partition("=")
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, algorithm).digest()
    return base64.urlsafe_b64encode(found).rstrip(b"=").decode() == wanted
