"""Lists of parts: what a device is found to be, and that CycloneDX's own schema takes it."""

from __future__ import annotations

import json
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
    "releases": [["model/beverage-classifier", "0123456789abcdef"], ["localcore", "fedcba9876543210"]],
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
    assert kinds["localcore"] == ("application", "fedcba9876543210")
    assert kinds["debian"] == ("operating-system", "12")


def test_what_is_below_opt_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sbom_device, "STORES", tmp_path)
    (tmp_path / "venv/lib/python3.11/site-packages/greengrasssdk-1.6.1.dist-info").mkdir(parents=True)
    (tmp_path / "lambda/echo/releases/0123").mkdir(parents=True)
    (tmp_path / "lambda/echo/current").symlink_to("releases/0123")
    assert sbom_device.wheels() == [["greengrasssdk", "1.6.1"]]
    assert sbom_device.releases() == [["lambda/echo", "0123"]]


def test_packages_that_are_installed_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "dpkg" in [name for name, _, _ in sbom_device.packages()]
    monkeypatch.setattr(sbom_device, "FIELDS", "installed\tone\t1\tall\nconfig-files\tgone\t1\tall\n")
    assert sbom_device.packages()[0] == ["one", "1", "all"]
    assert ["gone", "1", "all"] not in sbom_device.packages()
