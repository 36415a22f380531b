#!/usr/bin/env python3
"""Write what control node and devices consist of as CycloneDX: dist/sbom/control-node.cdx.json, HOST.cdx.json.

usage: sbom.py [ARGUMENT ...]    of ansible-playbook, such as --inventory inventory/my-fleet --ask-vault-pass
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools import sbom_device

ROOT = Path(__file__).resolve().parents[1]

OUTPUT = ROOT / "dist" / "sbom"


def device_parts(host: str, found: Mapping[str, Any]) -> Bom:
    """Return what a device consists of, from what sbom_device.py found."""
    bom = Bom()
    bom.metadata.component = Component(type=ComponentType.DEVICE, name=host, bom_ref=host)
    parts = _debian(found["system"], found["packages"])
    for wheel, installed in found["wheels"]:
        normal = re.sub(r"[-_.]+", "-", wheel).lower()
        parts.append(_library(normal, installed, PackageURL("pypi", None, normal, installed)))
    for path, release, *sha256 in found["releases"]:
        kind = ComponentType.MACHINE_LEARNING_MODEL if path.startswith("model/") else ComponentType.APPLICATION
        hashes = [HashType(alg=HashAlgorithm.SHA_256, content=content) for content in sha256]
        parts.append(Component(type=kind, name=path, version=release, bom_ref=f"{path}@{release}", hashes=hashes))
    bom.components.update(parts)
    bom.register_dependency(bom.metadata.component, parts)
    return bom


def control_node_parts(locked: Mapping[str, Any]) -> Bom:
    """Return what this control node consists of: what is locked (CycloneDX), its Python, and Debian's packages."""
    bom: Bom = Bom.from_json(locked)  # type: ignore[attr-defined]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    commit = [Property(name="commit", value=name) for name in _commit()]
    fleet = Component(
        type=ComponentType.APPLICATION, name="pi-fleet", version=version, bom_ref="pi-fleet", properties=commit
    )
    bom.metadata.component = fleet
    running = platform.python_version()
    python = Component(type=ComponentType.PLATFORM, name="python", version=running, bom_ref="python")
    debian = _debian(sbom_device.system(), sbom_device.packages()) if shutil.which("dpkg-query") else []
    bom.components.update([python, *debian])
    bom.register_dependency(fleet, bom.components)
    return bom


def _commit() -> list[str]:
    """Return the commit that is checked out, none where git knows of none."""
    argv = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.split()


def _debian(system: Sequence[str], packages: Iterable[Sequence[str]]) -> list[Component]:
    name, version, codename = system
    parts = [Component(type=ComponentType.OPERATING_SYSTEM, name=name, version=version, bom_ref="system")]
    for package, installed, architecture in packages:
        url = PackageURL("deb", name, package, installed, {"arch": architecture, "distro": codename})
        parts.append(_library(package, installed, url))
    return parts


def _library(name: str, version: str, url: PackageURL) -> Component:
    return Component(type=ComponentType.LIBRARY, name=name, version=version, purl=url, bom_ref=url.to_string())


def _write(bom: Bom, path: Path) -> None:
    path.write_text(JsonV1Dot6(bom).output_as_string(indent=1))


def main(arguments: list[str]) -> int:
    """Entry point."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    control_node = OUTPUT / "control-node.cdx.json"
    lock = str(ROOT / "requirements-run.lock")
    argv = ["cyclonedx-py", "requirements", lock, "--sv=1.6"]
    locked = subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout
    parts = control_node_parts(json.loads(locked))
    _write(parts, control_node)
    told = [f"{control_node}: {len(parts.components)} parts"]
    with tempfile.TemporaryDirectory(prefix="pi-fleet-sbom-") as folder:
        # Who does not answer is named at its end.
        argv = ["ansible-playbook", *arguments, "tools/sbom.yml", f"--extra-vars=sbom_found={folder}"]
        code = subprocess.run(argv, cwd=ROOT, check=False).returncode
        for path in sorted(Path(folder).iterdir()):
            found = json.loads(path.read_text())
            written = OUTPUT / f"{path.stem}.cdx.json"
            _write(device_parts(path.stem, found), written)
            kinds = ", ".join(f"{len(found[kind])} {kind}" for kind in ("packages", "wheels", "releases"))
            told.append(f"{written}: {kinds}")
    print("\n".join(told))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
