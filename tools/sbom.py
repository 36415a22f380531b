#!/usr/bin/env python3
"""Write what control node and devices consist of as CycloneDX: dist/sbom/control-node.cdx.json, HOST.cdx.json.

usage: sbom.py [ARGUMENT ...]    of ansible-playbook, such as --inventory inventory/my-fleet --ask-vault-pass
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "dist" / "sbom"


def device_parts(host: str, found: Mapping[str, Any]) -> Bom:
    """Return what a device consists of, from what sbom_device.py found."""
    name, version, codename = found["system"]
    bom = Bom()
    bom.metadata.component = Component(type=ComponentType.DEVICE, name=host, bom_ref=host)
    parts = [Component(type=ComponentType.OPERATING_SYSTEM, name=name, version=version, bom_ref="system")]
    for package, installed, architecture in found["packages"]:
        url = PackageURL("deb", name, package, installed, {"arch": architecture, "distro": codename})
        parts.append(_library(package, installed, url))
    for wheel, installed in found["wheels"]:
        normal = re.sub(r"[-_.]+", "-", wheel).lower()
        parts.append(_library(normal, installed, PackageURL("pypi", None, normal, installed)))
    for path, release in found["releases"]:
        kind = ComponentType.MACHINE_LEARNING_MODEL if path.startswith("model/") else ComponentType.APPLICATION
        parts.append(Component(type=kind, name=path, version=release, bom_ref=f"{path}@{release}"))
    bom.components.update(parts)
    bom.register_dependency(bom.metadata.component, parts)
    return bom


def _library(name: str, version: str, url: PackageURL) -> Component:
    return Component(type=ComponentType.LIBRARY, name=name, version=version, purl=url, bom_ref=url.to_string())


def main(arguments: list[str]) -> int:
    """Entry point."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    control_node = OUTPUT / "control-node.cdx.json"
    lock = str(ROOT / "requirements-run.lock")
    subprocess.run(["cyclonedx-py", "requirements", lock, "--sv=1.6", f"--output-file={control_node}"], check=True)
    told = [str(control_node)]
    with tempfile.TemporaryDirectory(prefix="pi-fleet-sbom-") as folder:
        # Who does not answer is named at its end.
        argv = ["ansible-playbook", *arguments, "tools/sbom.yml", f"--extra-vars=sbom_found={folder}"]
        code = subprocess.run(argv, cwd=ROOT, check=False).returncode
        for path in sorted(Path(folder).iterdir()):
            found = json.loads(path.read_text())
            written = OUTPUT / f"{path.stem}.cdx.json"
            written.write_text(JsonV1Dot6(device_parts(path.stem, found)).output_as_string(indent=1))
            kinds = ", ".join(f"{len(found[kind])} {kind}" for kind in ("packages", "wheels", "releases"))
            told.append(f"{written}: {kinds}")
    print("\n".join(told))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
