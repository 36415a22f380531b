"""A provisioned fleet: what a second run, a restart, the built collection and a killed run do to it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import yaml

from tests.e2e.conftest import PROJECT, Fleet, Run
from tests.e2e.test_killed import Moment, kill
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

# The units of the processes that have the folder where the article's code looks for it.
SEES_FIELD_DATA = """
from pathlib import Path
found = set()
for process in Path("/proc").glob("[0-9]*"):
    try:
        if " /raw_field_data " in (process / "mountinfo").read_text():
            found.add((process / "cgroup").read_text().split("/")[-1].strip())
    except OSError:
        pass
print(*sorted(found))
"""

# Without these OpenCV goes too: a run that puts them back is in apt for a while.
REMOVE = """
import subprocess
remove = ["apt-get", "remove", "--yes", "liblapack3", "mosquitto-clients"]
subprocess.run(remove, check=True, capture_output=True)
"""


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
    assert all(int(things) > 200 for things, _ in found)
    assert {host: (fleet.manifest(host), fleet.root(host, UNITS)) for host in hosts} == before


def test_verify_finds_nothing_wrong_changes_nothing_and_reports_as_json(fleet: Fleet, tmp_path: Path) -> None:
    before = {host: (fleet.manifest(host), fleet.root(host, UNITS)) for host in fleet.hosts()}
    run = fleet.playbook("playbooks/verify.yml", "--extra-vars", f"verify_report_path={tmp_path}")
    assert run.code == 0, run.output[-4000:]
    for host in fleet.hosts():
        report = json.loads((tmp_path / f"{host}.json").read_text())
        assert report["host"] == host
        assert len(report["checks"]) > 20
        assert all(row["ok"] for row in report["checks"])
    assert {host: (fleet.manifest(host), fleet.root(host, UNITS)) for host in fleet.hosts()} == before


def test_the_folder_of_field_data_is_at_the_root_of_its_lambda_alone(fleet: Fleet) -> None:
    for host in fleet.hosts():
        assert fleet.root(host, SEES_FIELD_DATA).split() == ["lambda@beverage_classifier.service"]


def test_verify_works_in_check_mode_and_in_any_order(fleet: Fleet) -> None:
    roles = yaml.safe_load((PROJECT / "roles/verify/defaults/main.yml").read_text())["verify_roles"]
    run = fleet.playbook(
        "playbooks/verify.yml", "--check", "--extra-vars", json.dumps({"verify_roles": list(reversed(roles))})
    )
    assert run.code == 0, run.output[-4000:]
    assert not any(run.changed.values())


def test_a_second_run_of_all_roles_by_the_built_collection_changes_nothing_and_stays_small(
    fleet: Fleet, tmp_path: Path
) -> None:
    """The artifact is the checkout: provisioned by the one, a device is as the other wants it."""
    hosts = fleet.hosts()
    before = {host: (fleet.manifest(host), fleet.root(host, UNITS)) for host in hosts}
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
        "edge.pi_fleet.site",
        *("-vvv", "--extra-vars", "full=true"),
        cwd=tmp_path,
        ANSIBLE_COLLECTIONS_PATH=str(tmp_path),
        ANSIBLE_PIPELINING="true",
    )
    assert run.code == 0, run.output[-4000:]
    assert run.changed == dict.fromkeys(hosts, 0)
    assert {host: (fleet.manifest(host), fleet.root(host, UNITS)) for host in hosts} == before
    print(f"{executions(run) / len(hosts):.1f} module executions a device")
    assert 0 < executions(run) <= MOST_EXECUTIONS * len(hosts)


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
    drift = fleet.playbook("playbooks/drift.yml")
    assert drift.code == 0, drift.output[-4000:]


def test_a_run_killed_inside_apt_is_healed(fleet: Fleet) -> None:
    host = next(iter(fleet.hosts()))
    before = fleet.manifest(host)
    fleet.root(host, REMOVE)
    assert fleet.manifest(host) != before
    kill(fleet, host, Moment('"apt-get" in running().values()', victim="apt-get"))
    healed = fleet.playbook("playbooks/site.yml")
    assert healed.code == 0, healed.output[-4000:]
    assert fleet.manifest(host) == before
