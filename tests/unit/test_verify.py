"""What verify finds on a device in a folder, and how it tells it."""

from __future__ import annotations

import grp
import json
import os
import pwd
import stat
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.edge.pi_fleet.plugins.module_utils import question
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, Runner
from ansible_collections.edge.pi_fleet.plugins.module_utils.question import Answer, QuestionError, Topics
from ansible_collections.edge.pi_fleet.plugins.module_utils.verify import (
    CHECKS,
    check_group,
    check_import,
    check_package,
    check_path,
    check_sysctl,
    check_unit,
    check_user,
    table,
    verify,
)
from ansible_collections.edge.pi_fleet.plugins.modules import verify as module
from fake_device import FakeDevice

ME = pwd.getpwuid(os.getuid()).pw_name
MY_GROUP = grp.getgrgid(os.getgid()).gr_name
NOBODY = 2**31 - 7


@pytest.fixture
def fake(tmp_path: Path) -> FakeDevice:
    return FakeDevice(tmp_path)


def answer(code: int = 0, output: str = "", errors: str = "") -> Runner:
    return lambda argv: (code, output, errors)


def path_of(fake: FakeDevice, **wanted: Any) -> tuple[bool, str, str]:
    return check_path(fake.device(), {"path": "/etc/thing", "state": "file", **wanted})


def test_a_file_as_it_should_be(fake: FakeDevice) -> None:
    fake.write("/etc/thing", "a = 1\nb = 2\n").chmod(0o640)
    right = path_of(fake, owner=ME, group=MY_GROUP, mode="0640", contains=["b = 2", "a = 1"])
    text = f"file 0640 {ME} {MY_GROUP}"
    assert right == (True, text, text)
    assert path_of(fake, lines=["a = 1", "b = 2"]) == (True, "file", "file")


@pytest.mark.parametrize(
    ("wanted", "found", "asked"),
    [
        ({"mode": "0644"}, "mode 0640", "mode 0644"),
        ({"owner": "somebody"}, f"owner {ME}", "owner somebody"),
        ({"group": "something"}, f"group {MY_GROUP}", "group something"),
        ({"state": "directory"}, "file", "directory"),
        ({"state": "absent"}, "file", "absent"),
        ({"state": "link", "mode": "0644"}, "file mode 0640", "link mode 0644"),
        ({"contains": ["a = 1", "c = 3"]}, "contains a = 1", "contains a = 1, c = 3"),
        ({"contains": ["a"]}, "contains none of the lines", "contains a"),
        ({"contains": ["a = 1 "]}, "contains none of the lines", "contains a = 1 "),
        ({"lines": ["a = 1"]}, "lines a = 1, b = 2", "lines a = 1"),
    ],
)
def test_each_difference_is_told_and_nothing_else(
    fake: FakeDevice, wanted: dict[str, Any], found: str, asked: str
) -> None:
    fake.write("/etc/thing", "a = 1\nb = 2\n").chmod(0o640)
    assert path_of(fake, **wanted) == (False, found, asked)


def test_bits_beyond_the_rights_count(fake: FakeDevice) -> None:
    folder = fake.root / "etc" / "thing"
    folder.mkdir(parents=True)
    folder.chmod(0o2770)
    assert path_of(fake, state="directory", mode="2770")[0]
    assert path_of(fake, state="directory", mode="0770") == (False, "mode 2770", "mode 0770")
    assert path_of(fake, state="directory", contains=["a"]) == (False, "contains none of the lines", "contains a")


def test_what_is_not_there(fake: FakeDevice) -> None:
    assert path_of(fake) == (False, "absent", "file")
    assert path_of(fake, state="absent") == (True, "absent", "absent")
    fake.write("/etc", "a file, where a folder should be")
    assert path_of(fake) == (False, "absent", "file")


def test_links_are_looked_at_and_not_through(fake: FakeDevice) -> None:
    fake.write("/etc/other", "")
    (fake.root / "etc" / "thing").symlink_to("other")
    assert path_of(fake) == (False, "link", "file")
    assert path_of(fake, state="link", target="other") == (True, "link other", "link other")
    assert path_of(fake, state="link", target="nowhere") == (False, "target other", "target nowhere")
    (fake.root / "etc" / "other").unlink()
    assert path_of(fake, state="link", target="other")[0]


def test_nodes_have_numbers(fake: FakeDevice) -> None:
    null = Device(answer(), Path("/"))
    wanted = {"path": "/dev/null", "state": "char", "device": "1:3", "mode": "0666"}
    assert check_path(null, wanted) == (True, "char 0666 1:3", "char 0666 1:3")
    assert check_path(null, {**wanted, "device": "1:5"}) == (False, "device 1:3", "device 1:5")
    fake.write("/etc/thing", "")
    assert path_of(fake, state="char", device="1:3")[0] is False


def test_what_is_none_of_these_kinds(fake: FakeDevice) -> None:
    (fake.root / "etc").mkdir()
    os.mkfifo(fake.root / "etc" / "thing")
    assert path_of(fake) == (False, "something else", "file")


