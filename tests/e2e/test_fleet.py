"""A provisioned fleet: what a second run, a restart, the built collection and a killed run do to it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

from tests.e2e.conftest import Fleet, Run
from tools.build_collection import build

MOST_EXECUTIONS = 60
UNITS = """
import subprocess
shown = "--property=Id,ActiveEnterTimestampMonotonic,ActiveState"
query = ["systemctl", "show", "--all", shown, "*.service", "*.timer"]
# What timers and connections start by themselves is not the run's doing.
others = ("ssh@", "session-", "user@", "user-runtime-dir@", "field-data-guard.service")
for block in sorted(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split("\\n\\n")):
    if not any(word in block for word in others):
        print(" ".join(sorted(block.split())))
"""
STARTED = """
import os, subprocess
units = ["field-data-guard.timer", "mosquitto", "localcore"]
units += ["connector@beverage-classifier", "lambda@beverage_classifier"]
active = subprocess.run(["systemctl", "is-active", *units], capture_output=True, text=True).stdout
node = os.stat("/dev/raw1394")
print(active.split(), os.major(node.st_rdev), os.minor(node.st_rdev), oct(node.st_mode))
"""

# What people do to a device by hand, and whose it is.
BY_HAND = """
import os, subprocess
from pathlib import Path
os.chmod("/dev/raw1394", 0o600)
Path("/etc/pi-fleet/camera.json").write_text("{}")
os.unlink("/etc/tmpfiles.d/pi-fleet-raw1394.conf")
drop_in = Path("/etc/systemd/system/field-data-guard.timer.d/mine.conf")
drop_in.parent.mkdir()
drop_in.write_text("[Timer]\\nOnUnitActiveSec=1h\\n")
subprocess.run(["systemctl", "daemon-reload"], check=True)
subprocess.run(["usermod", "--shell", "/bin/bash", "ggc_user"], check=True, capture_output=True)
"""
TOUCHED = {
    "path /dev/raw1394": "raw1394",
    "path /etc/tmpfiles.d/pi-fleet-raw1394.conf": "raw1394",
    "path /etc/pi-fleet/camera.json": "camera",
    "unit field-data-guard.timer": "field_data",
    "path /etc/systemd/system/field-data-guard.timer.d/mine.conf": "field_data",
    "user ggc_user": "greengrass_user",
}


def executions(run: Run) -> int:
    """Count the modules that a run with -vvv executed on devices."""
    return len(re.findall("Using module file", run.output))


def test_a_second_run_asks_once_and_is_done(fleet: Fleet) -> None:
    hosts = fleet.hosts()
    before = {host: (fleet.manifest(host), fleet.root(host, UNITS)) for host in hosts}
    run = fleet.playbook("playbooks/site.yml", "-vvv")
    assert run.code == 0, run.output[-4000:]
    assert run.changed == dict.fromkeys(hosts, 0)
    assert executions(run) == len(hosts)
    found = re.findall(r"converged, (\d+) things checked in ([\d.]+) s", run.output)
    assert len(found) == len(hosts)
    print(f"{found} things checked, in seconds")
    assert all(int(things) > 500 for things, _ in found)
    assert {host: (fleet.manifest(host), fleet.root(host, UNITS)) for host in hosts} == before


def test_a_second_run_of_all_roles_changes_nothing_and_stays_small(fleet: Fleet) -> None:
    hosts = fleet.hosts()
    before = {host: (fleet.manifest(host), fleet.root(host, UNITS)) for host in hosts}
    run = fleet.playbook("playbooks/site.yml", "-vvv", "--extra-vars", "full=true")
    assert run.code == 0, run.output[-4000:]
    assert run.changed == dict.fromkeys(hosts, 0)
    assert {host: (fleet.manifest(host), fleet.root(host, UNITS)) for host in hosts} == before
    print(f"{executions(run) / len(hosts):.1f} module executions a device")
    assert 0 < executions(run) <= MOST_EXECUTIONS * len(hosts)


def test_what_changed_by_hand_is_named_and_mended_by_the_roles_concerned(fleet: Fleet, tmp_path: Path) -> None:
    hosts = fleet.hosts()
    before = {host: fleet.manifest(host) for host in hosts}
    drifted = next(iter(hosts))
    fleet.root(drifted, BY_HAND)
    report = ("--extra-vars", f"drift_report_path={tmp_path}")
    asked = fleet.playbook("playbooks/drift.yml", *report)
    assert asked.code == 2, asked.output[-4000:]
    assert not any(asked.changed.values())
    told = {host: json.loads((tmp_path / f"{host}.json").read_text()) for host in hosts}
    assert [host for host in hosts if told[host]["drifted"]] == [drifted]
    assert {each["entry"]: each["role"] for each in told[drifted]["differences"]} == TOUCHED
    for each in told[drifted]["differences"]:
        assert each["told"] in unwrapped(asked.output)
        assert each["since"] > told[drifted]["recorded_at"] or each["entry"].startswith(("unit", "user"))
    assert list(told[drifted]["roles"]) == [role for role in told[drifted]["roles"] if role in TOUCHED.values()]
    dry = fleet.playbook("playbooks/site.yml", "--check", "--limit", drifted)
    assert dry.code == 0, dry.output[-4000:]
    run = fleet.playbook("playbooks/site.yml")
    assert run.code == 0, run.output[-4000:]
    # A dry run asks all roles; those that have something to do say the same.
    assert run.changed[drifted] == dry.changed[drifted] > 0
    assert {host: fleet.manifest(host) for host in hosts} == before
    mended = fleet.playbook("playbooks/drift.yml", *report)
    assert mended.code == 0, mended.output[-4000:]


def test_other_inputs_are_for_the_roles_that_take_them(fleet: Fleet) -> None:
    run = fleet.playbook("playbooks/site.yml", "--extra-vars", "field_data_min_free=201M")
    assert run.code == 0, run.output[-4000:]
    began = set(re.findall(r"^ +(\w+): its inputs are other ones$", run.output, re.MULTILINE))
    assert "field_data" in began
    assert not {"identity", "swap", "camera", "raw1394", "mxnet_dependencies"} & began
    again = fleet.playbook("playbooks/site.yml", "--extra-vars", "field_data_min_free=201M")
    assert again.output.count("converged, ") == len(fleet.hosts())
    former = fleet.playbook("playbooks/site.yml")
    assert former.code == 0, former.output[-4000:]


def unwrapped(text: str) -> str:
    """Return what Ansible printed without the line breaks and quotes that it put into it."""
    return " ".join(text.split()).replace("''", "'")


def test_verify_finds_nothing_wrong_and_reports_as_json(fleet: Fleet, tmp_path: Path) -> None:
    run = fleet.playbook("playbooks/verify.yml", "--extra-vars", f"verify_report_path={tmp_path}")
    assert run.code == 0, run.output[-4000:]
    for host in fleet.hosts():
        report = json.loads((tmp_path / f"{host}.json").read_text())
        assert report["host"] == host
        assert len(report["checks"]) > 20
        assert all(row["ok"] for row in report["checks"])


def test_verify_changes_nothing_in_check_mode_either(fleet: Fleet) -> None:
    run = fleet.playbook("playbooks/verify.yml", "--check")
    assert run.code == 0, run.output[-4000:]
    assert not any(run.changed.values())


def test_the_built_collection_changes_nothing(fleet: Fleet, tmp_path: Path) -> None:
    """The artifact is the checkout: provisioned by the one, a device is as the other wants it."""
    artifact = build(tmp_path)
    install = [
        "ansible-galaxy",
        "collection",
        "install",
        "--offline",
        "--collections-path",
        str(tmp_path),
        str(artifact),
    ]
    subprocess.run(install, check=True, capture_output=True, cwd=tmp_path, env=fleet.environment())
    run = fleet.playbook(
        "edge.pi_fleet.site", cwd=tmp_path, ANSIBLE_COLLECTIONS_PATH=str(tmp_path), ANSIBLE_PIPELINING="true"
    )
    assert run.code == 0, run.output[-4000:]
    assert run.changed == dict.fromkeys(fleet.hosts(), 0)


def test_a_restart_brings_all_of_it_back(fleet: Fleet) -> None:
    hosts = fleet.hosts()
    before = {host: fleet.root(host, STARTED) for host in hosts}
    engine = "podman"
    for host in hosts:
        subprocess.run([engine, "restart", f"{os.environ['E2E_FLEET']}-{host}"], check=True, capture_output=True)
    for host in hosts:
        fleet.await_boot(host)
    run = fleet.playbook("playbooks/verify.yml", "--extra-vars", "verify_ask=true")
    assert run.code == 0, run.output[-4000:]
    assert {host: fleet.root(host, STARTED) for host in hosts} == before
