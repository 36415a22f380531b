"""A run killed anywhere is healed by the next: what stands afterwards equals what an unkilled run makes.

E2E_KILLS says how many random moments are tried beside the chosen ones. The seed is fixed, so a failure repeats.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import PROJECT, Fleet, kill_all

SEED = 20261007
RANDOM_KILLS = int(os.environ.get("E2E_KILLS", "0"))
# The image of the scenarios, with what takes minutes to install in it.
SHARED = yaml.safe_load((PROJECT / ".config" / "molecule" / "config.yml").read_text())["provisioner"]["inventory"]
SETTINGS = {
    "ansible_python_interpreter": "/usr/bin/python3",
    "camera_source": "directory",
    "camera_directory": f"{PROJECT}/files/photos",
    "image_classifier_model": f"{PROJECT}/.cache/models/demonstration/model.onnx",
    "collect_key": f"{PROJECT}/.cache/molecule/killed/collect",
    "rollout_batches": ["100%"],
}
# What the power would take with it, device and control node alike: it waits for its moment, and says what it killed.
POWER = """
import json, os, signal, time
from pathlib import Path
def running():
    found = {{}}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            found[int(pid)] = Path(f"/proc/{{pid}}/comm").read_text().strip()
        except OSError:
            pass
    return found
deadline = time.monotonic() + 300
while not ({when}):
    if time.monotonic() > deadline:
        raise SystemExit("the moment did not come")
    time.sleep(0.005)
killed = []
for pid, name in running().items():
    if name in ("apt-get", "dpkg", "python3") and pid != os.getpid():
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            continue
        killed.append(name)
print(json.dumps(killed))
"""


@dataclass(frozen=True)
class Moment:
    """When to kill: where something is true on the device, or so long after roles begin."""

    when: str = "True"
    seconds: float = 0
    victim: str = ""
    """Which process is killed then, among others."""


def chosen_and_random() -> list[tuple[str, str, Moment]]:
    """Return kills as name, release and moment."""
    chance = random.Random(SEED)
    incoming = 'list(Path("/opt/pi-fleet/lambda/beverage_classifier/releases").glob(".incoming-*"))'
    kills = [
        ("apt", "bookworm", Moment('"apt-get" in running().values()', victim="apt-get")),
        ("swap", "trixie", Moment('Path("/var/lib/pi-fleet/swap.json").exists()', victim="python3")),
        ("release", "bookworm", Moment(incoming, victim="python3")),
    ]
    for number in range(RANDOM_KILLS):
        release = ("trixie", "bookworm")[number % 2]
        kills.append((f"random-{number}", release, Moment(seconds=chance.uniform(0, 18))))
    return kills


@pytest.fixture
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    """A fresh virtual Pi of a release, removed afterwards."""
    yield from virtual_pis([request.param], tmp_path, "killed")


def virtual_pis(releases: list[str], folder: Path, name: str) -> Iterator[Fleet]:
    inventory = folder / "inventory"
    inventory.mkdir()
    shared = SHARED["group_vars"]["devices"]
    hosts = {
        f"pi-{release}": {
            "virtual_pi_release": release,
            "virtual_pi_packages": [*shared["molecule_packages"], *shared["molecule_packages_of_release"][release]],
        }
        for release in releases
    }
    (inventory / "hosts.yml").write_text(yaml.safe_dump({"devices": {"hosts": hosts, "vars": SETTINGS}}))
    prefix = os.environ.get("PI_FLEET_PREFIX", "molecule")
    extra = (f"virtual_pi_fleet={prefix}-{name}", f"virtual_pi_directory={folder}")
    maker = Fleet(str(inventory), extra=[word for text in extra for word in ("--extra-vars", text)])
    made = maker.playbook("playbooks/virtual_fleet.yml")
    assert made.code == 0, made.output[-4000:]
    yield Fleet(str(inventory))
    maker.playbook("playbooks/virtual_fleet.yml", "--extra-vars", "virtual_fleet=none")


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What a run that nobody kills makes, by device."""
    found = {}
    for fleet in virtual_pis(["bookworm", "trixie"], tmp_path_factory.mktemp("unkilled"), "unkilled"):
        run = fleet.playbook("playbooks/site.yml")
        assert run.code == 0, run.output[-4000:]
        found = {host: fleet.manifest(host) for host in fleet.hosts()}
    return found


def kill(fleet: Fleet, host: str, moment: Moment) -> None:
    """Start site.yml, and kill it and what it started at the moment."""
    process = fleet.start("playbooks/site.yml", PYTHONUNBUFFERED="1")
    assert process.stdout
    if moment.seconds:
        assert any("PLAY [Provision" in line for line in process.stdout)
        time.sleep(moment.seconds)
    killed = json.loads(fleet.root(host, POWER.format(when=moment.when)))
    printed = kill_all(process)
    assert "PLAY RECAP" not in printed, "the run was over before it was killed: choose an earlier moment"
    assert not moment.victim or moment.victim in killed, killed
    said = [line for line in printed.splitlines() if line.startswith("TASK")]
    print(f"killed with {killed}, after {said[-1:]}")


@pytest.mark.parametrize(
    ("device", "moment"),
    [pytest.param(release, moment, id=f"{name}-{release}") for name, release, moment in chosen_and_random()],
    indirect=["device"],
)
def test_a_killed_run_is_healed(device: Fleet, moment: Moment, unkilled: dict[str, dict[str, str]]) -> None:
    (host,) = device.hosts()
    kill(device, host, moment)
    healed = device.playbook("playbooks/site.yml")
    assert healed.code == 0, healed.output[-4000:]
    found, wanted = device.manifest(host), unkilled[host]
    differing = {
        path: (found.get(path), wanted.get(path))
        for path in found.keys() | wanted
        if found.get(path) != wanted.get(path)
    }
    assert not differing
    assert not re.search(r"Traceback", healed.output)
    assert device.playbook("playbooks/verify.yml").code == 0
