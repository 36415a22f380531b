"""Field data is collected once and whole, whatever is killed, written, renamed or tampered with meanwhile."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import PROJECT, Fleet, Run, kill_all, role_alone

SEED = 20261125
COLLECT = "playbooks/collect.yml"
PHOTO = PROJECT / "files" / "photos" / "rocket.jpg"

# Makes pictures on a device as the Lambda leaves them, and prints their SHA-256 by name.
DEVICE = """
import hashlib, json, os, pwd, random, subprocess, sys, time
from pathlib import Path
FOLDER = Path("/home/ggc_user/raw_field_data")
OWNER = pwd.getpwnam("ggc_user")

def write(name, data, days=3):
    path = FOLDER / name
    path.write_bytes(data)
    os.chown(path, OWNER.pw_uid, OWNER.pw_gid)
    path.chmod(0o660)
    os.utime(path, (time.time() - days * 86400,) * 2)

def sums():
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in FOLDER.iterdir() if not p.name.startswith(".")}
"""
MAKE = """
chance = random.Random({seed})
for number in range({count}):
    write({name}.format(number), chance.randbytes(chance.randint(1, {size})))
print(json.dumps(sums()))
"""


def device(fleet: Fleet, host: str, script: str) -> Any:
    """Run a script on a device after the text above; return the JSON document that it prints."""
    return json.loads(fleet.root(host, DEVICE + script) or "null")


def make(fleet: Fleet, host: str, name: str, count: int, size: int) -> dict[str, str]:
    """Make pictures of random bytes on a device; return the SHA-256 of all that are there."""
    seed = f"{SEED}-{host}-{name}"
    found: dict[str, str] = device(fleet, host, MAKE.format(seed=repr(seed), count=count, name=repr(name), size=size))
    return found


def collect(fleet: Fleet, *arguments: str) -> Run:
    """Collect, and require that it succeeds."""
    run = fleet.playbook(COLLECT, *arguments)
    assert run.code == 0, run.output[-4000:]
    return run


def here(fleet: Fleet, host: str) -> dict[str, str]:
    """Return the SHA-256 of what was collected, by name."""
    folder = Path(fleet.hosts()[host]["collect_path"], host)
    files = [path for path in folder.rglob("*") if path.is_file() and ".collect" not in path.parts]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def arriving(fleet: Fleet, host: str) -> list[Path]:
    """Return what is left of pictures that were arriving."""
    folder = Path(fleet.hosts()[host]["collect_path"], host, ".collect", "incoming")
    return [path for path in folder.rglob("*") if path.is_file()]


def flat(run: Run) -> str:
    """Return what a playbook printed, its folded lines joined."""
    return " ".join(run.output.split())


def row(run: Run, host: str) -> list[str]:
    """Return a device's numbers in the table: collected, MiB, had before, left, removed there."""
    (found,) = re.findall(rf"^\s*- {host} +(\d.*)$", run.output, re.MULTILINE)
    return str(found).split()


@pytest.fixture(scope="module", autouse=True)
def _nothing_collected(fleet: Fleet) -> None:
    """Forget what an earlier run of these tests collected."""
    for variables in fleet.hosts().values():
        for name in ("collect_path", "collect_labeled_path"):
            shutil.rmtree(variables[name], ignore_errors=True)


def test_the_second_collection_moves_no_picture(fleet: Fleet) -> None:
    sums = {host: make(fleet, host, "17000000000{:02}_soda-can_0.95.jpg", 40, 100_000) for host in fleet.hosts()}
    photo = f"write('1700000000100_coffee-mug_0.41.jpg', bytes.fromhex({PHOTO.read_bytes().hex()!r})); print('null')"
    for host in sums:
        device(fleet, host, photo)
        sums[host] |= {"1700000000100_coffee-mug_0.41.jpg": hashlib.sha256(PHOTO.read_bytes()).hexdigest()}
    first = collect(fleet)
    folder = Path(fleet.hosts()["pi-trixie"]["collect_path"])
    (sheet,) = folder.glob("*.html")
    text = sheet.read_text()
    for host, wanted in sums.items():
        assert here(fleet, host) == wanted
        assert row(first, host)[0] == "41"
        assert f"{host}: 41 of 41 pictures" in first.output
        assert f'alt="coffee-mug, 41%, {host}, 2023-11-14 22:13:20 UTC"' in text
    assert folder.stat().st_mode & 0o077 == 0
    before = {path: path.stat() for path in folder.rglob("*.jpg")}

    second = collect(fleet)
    for host in sums:
        assert row(second, host) == ["0", "0.0", "41", "0", "0"]
    assert {path: path.stat() for path in folder.rglob("*.jpg")} == before
    assert list(folder.glob("*.html")) == [sheet]
    assert set(second.changed.values()) == {0}


