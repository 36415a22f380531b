"""The guard of the field data, with a /proc in a folder and a systemctl that is played."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible_collections.edge.pi_fleet.plugins.module_utils.preflight import guard_refusal
from fake_device import FakeDevice
from hypothesis import given
from hypothesis import strategies as st

MIB = 1024**2
SIZE = 30_000 * MIB
LIMIT = 500 * MIB
UID, GID = 4321, 4322
TEMPLATES = Path(__file__).parents[2] / "roles/field_data/templates"


def load() -> ModuleType:
    path = Path(__file__).parents[2] / "roles/field_data/files/field_data_guard.py"
    spec = importlib.util.spec_from_file_location("field_data_guard", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


guard = load()


class Systemd:
    """Plays systemctl: units by name with their properties, and what was asked of it."""

    def __init__(self) -> None:
        self.units: dict[str, dict[str, str]] = {}
        self.calls: list[tuple[str, list[str]]] = []
        self.stubborn: set[str] = set()
        self.busy: set[str] = set()
        self.on_stop: Callable[[], None] = lambda: None

    def add(self, name: str, active: str = "active", **properties: str) -> None:
        self.units[name] = {"LoadState": "loaded", "ActiveState": active, "UnitFileState": "enabled", **properties}

    def stopped(self) -> list[str]:
        return [name for verb, names in self.calls if verb == "stop" for name in names]

    def started(self) -> list[str]:
        return [name for verb, names in self.calls if verb == "start" for name in names]

    def run(self, argv: list[str]) -> subprocess.CompletedProcess[str]:
        patient = argv[0] == "timeout"
        argv = argv[2:] if patient else argv
        verb = argv[1]
        names = [name for name in argv[2:] if not name.startswith("--")]
        if verb == "show":
            assert "--all" in argv
            return subprocess.CompletedProcess(argv, 0, self._show(names), "")
        if verb == "stop":
            self.on_stop()
        self.calls.append((verb, names))
        if verb == "kill":
            assert "--signal=KILL" in argv
            self.busy -= set(names)
            return subprocess.CompletedProcess(argv, 0, "", "")
        if verb == "stop" and self.busy & set(names):
            assert patient
            return subprocess.CompletedProcess(argv, 124, "", "")
        for name in names:
            if name not in self.stubborn:
                self.units[name]["ActiveState"] = "inactive" if verb == "stop" else "active"
        failed = verb == "stop" and bool(self.stubborn & set(names))
        return subprocess.CompletedProcess(argv, int(failed), "", "Job timed out.\n" if failed else "")

    def _show(self, names: list[str]) -> str:
        if names[0].startswith("*"):
            names = [name for name in self.units if any(name.endswith(pattern[1:]) for pattern in names)]
        missing = {"LoadState": "not-found", "ActiveState": "inactive"}
        blocks = [{"Id": name, **self.units.get(name, missing)} for name in names]
        return "\n\n".join("\n".join(f"{key}={value}" for key, value in block.items()) for block in blocks) + "\n"


class World:
    """A device with field data, processes, systemd, and a guard."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.proc = root / "proc"
        self.pictures = root / "raw_field_data"
        self.state = root / "low.json"
        self.systemd = Systemd()
        for folder in (self.proc, self.pictures / "labeled"):
            folder.mkdir(parents=True)

    def process(
        self, pid: int, unit: str, uid: int = 0, gid: int = 0, groups: str = "", opened: dict[Path, int] | None = None
    ) -> None:
        home = self.proc / str(pid)
        for folder in ("fd", "fdinfo"):
            (home / folder).mkdir(parents=True)
        (home / "cgroup").write_text(f"3:memory:/\n0::/system.slice/{unit}\n")
        ids = "".join(f"{key}:\t{value}\t{value}\t{value}\t{value}\n" for key, value in (("Uid", uid), ("Gid", gid)))
        (home / "status").write_text(f"Name:\tpython3\n{ids}Groups:\t{groups} \n")
        for number, (target, flags) in enumerate((opened or {}).items()):
            (home / "fd" / str(number)).symlink_to(target)
            (home / "fdinfo" / str(number)).write_text(f"pos:\t0\nflags:\t0{flags | os.O_CLOEXEC:o}\nmnt_id:\t9\n")

    def service(self, pid: int, unit: str, uid: int = 0, **process: Any) -> None:
        self.systemd.add(unit)
        self.process(pid, unit, uid, **process)

    def picture(self, name: str = "1.jpg") -> Path:
        path = self.pictures / name
        path.write_bytes(b"picture")
        return path

    def look(self, free: int, min_free: str = "500M", free_inodes: int = 0, inodes: int = 0) -> None:
        folder = guard.Folder(
            self.pictures, UID, GID, frozenset({"ggc_user", str(UID)}), frozenset({"ggc_group", str(GID)})
        )
        guard.Guard(folder, min_free, self.state, self.systemd.run, self.proc).look(
            guard.Space(free, SIZE, free_inodes, inodes)
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@given(st.integers(1, 10**6), st.sampled_from("KMG"), st.integers(0, 2**50))
def test_a_limit_in_bytes_does_not_depend_on_the_card(count: int, suffix: str, size: int) -> None:
    assert guard.parse_limit(f"{count}{suffix}", size) == count * 1024 ** (1 + "KMG".index(suffix))


@given(st.integers(1, 99), st.integers(0, 2**50))
def test_a_share_is_one_of_the_card(percent: int, size: int) -> None:
    assert (
        guard.parse_limit(f"{percent}%", size) * 100
        <= percent * size
        < (guard.parse_limit(f"{percent}%", size) + 1) * 100
    )


@pytest.mark.parametrize("limit", ["3K", "17M", "2G", "5%", "99%"])
def test_preflight_takes_a_limit_for_what_the_guard_does(tmp_path: Path, limit: str) -> None:
    fake = FakeDevice(tmp_path)
    fake.free = guard.parse_limit(limit, guard.Space.of(tmp_path).size)
    assert guard_refusal(fake.device(), limit) is None
    fake.free -= 1
    assert guard_refusal(fake.device(), limit) is not None


@given(st.text(max_size=8))
def test_other_texts_are_refused_with_a_sentence(text: str) -> None:
    try:
        assert guard.parse_limit(text, SIZE) >= 0
    except guard.GuardError as error:
        assert str(error).endswith("run the role field_data again.")


@pytest.mark.parametrize(
    "text", ["", "0M", "0%", "100%", "500", "500MB", "500m", "5 %", "-5%", "5.5%", "500M\n", "\u0665M"]
)
def test_bad_limits_are_refused(text: str) -> None:
    with pytest.raises(guard.GuardError):
        guard.parse_limit(text, SIZE)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/system-lambda.slice/lambda@x.service\n", "lambda@x.service"),
        ("0::/system.slice/a.service/payload/b.service\n", "a.service"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/a.service\n", "user@1000.service"),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", "session-3.scope"),
        ("9:name=systemd:/system.slice/a.service\n1:cpu:/system.slice/b.service\n0::/\n", "a.service"),
        ("9:name=systemd:/../../init.scope\n0::/system.slice/a.service\n", "a.service"),
        ("0::/\n", ""),
        ("", ""),
    ],
)
def test_a_process_belongs_to_its_outermost_unit(text: str, unit: str) -> None:
    assert guard.parse_cgroup(text) == unit


