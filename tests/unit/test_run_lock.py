"""A device is one run's at a time, and no longer than that run is there."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edge.pi_fleet.plugins.module_utils import run_lock
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, utc

ADA: dict[str, Any] = {"machine": "office", "boot": "a", "pid": 11, "started": "1", "who": "ada@office"}
BOB: dict[str, Any] = {"machine": "home", "boot": "b", "pid": 22, "started": "2", "who": "bob@home"}
CONNECTION = 4711
MODULE = 4800


class Pi:
    """A device in a folder, asked over SSH."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.device = Device(lambda argv: (1, "", ""), root)
        self.write("sys/kernel/random/boot_id", "boot\n")
        (root / "etc").mkdir()
        (root / "etc/machine-id").write_text("0123456789abcdef" * 2 + "\n")
        (root / "proc/self/ns").mkdir(parents=True)
        (root / "proc/self/ns/pid").symlink_to("pid:[1]")
        self.start(os.getpid(), "python3", 4712)
        self.start(4712, "sudo", CONNECTION)
        self.start(CONNECTION, "sshd-session", 1)

    def write(self, name: str, text: str) -> None:
        path = self.root / "proc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def start(self, pid: int, name: str, parent: int, at: str = "77", state: str = "S") -> None:
        self.write(f"{pid}/stat", f"{pid} ({name}) {state} {parent} {' '.join('0' * 17)} {at} 0\n")

    def end(self, pid: int) -> None:
        (self.root / f"proc/{pid}/stat").unlink()

    def pass_time(self, seconds: float) -> None:
        path = self.root / run_lock.PATH.lstrip("/")
        note = json.loads(path.read_text())
        path.write_text(json.dumps({**note, **dict.fromkeys(("since", "seen"), utc(time.time() - seconds))}))


@pytest.fixture
def pi(tmp_path: Path) -> Pi:
    return Pi(tmp_path)


def test_the_first_takes_it_and_the_second_learns_whose_it_is(pi: Pi) -> None:
    assert run_lock.take(pi.device, ADA) is None
    found = run_lock.take(pi.device, BOB)
    assert found is not None
    assert run_lock.sentence(found).startswith(
        f"ada@office (process 11 there) provisions it since {found['since']}: wait"
    )
    assert run_lock.take(pi.device, ADA) is None
    run_lock.release(pi.device, BOB)
    assert run_lock.holder(pi.device, BOB) is not None
    run_lock.release(pi.device, ADA)
    assert run_lock.take(pi.device, BOB) is None
    for name in (run_lock.PATH, f"{run_lock.PATH}.lock"):
        assert (pi.root / name.lstrip("/")).stat().st_mode & 0o777 == 0o600


def test_looking_takes_nothing(pi: Pi) -> None:
    assert run_lock.holder(pi.device, ADA) is None
    assert run_lock.take(pi.device, BOB) is None


@pytest.mark.parametrize("gone", [True, False], ids=["closed", "another one with its number"])
def test_a_run_of_elsewhere_counts_as_long_as_its_connection_and_a_quarter_of_an_hour(pi: Pi, gone: bool) -> None:
    run_lock.take(pi.device, ADA)
    pi.pass_time(3600)
    assert run_lock.holder(pi.device, BOB) is not None
    if gone:
        pi.end(CONNECTION)
    else:
        pi.start(CONNECTION, "sshd-session", 1, at="99")
    pi.pass_time(run_lock.LEASE - 60)
    assert run_lock.holder(pi.device, BOB) is not None
    # A clock that was set back does not hold anybody up for years.
    pi.pass_time(-(run_lock.LEASE + 60))
    assert run_lock.holder(pi.device, BOB) is None
    pi.pass_time(run_lock.LEASE + 60)
    assert run_lock.take(pi.device, BOB) is None