def test_a_killed_collection_is_continued(fleet: Fleet) -> None:
    sums = {host: make(fleet, host, "17000001{:05}_clutter_0.5.jpg", 80, 700_000) for host in fleet.hosts()}
    chance = random.Random(SEED)
    for _ in range(2):
        process = fleet.start(COLLECT)
        assert process.stdout
        while "Collect the field data" not in process.stdout.readline():
            pass
        time.sleep(chance.uniform(0.1, 0.8))
        assert "PLAY RECAP" not in kill_all(process)
    collect(fleet)
    for host, wanted in sums.items():
        assert here(fleet, host) == wanted
        assert arriving(fleet, host) == []


WRITER = """
unit = '''
import sys, time
with open("/home/ggc_user/raw_field_data/1700000200000.jpg", "wb", buffering=0) as direct:
    with open("/home/ggc_user/raw_field_data/.1700000200001.part", "wb", buffering=0) as hidden:
        while True:
            direct.write(bytes(1000))
            hidden.write(bytes(1000))
            time.sleep(0.1)
'''
argv = ["systemd-run", "--quiet", "--unit=writer", "--collect", "--uid=ggc_user", "--gid=ggc_group"]
subprocess.run([*argv, sys.executable, "-c", unit], check=True)
time.sleep(1)
"""


NAME_IT = """
(FOLDER / "1700000200001.jpg").hardlink_to(FOLDER / ".1700000200001.part")
(FOLDER / ".1700000200001.part").unlink()
print(json.dumps(sums()))
"""
ANY_AGE = ("--extra-vars", "collect_min_age=0")


def test_a_picture_that_is_being_written_is_left_and_collected_whole_later(fleet: Fleet) -> None:
    hosts = list(fleet.hosts())
    for host in hosts:
        fleet.root(host, DEVICE + WRITER)
    run = collect(fleet, *ANY_AGE)
    # As the Lambda names it: by a link, as a rename would replace another.
    stop = "import subprocess\nsubprocess.run(['systemctl', 'stop', 'writer'], check=True)\n"
    for host in hosts:
        assert f"{host}: 1700000200000.jpg is being written; left for the next time" in flat(run)
        assert not [name for name in here(fleet, host) if "17000002" in name]
    sums = {host: device(fleet, host, stop + NAME_IT) for host in hosts}
    young = collect(fleet)
    for host in hosts:
        assert row(young, host)[3] == "2"
        assert f"{host}: 1700000200001.jpg is so young that it may be about to be named" in flat(young)
    collect(fleet, *ANY_AGE)
    assert {host: here(fleet, host) for host in hosts} == sums


ASK = "['systemctl', 'is-active', '--quiet', 'renamer']"
RENAMER = """
unit = '''
import pathlib, time
folder = pathlib.Path("/home/ggc_user/raw_field_data")
for number in range(40):
    capture = folder / f"17000003{number:05}.jpg"
    capture.with_name(f"{capture.stem}_beer-mug_0.97.jpg").hardlink_to(capture)
    time.sleep(0.03)
    capture.unlink()
    time.sleep(0.03)
'''
subprocess.run(["systemd-run", "--quiet", "--unit=renamer", "--collect", sys.executable, "-c", unit], check=True)
"""


def test_pictures_that_are_renamed_meanwhile_are_collected_once(fleet: Fleet) -> None:
    hosts = list(fleet.hosts())
    for host in hosts:
        make(fleet, host, "17000003{:05}.jpg", 30, 200_000)
    # These are collected by their first names, and renamed after that; the others are renamed while they are collected.
    collect(fleet, *ANY_AGE)
    for host in hosts:
        make(fleet, host, "170000030003{}.jpg", 10, 200_000)
        fleet.root(host, DEVICE + RENAMER)
    collect(fleet, *ANY_AGE)
    for host in hosts:
        fleet.root(
            host, "import subprocess, time\nwhile not subprocess.call(UNIT): time.sleep(0.2)".replace("UNIT", ASK)
        )
    last = collect(fleet, *ANY_AGE)
    for host in hosts:
        assert row(last, host)[3] == "0"
        assert here(fleet, host) == device(fleet, host, "print(json.dumps(sums()))")


def test_what_was_changed_on_the_device_is_kept_beside(fleet: Fleet) -> None:
    hosts = list(fleet.hosts())
    name = "1700000000007_soda-can_0.95.jpg"
    before = {host: here(fleet, host) for host in hosts}
    for host in hosts:
        # Of the same size and date.
        device(fleet, host, f"write({name!r}, bytes((FOLDER / {name!r}).stat().st_size))")
    run = collect(fleet)
    for host in hosts:
        found = here(fleet, host)
        assert before[host].items() <= found.items()
        (beside,) = found.keys() - before[host].keys()
        assert beside.startswith("1700000000007_soda-can_0.95-")
        assert f"{host}: {name} is kept as {beside}, beside another" in flat(run)


