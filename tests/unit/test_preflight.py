"""What stops a run before it touches a device, and the sentences that say so."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.testing import patch_module_args
from ansible_collections.edge.pi_fleet.plugins.action import preflight as action
from ansible_collections.edge.pi_fleet.plugins.module_utils import preflight
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device
from ansible_collections.edge.pi_fleet.plugins.module_utils.preflight import APT_LOCKS, QUESTION, Answer, Holder
from ansible_collections.edge.pi_fleet.plugins.modules import preflight as module
from fake_action import make
from fake_device import FakeDevice
from hypothesis import example, given, settings
from hypothesis import strategies as st

NOW = 1_760_000_000
SENTENCE = re.compile(r"[A-Z][^\n]*: [^\n]+\.")


def said(**changes: str) -> str:
    """What a Pi 4 under Bookworm answers, but for some lines."""
    lines = {
        "release": "bookworm",
        "architecture": "arm64",
        "machine": "aarch64",
        "armv6": "0",
        "python": "3.11",
        "offline": "",
        "left": "3000",
        "written": "yes",
        "clock": str(NOW),
    }
    return "".join(f"{key}={value}\n" for key, value in {**lines, **changes}.items())


BUSTER = said(release="buster", architecture="armhf", machine="armv7l", python="3.7")
ZERO = said(architecture="armhf", machine="armv6l", armv6="1")
HALF = said(architecture="armhf")


def refused(text: str, asked: float = NOW, answered: float = NOW) -> list[str]:
    return preflight.refusals(Answer.parse(text), asked, answered)


def test_what_a_device_answers() -> None:
    assert Answer.parse(BUSTER) == Answer("buster", "armhf", "armv7l", False, "3.7", "", 3000, True, NOW)
    assert Answer.parse(ZERO).armv6
    assert Answer.parse(said(armv6="", machine="armv6l")).armv6
    assert not Answer.parse(said(armv6="")).armv6


def test_a_greeting_and_the_line_ends_of_a_terminal_do_no_harm() -> None:
    greeting = "Linux raspberrypi 6.1.21-v8+ #1642 SMP PREEMPT\r\nHave fun = work\r\n\r\n"
    assert Answer.parse(greeting + said().replace("\n", "\r\n")) == Answer.parse(said())


@settings(deadline=None)
@given(st.text())
@example("²")
def test_any_answer_is_judged(text: str) -> None:
    assert all(SENTENCE.fullmatch(sentence) for sentence in refused(text))
    assert all(SENTENCE.fullmatch(sentence) for sentence in refused(f"clock={text}"))


def test_this_machine_answers_the_question() -> None:
    output = subprocess.run(["sh", "-c", QUESTION], capture_output=True, text=True, check=True).stdout
    answer = Answer.parse(output)
    assert answer.architecture in preflight.ARCHITECTURES
    assert answer.release
    assert answer.clock > 1_700_000_000
    assert answer.left > 0
    assert answer.writable
    assert re.fullmatch(r"3\.\d+", answer.python)


@pytest.mark.parametrize(
    "text",
    [
        said(),
        said(release="trixie", python="3.13"),
        said(architecture="armhf", machine="armv7l"),
        said(architecture="amd64", machine="x86_64"),
        HALF,
    ],
)
def test_what_is_supported_passes(text: str) -> None:
    assert refused(text) == []


@pytest.mark.parametrize(
    ("text", "found", "next_step"),
    [
        (BUSTER, "The device runs buster;", "flash a current Raspberry Pi OS."),
        (said(release=""), "The device runs an unknown system;", "flash a current Raspberry Pi OS."),
        (ZERO, "processor is ARMv6 (armv6l)", "use a Pi Zero 2, Pi 2 or newer."),
        (said(architecture="armel", machine="armv6l"), "processor is ARMv6 (armv6l)", "newer."),
        (said(architecture="armel"), "userland is armel;", "flash a 32-bit or 64-bit Raspberry Pi OS."),
        (said(architecture=""), "userland is unknown;", "flash a 32-bit or 64-bit Raspberry Pi OS."),
        (said(python=""), "no python3", "install it with 'sudo apt install python3'."),
        (said(written=""), "card is read-only", "write a new card if that does not last."),
        (said(written="", left="0"), "card is read-only", "write a new card if that does not last."),
        (said(left="31"), "card is full (31 MiB left on /", "collect field data and remove it there."),
    ],
)
def test_one_sentence_a_fault(text: str, found: str, next_step: str) -> None:
    (sentence,) = refused(text)
    assert SENTENCE.fullmatch(sentence)
    assert found in sentence
    assert sentence.endswith(next_step)


def test_all_faults_are_told_at_once() -> None:
    everything = said(release="buster", machine="armv6l", python="", clock="0")
    assert len(refused(everything)) == 4


@pytest.mark.parametrize("wait", [0, 45])
@pytest.mark.parametrize(
    ("off", "told"),
    [
        (0, None),
        (-60, None),
        (60, None),
        (-61, "61 seconds behind"),
        (61, "61 seconds ahead of"),
        (-119, "119 seconds behind"),
        (-120, "2 minutes behind"),
        (2 * 3600, "2 hours ahead of"),
        (-30 * 86400, "30 days behind"),
    ],
)
def test_a_clock_may_be_off_by_a_minute(off: int, told: str | None, wait: int) -> None:
    """A device that took its time to answer may have read its clock at any moment of the wait."""
    at_the_edge = NOW + off + (wait if off > 0 else 0)
    sentences = refused(said(clock=str(at_the_edge)), NOW, NOW + wait)
    if told is None:
        assert sentences == []
        return
    (sentence,) = sentences
    assert SENTENCE.fullmatch(sentence)
    assert sentence.startswith(f"The device's clock is {told} the control node's")
    assert f"run 'sudo date -u -s @{NOW + wait}' on the device" in sentence


@contextmanager
def holding(path: Path, exclusive: bool = True) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a lock as apt does: fcntl, not flock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o640)
    kind = "LOCK_EX" if exclusive else "LOCK_SH"
    program = f"import fcntl; f = open({str(path)!r}, 'r+'); fcntl.lockf(f, fcntl.{kind}); print('held'); input()"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == "held\n"
        yield child
        child.stdin.write("\n")


@pytest.mark.parametrize(
    "lock",
    [
        "/var/lib/dpkg/lock-frontend",
        "/var/lib/dpkg/lock",
        "/var/lib/apt/lists/lock",
        "/var/cache/apt/archives/lock",
    ],
)
@pytest.mark.parametrize("exclusive", [True, False])
def test_who_holds_apt_is_found_by_the_lock(tmp_path: Path, lock: str, exclusive: bool) -> None:
    device = FakeDevice(tmp_path).device()
    assert preflight.apt_holder(device) is None
    for name in APT_LOCKS:
        (tmp_path / name.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name.lstrip("/")).touch()
    assert preflight.apt_holder(device) is None
    with holding(device.path(lock), exclusive) as child:
        holder = preflight.apt_holder(device)
        assert holder is not None
        assert holder.pid == child.pid
        assert holder.command == Path(f"/proc/{child.pid}/comm").read_text().strip()
        # Looking takes no lock away and leaves none.
        assert preflight.apt_holder(device) == holder
    assert preflight.apt_holder(device) is None


def test_a_holder_that_is_gone_has_no_name() -> None:
    assert preflight._command(2**22 + 1) == "somebody"


def test_apt_is_waited_for() -> None:
    held: list[Holder | None] = [Holder(7, "apt-get"), Holder(7, "apt-get"), None]
    slept: list[float] = []
    assert preflight.wait_for_apt(lambda: held.pop(0), 300, slept.append) is None
    assert slept == [2, 2]


@pytest.mark.parametrize(("limit", "slept"), [(0, 0), (5, 3), (6, 3)])
def test_who_holds_apt_for_too_long_is_named(limit: int, slept: int) -> None:
    pauses: list[float] = []
    sentence = preflight.wait_for_apt(lambda: Holder(812, "unattended-upgr"), limit, pauses.append)
    assert len(pauses) == slept
    assert sentence is not None
    assert SENTENCE.fullmatch(f"A{sentence[1:]}")
    assert sentence.startswith(f"apt is held by unattended-upgr (process 812) after {2 * slept} s of waiting;")
    assert sentence.endswith("or raise preflight_apt_timeout.")


def test_a_real_holder_is_waited_for_and_named(tmp_path: Path) -> None:
    device = FakeDevice(tmp_path).device()
    with holding(device.path(APT_LOCKS[0])) as child:
        sentence = preflight.wait_for_apt(lambda: preflight.apt_holder(device), 2, lambda seconds: None)
    assert sentence is not None
    assert f"(process {child.pid})" in sentence


def test_a_full_disk() -> None:
    assert preflight.disk_refusal(100, 100, "to work") is None
    sentence = preflight.disk_refusal(99, 100, "to work")
    assert sentence is not None
    assert SENTENCE.fullmatch(sentence)
    assert sentence.startswith("The device has 99 MiB free on / and needs 100 MiB to work: collect its field data")


def guarded(root: Path, free: int, limit: str) -> str | None:
    """Ask whether a device with that many MiB free has what its guard of field data keeps free."""
    fake = FakeDevice(root)
    fake.free = free * 1024**2
    return preflight.guard_refusal(fake.device(), limit)


def test_a_card_on_which_the_guard_would_stop_what_a_run_starts(tmp_path: Path) -> None:
    """It was restarted by the run and stopped again, and no sentence told of the card."""
    assert guarded(tmp_path, 500, "500M") is None
    assert guarded(tmp_path, 1024, "1G") is None
    sentence = guarded(tmp_path, 499, "500M")
    assert sentence is not None
    assert SENTENCE.fullmatch(sentence)
    assert sentence.startswith(
        "The device has 499 MiB free for /home/ggc_user/raw_field_data and field_data_min_free is 500M, below which"
    )
    # More than most cards have in all.
    assert guarded(tmp_path, 14_000, "500G")


def test_a_share_of_the_card_is_one_of_its_size(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    half = found.f_blocks * found.f_frsize // 2 // 1024**2
    assert guarded(tmp_path, half + 1, "50%") is None
    assert guarded(tmp_path, half - 1, "50%")


@pytest.mark.parametrize("limit", ["", "some", "0M", "500", "100%"])
def test_what_is_no_limit_is_for_the_role_to_refuse(tmp_path: Path, limit: str) -> None:
    assert guarded(tmp_path, 0, limit) is None


@pytest.mark.parametrize(("given", "limit"), [({}, "500M"), ({"field_data_min_free": "2G"}, "2G")])
def test_a_device_is_asked_for_the_limit_that_the_run_brings(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], limit: str
) -> None:
    clock(monkeypatch, NOW)
    plugin = make(action.ActionModule, {}, reply(stdout=said()), {"changed": False})
    plugin.run(task_vars=given)
    assert plugin._execute_module.call_args.kwargs["module_args"]["field_data_min_free"] == limit


@pytest.mark.parametrize(
    "name", ["mirror_dists_trixie_main_binary-armhf_Packages", "mirror_main_binary-arm64_Packages.lz4"]
)
def test_a_dry_run_needs_package_lists(tmp_path: Path, name: str) -> None:
    device = FakeDevice(tmp_path).device()
    lists = tmp_path / "var/lib/apt/lists"
    assert "run 'sudo apt-get update' on the device first" in str(preflight.lists_refusal(device))
    (lists / "partial").mkdir(parents=True)
    (lists / "lock").touch()
    assert preflight.lists_refusal(device)
    (lists / name).touch()
    assert preflight.lists_refusal(device) is None


@pytest.mark.parametrize(
    ("output", "packages", "unfinished"),
    [
        ("numpy installed\nlibc6 installed\nlibc6 installed\n", ["libc6", "numpy"], False),
        ("numpy installed\nrsync config-files\nperl not-installed\n", ["numpy"], False),
        ("numpy installed\nrsync half-configured\n", ["numpy"], True),
        ("numpy installed\nrsync unpacked\n", ["numpy"], True),
        ("", [], False),
    ],
)
def test_packages_that_are_there(tmp_path: Path, output: str, packages: list[str], unfinished: bool) -> None:
    assert preflight.installed(Device(lambda argv: (0, output, ""), tmp_path)) == (packages, unfinished)


def test_what_a_killed_dpkg_has_not_filed_is_to_be_finished(tmp_path: Path) -> None:
    """Apt refuses to work beside it, though each package is as it should be."""
    (tmp_path / "var/lib/dpkg/updates").mkdir(parents=True)
    device = Device(lambda argv: (0, "numpy installed\n", ""), tmp_path)
    assert preflight.installed(device) == (["numpy"], False)
    (tmp_path / "var/lib/dpkg/updates/0003").touch()
    assert preflight.installed(device) == (["numpy"], True)


def clock(monkeypatch: pytest.MonkeyPatch, *times: int) -> None:
    """Set the control node's clock to these times, one a look, and the last one for ever."""
    left = list(times)
    monkeypatch.setattr(f"{action.__name__}.time", Mock(time=lambda: left.pop(0) if len(left) > 1 else left[0]))


