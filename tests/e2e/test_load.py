"""A fleet of 50 and one control node: five devices fail, each in its own way, and the others do not wait for them.

E2E_DEVICES says how many there are.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.copies import Fleet, copies, run
from tests.e2e.conftest import PROJECT, Run, unwrapped, with_all_it_started
from tests.e2e.conftest import Fleet as Playbooks
from tests.e2e.test_device_state import HELD

PREFIX = os.environ.get("PI_FLEET_PREFIX", "molecule")
COUNT = int(os.environ.get("E2E_DEVICES", "50"))
MOST = 1.5
"""GiB of memory that a control node with 20 forks takes at most."""
OFF, STRANGER, BUSY, LOCKED_OUT, TAKEN = (f"pi-{number:02}" for number in (1, 2, 3, 4, 5))
# What each of them is told of.
WHY = {
    OFF: "Connection refused",
    STRANGER: "answers with a host key that is not the known one",
    BUSY: "apt is held by",
    LOCKED_OUT: "refuses the password that was given",
    TAKEN: "ada@elsewhere (process 1 there) provisions it since",
}
HOLD_APT = """systemd-run --quiet --unit=holder python3 -c '
import fcntl, time
lock = open("/var/lib/dpkg/lock-frontend", "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
time.sleep(3600)'
"""
IDENTITY = "cat /etc/machine-id /etc/ssh/*_ed25519_key.pub; grep -ho '[0-9a-f]\\{16,\\}' /etc/pi-fleet/private/*"
WIDTH = "grep -c '\"width\": 500' /etc/pi-fleet/camera.json"


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Copies of a provisioned device, each with an identity of its own."""
    with copies(f"{PREFIX}-load", "trixie", [COUNT]) as made:
        yield next(made)


def connected(folder: Path) -> set[int]:
    """Return the numbers of the processes that hold the connections whose sockets are in a folder."""
    found = set()
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(folder).encode() in command.read_bytes():
                found.add(int(command.parent.name))
    return found


def memory(pid: int, connections: Path) -> float:
    """Return the GiB that a run takes with all that it started, what they share counted once."""
    total = 0
    for each in with_all_it_started(pid) | connected(connections):
        with suppress(OSError, AttributeError):
            found = re.search(r"^Pss: +(\d+)", Path(f"/proc/{each}/smaps_rollup").read_text(), re.MULTILINE)
            total += int(found[1]) if found else 0
    return total / 2**20


def converge(fleet: Fleet) -> tuple[Run, float]:
    """Have all take another width of pictures; return the run, and the most memory that it took."""
    playbooks = Playbooks(str(fleet.folder / "inventory"))
    # By connections of its own, none of which stands yet: host keys are compared when one is made.
    connections = fleet.folder / "own"
    process = playbooks.start(
        "playbooks/site.yml",
        *("--extra-vars", "camera_width=500"),
        ANSIBLE_SSH_CONTROL_PATH_DIR=str(connections),
    )
    most = 0.0

    def watch() -> None:
        nonlocal most
        while process.poll() is None:
            most = max(most, memory(process.pid, connections))
            time.sleep(1)

    watching = threading.Thread(target=watch)
    watching.start()
    output = process.communicate()[0]
    watching.join()
    return Run(process.returncode, output), most


def test_no_copy_is_another(fleet: Fleet) -> None:
    seen: dict[int, str] = {}
    for name in fleet.names:
        # Not the lines: a test that fails shows what it compares.
        own = {hash(line) for line in fleet.root(name, IDENTITY).splitlines()}
        assert len(own) >= 5, name
        assert not own & seen.keys(), (name, {seen[each] for each in own & seen.keys()})
        seen |= dict.fromkeys(own, name)


def test_the_others_converge_and_each_failure_is_named_with_how_to_try_again(fleet: Fleet) -> None:
    container = f"{fleet.label}-{OFF}"
    variables = fleet.folder / "inventory" / "host_vars"
    variables.mkdir()
    (variables / f"{BUSY}.yml").write_text("preflight_apt_timeout: 5\n")
    (variables / f"{LOCKED_OUT}.yml").write_text("ansible_become_password: wrong\n")
    known = fleet.folder / "known_hosts"
    keys = known.read_text()
    fleet.root(BUSY, HOLD_APT)
    fleet.root(TAKEN, f"python3 - <<'END'\n{HELD}\nEND")
    # In the order of the names, after a comment.
    _, strangers, others, *_ = (line.split()[-1] for line in keys.splitlines() if line.startswith("["))
    known.write_text(keys.replace(strangers, others))
    run("podman", "stop", "--time", "0", container)
    begun = time.monotonic()
    done, most = converge(fleet)
    print(f"{COUNT} devices, {len(WHY)} of them failing: {time.monotonic() - begun:.0f} s, {most:.2f} GiB at most")
    assert done.code != 0
    said = unwrapped(done.output.partition("LEFT OVER")[2])
    assert {name for name in fleet.names if name in said.replace("\\n", " ")} == set(WHY), said
    for name, why in WHY.items():
        assert why in said, (name, said)
    well = [name for name in fleet.names if name not in WHY]
    assert {name: done.changed[name] > 0 for name in well} == dict.fromkeys(well, True)
    for name in well:
        assert fleet.root(name, WIDTH).strip() == "1"
    assert most < MOST

    known.write_text(keys)
    (variables / f"{BUSY}.yml").unlink()
    (variables / f"{LOCKED_OUT}.yml").unlink()
    fleet.root(BUSY, "systemctl stop holder")
    fleet.root(TAKEN, "rm /var/lib/pi-fleet/run.json")
    run("podman", "start", container)
    Playbooks(str(fleet.folder / "inventory")).await_boot(OFF)
    for command in re.findall(r"try just (?:it|them) again: (ansible-playbook .*)", done.output):
        again = [*shlex.split(command), "--extra-vars", "camera_width=500"]
        tried = subprocess.run(again, cwd=PROJECT, capture_output=True, text=True, check=False)
        assert tried.returncode == 0, tried.stdout[-4000:]
    for name in WHY:
        assert fleet.root(name, WIDTH).strip() == "1"