def test_a_run_that_has_rebooted_the_device_goes_on_by_the_connection_that_there_is_then(pi: Pi) -> None:
    run_lock.take(pi.device, ADA)
    pi.pass_time(1200)
    before = run_lock.holder(pi.device, BOB)
    assert before is not None
    pi.end(CONNECTION)
    assert run_lock.holder(pi.device, BOB) is None
    run_lock.keep(pi.device, BOB)
    assert run_lock.holder(pi.device, BOB) is None
    pi.start(4712, "sudo", CONNECTION + 1)
    pi.start(CONNECTION + 1, "sshd-session", 1)
    run_lock.keep(pi.device, ADA)
    found = run_lock.holder(pi.device, BOB)
    assert found is not None
    # It is no younger for that.
    assert found["since"] == before["since"] < found["seen"]
    pi.pass_time(1200)
    assert run_lock.holder(pi.device, BOB) is not None
    pi.end(CONNECTION + 1)
    assert run_lock.holder(pi.device, BOB) is None


def test_nobodys_device_stays_nobodys(pi: Pi) -> None:
    run_lock.keep(pi.device, ADA)
    assert run_lock.holder(pi.device, BOB) is None


def test_a_run_of_the_same_control_node_counts_until_it_is_known_to_have_ended(pi: Pi) -> None:
    later = {**ADA, "pid": 12}
    run_lock.take(pi.device, ADA)
    pi.pass_time(36000)
    pi.start(CONNECTION, "sshd-session", 1, at="99")
    assert run_lock.holder(pi.device, later) is not None
    assert run_lock.take(pi.device, later, ended={**ADA, "started": "earlier"}) is not None
    assert run_lock.take(pi.device, later, ended=ADA) is None


def test_what_a_killed_run_has_started_is_waited_for(pi: Pi, monkeypatch: pytest.MonkeyPatch) -> None:
    run_lock.take(pi.device, ADA)
    pi.start(MODULE, "sudo", CONNECTION)
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(time, "monotonic", lambda: 20.0 * len(slept))
    assert run_lock.holder(pi.device, BOB, ended=ADA) is not None
    assert len(slept) == 4
    monkeypatch.setattr(time, "sleep", lambda seconds: pi.end(MODULE))
    assert run_lock.take(pi.device, BOB, ended=ADA) is None


def test_a_device_that_provisions_itself_holds_it_as_long_as_that_takes(pi: Pi) -> None:
    own = {**ADA, **run_lock.this_node(pi.root), "pid": 500, "started": "5"}
    pi.start(500, "ansible-playbook", 1, at="5")
    run_lock.take(pi.device, own)
    pi.pass_time(36000)
    assert run_lock.holder(pi.device, BOB) is not None
    # It has ended, and nobody has asked how.
    pi.start(500, "ansible-playbook", 1, at="5", state="Z")
    assert run_lock.holder(pi.device, BOB) is None
    pi.start(500, "ansible-playbook", 1, at="5")
    pi.write("sys/kernel/random/boot_id", "another\n")
    assert run_lock.holder(pi.device, BOB) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"machine": 1}', '{"since": "today"}'])
def test_a_note_that_makes_no_sense_is_none(pi: Pi, text: str) -> None:
    run_lock.take(pi.device, ADA)
    (pi.root / run_lock.PATH.lstrip("/")).write_text(text)
    assert run_lock.take(pi.device, BOB) is None


def test_a_run_is_known_to_have_ended_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {**ADA, **run_lock.this_node(), "pid": os.getpid()}
    found = run_lock.process(os.getpid())
    assert found
    assert not run_lock.has_ended({**here, "started": found.started})
    assert run_lock.has_ended({**here, "started": "earlier"})
    assert run_lock.has_ended({**here, "started": found.started, "boot": "before"})
    assert not run_lock.has_ended(ADA)
    # macOS has no /proc.
    assert not run_lock.has_ended({**here, "started": ""})
    assert run_lock.has_ended({**here, "started": "", "pid": 2**22 + 1})

    def others(_pid: int, _signal: int) -> None:
        raise PermissionError

    # Somebody else's process, which /proc may hide.
    monkeypatch.setattr(os, "kill", others)
    assert not run_lock.has_ended({**here, "started": "earlier", "pid": 2**22 + 1})


@pytest.mark.parametrize("text", ["", "uninitialized\n", "pi\n"])
def test_a_machine_without_a_number_goes_by_its_name(pi: Pi, text: str) -> None:
    (pi.root / "etc/machine-id").write_text(text)
    assert run_lock.this_node(pi.root) == {"machine": f"{os.uname().nodename} pid:[1]", "boot": "boot"}
