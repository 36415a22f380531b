"""Lists of parts: what a device is found to be, and that CycloneDX's own schema takes it."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import tomllib
from pathlib import Path

import pytest
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tools import sbom, sbom_device

FOUND = {
    "system": ["debian", "12", "bookworm"],
    "packages": [["libssl3", "3.0.17-1~deb12u2", "armhf"], ["mosquitto", "2.0.11-1.2+deb12u2", "armhf"]],
    "wheels": [["Greengrass.SDK", "1.6.1"]],
    "releases": [["model/beverage-classifier", "0123456789abcdef", "5a" * 32], ["localcore", "fedcba9876543210"]],
}


def test_a_devices_parts_are_what_the_schema_wants() -> None:
    text = JsonV1Dot6(sbom.device_parts("roof", FOUND)).output_as_string()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    assert document["metadata"]["component"]["name"] == "roof"
    assert {part.get("purl") for part in document["components"]} == {
        None,
        "pkg:deb/debian/libssl3@3.0.17-1~deb12u2?arch=armhf&distro=bookworm",
        "pkg:deb/debian/mosquitto@2.0.11-1.2%2Bdeb12u2?arch=armhf&distro=bookworm",
        "pkg:pypi/greengrass-sdk@1.6.1",
    }
    kinds = {part["name"]: (part["type"], part["version"]) for part in document["components"]}
    assert kinds["model/beverage-classifier"] == ("machine-learning-model", "0123456789abcdef")
    (model,) = [part for part in document["components"] if part["name"] == "model/beverage-classifier"]
    assert model["hashes"] == [{"alg": "SHA-256", "content": "5a" * 32}]
    assert kinds["localcore"] == ("application", "fedcba9876543210")
    assert kinds["debian"] == ("operating-system", "12")


def test_what_is_below_opt_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sbom_device, "STORES", tmp_path)
    (tmp_path / "venv/lib/python3.11/site-packages/greengrasssdk-1.6.1.dist-info").mkdir(parents=True)
    (tmp_path / "lambda/echo/releases/0123").mkdir(parents=True)
    (tmp_path / "lambda/echo/current").symlink_to("releases/0123")
    assert sbom_device.wheels() == [["greengrasssdk", "1.6.1"]]
    (tmp_path / "model/beverages/releases/4567").mkdir(parents=True)
    (tmp_path / "model/beverages/releases/4567/model.onnx").write_bytes(b"a model")
    (tmp_path / "model/beverages/current").symlink_to("releases/4567")
    sha256 = hashlib.sha256(b"a model").hexdigest()
    assert sbom_device.releases() == [["lambda/echo", "0123"], ["model/beverages", "4567", sha256]]


def test_packages_that_are_installed_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "dpkg" in [name for name, _, _ in sbom_device.packages()]
    monkeypatch.setattr(sbom_device, "FIELDS", "installed\tone\t1\tall\nconfig-files\tgone\t1\tall\n")
    assert sbom_device.packages()[0] == ["one", "1", "all"]
    assert ["gone", "1", "all"] not in sbom_device.packages()


def test_a_control_node_is_this_project_its_python_what_is_locked_and_debian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sbom_device, "FIELDS", "installed\tone\t1\tall\n")
    core = {"type": "library", "name": "ansible-core", "version": "2.19.14", "bom-ref": "core"}
    locked = {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [core]}
    text = JsonV1Dot6(sbom.control_node_parts(locked)).output_as_string()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    project = document["metadata"]["component"]
    version = tomllib.loads((sbom.ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (project["name"], project["version"]) == ("pi-fleet", version)
    (commit,) = [each["value"] for each in project["properties"] if each["name"] == "commit"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=sbom.ROOT, capture_output=True, text=True, check=True)
    assert commit.removesuffix("-dirty") == head.stdout.strip()
    found = {part["name"]: part["version"] for part in document["components"]}
    assert found.keys() == {"ansible-core", "python", "one", sbom_device.system()[0]}
    assert found["python"] == platform.python_version()


def test_a_control_node_without_dpkg_or_git_is_told_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sbom, "_commit", list)
    parts = sbom.control_node_parts({"bomFormat": "CycloneDX", "specVersion": "1.6"})
    assert [part.name for part in parts.components] == ["python"]
