#!/usr/bin/env python3
"""Write what control node and devices consist of as CycloneDX: dist/sbom/control-node.cdx.json, HOST.cdx.json.

usage: sbom.py [ARGUMENT ...]    of ansible, such as --inventory inventory/my-fleet --ask-vault-pass
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


def ask(arguments: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what each device that answers consists of, and why others do not."""
    with tempfile.TemporaryDirectory(prefix="pi-fleet-sbom-") as folder:
        script = f"{ROOT}/tools/sbom_device.py executable=/usr/bin/python3"
        argv = ["ansible", "devices", *arguments, "--module-name=ansible.builtin.script", f"--args={script}"]
        # A vault's password is asked for on the terminal.
        done = subprocess.run([*argv, f"--tree={folder}"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        answers = {path.name: json.loads(path.read_text()) for path in sorted(Path(folder).iterdir())}
    if not answers:
        sys.exit(f"No device was asked. {done.stdout.strip()}")
    found, silent = {}, {}
    for host, answer in answers.items():
        # Before the last line, a device's shell may have words of its own.
        lines = answer.get("stdout", "").splitlines()
        if answer.get("rc") == 0:
            found[host] = json.loads(lines[-1])
        else:
            silent[host] = answer.get("stderr") or (lines[-1] if lines else answer.get("msg", "it said nothing"))
    return found, silent


def main(arguments: list[str]) -> None:
    """Entry point."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    control_node = OUTPUT / "control-node.cdx.json"
    lock = str(ROOT / "requirements-run.lock")
    subprocess.run(["cyclonedx-py", "requirements", lock, "--sv=1.6", f"--output-file={control_node}"], check=True)
    print(control_node)
    found, silent = ask(arguments)
    for host, parts in found.items():
        path = OUTPUT / f"{host}.cdx.json"
        path.write_text(JsonV1Dot6(device_parts(host, parts)).output_as_string(indent=1))
        kinds = f"{len(parts['packages'])} packages, {len(parts['wheels'])} wheels, {len(parts['releases'])} releases"
        print(f"{path}: {kinds}")
    for host, why in silent.items():
        (OUTPUT / f"{host}.cdx.json").unlink(missing_ok=True)
        print(f"{host} could not be asked: {why.strip()}", file=sys.stderr)
    if silent:
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
