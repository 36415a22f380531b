"""A device is one run's at a time, and no longer than that run is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edge.pi_fleet.plugins.module_utils import run_lock
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device

ADA: dict[str, Any] = {"node": "office", "pid": 11, "started": "1", "who": "ada@office"}
BOB: dict[str, Any] = {"node": "home", "pid": 22, "started": "2", "who": "bob@home"}
CONNECTION = 4711


class Pi:
    """A device in a folder, asked over SSH."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.device = Device(lambda argv: (1, "", ""), root)
        self.write("sys/kernel/random/boot_id", "boot\n")
        (root / "proc/self/ns").mkdir(parents=True)
        (root / "proc/self/ns/pid").symlink_to("pid:[1]")
        self.start(os.getpid(), "python3", 4712)
        self.start(4712, "sudo", CONNECTION)
        self.start(CONNECTION, "sshd-session", 1)

    def write(self, name: str, text: str) -> None:
        path = self.root / "proc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def start(self, pid: int, name: str, parent: int, at: str = "77") -> None:
        self.write(f"{pid}/stat", f"{pid} ({name}) S {parent} {' '.join('0' * 17)} {at} 0\n")


@pytest.fixture
def pi(tmp_path: Path) -> Pi:
    return Pi(tmp_path)


def test_the_first_takes_it_and_the_second_learns_whose_it_is(pi: Pi) -> None:
    assert run_lock.take(pi.device, ADA) is None
    found = run_lock.take(pi.device, BOB)
    assert found is not None
    assert run_lock.sentence(found).startswith(
        f"ada@office (process 11 there) provisions it since {found['since']}; wait"
    )
    assert run_lock.take(pi.device, ADA) is None
    run_lock.release(pi.device, BOB)
    assert run_lock.holder(pi.device, BOB) is not None
    run_lock.release(pi.device, ADA)
    assert run_lock.take(pi.device, BOB) is None
    assert (pi.root / run_lock.PATH.lstrip("/")).stat().st_mode & 0o777 == 0o600


def test_looking_takes_nothing(pi: Pi) -> None:
    assert run_lock.holder(pi.device, ADA) is None
    assert run_lock.take(pi.device, BOB) is None


def test_a_run_whose_connection_is_closed_holds_nothing_up(pi: Pi) -> None:
    run_lock.take(pi.device, ADA)
    pi.start(CONNECTION, "sshd-session", 1, at="99")
    assert run_lock.take(pi.device, BOB) is None


def test_nor_does_one_that_is_known_to_have_ended(pi: Pi) -> None:
    run_lock.take(pi.device, ADA)
    assert run_lock.take(pi.device, BOB, ended={**ADA, "started": "earlier"}) is not None
    assert run_lock.take(pi.device, BOB, ended=ADA) is None


def test_a_device_that_provisions_itself_holds_it_as_long_as_that_takes(pi: Pi) -> None:
    own = {**ADA, "node": run_lock.node(pi.root), "pid": 500, "started": "5"}
    pi.start(500, "ansible-playbook", 1, at="5")
    run_lock.take(pi.device, own)
    assert run_lock.holder(pi.device, BOB) is not None
    (pi.root / "proc/500/stat").unlink()
    assert run_lock.holder(pi.device, BOB) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"node": 1}', '{"by": [1]}'])
def test_a_note_that_makes_no_sense_is_none(pi: Pi, text: str) -> None:
    run_lock.take(pi.device, ADA)
    (pi.root / run_lock.PATH.lstrip("/")).write_text(text)
    assert run_lock.take(pi.device, BOB) is None


def test_without_a_connection_that_can_be_watched_nothing_is_held(pi: Pi) -> None:
    pi.start(CONNECTION, "conmon", 1)
    run_lock.take(pi.device, ADA)
    assert run_lock.take(pi.device, BOB) is None
