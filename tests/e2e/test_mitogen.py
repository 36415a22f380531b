"""Mitogen is not needed, and stays possible: whoever has it in place of Ansible's own way to a device gets the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.e2e.conftest import HERE, Fleet


def test_site_yml_runs_with_mitogen_and_finds_nothing_to_do(fleet: Fleet, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    pip += ["--only-binary=:all:", "--require-hashes", f"--requirement={HERE / 'mitogen.txt'}", f"--target={tmp_path}"]
    subprocess.run(pip, check=True)
    run = fleet.playbook(
        "playbooks/site.yml",
        "--extra-vars=full=true",
        ANSIBLE_STRATEGY="mitogen_linear",
        ANSIBLE_STRATEGY_PLUGINS=str(tmp_path / "ansible_mitogen" / "plugins" / "strategy"),
    )
    assert run.code == 0, run.output[-6000:]
    assert run.changed == dict.fromkeys(fleet.hosts(), 0)
    # It is Mitogen indeed: Ansible warns of every strategy that is not its own.
    assert "Use of strategy plugins not included in ansible.builtin" in run.output