def test_with_room_nothing_is_asked_and_nothing_stopped(world: World) -> None:
    world.service(10, "capture.service", UID)
    world.look(LIMIT)
    assert world.systemd.calls == []
    assert not world.state.exists()


def test_whoever_may_write_is_stopped_and_bystanders_go_on(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    picture = world.picture()
    nested = world.picture("labeled/2.jpg")
    log = world.root / "log"
    log.touch()
    world.service(10, "by-user.service", UID)
    world.service(11, "by-group.service", 7, gid=GID)
    world.service(12, "by-further-group.service", 7, groups=f"24 {GID}")
    world.service(13, "by-open-file.service", opened={nested: os.O_WRONLY | os.O_APPEND})
    world.service(14, "bystander.service", 7, opened={log: os.O_RDWR})
    world.service(15, "reader.service", opened={picture: os.O_RDONLY})
    world.systemd.add("by-path.service", ReadWritePaths=f"/var/lib/x -{world.pictures}/labeled")
    world.systemd.add("by-bind.service", BindPaths=f"{world.pictures}:/raw_field_data:rbind")
    world.systemd.add("by-unit.service", User="ggc_user", active="activating")
    world.systemd.add("by-unit-group.service", SupplementaryGroups="video ggc_group")
    world.systemd.add("not-running.service", User="ggc_user", active="inactive")
    world.systemd.add("elsewhere.service", ReadWritePaths=f"{world.pictures}_2 {world.root}", Group="")
    # Ours have a /tmp of their own on the card, whoever they run as.
    world.service(16, "lambda@other_user.service", 7, gid=7)
    world.systemd.add("connector@beverage-classifier.service", DynamicUser="yes")
    world.systemd.add("lambda@not-running.service", active="inactive")
    world.service(17, "localcore.service", 8)
    world.look(LIMIT - 1)
    assert sorted(world.systemd.stopped()) == [
        "by-bind.service",
        "by-further-group.service",
        "by-group.service",
        "by-open-file.service",
        "by-path.service",
        "by-unit-group.service",
        "by-unit.service",
        "by-user.service",
        "connector@beverage-classifier.service",
        "lambda@other_user.service",
    ]
    assert (
        f"<4>Stopped by-user.service: 499 MiB are free for {world.pictures} and 500M have to stay free; collect "
        "field data or free space, then it is started again.\n"
    ) in capsys.readouterr().out


def test_what_starts_a_writer_for_moments_is_stopped_too(world: World) -> None:
    world.systemd.add("capture.service", User="ggc_user", active="inactive", TriggeredBy="capture.timer capture.path")
    world.systemd.add("capture.timer")
    world.systemd.add("capture.path", active="inactive")
    world.systemd.add("other.timer")
    world.look(0)
    assert world.systemd.stopped() == ["capture.timer"]
    world.look(SIZE)
    assert world.systemd.started() == ["capture.timer"]


def test_what_starts_a_lambda_of_another_user_when_it_is_asked_is_stopped_too(world: World) -> None:
    world.systemd.add("lambda@on_demand.service", "inactive", User="1001", TriggeredBy="lambda@on_demand.path")
    world.systemd.add("lambda@on_demand.path")
    world.look(0)
    assert world.systemd.stopped() == ["lambda@on_demand.path"]


def test_too_few_inodes_stop_writers_though_no_byte_is_missing(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.service(10, "capture.service", UID)
    world.look(SIZE, free_inodes=50, inodes=1000)
    assert world.systemd.calls == []
    world.look(SIZE, free_inodes=49, inodes=1000)
    assert world.systemd.stopped() == ["capture.service"]
    assert (
        f"<4>Stopped capture.service: 49 of 1000 inodes are free for {world.pictures} and 5% have to stay free;"
    ) in capsys.readouterr().out
    world.look(SIZE, free_inodes=54, inodes=1000)
    assert world.systemd.started() == []
    world.look(LIMIT, free_inodes=55, inodes=1000)
    assert world.systemd.started() == []
    world.look(SIZE, free_inodes=55, inodes=1000)
    assert world.systemd.started() == ["capture.service"]


def test_a_file_system_is_asked_for_bytes_and_inodes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.statvfs_result((4096, 1024, 100, 50, 40, 1000, 30, 20, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: found)
    assert guard.Space.of(Path("/")) == guard.Space(40 * 1024, 100 * 1024, 30, 1000)


# What stat(1) says in the place of the file system: it fills in the format that the condition gives it.
STAT = """#!/bin/sh
printf '%s' "$3" | sed "s/%a/$FREE/; s/%b/$BLOCKS/; s/%S/1024/g; s/%d/$FREE_INODES/; s/%c/$INODES/"
"""


def condition() -> list[str]:
    """Return what the unit's ExecCondition runs, as systemd would."""
    unit = (TEMPLATES / "field-data-guard.service.j2").read_text().replace("\\\n", "")
    (line,) = re.findall("^ExecCondition=(.*)$", unit, re.MULTILINE)
    return shlex.split(line.replace("%%", "%").replace("$$", "$"))


@pytest.mark.parametrize(
    ("min_free", "free", "blocks", "free_inodes", "inodes"),
    [
        ("1M", 1024, 10**6, 5, 100),
        ("1M", 1023, 10**6, 5, 100),
        ("1M", 1024, 10**6, 4, 100),
        ("1M", 1024, 10**6, 0, 0),
        ("3G", 3 * 1024**2, 10**8, 5 * 10**7, 10**9),
        ("3G", 3 * 1024**2 - 1, 10**8, 10**9, 10**9),
        ("7K", 7, 10**8, 5 * 10**7 - 1, 10**9),
        ("5%", 50, 1000, 1, 1),
        ("5%", 49, 1000, 1, 1),
    ],
)
def test_the_condition_that_starts_the_guard_is_what_the_guard_looks_for(
    tmp_path: Path, min_free: str, free: int, blocks: int, free_inodes: int, inodes: int
) -> None:
    stat = tmp_path / "stat"
    stat.write_text(STAT)
    stat.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "FIELD_DATA_MIN_FREE": min_free,
        "FIELD_DATA_FOLDER": "/home/ggc_user/raw_field_data",
        "RUNTIME_DIRECTORY": str(tmp_path),
        "FREE": str(free),
        "BLOCKS": str(blocks),
        "FREE_INODES": str(free_inodes),
        "INODES": str(inodes),
    }
    space = guard.Space(free * 1024, blocks * 1024, free_inodes, inodes)
    short = bool(space.missing(Path("/"), min_free))
    assert subprocess.run(condition(), env=environment, check=False).returncode == int(not short)
    # Whatever was short at the last look is looked at again.
    (tmp_path / guard.STATE).touch()
    assert subprocess.run(condition(), env=environment, check=False).returncode == 0


def test_what_was_stopped_is_noted_where_a_full_card_does_not_matter() -> None:
    unit = (TEMPLATES / "field-data-guard.service.j2").read_text()
    assert "RuntimeDirectory=pi-fleet-field-data-guard\nRuntimeDirectoryPreserve=yes\n" in unit
    assert "StateDirectory=" not in unit


def test_what_a_device_needs_is_named_once_and_not_stopped(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    picture = world.picture()
    for pid, unit in enumerate(("cron.service", "user@1000.service", "systemd-journald.service", "ssh.service"), 10):
        world.service(pid, unit, UID)
    world.process(20, "session-3.scope", opened={picture: os.O_WRONLY})
    world.process(21, "session-4.scope", 7, gid=GID)
    world.systemd.add("field-data-guard.service", ReadWritePaths=str(world.pictures))
    world.look(0)
    assert world.systemd.calls == []
    named = capsys.readouterr().out.splitlines()
    assert len(named) == 5
    assert named[0].startswith("<4>python3 (process 10 in cron.service) can write field data and is no service to stop")
    world.look(0)
    assert capsys.readouterr().out == ""


def test_a_process_that_its_stopped_service_left_behind_is_named(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.service(10, "sloppy.service", UID)
    world.systemd.units["sloppy.service"]["ActiveState"] = "failed"
    world.look(0)
    assert world.systemd.calls == []
    assert "python3 (process 10 in sloppy.service)" in capsys.readouterr().out


def test_too_little_space_without_writers_is_told_once(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.look(0)
    assert capsys.readouterr().out.startswith("<4>No service writes field data, yet 0 MiB are free")
    world.look(0)
    assert capsys.readouterr().out == ""


def test_writers_started_meanwhile_are_stopped_at_the_next_look(world: World) -> None:
    world.service(10, "first.service", UID)
    world.look(0)
    world.service(11, "second.service", UID)
    (world.proc / "10" / "status").unlink()
    world.look(0)
    assert world.systemd.stopped() == ["first.service", "second.service"]
    world.look(SIZE)
    assert sorted(world.systemd.started()) == ["first.service", "second.service"]


def test_they_start_again_only_well_above_the_limit(world: World) -> None:
    world.service(10, "capture.service", UID)
    world.systemd.add("stopped-by-a-user.service", "inactive", User="ggc_user")
    world.look(LIMIT - 1)
    world.look(LIMIT)
    world.look(LIMIT + LIMIT // 10 - 1)
    assert world.systemd.started() == []
    world.look(LIMIT + LIMIT // 10)
    assert world.systemd.started() == ["capture.service"]
    assert not world.state.exists()


def test_nothing_starts_that_was_taken_away_meanwhile(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    for pid, name in enumerate(("gone", "masked", "disabled", "never-enabled", "running"), 10):
        world.service(pid, f"{name}.service", UID)
    world.systemd.units["never-enabled.service"]["UnitFileState"] = "disabled"
    world.look(0)
    del world.systemd.units["gone.service"]
    world.systemd.units["masked.service"]["LoadState"] = "masked"
    world.systemd.units["disabled.service"]["UnitFileState"] = "disabled"
    world.systemd.units["running.service"]["ActiveState"] = "active"
    world.look(SIZE)
    assert world.systemd.started() == ["never-enabled.service"]
    lines = capsys.readouterr().out
    assert "gone.service is not started again: it was removed or masked meanwhile." in lines
    assert "masked.service is not started again: it was removed or masked meanwhile." in lines
    assert "disabled.service is not started again: it was disabled meanwhile." in lines


def test_a_guard_killed_while_it_stops_has_recorded_what(world: World) -> None:
    def kill() -> None:
        raise KeyboardInterrupt

    world.service(10, "capture.service", UID)
    world.systemd.on_stop = kill
    with pytest.raises(KeyboardInterrupt):
        world.look(0)
    assert json.loads(world.state.read_text())["stopped"] == {"capture.service": "enabled"}
    world.look(SIZE)  # it runs still, so nothing is left to be done
    assert world.systemd.calls == []
    assert not world.state.exists()


def test_a_unit_that_takes_its_time_is_killed(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.service(10, "busy.service", UID)
    world.systemd.busy.add("busy.service")
    world.look(0)
    assert [verb for verb, _ in world.systemd.calls] == ["stop", "kill", "stop"]
    assert "<4>Stopped busy.service: 0 MiB are free" in capsys.readouterr().out


def test_a_unit_that_does_not_stop_is_reported(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.service(10, "stubborn.service", UID)
    world.systemd.stubborn.add("stubborn.service")
    world.look(0)
    assert "<3>stubborn.service could not be stopped (Job timed out.): 0 MiB are free" in capsys.readouterr().out


def test_where_no_record_can_be_written_writers_are_stopped_all_the_same(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.state = world.root / "no-such-folder/low.json"
    world.service(10, "capture.service", UID)
    world.look(0)
    assert world.systemd.stopped() == ["capture.service"]
    assert "start capture.service yourself when there is room again." in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"stopped": 1, "named": []}'])
def test_a_broken_record_does_not_keep_the_guard_from_its_work(
    world: World, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    world.state.write_text(text)
    world.service(10, "capture.service", UID)
    world.look(0)
    assert world.systemd.stopped() == ["capture.service"]
    assert "start yourself what the guard had stopped." in capsys.readouterr().out


def test_a_process_that_ends_meanwhile_is_no_error(world: World) -> None:
    picture = world.picture()
    world.service(10, "ended.service", UID)
    (world.proc / "10" / "status").unlink()
    world.service(11, "closing.service", opened={world.pictures / "collected.jpg": os.O_WRONLY})
    world.service(12, "capture.service", opened={picture: os.O_WRONLY})
    world.look(0)
    assert world.systemd.stopped() == ["capture.service"]


def test_a_systemd_that_does_not_answer_is_one_sentence(world: World) -> None:
    world.systemd.run = lambda argv: subprocess.CompletedProcess(argv, 1, "", "Connection refused\n")  # type: ignore[method-assign]
    with pytest.raises(guard.GuardError, match="'systemctl show' failed \\(Connection refused\\)"):
        world.look(0)


def test_pictures_stay_as_they_are(world: World) -> None:
    pictures = [world.picture(), world.picture("labeled/2.jpg")]
    before = [(picture.read_bytes(), picture.stat().st_mtime_ns) for picture in pictures]
    world.service(10, "capture.service", UID)
    world.look(0)
    world.look(SIZE)
    assert [(picture.read_bytes(), picture.stat().st_mtime_ns) for picture in pictures] == before


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({}, "<3>'FIELD_DATA_FOLDER' is not set"),
        ({"FIELD_DATA_FOLDER": "/none", "FIELD_DATA_MIN_FREE": "1%", "RUNTIME_DIRECTORY": "/none"}, "<3>/none cannot"),
    ],
)
def test_what_is_missing_is_one_sentence(
    environment: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(guard.Folder, "of", lambda path: guard.Folder(path, UID, GID, frozenset(), frozenset()))
    assert guard.main(environment) == 1
    assert capsys.readouterr().out.startswith(sentence)


def test_without_the_user_the_guard_says_which_role_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "OWNER", "no-such-user")
    with pytest.raises(guard.GuardError, match="run the role greengrass_user"):
        guard.Folder.of(Path("/tmp"))
