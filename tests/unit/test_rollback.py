"""Going back to releases that ran before: where to, and what a kill at any point leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.edge.pi_fleet.plugins.module_utils import history, workers
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, DeviceError
from ansible_collections.edge.pi_fleet.plugins.module_utils.release import Store, gather
from ansible_collections.edge.pi_fleet.plugins.module_utils.rollback import Rollback
from ansible_collections.edge.pi_fleet.plugins.module_utils.units import FOLDER, OWED
from ansible_collections.edge.pi_fleet.plugins.modules import proven as proven_module
from ansible_collections.edge.pi_fleet.plugins.modules import release as release_module
from ansible_collections.edge.pi_fleet.plugins.modules import rollback as module
from fake_device import PowerLossError
from localcore import work_loop

LAMBDA, MODEL, CORE = "lambda/cups", "model/cups", "localcore"
UNITS = {
    "localcore.service": (CORE,),
    "connector@cups.service": (MODEL, CORE),
    "lambda@cups.service": (LAMBDA, CORE),
    "guard.service": (),
}


class Fleetling:
    """A device in a folder with releases and units, and a systemctl that is played."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[str] = []
        self.on_demand: set[str] = set()
        self.inactive: set[str] = set()
        self.status = dict.fromkeys(UNITS, workers.READY)
        self.running: dict[str, str] = {}
        """What each unit's process has loaded: the text of its file when it was started."""
        self.power = 10**9
        for name in UNITS:
            path = root / FOLDER.lstrip("/") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("[Unit]\n")

    @property
    def device(self) -> Device:
        return Device(self.run, self.root)

    def store(self, name: str) -> Store:
        return Store(self.root / "opt/pi-fleet" / name)

    def drop(self, **texts: str) -> dict[str, str]:
        """Switch to releases of these contents as site.yml does, and return what is current."""
        for name, text in {LAMBDA: texts.get("code"), MODEL: texts.get("model"), CORE: texts.get("core")}.items():
            if text is None:
                continue
            source = self.root / "source" / text
            source.parent.mkdir(exist_ok=True)
            source.write_text(text)
            content, archive = gather([str(source)]), self.root / "archive"
            content.write_archive(archive)
            if not self.store(name).holds(content.identifier):
                self.store(name).unpack(content.identifier, archive)
            self.store(name).switch(content.identifier)
        current = self.current()
        for unit, stores in UNITS.items():
            lines = [f"# /opt/pi-fleet/{name}/releases/{current[name]}\n" for name in stores if name in current]
            (self.root / FOLDER.lstrip("/") / unit).write_text("".join(lines) + "[Unit]\n")
        return current

    def prove(self, **texts: str) -> dict[str, str]:
        """Drop releases that are proven then."""
        current = self.drop(**texts)
        history.write(self.device, [*history.read(self.device), current])
        self.running = {unit: self.text(unit) for unit in UNITS}
        return current

    def current(self) -> dict[str, str]:
        return history.running(history.stores(self.device))

    def text(self, unit: str) -> str:
        return (self.root / FOLDER.lstrip("/") / unit).read_text()

    def owed(self) -> list[str]:
        folder = self.root / OWED.lstrip("/")
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def consistent(self) -> bool:
        """Say whether each unit names what is current, and its process has loaded that."""
        current = self.current()
        wanted = {unit: [(f"/opt/pi-fleet/{name}", current[name]) for name in stores] for unit, stores in UNITS.items()}
        return all(
            workers.RUNS.findall(self.text(unit)) == found and self.running[unit] == self.text(unit)
            for unit, found in wanted.items()
        )

    def run(self, argv: list[str]) -> tuple[int, str, str]:
        match argv:
            case ["systemctl", "is-enabled", unit]:
                return (1, "disabled\n", "") if unit in self.on_demand else (0, "enabled\n", "")
            case ["systemctl", "is-active", unit]:
                return (3, "inactive\n", "") if unit in self.inactive else (0, "active\n", "")
            case ["systemctl", "show", "--property=ActiveState,StatusText", unit]:
                state = "inactive" if unit in self.inactive else "active"
                return 0, f"StatusText={self.status[unit]}\nActiveState={state}\n", ""
        if self.power == 0:
            raise PowerLossError
        self.power -= 1
        self.calls.append(" ".join(argv[1:]))
        match argv:
            case ["systemctl", "daemon-reload"]:
                pass
            case ["systemctl", "restart", unit]:
                self.running[unit] = self.text(unit)
            case _:
                raise AssertionError(f"unexpected command {argv}")
        return 0, "", ""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleetling:
    fake = Fleetling(tmp_path)
    monkeypatch.setattr(module, "Device", lambda run: fake.device)
    monkeypatch.setattr(proven_module, "Device", lambda run: fake.device)
    return fake