def test_a_lost_ledger_costs_no_picture(fleet: Fleet) -> None:
    before = {host: here(fleet, host) for host in fleet.hosts()}
    for host in before:
        state = Path(fleet.hosts()[host]["collect_path"], host, ".collect")
        (state / "ledger.json").rename(state / "ledger.json.away")
    run = collect(fleet, *ANY_AGE)
    for host, wanted in before.items():
        assert row(run, host)[1] == "0.0"
        assert here(fleet, host) == wanted


def test_only_what_is_collected_and_old_is_removed_from_the_device(fleet: Fleet) -> None:
    hosts = fleet.hosts()
    kept, labelled, thrown = (f"17000000000{number}_soda-can_0.95.jpg" for number in ("01", "02", "03"))
    young = "1700000400000_clutter_0.5.jpg"
    before, here_before = {}, {}
    for host, variables in hosts.items():
        folder, labeled = Path(variables["collect_path"], host), Path(variables["collect_labeled_path"])
        # Two devices have a picture of this name: the one that is meant is found by its content.
        (labeled / f"soda-can-{host}").mkdir(parents=True, exist_ok=True)
        (folder / labelled).rename(labeled / f"soda-can-{host}" / labelled)
        (folder / thrown).unlink()
        before[host] = device(fleet, host, f"write({young!r}, b'young', days=1)\nprint(json.dumps(sums()))")
        here_before[host] = here(fleet, host)
    run = collect(fleet, "--extra-vars", "field_data_keep_days=2")
    for host in hosts:
        after = device(fleet, host, "print(json.dumps(sums()))")
        recent = {name for name in before[host] if name.startswith("17000002")}
        assert after.keys() == {young, thrown} | recent
        assert {kept, labelled} <= before[host].keys() - after.keys()
        assert f"{host}: {thrown} is not on the control node any more; not removed there" in flat(run)
        assert here(fleet, host) == {**here_before[host], young: before[host][young]}
        assert row(run, host)[4] == str(len(before[host]) - len(after))


def test_the_account_can_do_nothing_else(fleet: Fleet, host: str, tmp_path: Path) -> None:
    variables = fleet.hosts()[host]
    device(fleet, host, "write('1700000500000_clutter_0.5.jpg', b'picture')\nprint('null')")
    config = Path(variables["ansible_ssh_private_key_file"]).parent / "ssh_config"
    ssh = ["ssh", "-F", str(config), "-o", "BatchMode=yes", "-o", "ControlPath=none", "-l", "collect"]
    ssh += ["-o", f"IdentityFile={variables['collect_key']}"]
    # The configuration's own key is another account's.
    (tmp_path / "config").write_text(
        re.sub(r"(?m)^ +(IdentityFile|User) .*\n", "", config.read_text()),
    )
    ssh[2] = str(tmp_path / "config")
    rsync = ["rsync", "--rsh", " ".join(ssh)]
    local = tmp_path / "local"
    local.write_text("new")

    def attempt(*argv: str) -> str:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=60)
        return "" if done.returncode == 0 else done.stderr + done.stdout or f"exit code {done.returncode}"

    before = device(fleet, host, "print(json.dumps(sums()))")
    assert attempt(*rsync, f"{host}:/1700000500000_clutter_0.5.jpg", f"{tmp_path}/") == ""
    assert (tmp_path / "1700000500000_clutter_0.5.jpg").read_text() == "picture"
    for argv in (
        [*ssh, host],
        [*ssh, "-tt", host],
        [*ssh, host, "id"],
        [*ssh, host, "cat /etc/passwd"],
        [*ssh, "-N", "-o", "ExitOnForwardFailure=yes", "-R", "127.0.0.1:9999:127.0.0.1:22", host],
        [*ssh, "-s", host, "sftp"],
        [*rsync, str(local), f"{host}:/"],
        [*rsync, "--inplace", str(local), f"{host}:/1700000500000_clutter_0.5.jpg"],
        [*rsync, "--remove-source-files", f"{host}:/1700000500000_clutter_0.5.jpg", f"{tmp_path}/out/"],
        [*rsync, "--remote-option=--log-file=/1700000500000_clutter_0.5.jpg", f"{host}:/", f"{tmp_path}/out/"],
        [*rsync, f"{host}:../../../etc/passwd", f"{tmp_path}/out/"],
        [*rsync, "--dirs", f"{host}:/etc/", f"{tmp_path}/out/"],
    ):
        assert attempt(*argv), argv
    assert not [path for path in tmp_path.rglob("*") if path.name == "passwd"]
    assert device(fleet, host, "print(json.dumps(sums()))") == before


def test_an_age_below_nothing_is_refused_by_the_role_alone_too(fleet: Fleet, tmp_path: Path) -> None:
    for playbook in (COLLECT, role_alone("collect", tmp_path)):
        run = fleet.playbook(playbook, "--extra-vars", "collect_min_age=-1")
        assert run.code != 0
        assert "collect_min_age is -1; wanted are seconds, 0 or more" in run.output