def test_an_owner_without_a_name_is_a_number(fake: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.write("/etc/thing", "")
    status = os.stat_result((stat.S_IFREG | 0o644, 1, 1, 1, NOBODY, NOBODY, 0, 0, 0, 0))
    monkeypatch.setattr(Path, "lstat", lambda path: status)
    found = path_of(fake, owner="root", group="root")
    assert found == (False, f"owner {NOBODY} group {NOBODY}", "owner root group root")


def test_a_user(fake: FakeDevice) -> None:
    device = fake.device()
    root = {"name": "root", "group": "root", "home": "/root", "groups": ["root"]}
    text = "group root home /root in root"
    assert check_user(device, root) == (True, text, text)
    assert check_user(device, {"name": "root"}) == (True, "there", "a user")
    wrong = {"name": "root", "group": "ggc_group", "home": "/home", "shell": "/none", "groups": ["no_such_group"]}
    shell = pwd.getpwnam("root").pw_shell
    assert check_user(device, wrong) == (
        False,
        f"group root, home /root, shell {shell}, not in no_such_group",
        "group ggc_group home /home shell /none in no_such_group",
    )
    assert check_user(device, {"name": "no_such_user"}) == (False, "no such user", "a user")
    assert check_user(device, {"name": "no_such_user", "group": "g"}) == (False, "no such user", "group g")


def test_a_users_further_groups(fake: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    further = grp.getgrnam("daemon").gr_gid
    monkeypatch.setattr(os, "getgrouplist", lambda name, group: [group, further])
    found = check_user(fake.device(), {"name": "root", "groups": ["daemon", "video"]})
    assert found == (False, "not in video", "in daemon in video")


def test_a_group(fake: FakeDevice) -> None:
    assert check_group(fake.device(), {"name": "root"}) == (True, "there", "a group")
    assert check_group(fake.device(), {"name": "no_such_group"}) == (False, "no such group", "a group")


def test_a_setting_of_the_kernel(fake: FakeDevice) -> None:
    wanted = {"name": "fs.protected_hardlinks", "value": "1"}
    assert check_sysctl(fake.device(), wanted) == (False, "not known", "1")
    fake.write("/proc/sys/fs/protected_hardlinks", "1\n")
    assert check_sysctl(fake.device(), wanted) == (True, "1", "1")
    fake.write("/proc/sys/fs/protected_hardlinks", "0\n")
    assert check_sysctl(fake.device(), wanted) == (False, "0", "1")


def test_the_kernel_of_a_container_is_not_the_devices_to_set(tmp_path: Path) -> None:
    fake = FakeDevice(tmp_path, container=True)
    fake.write("/proc/sys/fs/protected_hardlinks", "0\n")
    found = check_sysctl(fake.device(), {"name": "fs.protected_hardlinks", "value": "1"})
    assert found == (True, "0, activation waits: container", "1")


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ("python3-opencv installed\nliblapack3 installed\n", "installed"),
        ("python3-opencv installed\nliblapack3 half-configured\n", "liblapack3 half-configured"),
        ("python3-opencv installed\nliblapack3 config-files\n", "liblapack3 config-files"),
        ("python3-opencv installed\n", "liblapack3 not-installed"),
        ("", "python3-opencv not-installed, liblapack3 not-installed"),
    ],
)
def test_packages(tmp_path: Path, output: str, found: str) -> None:
    device = Device(answer(1, output, "dpkg-query: no packages found matching x\n"), tmp_path)
    result = check_package(device, {"name": ["python3-opencv", "liblapack3"]})
    assert result == (found == "installed", found, "installed")


def test_one_package_needs_no_list(tmp_path: Path) -> None:
    assert check_package(Device(answer(0, "mosquitto installed\n"), tmp_path), {"name": "mosquitto"})[0]


def systemctl(enabled: str, active: str) -> Runner:
    states = {"is-enabled": enabled, "is-active": active}
    return lambda argv: (0 if states[argv[1]] in ("enabled", "active") else 3, f"{states[argv[1]]}\n", "")


@pytest.mark.parametrize(
    ("states", "wanted", "ok", "asked"),
    [
        (("enabled", "active"), {"enabled": True, "active": True}, True, "enabled, active"),
        (("enabled", "failed"), {"enabled": True, "active": True}, False, "enabled, active"),
        (("enabled", "activating"), {"active": True}, False, "active"),
        (("disabled", "active"), {"enabled": True, "active": True}, False, "enabled, active"),
        (("disabled", "inactive"), {"enabled": False, "active": False}, True, "not enabled, not active"),
        (("enabled", "inactive"), {"enabled": False}, False, "not enabled"),
        (("static", "active"), {"active": True}, True, "active"),
        (("", "inactive"), {"enabled": True}, False, "enabled"),
    ],
)
def test_units(tmp_path: Path, states: tuple[str, str], wanted: dict[str, bool], ok: bool, asked: str) -> None:
    found = check_unit(Device(systemctl(*states), tmp_path), {"name": "x.service", **wanted})
    assert found == (ok, f"{states[0] or 'unknown'}, {states[1]}", asked)