@pytest.fixture
def back(fake: Fleetling, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Run the module."""

    def call(check_mode: bool = False, **arguments: Any) -> dict[str, Any]:
        capsys.readouterr()
        given = {"timeout": 0, **arguments, "_ansible_check_mode": check_mode}
        with patch_module_args(given), pytest.raises(SystemExit):
            module.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return call


Back = Callable[..., dict[str, Any]]


def test_what_the_last_rollout_changed_goes_back_and_nothing_else(fake: Fleetling, back: Back) -> None:
    fake.prove(code="old", model="m", core="c")
    first = fake.prove(code="one")
    second = fake.prove(code="two")
    fake.calls.clear()
    said = back(check_mode=True)
    assert (said["changed"], fake.current(), fake.calls) == (True, second, [])
    done = back()
    assert done == {**said, "invocation": done["invocation"]}
    assert done["steps"] == [f"{LAMBDA} from {second[LAMBDA]} to {first[LAMBDA]}"]
    assert done["diff"]["after"] == f"{LAMBDA} {first[LAMBDA]}\n"
    assert fake.current() == first
    assert fake.calls == ["daemon-reload", "restart lambda@cups.service"]
    assert fake.consistent()
    assert fake.owed() == []


def test_what_ran_together_goes_back_together_the_local_core_first(fake: Fleetling, back: Back) -> None:
    first = fake.prove(code="one", model="m1", core="c1")
    fake.prove(code="two", model="m2", core="c2")
    back()
    assert fake.current() == first
    assert fake.calls == [
        *("daemon-reload", "restart localcore.service", "restart connector@cups.service"),
        "restart lambda@cups.service",
    ]
    assert fake.consistent()


def test_each_rollback_goes_one_further_and_the_last_refuses(fake: Fleetling, back: Back) -> None:
    states = [fake.prove(code=code, model="m", core="c") for code in ("one", "two", "three")]
    for state in (states[1], states[0]):
        assert back()["changed"]
        assert fake.current() == state
    refused = back()
    assert refused["failed"]
    assert refused["msg"].startswith("There is nothing to go back to: ")
    assert fake.current() == states[0]


def test_former_is_what_ran_and_not_what_was_dropped_last(fake: Fleetling, back: Back) -> None:
    old = fake.prove(code="old", model="m", core="c")
    fake.drop(code="never proven")
    fake.prove(code="new")
    back()
    assert fake.current() == old


def test_after_going_forward_again_the_way_back_is_there_again(fake: Fleetling, back: Back) -> None:
    first, second = fake.prove(code="one", model="m", core="c"), fake.prove(code="two")
    back()
    assert fake.prove(code="two") == second
    back()
    assert fake.current() == first


def test_what_was_never_proven_goes_back_to_what_was(fake: Fleetling, back: Back) -> None:
    fake.prove(code="old", model="m", core="c")
    proven = fake.prove(code="proven")
    for to in ("proven", "former"):
        fake.drop(code="bad", model="bad too")
        assert back(to=to)["changed"]
        assert fake.current() == proven
        assert fake.consistent()
    assert not back(to="proven")["changed"]


def test_a_blank_card_has_nothing_to_go_back_to(fake: Fleetling, back: Back) -> None:
    dropped = fake.drop(code="first", core="c")
    assert not back(to="proven")["changed"]
    assert "There is nothing to go back to" in back()["msg"]
    assert fake.current() == dropped
    assert not (fake.root / history.FILE.lstrip("/")).exists()


def test_a_lambda_that_is_new_stays(fake: Fleetling, back: Back) -> None:
    """It has no former release: what it runs beside goes back without it."""
    fake.prove(code="one", core="c")
    second = fake.prove(code="two", core="c")
    with_model = fake.prove(model="m")
    assert back()["changed"]
    assert fake.current()[MODEL] == with_model[MODEL]
    assert fake.current()[LAMBDA] != second[LAMBDA]


def test_one_goes_back_alone_and_a_second_time_further(fake: Fleetling, back: Back) -> None:
    fake.prove(code="one", model="m1", core="c")
    first = fake.current()
    fake.prove(code="two", model="m2")
    last = fake.prove(model="m3")
    back(names=[MODEL])
    assert fake.current()[LAMBDA] == last[LAMBDA]
    back(names=[MODEL])
    assert fake.current() == {**last, MODEL: first[MODEL]}
    assert f"no release that {MODEL} had before {first[MODEL]}" in back(names=[MODEL])["msg"]
    # The others' way back is there, and the model does not go forward with it.
    back()
    assert fake.current() == first


def test_one_goes_to_the_release_that_is_named_as_often_as_one_likes(fake: Fleetling, back: Back) -> None:
    states = [fake.prove(code=code, model="m", core="c") for code in ("one", "two", "three")]
    named = {"names": [LAMBDA], "release": states[0][LAMBDA]}
    assert back(**named)["changed"]
    assert not back(**named)["changed"]
    assert fake.current() == states[0]
    assert back()["failed"]
    assert back(names=[LAMBDA], release=states[2][LAMBDA])["changed"]
    assert fake.current() == states[2]
    assert fake.consistent()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"names": ["lambda/gone"]}, "The device runs no lambda/gone; it has localcore: "),
        ({"release": "0" * 16}, "is of one Lambda or model alone"),
        ({"names": [LAMBDA, MODEL], "release": "0" * 16}, "is of one Lambda or model alone"),
        ({"names": [LAMBDA], "release": "../../etc"}, "'../../etc' is no name of a release"),
        ({"names": [LAMBDA], "release": "0" * 16}, f"{LAMBDA} {'0' * 16} is not whole on the device"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_is_touched(
    fake: Fleetling, back: Back, arguments: dict[str, Any], said: str
) -> None:
    fake.prove(code="one", model="m", core="c")
    before = fake.prove(code="two"), history.read(fake.device)
    assert said in back(**arguments)["msg"]
    assert (fake.current(), history.read(fake.device)) == before
    assert fake.calls == []


def test_a_damaged_release_is_passed_over(fake: Fleetling, back: Back) -> None:
    oldest = fake.prove(code="one", model="m", core="c")
    damaged = fake.prove(code="two")
    fake.prove(code="three")
    (fake.store(LAMBDA).releases / damaged[LAMBDA] / "two").write_text("damaged")
    back()
    assert fake.current() == oldest


def test_on_demand_units_are_restarted_only_while_they_run(fake: Fleetling, back: Back) -> None:
    fake.on_demand.add("lambda@cups.service")
    fake.inactive.add("lambda@cups.service")
    fake.status["lambda@cups.service"] = ""
    fake.prove(code="one", model="m", core="c")
    fake.prove(code="two")
    assert back()["changed"]
    assert fake.calls == ["daemon-reload"]


def test_a_former_release_that_does_not_start_is_told(fake: Fleetling, back: Back) -> None:
    first = fake.prove(code="one", model="m", core="c")
    fake.prove(code="two")
    fake.status["lambda@cups.service"] = f"{workers.FAILED}ZeroDivisionError: division by zero"
    assert "lambda@cups.service could not be initialised (ZeroDivisionError: division by zero)" in back()["msg"]
    fake.status["lambda@cups.service"] = ""
    fake.drop(code="two")
    assert "lambda@cups.service did not report to be initialised within 0 s" in back()["msg"]
    assert fake.current() == first


def test_a_rollback_that_is_killed_anywhere_is_finished_by_the_next_and_goes_no_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_write, real_switch = history.write, Store.switch
    for arguments in ({}, {"names": [LAMBDA]}):
        for step in range(20):
            fake = Fleetling(tmp_path / f"{len(arguments)}-{step}")
            fake.prove(code="one", model="m", core="c")
            wanted = fake.prove(code="two")
            fake.prove(code="three")
            left = [step]

            def count(left: list[int] = left) -> None:
                if left[0] == 0:
                    raise PowerLossError
                left[0] -= 1

            def write(device: Device, entries: Any, count: Callable[[], None] = count) -> None:
                count()
                real_write(device, entries)
                count()

            def switch(self: Store, identifier: str, count: Callable[[], None] = count) -> None:
                count()
                real_switch(self, identifier)
                count()

            fake.power = max(step - 4, 0) if step >= 4 else 10**9
            with monkeypatch.context() as patch:
                patch.setattr(history, "write", write)
                patch.setattr(Store, "switch", switch)
                killed = go(fake, **arguments)
            fake.power = 10**9
            if killed:
                go(fake, **arguments)
            assert fake.current() == wanted, (arguments, step)
            assert fake.consistent(), (arguments, step)
            assert fake.owed() == []
            if not killed:
                break
        else:
            raise AssertionError("it was killed each time")
        assert step > 4


def go(fake: Fleetling, names: list[str] | None = None) -> bool:
    """Go back; return whether the power was lost."""
    rollback = Rollback(fake.device)
    try:
        entries = rollback.to_former_of(names, "") if names else rollback.to_former()
        rollback.go(entries, 0)
    except PowerLossError:
        return True
    return False


def test_what_is_proven_is_remembered_once(fake: Fleetling, capsys: pytest.CaptureFixture[str]) -> None:
    for check_mode in (True, False, False):
        fake.drop(code="one", core="c")
        with patch_module_args({"_ansible_check_mode": check_mode}), pytest.raises(SystemExit):
            proven_module.main()
        said = json.loads(capsys.readouterr().out)
        assert said["changed"] is False
        assert said["ansible_facts"] == {"pi_fleet_unproven": False}
        assert history.read(fake.device) == ([] if check_mode else [fake.current()])


def test_the_history_is_bounded(fake: Fleetling) -> None:
    history.write(fake.device, [{LAMBDA: f"{number:016x}"} for number in range(50)])
    entries = history.read(fake.device)
    assert len(entries) == history.LENGTH
    assert entries[-1] == {LAMBDA: f"{49:016x}"}


@pytest.mark.parametrize("text", ["", "[", "{}[", "[1]", '[{"lambda/cups": "../x"}]', '[{"lambda/cups": 1}]'])
def test_a_history_that_is_none_is_told(fake: Fleetling, back: Back, text: str) -> None:
    fake.drop(code="one")
    path = fake.root / history.FILE.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    with pytest.raises(DeviceError, match=r"is no list of releases: remove it"):
        history.read(fake.device)
    assert "is no list of releases" in back()["msg"]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/opt/pi-fleet/localcore", "localcore"),
        ("/opt/pi-fleet/lambda/cups", "lambda/cups"),
        ("/opt/pi-fleet/model/cups", "model/cups"),
        ("/opt/pi-fleet/camera", None),
        ("/opt/pi-fleet/wheels/lambda/cups", None),
        ("/srv/lambda/cups", None),
    ],
)
def test_what_answers_has_a_name_in_the_history(path: str, name: str | None) -> None:
    assert history.store_name(path) == name


def test_releases_that_ran_last_are_kept_before_those_that_are_newer(tmp_path: Path) -> None:
    fake = Fleetling(tmp_path)
    ran = fake.prove(code="ran")[LAMBDA]
    for code in ("a", "b", "c"):
        fake.drop(code=code)
    store = fake.store(LAMBDA)
    assert store.releases / ran in store.surplus(2)
    latest = history.latest(history.read(fake.device), LAMBDA)
    assert store.releases / ran not in store.surplus(2, latest)


def test_a_dropped_release_owes_a_proof_until_it_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = Fleetling(tmp_path)
    monkeypatch.setattr(history, "store_name", lambda path: LAMBDA)
    monkeypatch.setattr(release_module, "Device", lambda run: fake.device)

    def drop() -> dict[str, Any]:
        arguments = {"path": str(fake.store(LAMBDA).path), "release": fake.current()[LAMBDA]}
        with patch_module_args(arguments), pytest.raises(SystemExit):
            release_module.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    fake.drop(code="one")
    assert drop()["ansible_facts"] == {"pi_fleet_unproven": True}
    fake.prove()
    assert "ansible_facts" not in drop()


def test_workers_say_what_is_waited_for() -> None:
    assert (work_loop.READY, work_loop.FAILED) == (workers.READY, workers.FAILED)
