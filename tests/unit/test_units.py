"""Units are as written, enabled, and run what is written, whatever kills a run."""

from __future__ import annotations

import grp
import json
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.edge.pi_fleet.plugins.module_utils import units
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device
from ansible_collections.edge.pi_fleet.plugins.module_utils.units import FOLDER, OWED, check_units
from ansible_collections.edge.pi_fleet.plugins.module_utils.verify import verify
from ansible_collections.edge.pi_fleet.plugins.modules import units as module
from fake_device import FakeDevice, PowerLossError

GUARD = {"guard.service": "[Service]\nExecStart=/bin/guard\n", "guard.timer": "[Timer]\nOnActiveSec=1s\n"}
DROP_IN = {"mosquitto.service.d/80-pi-fleet.conf": "[Service]\nMemoryMax=64M\n"}
ENABLE = {"guard": ["guard.timer"], "drop-in": ["mosquitto.service"], "both": ["guard.timer", "mosquitto.service"]}
FILES = {"guard": GUARD, "drop-in": DROP_IN, "both": {**GUARD, **DROP_IN}}
Texts = dict[str, str]


class Systemd(FakeDevice):
    """A device whose systemctl is played: what is written, what systemd has read of it, and what units run."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.read_last: dict[str, Texts] = {}
        self.enabled: set[str] = set()
        self.active: dict[str, Texts] = {}

    def texts(self, unit: str) -> Texts:
        """Return what is written of a unit: its file and its drop-ins."""
        folder = self.root / FOLDER.lstrip("/")
        paths = [folder / unit, *folder.glob(f"{unit}.d/*.conf")]
        return {path.name: path.read_text() for path in paths if path.is_file()}

    def state(self) -> dict[str, Any]:
        """Return all that a run may change."""
        files = {str(path): path.read_text() for path in self.root.rglob("*") if path.is_file()}
        return {"files": files, "read": dict(self.read_last), "enabled": {*self.enabled}, "active": dict(self.active)}

    def run(self, argv: list[str]) -> tuple[int, str, str]:
        match argv:
            case ["systemctl", "show", "--property=NeedDaemonReload", "--value", *names]:
                assert not [name for name in names if "/" in name]
                stale = [name in self.read_last and self.read_last[name] != self.texts(name) for name in names]
                return 0, "\n\n".join("yes" if each else "no" for each in stale) + "\n", ""
            case ["systemctl", "is-enabled", unit]:
                return (0, "enabled\n", "") if unit in self.enabled else (1, "disabled\n", "")
            case ["systemctl", "is-active", unit]:
                return (0, "active\n", "") if unit in self.active else (3, "inactive\n", "")
        self.calls.append(" ".join(argv[1:]))
        match argv:
            case ["systemctl", "daemon-reload"]:
                self.reload()
            case ["systemctl", "enable", "--quiet", unit]:
                self.enabled.add(unit)
            case ["systemctl", "disable", "--quiet", "--now", unit]:
                self.enabled.discard(unit)
                self.active.pop(unit, None)
            case ["systemctl", "restart", unit]:
                self.active[unit] = self.read_last.setdefault(unit, self.texts(unit))
            case _:
                raise AssertionError(f"unexpected command {argv}")
        return 0, "", ""

    def reload(self) -> None:
        """Read all units, as apt has it done by the way."""
        self.read_last = {unit: self.texts(unit) for unit in self.read_last}

    def boot(self) -> None:
        for path in (self.root / "run").rglob("*"):
            if path.is_file():
                path.unlink()
        self.read_last = {unit: self.texts(unit) for unit in self.enabled}
        self.active = dict(self.read_last)


Keep = Callable[..., dict[str, Any]]


@pytest.fixture
def fake(tmp_path: Path) -> Systemd:
    return Systemd(tmp_path)


@pytest.fixture
def keep(fake: Systemd, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Keep:
    """Run the module on the device."""
    monkeypatch.setattr(AnsibleModule, "run_command", lambda module, argv: fake.run(argv))
    monkeypatch.setattr(module, "Device", lambda run: Device(run, fake.root))

    def once(
        files: Texts,
        enable: list[str],
        check_mode: bool = False,
        configuration: list[dict[str, str]] | None = None,
        **others: list[str],
    ) -> dict[str, Any]:
        capsys.readouterr()
        arguments = {
            "files": files,
            "enable": enable,
            "configuration": json.dumps(configuration or []),
            **others,
            "_ansible_check_mode": check_mode,
        }
        with patch_module_args(arguments), pytest.raises(SystemExit):
            module.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return once


def is_right(fake: Systemd, files: Texts, enable: list[str]) -> bool:
    """Say whether files are as written, nothing is owed, and units run what is written."""
    written = all(fake.exists(f"{FOLDER}/{name}") and fake.read(f"{FOLDER}/{name}") == files[name] for name in files)
    return written and all(
        unit in fake.enabled
        and fake.active.get(unit) == fake.texts(unit)
        and fake.read_last[unit] == fake.texts(unit)
        and not fake.exists(f"{OWED}/{unit}")
        for unit in enable
    )


@pytest.mark.parametrize("kind", FILES)
def test_a_virgin_device_gets_units_and_a_second_run_does_nothing(fake: Systemd, keep: Keep, kind: str) -> None:
    first = keep(FILES[kind], ENABLE[kind])
    assert (first["changed"], first["written"]) == (True, list(FILES[kind]))
    assert is_right(fake, FILES[kind], ENABLE[kind])
    assert fake.calls[0] == "daemon-reload"
    before, calls = fake.state(), len(fake.calls)
    second = keep(FILES[kind], ENABLE[kind])
    assert (second["changed"], second["written"], second["diff"]) == (False, [], [])
    assert (fake.state(), len(fake.calls)) == (before, calls)


def test_a_drop_in_lies_in_the_folder_of_its_unit(fake: Systemd, keep: Keep) -> None:
    keep(DROP_IN, ENABLE["drop-in"])
    path = fake.root / "etc/systemd/system/mosquitto.service.d/80-pi-fleet.conf"
    assert path.read_text() == "[Service]\nMemoryMax=64M\n"
    assert path.stat().st_mode & 0o7777 == 0o644


def test_a_drop_in_that_systemd_has_not_read_is_noticed_though_its_unit_is_started_by_others(
    fake: Systemd, keep: Keep
) -> None:
    fake.read_last["mosquitto.service"] = {}
    fake.write(f"{FOLDER}/mosquitto.service.d/80-pi-fleet.conf", DROP_IN["mosquitto.service.d/80-pi-fleet.conf"])
    assert keep(DROP_IN, [])["changed"]
    assert fake.calls == ["daemon-reload"]
    assert not keep(DROP_IN, [])["changed"]


def test_only_what_differs_is_written_and_shown(fake: Systemd, keep: Keep) -> None:
    keep(GUARD, ENABLE["guard"])
    fake.calls.clear()
    after = {**GUARD, "guard.service": "[Service]\nExecStart=/bin/other\n"}
    result = keep(after, ENABLE["guard"])
    assert result["written"] == ["guard.service"]
    header = f"{FOLDER}/guard.service"
    (diff,) = result["diff"]
    assert (diff["before_header"], diff["after_header"]) == (header, header)
    assert (diff["before"], diff["after"]) == (GUARD["guard.service"], after["guard.service"])
    assert fake.calls == ["daemon-reload", "restart guard.timer"]


SETTINGS = {
    "path": "/etc/pi-fleet/guard.env",
    "content": "KEY=secret\n",
    "owner": pwd.getpwuid(os.getuid()).pw_name,
    "group": grp.getgrgid(os.getgid()).gr_name,
    "mode": "0640",
}


def test_what_a_unit_reads_is_written_restarts_it_and_is_never_shown(fake: Systemd, keep: Keep) -> None:
    keep(GUARD, ENABLE["guard"])
    fake.calls.clear()
    said = keep(GUARD, ENABLE["guard"], check_mode=True, configuration=[SETTINGS])
    assert not fake.exists(SETTINGS["path"])
    done = keep(GUARD, ENABLE["guard"], configuration=[SETTINGS])
    assert said["changed"] and done["changed"] and said["written"] == done["written"] == [SETTINGS["path"]]
    assert "secret" not in json.dumps({**done, "invocation": None})
    assert fake.read(SETTINGS["path"]) == "KEY=secret\n"
    assert (fake.root / "etc/pi-fleet/guard.env").stat().st_mode & 0o7777 == 0o640
    assert fake.calls == ["daemon-reload", "restart guard.timer"]
    assert not keep(GUARD, ENABLE["guard"], configuration=[SETTINGS])["changed"]


def test_what_a_unit_reads_is_not_in_the_devices_journal(keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr(AnsibleModule, "log", lambda _self, text, log_args: logged.append(f"{text} {log_args}"))
    keep(GUARD, ENABLE["guard"], configuration=[SETTINGS, {**SETTINGS, "content": "two 'secret'\n\"lines\"\n"}])
    (said,) = logged
    assert "field-data" in said or "guard" in said
    assert "secret" not in said


@pytest.mark.parametrize("differs", [{"content": "KEY=other\n"}, {"mode": "0600"}])
def test_what_a_unit_reads_is_written_anew_when_it_differs(fake: Systemd, keep: Keep, differs: dict[str, str]) -> None:
    keep(GUARD, ENABLE["guard"], configuration=[SETTINGS])
    assert keep(GUARD, ENABLE["guard"], configuration=[{**SETTINGS, **differs}])["written"] == [SETTINGS["path"]]
    assert not keep(GUARD, ENABLE["guard"], configuration=[{**SETTINGS, **differs}])["changed"]


def test_an_owner_who_is_not_there_is_named(fake: Systemd, keep: Keep) -> None:
    result = keep(GUARD, ENABLE["guard"], configuration=[{**SETTINGS, "group": "no-such-group"}])
    assert result["failed"]
    assert "no-such-group" in result["msg"]


GONE = {"lambda@gone.service": "[Service]\n", "lambda@stays.service": "[Service]\n"}


def test_units_that_are_no_longer_wanted_are_stopped_and_removed_and_others_are_not(fake: Systemd, keep: Keep) -> None:
    keep({**GUARD, **GONE}, [*ENABLE["guard"], *GONE])
    fake.calls.clear()
    wanted = {"retire": ["lambda@*"], "keep": ["lambda@stays.service"]}
    said = keep(GUARD, ENABLE["guard"], check_mode=True, **wanted)
    assert (said["changed"], said["retired"], fake.calls) == (True, ["lambda@gone.service"], [])
    assert keep(GUARD, ENABLE["guard"], **wanted)["retired"] == ["lambda@gone.service"]
    assert fake.calls == ["disable --quiet --now lambda@gone.service", "daemon-reload"]
    assert not fake.exists(f"{FOLDER}/lambda@gone.service")
    assert fake.exists(f"{FOLDER}/lambda@stays.service")
    assert not keep(GUARD, ENABLE["guard"], **wanted)["changed"]


def test_a_service_that_something_else_starts_is_restarted_only_while_it_runs(fake: Systemd, keep: Keep) -> None:
    keep(GUARD, ENABLE["guard"])
    fake.calls.clear()
    after = {**GUARD, "guard.service": "[Service]\nExecStart=/bin/other\n"}
    keep(after, ENABLE["guard"])
    assert fake.calls == ["daemon-reload", "restart guard.timer"]
    fake.calls.clear()
    fake.active["guard.service"] = fake.texts("guard.service")
    fake.write(f"{OWED}/guard.service", "")
    assert keep(after, ENABLE["guard"])["changed"]
    assert fake.calls == ["daemon-reload", "restart guard.timer", "restart guard.service"]
    assert not keep(after, ENABLE["guard"])["changed"]


def test_a_timer_is_stopped_before_it_starts_its_service_once_more(fake: Systemd, keep: Keep) -> None:
    keep(GUARD, ENABLE["guard"])
    fake.calls.clear()
    assert keep({}, [], retire=["guard.*"])["retired"] == ["guard.timer", "guard.service"]
    assert fake.calls == [
        *("disable --quiet --now guard.timer", "disable --quiet --now guard.service", "daemon-reload"),
    ]
    assert not keep({}, [], retire=["guard.*"])["changed"]


@pytest.mark.parametrize("name", ["lambda@a.service.d/override.conf", "lambda@a.service.bak", "lambda@.service"])
def test_a_users_own_drop_ins_copies_and_templates_are_no_units(fake: Systemd, keep: Keep, name: str) -> None:
    fake.write(f"{FOLDER}/{name}", "[Service]\n")
    assert keep(GUARD, ENABLE["guard"], retire=["lambda@*"])["retired"] == []
    assert fake.exists(f"{FOLDER}/{name}")


def disable(fake: Systemd) -> None:
    fake.enabled.discard("guard.timer")


def stop(fake: Systemd) -> None:
    del fake.active["guard.timer"]


def edit(fake: Systemd) -> None:
    fake.write(f"{FOLDER}/guard.timer", "[Timer]\nOnActiveSec=1h\n")


def add_a_drop_in(fake: Systemd) -> None:
    fake.write(f"{FOLDER}/guard.timer.d/mine.conf", "[Timer]\nRandomizedDelaySec=1s\n")


def owe(fake: Systemd) -> None:
    fake.write(f"{OWED}/guard.timer", "")


def nothing(fake: Systemd) -> None:
    pass


CHANGES: dict[Callable[[Systemd], None], list[str]] = {
    disable: ["enable --quiet guard.timer"],
    stop: ["restart guard.timer"],
    edit: ["daemon-reload", "restart guard.timer", "restart mosquitto.service"],
    add_a_drop_in: ["daemon-reload", "restart guard.timer", "restart mosquitto.service"],
    owe: ["daemon-reload", "restart guard.timer", "restart mosquitto.service"],
    nothing: [],
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_somebody_changed_is_mended_by_the_fewest_commands(
    fake: Systemd, keep: Keep, change: Callable[[Systemd], None]
) -> None:
    keep(FILES["both"], ENABLE["both"])
    fake.calls.clear()
    change(fake)
    before = fake.state()
    said = keep(FILES["both"], ENABLE["both"], check_mode=True)
    assert (fake.state(), fake.calls) == (before, [])
    done = keep(FILES["both"], ENABLE["both"])
    assert fake.calls == CHANGES[change]
    assert said["changed"] == done["changed"] == bool(CHANGES[change])
    assert (said["written"], said["diff"]) == (done["written"], done["diff"])
    assert is_right(fake, FILES["both"], ENABLE["both"])


def test_check_mode_on_a_virgin_device_says_what_a_run_does_and_touches_nothing(fake: Systemd, keep: Keep) -> None:
    before = fake.state()
    said = keep(GUARD, ENABLE["guard"], check_mode=True)
    assert (fake.state(), fake.calls) == (before, [])
    done = keep(GUARD, ENABLE["guard"])
    # What was changed owes a proof.
    assert done.pop("ansible_facts") == {"pi_fleet_unproven": True}
    assert said == {**done, "invocation": said["invocation"]}
    assert "ansible_facts" not in keep(GUARD, ENABLE["guard"])


def kill_at(step: int, fake: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    """End the run before one of its steps: a file written or removed, a command."""
    left = iter(range(step))

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(left, None) is None:
                raise PowerLossError
            return function(*arguments, **options)

        return call

    for name in ("write_text", "remove"):
        monkeypatch.setattr(units, name, counted(getattr(units, name)))
    monkeypatch.setattr(Device, "command", counted(Device.command))


@pytest.mark.parametrize("start", ["virgin", "older"])
@pytest.mark.parametrize("then", [nothing, Systemd.boot, Systemd.reload])
@pytest.mark.parametrize("step", range(13))
def test_a_run_that_ends_between_any_two_steps_is_healed_by_the_next(
    fake: Systemd, keep: Keep, monkeypatch: pytest.MonkeyPatch, step: int, then: Callable[[Systemd], None], start: str
) -> None:
    files, enable = FILES["both"], ENABLE["both"]
    if start == "older":
        keep({name: f"# older\n{text}" for name, text in files.items()}, enable)
    with monkeypatch.context() as patch:
        kill_at(step, fake, patch)
        steps = 12 if start == "virgin" else 10
        if step < steps:
            with patch_module_args({"files": files, "enable": enable}), pytest.raises(PowerLossError):
                module.main()
        else:
            keep(files, enable)
    then(fake)
    said = keep(files, enable, check_mode=True)["changed"]
    assert said != is_right(fake, files, enable)
    assert keep(files, enable)["changed"] == said
    assert is_right(fake, files, enable)
    assert not keep(files, enable)["changed"]


def test_a_unit_that_does_not_start_is_told_and_stays_owed(
    fake: Systemd, keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        refuse = (1, "", "Job for guard.timer failed.\n")
        run = fake.run
        patch.setattr(AnsibleModule, "run_command", lambda _, argv: refuse if "restart" in argv else run(argv))
        result = keep(GUARD, ENABLE["guard"])
    assert result["failed"]
    assert result["msg"].startswith("'systemctl restart guard.timer' failed with exit code 1 (Job for guard.timer fai")
    assert fake.exists(f"{OWED}/guard.timer")
    assert keep(GUARD, ENABLE["guard"])["changed"]
    assert is_right(fake, GUARD, ENABLE["guard"])


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (nothing, "enabled, active, as written"),
        (edit, "guard.timer was changed or is missing"),
        (disable, "guard.timer is not enabled"),
        (stop, "guard.timer is not active"),
        (add_a_drop_in, "systemd has not read what is written"),
        (owe, "systemd has not read what is written"),
    ],
)
def test_verify_tells_what_is_wrong_with_units(
    fake: Systemd, keep: Keep, change: Callable[[Systemd], None], found: str
) -> None:
    keep(GUARD, ENABLE["guard"])
    change(fake)
    wanted = {"role": "r", "check": "c", "kind": "units", "files": GUARD, "enable": ENABLE["guard"]}
    before, calls = fake.state(), len(fake.calls)
    (row,) = verify(fake.device(), [wanted])
    assert (row["ok"], row["found"], row["wanted"]) == (change is nothing, found, "enabled, active, as written")
    assert (fake.state(), len(fake.calls)) == (before, calls)


def test_verify_on_a_virgin_device_names_all_of_it(fake: Systemd) -> None:
    ok, found, _ = check_units(fake.device(), GUARD, ENABLE["guard"])
    assert not ok
    assert found == (
        "guard.service was changed or is missing, guard.timer was changed or is missing, "
        "guard.timer is not enabled, guard.timer is not active"
    )
