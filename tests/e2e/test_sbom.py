"""What `make sbom` writes of devices that stand: valid CycloneDX, in which all that they were given is found."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.e2e.conftest import Fleet
from tools import sbom

MODEL = """
import hashlib
from pathlib import Path
print(hashlib.sha256(Path("/opt/pi-fleet/model/beverage-classifier/current/model.onnx").read_bytes()).hexdigest())
"""


def test_devices_consist_of_what_they_were_given(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ.keys() - fleet.environment().keys():
        monkeypatch.delenv(name)
    monkeypatch.setattr(sbom, "OUTPUT", tmp_path)
    assert sbom.main([f"--inventory={Path(source).resolve()}" for source in fleet.inventory.split(",")]) == 0
    hosts = fleet.hosts()
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.cdx.json" for name in ("control-node", *hosts)}
    locked = json.loads((tmp_path / "control-node.cdx.json").read_text())
    assert {"ansible-core", "python"} <= {part["name"] for part in locked["components"]}
    for host in hosts:
        text = (tmp_path / f"{host}.cdx.json").read_text()
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
        parts = json.loads(text)["components"]
        urls = [part.get("purl", "") for part in parts]
        assert len([url for url in urls if url.startswith("pkg:deb/debian/")]) > 100
        assert "pkg:pypi/greengrasssdk@1.6.1" in urls
        (model,) = [part for part in parts if part["name"] == "model/beverage-classifier"]
        assert model["type"] == "machine-learning-model"
        assert model["hashes"] == [{"alg": "SHA-256", "content": fleet.root(host, MODEL).strip()}]