def answering(reply: dict[str, Any] | Exception, module: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run the action plugin on a device whose shell replies so, and whose module returns so."""
    plugin = make(action.ActionModule, {}, reply, module)
    result: dict[str, Any] = plugin.run(task_vars={"inventory_hostname": "kitchen"})
    return result


def reply(rc: int = 0, stdout: str = "", stderr: str = "", **more: str) -> dict[str, Any]:
    return {"rc": rc, "stdout": stdout, "stderr": stderr, **more}


PREFIX = "Failed to connect to the host via ssh: "
CHANGED = "@@@@@@\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\n@@@@@@\nHost key verification failed."


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "ssh: connect to host 10.0.0.7 port 2222: Connection timed out",
            "kitchen does not answer at 10.0.0.7:2222 ("
            + PREFIX
            + "ssh: connect to host 10.0.0.7 port 2222: Connection timed out):"
            " check its power, network and address, then run again.",
        ),
        (
            CHANGED,
            "kitchen (10.0.0.7:2222) answers with a host key that is not the known one: if it was reimaged, remove the"
            " old key from known_hosts after checking the new one on the device, else somebody else answers.",
        ),
        (
            "pi@10.0.0.7: Permission denied (publickey,password).",
            "kitchen (10.0.0.7:2222) refuses the login of pi: check ansible_user and ansible_ssh_private_key_file in"
            " the inventory.",
        ),
    ],
)
def test_a_device_that_does_not_let_us_in(words: str, sentence: str) -> None:
    assert answering(AnsibleConnectionFailure(PREFIX + words)) == {"unreachable": True, "msg": sentence}


def test_a_device_that_says_nothing_at_all() -> None:
    assert "does not answer at 10.0.0.7:2222 (no answer)" in answering(AnsibleConnectionFailure(" \n"))["msg"]


NO_PASSWORD = "kitchen's sudo asks for a password and none was given: "
WRONG_PASSWORD = "kitchen's sudo refuses the password that was given: "
NO_SUDO = "kitchen's user may not use sudo: "


@pytest.mark.parametrize(
    ("answer", "start"),
    [
        (AnsibleError("Missing sudo password"), NO_PASSWORD),
        (reply(1, stderr="sudo: a password is required\n"), NO_PASSWORD),
        (AnsibleError("Incorrect sudo password"), WRONG_PASSWORD),
        (reply(1, stderr="Sorry, try again.\nsudo: 1 incorrect password attempt\n"), WRONG_PASSWORD),
        (reply(1, stderr="Sorry, try again.\n"), WRONG_PASSWORD),
        (reply(1, msg="Incorrect sudo password"), WRONG_PASSWORD),
        (reply(1, stderr="pi is not in the sudoers file.\n"), NO_SUDO),
        (reply(1, stderr="Sorry, user pi may not run sudo on kitchen.\n"), NO_SUDO),
        (
            reply(2, stderr="x\nsh: .: /etc/os-release: not found\n"),
            "kitchen did not answer the first question (sh: .:",
        ),
        (reply(2), "kitchen did not answer the first question (it did not say why):"),
        (AnsibleError("Timeout (32s) waiting for privilege escalation prompt"), "kitchen did not answer the first"),
    ],
)
def test_a_device_that_does_not_let_us_work(answer: dict[str, Any] | Exception, start: str) -> None:
    result = answering(answer)
    assert result["failed"]
    assert result["msg"].startswith(start)
    assert re.fullmatch(r"[^\n]*: [^\n]+\.", result["msg"])


def test_a_device_without_python_is_refused_before_a_module_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, NOW)
    result = answering(reply(stdout=said(release="buster", python="")))
    assert result["failed"]
    assert result["msg"].startswith("kitchen: The device runs buster;")
    assert "has no python3" in result["msg"]


def test_a_device_that_passes_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, NOW)
    # The last command of the question may fail and all be said.
    module = {"changed": False, "needed": 1300, "packages": ["rsync"]}
    result = answering(reply(rc=1, stdout=said(architecture="armhf", offline="201066a9df94c150")), module)
    found = {
        "release": "bookworm",
        "architecture": "armhf",
        "offline": "201066a9df94c150",
        "needed": 1300,
        "packages": ["rsync"],
    }
    assert result == {"changed": False, "ansible_facts": {"pi_fleet_preflight": found}}


def test_what_the_module_refuses_is_told_with_the_hosts_name(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, NOW)
    result = answering(reply(stdout=said()), {"failed": True, "msg": "The device has 9 MiB free on /."})
    assert result["msg"] == "kitchen: The device has 9 MiB free on /."


def test_a_device_whose_card_is_full_is_not_kept_waiting_for_apt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "installed", lambda device: (["rsync"], False))
    monkeypatch.setattr(module, "apt_holder", lambda device: Holder(7, "apt-get"))
    monkeypatch.setattr(module, "wait_for_apt", lambda holder, limit: f"apt is held by {holder()} after {limit} s.")
    told = []
    for free in (9, 400, 9000):
        bytes_free = free * module.MIB
        monkeypatch.setattr(module, "Device", lambda run, free=bytes_free: Device(run, free_bytes=lambda path: free))
        with patch_module_args({"apt_timeout": 60, "field_data_min_free": "500M"}), pytest.raises(SystemExit):
            module.main()
        told.append(json.loads(capsys.readouterr().out)["msg"])
    assert told[0].startswith("The device has 9 MiB free on /")
    assert told[1].startswith(
        "The device has 400 MiB free for /home/ggc_user/raw_field_data and field_data_min_free is"
    )
    assert "apt" not in told[0] + told[1]
    assert told[2] == "apt is held by apt-get (process 7) after 60 s."


@pytest.mark.parametrize(("installed", "needed"), [(["numpy"], 1300), (["numpy", "rsync"], 100)])
def test_a_device_says_what_the_run_needs_free(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], installed: list[str], needed: int
) -> None:
    """Role swap leaves that much: see its tasks/validate.yml."""
    monkeypatch.setattr(module, "installed", lambda device: (installed, False))
    monkeypatch.setattr(module, "apt_holder", lambda device: None)
    monkeypatch.setattr(module, "Device", lambda run: Device(run, free_bytes=lambda path: 9000 * module.MIB))
    given = {"install_free": 1300, "install_packages": ["rsync"]}
    with patch_module_args(given), pytest.raises(SystemExit):
        module.main()
    assert json.loads(capsys.readouterr().out)["needed"] == needed


def test_a_slow_answer_is_no_wrong_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, NOW - 100, NOW)
    assert not answering(reply(stdout=said(clock=str(NOW - 90))), {"changed": False}).get("failed")
