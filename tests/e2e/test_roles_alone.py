"""Each role of site.yml runs alone on a provisioned device: those that take tasks and results of others, too."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.e2e.conftest import PROJECT, Fleet

# Has one role's inputs be other ones, as far as the record says.
OTHER_INPUTS = """
import hashlib, json
from pathlib import Path
path = Path("/var/lib/pi-fleet/state.json")
document = json.loads(path.read_text())
document["content"]["roles"][ROLE]["inputs"] = ""
document["sha256"] = hashlib.sha256(json.dumps(document["content"], sort_keys=True).encode()).hexdigest()
path.write_text(json.dumps(document))
"""
ROLES = yaml.safe_load((PROJECT / "roles" / "device_state" / "vars" / "main.yml").read_text())["__device_state_roles"]


@pytest.mark.parametrize("role", ROLES)
def test_a_role_runs_alone(fleet: Fleet, role: str) -> None:
    hosts = fleet.hosts()
    for host in hosts:
        fleet.root(host, f"ROLE = {role!r}\n{OTHER_INPUTS}")
    run = fleet.playbook("playbooks/site.yml")
    assert run.code == 0, run.output[-4000:]
    assert run.changed == dict.fromkeys(hosts, 0)
    assert re.findall(r"^ +(\w+): its inputs are other ones$", run.output, re.MULTILINE) == [role] * len(hosts)
    assert fleet.playbook("playbooks/drift.yml").code == 0
