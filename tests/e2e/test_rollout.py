"""Rolling out by canary and batches, and back: ten copies of one provisioned device.

E2E_IMAGE is the image that they start from, E2E_FLEET what their containers' names begin with, E2E_DEVICES another
number of them, six or more, for a machine that has no room for ten.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from ansible_collections.edge.pi_fleet.plugins.module_utils.release import gather

from tests.e2e.conftest import ON_DEVICE, PROJECT, Fleet, Run, kill_all, on, role_alone, unwrapped
from tools.mutants import copy_project

NAMES = [f"pi-{number:02}" for number in range(1, int(os.environ.get("E2E_DEVICES", "10")) + 1)]
FIVE = ",".join(NAMES[:5])
LAMBDA = "lambda/beverage_classifier"
PLAY = ("playbooks/site.yml", "--tags", "classifier_lambda")
AT_ONCE = json.dumps({"rollout_batches": ["100%"]})
HISTORY = "/var/lib/pi-fleet/releases.json"
BACK_WITHIN = 60
ALL_BACK_WITHIN = 30

# Asks until it is told to stop, as somebody does who has the device in use, and writes down when it was answered.
WATCH = """
client, answered, errors = Client(), [], []
while not Path("/run/watch.stop").exists():
    said = client.ask(payload=b'{"keep": false}', timeout=5)
    if said["topic"] == RESPONSE:
        answered.append(time.monotonic())
    elif said["topic"]:
        errors.append(said["message"]["message"])
    time.sleep(0.2)
Path("/run/watch.json").write_text(json.dumps({"answered": answered, "errors": errors}))
"""


def inventory(folder: Path, hosts: dict[str, dict[str, object]], **variables: object) -> str:
    folder.mkdir()
    (folder / "hosts.yml").write_text(yaml.safe_dump({"devices": {"hosts": hosts, "vars": variables}}))
    return str(folder)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Ten devices on which the present release was proven."""
    folder = tmp_path_factory.mktemp("rollout")
    device: dict[str, object] = {"virtual_pi_release": "trixie", "virtual_pi_image": os.environ["E2E_IMAGE"]}
    found = inventory(
        folder / "inventory",
        dict.fromkeys(NAMES, device),
        ansible_python_interpreter="/usr/bin/python3",
        camera_source="directory",
        camera_directory=str(PROJECT / "files" / "photos"),
        image_classifier_model=str(PROJECT / ".cache" / "models" / "demonstration" / "model.onnx"),
    )
    variables = (f"virtual_pi_fleet={os.environ['E2E_FLEET']}", f"virtual_pi_directory={folder}")
    maker = Fleet(found, extra=[word for text in variables for word in ("--extra-vars", text)])
    try:
        made = maker.playbook("playbooks/virtual_fleet.yml")
        assert made.code == 0, made.output[-4000:]
        fleet = Fleet(found)
        settled = fleet.playbook(*PLAY, "--extra-vars", AT_ONCE)
        assert settled.code == 0, settled.output[-4000:]
        yield fleet
    finally:
        maker.playbook("playbooks/virtual_fleet.yml", "--extra-vars", "virtual_fleet=none")


def release(fleet: Fleet, folder: Path, text: str) -> Fleet:
    """Return the project with another release of the Lambda: a copy whose package begins with a text."""
    copy_project(folder)
    package = folder / "files" / "beverage_classifier" / "beverage_classifier" / "__init__.py"
    package.write_text(package.read_text().replace("from __future__ import annotations\n", text, 1))
    return Fleet(fleet.inventory, folder)


