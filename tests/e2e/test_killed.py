"""A run killed anywhere is healed by the next: what stands afterwards equals what an unkilled run makes.

E2E_KILLS says how many random moments are tried beside the chosen ones; without any, just the first of these. The seed
is fixed, so a failure repeats.
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


# What roles say that they manage, and what Debian's packages and their scripts brought.
DECLARED = """
import json, subprocess
from pathlib import Path
record = json.loads(Path("/var/lib/pi-fleet/state.json").read_text())["content"]["roles"]
entries = [entry for role in record.values() for entry in role["entries"]]
declared = [entry.removeprefix("path ") for entry in entries if entry.startswith("path ")]
packaged = [line for name in Path("/var/lib/dpkg/info").glob("*.list") for line in name.read_text().splitlines()]
# Where /bin and /lib are links, packages name both ways.
packaged += [f"/usr{name}" for name in packaged]
packaged += [str(path) for path in Path("/etc/alternatives").iterdir()]
query = ["update-alternatives", "--get-selections"]
for line in subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines():
    packaged += [entry[1] for entry in [line.split()] if entry[2:] and entry[2].startswith("/")]
print(json.dumps([declared, packaged]))
"""
# Written beside what is declared: accounts and what starts at boot, which are declared as users, units and flags; what
# apt, dpkg and the scripts of packages keep; where systemd binds pictures for the Lambda; the memory of runs.
BESIDE = re.compile(
    r"/etc/(passwd|group|shadow|gshadow|subuid|subgid)$|/home/ggc_user/\.(profile|bashrc|bash_logout)$"
    r"|/boot/(firmware/)?cmdline\.txt$|/etc/rc[0-6S]\.d/|/etc/systemd/system/[^/]+\.wants(/|$)"
    r"|/var/lib/(dpkg|apt|pi-fleet)/|/raw_field_data$|/home/ggc_user/raw_field_data/"
)


@dataclass(frozen=True)
class Unkilled:
    """What a run that nobody kills makes of a device."""

    virgin: dict[str, str]
    made: dict[str, str]
    declared: set[str]
    """Paths that roles declare."""
    packaged: set[str]
    """Paths of packages."""


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
    return kills if RANDOM_KILLS else kills[:1]


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
def unkilled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Unkilled]:
    """What a run that nobody kills makes, by device; a dry run and verify.yml before it change nothing."""
    found = {}
    for fleet in virtual_pis(["bookworm", "trixie"], tmp_path_factory.mktemp("unkilled"), "unkilled"):
        virgin = {host: fleet.manifest(host) for host in fleet.hosts()}
        dry = fleet.playbook("playbooks/site.yml", "--check")
        assert dry.code == 0, dry.output[-4000:]
        unmade = fleet.playbook("playbooks/verify.yml")
        assert unmade.code != 0
        assert unmade.output.count("WRONG") > 10 * len(virgin)
        assert "Traceback" not in unmade.output
        assert {host: fleet.manifest(host) for host in virgin} == virgin
        run = fleet.playbook("playbooks/site.yml")
        assert run.code == 0, run.output[-4000:]
        for host, before in virgin.items():
            declared, packaged = json.loads(fleet.root(host, DECLARED))
            found[host] = Unkilled(before, fleet.manifest(host), set(declared), set(packaged))
    return found


def test_a_run_changes_nothing_that_no_role_declares(unkilled: dict[str, Unkilled]) -> None:
    """What is not declared is not looked at: a device could drift there, and site.yml would find nothing to do."""
    for host, run in unkilled.items():
        changed = {path for path in run.virgin.keys() | run.made if run.virgin.get(path) != run.made.get(path)}
        files = {path for path in changed if path.startswith("/")}
        above = {str(folder) for path in run.declared for folder in Path(path).parents}
        beside = {path for path in files if BESIDE.match(path)}
        undeclared = sorted(files - run.declared - run.packaged - above - beside)
        assert not undeclared, f"{host}: {' '.join(undeclared)}"
        assert len(files & run.declared) > 100


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
def test_a_killed_run_is_healed(device: Fleet, moment: Moment, unkilled: dict[str, Unkilled]) -> None:
    (host,) = device.hosts()
    kill(device, host, moment)
    healed = device.playbook("playbooks/site.yml")
    assert healed.code == 0, healed.output[-4000:]
    found, wanted = device.manifest(host), unkilled[host].made
    differing = {
        path: (found.get(path), wanted.get(path))
        for path in found.keys() | wanted
        if found.get(path) != wanted.get(path)
    }
    assert not differing
    assert not re.search(r"Traceback", healed.output)
    assert device.playbook("playbooks/verify.yml").code == 0
