"""The collection as users get it: built, installed without a network, used from another folder."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.contract.repository import ROLES, ROOT
from tools import build_collection


def run(argv: list[str], collections: Path, folder: Path) -> str:
    """Run an Ansible command that knows these collections, and nothing of this user's or the checkout's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    settings = {"ANSIBLE_COLLECTIONS_PATH": str(collections), "ANSIBLE_HOME": str(folder / ".ansible")}
    done = subprocess.run(argv, cwd=folder, env={**kept, **settings}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_collection.build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def installed(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collections")
    run(["ansible-galaxy", "collection", "install", "--offline", "-p", str(folder), str(artifact)], folder, folder)
    return folder


def test_it_holds_what_runs_and_nothing_else(artifact: Path) -> None:
    with tarfile.open(artifact) as tar:
        members = tar.getmembers()
    assert not [member.name for member in members if member.issym() or "__pycache__" in member.name]
    names = {member.name for member in members}
    assert {"plugins/modules/release.py", "files/camera/pi_camera.py", "playbooks/site.yml"} <= names
    assert {name.split("/")[0] for name in names} == {
        *("MANIFEST.json", "FILES.json", "README.md", "CHANGELOG.md", "LICENSE"),
        *("meta", "files", "playbooks", "plugins", "roles"),
    }


@pytest.mark.parametrize(
    "argv",
    [
        ["ansible-doc", "-t", "role", "edge.pi_fleet.swap"],
        ["ansible-doc", "edge.pi_fleet.release"],
        ["ansible-playbook", "edge.pi_fleet.verify", "--list-tasks", "-i", "localhost,"],
        ["ansible-playbook", "edge.pi_fleet.site", "--syntax-check", "-i", "localhost,"],
    ],
    ids=" ".join,
)
def test_it_answers_to_its_full_names(argv: list[str], installed: Path, tmp_path: Path) -> None:
    assert run(argv, installed, tmp_path).strip()


def test_the_checkout_documents_all_roles(tmp_path: Path) -> None:
    listed = run(["ansible-doc", "-t", "role", "-l", "--json", "edge.pi_fleet"], ROOT / "collections", tmp_path)
    documented = {name for name, role in json.loads(listed).items() if role["entry_points"]["main"]}
    assert documented == {f"edge.pi_fleet.{role}" for role in ROLES}