@pytest.fixture(scope="module")
def bad(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return release(fleet, tmp_path_factory.mktemp("bad"), 'raise RuntimeError("this release is bad")\n')


@pytest.fixture(scope="module")
def good(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return release(fleet, tmp_path_factory.mktemp("good"), "# Another release.\n")


def current(fleet: Fleet, *hosts: str) -> dict[str, str]:
    script = f"import os; print(os.readlink('/opt/pi-fleet/{LAMBDA}/current').split('/')[1])"
    return {host: fleet.root(host, script).strip() for host in hosts}


def history(fleet: Fleet, host: str) -> list[str]:
    """Return the releases of the Lambda that were proven on a device."""
    return [entry[LAMBDA] for entry in json.loads(fleet.root(host, f"print(open('{HISTORY}').read())"))]


def answers(fleet: Fleet, host: str) -> bool:
    said = on(fleet, host, "print(json.dumps(Client().ask(payload=b'{\"keep\": false}')))")
    return bool(said["topic"] == "/response/prediction/beverage_container")


@contextmanager
def away(fleet: Fleet, host: str) -> Iterator[None]:
    """Have a device be off, and on again."""
    name = f"{os.environ['E2E_FLEET']}-{host}"
    subprocess.run(["podman", "stop", name], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["podman", "start", name], check=True, capture_output=True)
        end = time.monotonic() + 60
        while not booted(fleet, host):
            assert time.monotonic() < end, f"{host} does not boot"


def booted(fleet: Fleet, host: str) -> bool:
    try:
        fleet.root(host, "import subprocess; subprocess.run(['systemctl', 'is-system-running', '--wait'], check=False)")
    except AssertionError:
        time.sleep(1)
        return False
    return True


def watch(fleet: Fleet, host: str) -> None:
    fleet.root(
        host,
        "import subprocess, pathlib\n"
        f"pathlib.Path('/run/watch.py').write_text({ON_DEVICE + WATCH!r})\n"
        "subprocess.run(['systemd-run', '--quiet', '--collect', '/usr/bin/python3', '/run/watch.py'], check=True)\n",
    )


def left_over(run: Run) -> dict[str, tuple[list[str], str]]:
    """Return what the end of a run says: hosts and the command for just them, by why they are left over."""
    _, _, end = run.output.partition("LEFT OVER")
    found = re.findall(r"^(\w.+?): (.+)\n(?:  (?!try).+\n)*  try just \w+ again: (.+)", end, re.MULTILINE)
    return {title: (hosts.split(", "), command) for title, hosts, command in found}


def test_a_run_that_changes_nothing_asks_nothing(fleet: Fleet) -> None:
    run = fleet.playbook(*PLAY, "--limit", "pi-01,pi-02", "-vvv")
    assert run.code == 0, run.output[-4000:]
    assert run.changed == {"pi-01": 0, "pi-02": 0}
    assert "Using module file" in run.output
    assert not re.search(r"Using module file \S+/(prove|proven|rollback)\.py", run.output)
    assert "LEFT OVER" not in run.output


def test_batches_that_are_none_are_refused_by_the_role_alone_too(fleet: Fleet, tmp_path: Path) -> None:
    """In site.yml preflight does it."""
    run = fleet.playbook(role_alone("rollout", tmp_path), "--extra-vars", json.dumps({"rollout_batches": ["0"]}))
    assert run.code != 0
    assert "rollout_batches is 0 (wanted are numbers of devices" in unwrapped(run.output)


def test_a_release_that_crashes_at_import_is_stopped_at_the_canary_which_answers_again(
    fleet: Fleet, bad: Fleet
) -> None:
    """The first of the five is away: it is no canary."""
    before = current(fleet, *NAMES[:5])
    with away(fleet, "pi-01"):
        watch(fleet, "pi-02")
        run = bad.playbook(*PLAY, "--limit", FIVE)
        assert run.code != 0
        assert answers(fleet, "pi-02")
        fleet.root("pi-02", "import pathlib, time; pathlib.Path('/run/watch.stop').touch(); time.sleep(6)")
        seen = on(fleet, "pi-02", "print(Path('/run/watch.json').read_text())")
    assert any("this release is bad" in error for error in seen["errors"]), seen
    silence = max(after - earlier for earlier, after in zip(seen["answered"], seen["answered"][1:], strict=False))
    print(f"the canary answered again {silence:.1f} s after its last answer by the former release")
    assert silence <= BACK_WITHIN
    said = left_over(run)
    assert said["Not reached"][0] == ["pi-01"]
    assert said["Failed"][0] == ["pi-02"]
    assert said["Left as they were, since the rollout stopped"][0] == ["pi-03", "pi-04", "pi-05"]
    assert "RuntimeError: this release is bad" in unwrapped(run.output.partition("LEFT OVER")[2])
    assert f"went back: {LAMBDA} from" in run.output
    # It is nobody's any more.
    assert fleet.root("pi-02", "import os; print(os.path.exists('/var/lib/pi-fleet/run.json'))").strip() == "False"
    assert current(fleet, *NAMES[1:5]) == {host: before[host] for host in NAMES[1:5]}
    assert history(fleet, "pi-02") == [before["pi-02"]]


def test_devices_that_are_away_do_not_stop_the_others_and_get_a_command_of_their_own(fleet: Fleet, good: Fleet) -> None:
    before = current(fleet, *NAMES[1:5])
    with away(fleet, "pi-01"):
        run = good.playbook(*PLAY, "--limit", FIVE)
    assert run.code == 4, run.output[-4000:]
    assert run.output.count("PLAY [Provision devices, batch after batch]") == 3
    after = current(fleet, *NAMES[:5])
    assert {after[host] for host in NAMES[1:5]}.isdisjoint(before.values())
    for host in NAMES[1:5]:
        assert history(fleet, host) == [before[host], after[host]]
    (hosts, command) = left_over(run)["Not reached"]
    assert hosts == ["pi-01"]
    assert left_over(run).keys() == {"Not reached"}
    again = subprocess.run(
        shlex.split(command), cwd=good.project, env=good.environment(), capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stdout
    assert current(fleet, "pi-01")["pi-01"] == after["pi-02"]


def test_a_batch_of_which_one_fails_goes_back_as_a_whole(fleet: Fleet, good: Fleet, tmp_path: Path) -> None:
    """On one device of the third batch a Lambda of the inventory, which nobody asks, cannot be imported."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "broken.py").write_text("1 / 0\n")
    broken = [{"name": "broken", "src": str(tmp_path / "broken"), "handler": "broken.function_handler"}]
    extra = inventory(tmp_path / "extra", {"pi-04": {"local_core_lambdas": broken}})
    former = history(fleet, "pi-01")[0]
    new = current(good, "pi-01")["pi-01"]
    back = fleet.playbook(*PLAY, "--limit", FIVE, "--extra-vars", AT_ONCE)
    assert back.code == 0, back.output[-4000:]
    run = Fleet(f"{fleet.inventory},{extra}", good.project).playbook(
        "playbooks/site.yml", "--tags", "local_core,classifier_lambda", "--limit", FIVE
    )
    assert run.code != 0
    assert "lambda@broken.service could not be initialised (ZeroDivisionError: division by zero)" in run.output
    assert "pi-04 of the same batch failed." in run.output
    assert left_over(run)["Failed"][0] == NAMES[2:5]
    assert current(fleet, *NAMES[:5]) == dict.fromkeys(NAMES[:2], new) | dict.fromkeys(NAMES[2:5], former)
    assert all(answers(fleet, host) for host in NAMES[:5])
    mended = fleet.playbook("playbooks/site.yml", "--tags", "local_core,classifier_lambda", "--limit", FIVE)
    assert mended.code == 0, mended.output[-4000:]


def test_a_rollout_that_was_killed_before_its_proof_is_undone(fleet: Fleet, bad: Fleet) -> None:
    before = current(fleet, "pi-06")
    command = bad.command(*PLAY, "--limit", "pi-06")
    environment = bad.environment() | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=bad.project, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert any("Keep the Lambda running" in line for line in process.stdout)
        assert any("changed: [pi-06]" in line for line in process.stdout)
        kill_all(process)
    assert current(fleet, "pi-06") != before
    assert not answers(fleet, "pi-06")
    run = fleet.playbook("playbooks/rollback.yml", "--limit", "pi-06")
    assert run.code == 0, run.output[-4000:]
    assert current(fleet, "pi-06") == before
    assert answers(fleet, "pi-06")
    assert history(fleet, "pi-06") == [before["pi-06"]]


def test_ten_devices_are_back_in_seconds(fleet: Fleet, good: Fleet) -> None:
    first = current(fleet, *NAMES)
    out = good.playbook(*PLAY, "--extra-vars", AT_ONCE)
    assert out.code == 0, out.output[-4000:]
    new = current(fleet, *NAMES)
    assert all(new[host] != first[host] for host in NAMES)
    dry = fleet.playbook("playbooks/rollback.yml", "--check")
    assert dry.code == 0, dry.output[-4000:]
    assert dry.changed == dict.fromkeys(NAMES, 1)
    assert current(fleet, *NAMES) == new
    again = json.dumps({"rollback_names": [LAMBDA], "rollback_release": new["pi-01"]})
    rounds: list[float] = []
    # The best of three: what else runs on this machine only adds.
    while len(rounds) < 3 and min(rounds, default=ALL_BACK_WITHIN) >= ALL_BACK_WITHIN:
        if rounds:
            assert fleet.playbook("playbooks/rollback.yml", "--extra-vars", again).code == 0
        begun = time.monotonic()
        run = fleet.playbook("playbooks/rollback.yml")
        rounds.append(time.monotonic() - begun)
        assert run.code == 0, run.output[-4000:]
        assert current(fleet, *NAMES) == first
    print(f"rollback of {len(NAMES)} devices: {', '.join(f'{seconds:.1f} s' for seconds in rounds)}")
    assert all(answers(fleet, host) for host in NAMES)
    assert "the next site.yml drops again what it names" in " ".join(run.output.split())
    assert min(rounds) < ALL_BACK_WITHIN


def test_a_second_rollback_goes_no_way_but_back(fleet: Fleet, good: Fleet) -> None:
    """On pi-06, of which one release was proven before the one that it has gone back from."""
    first = current(fleet, "pi-06")
    run = fleet.playbook("playbooks/rollback.yml", "--limit", "pi-06")
    assert run.code != 0
    assert "There is nothing to go back to" in run.output
    assert current(fleet, "pi-06") == first
    files = good.project / "files"
    other = gather([f"{files}/beverage_classifier/beverage_classifier", f"{files}/camera/pi_camera.py"]).identifier
    named = json.dumps({"rollback_names": [LAMBDA], "rollback_release": other})
    for changed in (1, 0):
        run = fleet.playbook("playbooks/rollback.yml", "--limit", "pi-06", "--extra-vars", named)
        assert (run.code, run.changed) == (0, {"pi-06": changed}), run.output[-4000:]
    assert current(fleet, "pi-06") == {"pi-06": other}
    assert answers(fleet, "pi-06")
