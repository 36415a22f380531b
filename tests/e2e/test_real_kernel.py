"""A device with a kernel of its own: what a container shares with its host, here it is the device's.

E2E_POWER_CUTS says how many times power is cut in a run, and again while pictures are written.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from typing import Any

import pytest

from tests.e2e.conftest import HOSTS, Fleet, key_folder, kill_all, on

(HOST,) = HOSTS
CUTS = int(os.environ.get("E2E_POWER_CUTS", "10"))
PICTURES = 201
SEED = 2018
# A thousand MiB, less the page that says that it is swap.
SWAP = 1023996
BOOT = 900
TASKS = 256
# That site.yml says while roles run, the last few left out.
TASKS_OF_A_RUN = 110
# What apt installs in half a minute.
REMOVE = "import subprocess; subprocess.run(['apt-get', 'purge', '--yes', 'rsync', 'python3-cbor2'], check=True)"

# As ggc_user, by the Lambda's own function: a picture's name is noted, with its hash, when it is said to be stored.
STORE = r"""
import hashlib, os, subprocess, sys
from pathlib import Path
code = '''
import hashlib, os, sys
from pathlib import Path
sys.path.insert(0, "/opt/pi-fleet/lambda/beverage_classifier/current")
from beverage_classifier.captures import save
folder = Path("/home/ggc_user/raw_field_data")
notes = open("/home/ggc_user/notes", "a")
while True:
    picture = os.urandom(40000)
    capture = save(folder, picture)
    print(capture.path.name, hashlib.sha256(picture).hexdigest(), file=notes, flush=True)
    os.fsync(notes.fileno())
'''
subprocess.run(["runuser", "-u", "ggc_user", "--", "/usr/bin/python3", "-c", code], check=True)
"""

LOOK = r"""
import hashlib, json
from pathlib import Path
folder = Path("/home/ggc_user/raw_field_data")
notes = [line.split() for line in Path("/home/ggc_user/notes").read_text(errors="replace").splitlines()]
noted = {words[0]: words[1] for words in notes if len(words) == 2 and len(words[1]) == 64}
found = {path.name: path.read_bytes() for path in folder.glob("*.jpg")}
lost = [name for name in noted if name not in found]
torn = [name for name, content in found.items() if len(content) != 40000]
torn += [name for name, digest in noted.items() if name in found and hashlib.sha256(found[name]).hexdigest() != digest]
print(json.dumps({"noted": len(noted), "lost": lost, "torn": torn}))
"""

COUNT = "import os; print(len(os.listdir('/home/ggc_user/raw_field_data')))"


def cut_power(fleet: Fleet) -> None:
    """Kill the machine as it is: nothing is written any more. Its supply gives it power again."""
    folder = key_folder(fleet.inventory, fleet.project, HOST) / "machines" / HOST
    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)


def look(fleet: Fleet, script: str) -> Any:
    return json.loads(fleet.root(HOST, f"import json, subprocess\nfrom pathlib import Path\n{script}"))


def said_until(run: subprocess.Popen[str], texts: list[str]) -> str:
    """Read what a run says until it has said these texts, one after the other; return the line of the last one."""
    waiting = list(texts)
    assert run.stdout
    for line in run.stdout:
        if waiting[0] in line and not (waiting := waiting[1:]):
            return line.strip()
    raise AssertionError(f"the run ended without saying {waiting[0]}")


def verified(fleet: Fleet) -> None:
    run = fleet.playbook("playbooks/verify.yml", "--extra-vars", '{"verify_ask": true}')
    assert run.code == 0, run.output


def test_the_swap_is_real_and_as_large_as_the_article_says(fleet: Fleet) -> None:
    swaps = look(fleet, "print(json.dumps(Path('/proc/swaps').read_text().splitlines()[1:]))")
    (swap,) = swaps
    assert int(swap.split()[2]) == SWAP


def eats_too_much(fleet: Fleet) -> None:
    """Require that a Lambda which takes 200 MB is killed, and that the next question is answered."""
    script = """
client = Client()
events = [{"number": 1}, {"eat": 200}, {"number": 2}]
print(json.dumps([client.ask("echo/a/request", json.dumps(event).encode(), 120) for event in events]))
"""
    before, killed, after = on(fleet, HOST, script)
    assert before["message"]["number"] == 1
    assert killed["message"]["error"] == "Unhandled"
    assert after["message"]["number"] == 2
    assert after["message"]["pid"] != before["message"]["pid"]
    journal = look(fleet, "print(json.dumps(subprocess.getoutput('journalctl --boot -u lambda@echo -o cat')))")
    assert "killed by the OOM killer" in journal or "oom-kill" in journal, journal


def test_a_lambda_that_eats_more_than_it_may_is_killed_and_the_next_question_is_answered(fleet: Fleet) -> None:
    eats_too_much(fleet)
    # Not for want of memory: there is swap, which a Lambda may not take.
    free = look(fleet, "print(json.dumps(Path('/proc/swaps').read_text().split()[-2]))")
    assert int(free) < SWAP / 2


BEYOND = """
import socket
# The device's own address, which its SSH server listens on: whoever asks for that leaves loopback.
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as beyond:
    beyond.connect(("192.0.2.1", 9))
    own = beyond.getsockname()[0]