def test_an_import_is_tried_as_the_user(tmp_path: Path) -> None:
    calls: list[list[str]] = []

    def run(argv: list[str]) -> tuple[int, str, str]:
        calls.append(argv)
        return 0, "", ""

    wanted = {"user": "ggc_user", "python": "/opt/venv/bin/python", "modules": ["cv2", "numpy"]}
    assert check_import(Device(run, tmp_path), wanted) == (True, "cv2, numpy by ggc_user", "cv2, numpy by ggc_user")
    check_import(Device(run, tmp_path), {**wanted, "path": ["/opt/it's"], "before": "import sys"})
    start = ["runuser", "-u", "ggc_user", "--", "/opt/venv/bin/python", "-P", "-c"]
    assert calls == [
        [*start, "import cv2, numpy"],
        [*start, 'import sys; sys.path[:0] = ["/opt/it\'s"]; import sys; import cv2, numpy'],
    ]


def test_an_import_that_fails_says_why(tmp_path: Path) -> None:
    errors = "Traceback (most recent call last):\n  ...\nImportError: libcblas.so.3: cannot open shared object file\n\n"
    wanted = {"user": "ggc_user", "python": "python3", "modules": ["numpy"]}
    found = check_import(Device(answer(1, "", errors), tmp_path), wanted)
    assert found == (False, "ImportError: libcblas.so.3: cannot open shared object file", "numpy by ggc_user")


TOPICS = {"request": "ask", "response": "answer", "errors": "pi-fleet/pi-1/errors"}
QUESTION = {
    "role": "classifier_lambda",
    "check": "an answer over MQTT",
    "kind": "answer",
    "topics": TOPICS,
    "categories": ["clutter", "coffee-mug"],
    "timeout": 15,
}


def test_an_answer_is_asked_for_over_mqtt(fake: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Topics, float, bool]] = []

    def ask(topics: Topics, timeout: float, keep: bool) -> Answer:
        asked.append((topics, timeout, keep))
        return Answer("coffee-mug", 0.964, 312)

    monkeypatch.setattr(question, "ask", ask)
    rows = verify(fake.device(), [QUESTION, {**QUESTION, "categories": ["clutter"]}])
    assert table(rows) == [
        "ok    an answer over MQTT  coffee-mug 0.96 in 312 ms",
        "WRONG an answer over MQTT  coffee-mug 0.96 in 312 ms   wanted: one of clutter within 15 s",
    ]
    assert asked == [(Topics("ask", "answer", "pi-fleet/pi-1/errors"), 15.0, False)] * 2


def test_a_question_without_an_answer_is_wrong_and_no_crash(fake: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(topics: Topics, timeout: float, keep: bool) -> Answer:
        raise QuestionError("The broker does not answer: look.")

    monkeypatch.setattr(question, "ask", ask)
    (row,) = verify(fake.device(), [QUESTION])
    assert not row["ok"]
    assert row["found"] == "The broker does not answer: look."
    assert row["wanted"] == "one of clutter, coffee-mug within 15 s"


def checks(fake: FakeDevice) -> list[dict[str, Any]]:
    fake.write("/etc/thing", "")
    about: dict[str, Any] = {"role": "camera", "kind": "path", "state": "file"}
    return [
        {**about, "check": "settings", "path": "/etc/thing"},
        {**about, "check": "the long name of a check", "path": "/etc/none"},
    ]


def test_a_table_marks_what_is_wrong(fake: FakeDevice) -> None:
    rows = verify(fake.device(), list(checks(fake)))
    assert rows[1] == {
        "role": "camera",
        "check": "the long name of a check",
        "found": "absent",
        "wanted": "file",
        "ok": False,
    }
    assert table(rows) == [
        "ok    settings                  file",
        "WRONG the long name of a check  absent   wanted: file",
    ]
    assert table([]) == []


def test_what_keeps_a_check_from_being_made_is_what_is_found(fake: FakeDevice) -> None:
    fake.write("/boot/cmdline.txt", "DO NOT EDIT THIS FILE\n")
    about = {"role": "greengrass_user", "check": "flags", "kind": "kernel_cmdline", "flags": ["cgroup_memory=1"]}
    first, second = verify(fake.device(), [about, {"role": "r", "check": "c", "kind": "group", "name": "root"}])
    assert not first["ok"]
    assert "mount the boot partition" in first["found"]
    assert second["check"] == "c"


def run_module(checks: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    with patch_module_args({"checks": checks}), pytest.raises(SystemExit):
        module.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_the_module_tells_and_does_not_fail(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = {"role": "r", "check": "root", "kind": "user", "name": "root", "home": "/elsewhere"}
    result = run_module([wanted], capsys)
    assert not result["changed"]
    assert result["wrong"] == ["r: root: found home /root, wanted home /elsewhere"]
    assert result["table"] == ["WRONG root  home /root   wanted: home /elsewhere"]


def test_an_unknown_kind_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    result = run_module([{"role": "r", "check": "c", "kind": "pth"}], capsys)
    assert result["failed"]
    assert result["msg"] == f"There is no check of the kind pth: one of {', '.join(CHECKS)}."