event = {"addresses": [[own, 22], ["127.0.0.1", 22]], "ports": [8000, 8001], "breed": 1000}
answers = [Client().ask("intruder/request", json.dumps(event).encode(), 600) for _ in range(2)]
print(json.dumps([own, *(answer["message"] for answer in answers)]))
"""


def test_a_lambda_reaches_nobody_beyond_and_floods_nothing(fleet: Fleet) -> None:
    own, *answers = on(fleet, HOST, BEYOND)
    for answer in answers:
        print(answer)
        # A packet that is dropped is an answer that does not come.
        assert answer["reached"].pop(f"{own}:22") in ("TimeoutError", "PermissionError")
        assert answer["reached"] == {"127.0.0.1:22": "connected"}
        # Bookworm's systemd denies no port: there it is taken, while the local core runs.
        assert answer["bound"].pop("8000") in ("OSError", "PermissionError")
        assert answer["bound"] == {"8001": "bound"}
        assert answer["bred"]["stopped"] == "BlockingIOError"
        assert answer["bred"]["processes"] < TASKS


FILL = """
import subprocess
# Its own, on the card: /tmp is in memory on some devices.
said = Client().ask("intruder/request", b'{"fill": "/var/tmp/filled"}', 600)
deadline = time.monotonic() + 600
while subprocess.call(["systemctl", "is-active", "--quiet", "lambda@intruder"]) and time.monotonic() < deadline:
    time.sleep(2)
told = subprocess.getoutput("journalctl --output cat --unit field-data-guard")
again = Client().ask("intruder/request", b'{"number": 3}', 240)
print(json.dumps([said, told, again]))
"""


def test_a_lambda_that_takes_all_of_the_card_is_stopped_and_started_when_there_is_room(fleet: Fleet) -> None:
    said, told, again = on(fleet, HOST, FILL)
    assert said["topic"].endswith("/errors"), said
    # Not a block was left.
    assert "Stopped lambda@intruder.service: 0 MiB are free" in told
    assert "cannot be written" not in told
    assert again["message"]["number"] == 3


def test_all_is_there_again_after_a_reboot(fleet: Fleet) -> None:
    before = look(fleet, "print(json.dumps(Path('/proc/sys/kernel/random/boot_id').read_text()))")
    with suppress(AssertionError):
        fleet.root(HOST, "import subprocess; subprocess.run(['systemctl', 'reboot'])")
    deadline = time.monotonic() + BOOT
    while time.monotonic() < deadline:
        with suppress(AssertionError):
            if look(fleet, "print(json.dumps(Path('/proc/sys/kernel/random/boot_id').read_text()))") != before:
                break
        time.sleep(2)
    fleet.await_boot(HOST, BOOT)
    verified(fleet)
    node, swaps = look(
        fleet,
        "import os, stat\n"
        "print(json.dumps([stat.S_ISCHR(os.stat('/dev/raw1394').st_mode), Path('/proc/swaps').read_text()]))",
    )
    assert node
    assert str(SWAP) in swaps
    drift = fleet.playbook("playbooks/drift.yml")
    assert drift.code == 0, drift.output[-4000:]
    eats_too_much(fleet)


@pytest.mark.parametrize("number", range(CUTS))
def test_power_that_is_cut_in_a_run_is_healed_by_the_next(fleet: Fleet, number: int) -> None:
    """Somewhere among the tasks that roles begin, and every third time while packages are installed."""
    chance = random.Random(f"{SEED} {number}")
    if number % 3 == 2:
        fleet.root(HOST, REMOVE)
        given: dict[str, Any] = {}
        begun, seconds = ["Install the packages of all roles"], chance.uniform(3, 40)
    else:
        # Other values of much that roles write, or the same files anew.
        given = {"full": True, "swap_size": 900 + number, "camera_width": 640 + 2 * number}
        begun = ["PLAY [Provision", *["TASK ["] * chance.randint(1, TASKS_OF_A_RUN)]
        seconds = chance.uniform(0, 3)
    run = fleet.start("playbooks/site.yml", "--extra-vars", json.dumps(given), PYTHONUNBUFFERED="1")
    last = said_until(run, begun)
    time.sleep(seconds)
    assert run.poll() is None, "the run was over before the power was cut"
    cut_power(fleet)
    kill_all(run)
    print(f"cut {seconds:.1f} s after {last.strip('* ')}")
    time.sleep(5)
    fleet.await_boot(HOST, BOOT)
    healed = fleet.playbook("playbooks/site.yml")
    assert healed.code == 0, healed.output
    verified(fleet)
    again = fleet.playbook("playbooks/site.yml")
    assert again.changed[HOST] == 0, again.output


@pytest.mark.parametrize("number", range(CUTS))
def test_no_picture_is_torn_or_lost_when_power_is_cut(fleet: Fleet, number: int) -> None:
    before = int(fleet.root(HOST, COUNT))
    command, given = fleet.root_python(HOST, STORE)
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
    assert writer.stdin
    writer.stdin.write(given)
    writer.stdin.close()
    deadline = time.monotonic() + BOOT
    while int(fleet.root(HOST, COUNT)) < before + PICTURES:
        assert writer.poll() is None
        assert time.monotonic() < deadline
        time.sleep(random.Random(f"{SEED} {number}").uniform(0, 1))
    cut_power(fleet)
    writer.kill()
    writer.wait()
    time.sleep(5)
    fleet.await_boot(HOST, BOOT)
    found = json.loads(fleet.root(HOST, LOOK))
    print(f"{found['noted']} pictures stored, {len(found['lost'])} lost, {len(found['torn'])} torn")
    # The last one may have been written and not noted yet.
    assert found["noted"] >= (number + 1) * (PICTURES - 1)
    assert not found["lost"]
    assert not found["torn"]


def test_the_disk_is_well(fleet: Fleet) -> None:
    said = look(fleet, "print(json.dumps(subprocess.getoutput('dmesg | grep -i \"EXT4-fs error\"')))")
    assert said == ""
