"""Cards with 300 pictures are rescued under kills, written anew from the blank image, and are what they were.

The virtual Pis boot from the cards that card.yml wrote, as in test_first_boot.py: their second cards are containers
made anew, with nothing of the first.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.edge.pi_fleet.plugins.module_utils.virtual_pi import Engine, Host

from tests.e2e.conftest import PROJECT, Run, kill_all
from tests.e2e.test_collect import DEVICE, MAKE, flat, row
from tests.e2e.test_device_state import FREE, HELD
from tests.e2e.test_first_boot import BLANK, CMDLINE, FLEET, SEEDED, Site, switch_on_again

SEED = 20261126
PICTURES, KILLS = 150, 5
REIMAGE = "playbooks/reimage.yml"
NOTES = "/home/pi/notes"
SHARED = yaml.safe_load((PROJECT / ".config" / "molecule" / "config.yml").read_text())["provisioner"]["inventory"]


class Farm(Site):
    """A site whose devices are provisioned in full."""

    def make(self) -> None:
        super().make()
        path = self.inventory / "hosts.yml"
        devices = yaml.safe_load(path.read_text())["devices"]
        shared = SHARED["group_vars"]["devices"]
        del devices["hosts"][BLANK]
        for host in devices["hosts"].values():
            host["virtual_pi_packages"] += shared["molecule_packages"]
            host["virtual_pi_packages"] += shared["molecule_packages_of_release"][host["virtual_pi_release"]]
        devices["vars"] |= {
            "ansible_become_password": self.password,
            "camera_source": "directory",
            "camera_directory": str(PROJECT / "files" / "photos"),
            "image_classifier_model": str(PROJECT / ".cache" / "models" / "demonstration" / "model.onnx"),
            "reimage_keeps": [NOTES, "/etc/not-there"],
            "collect_min_age": 0,
        }
        path.write_text(yaml.safe_dump({"devices": devices}))

    def flash(self) -> None:
        """Put freshly flashed cards in the place of the devices' cards, have card.yml write them, and boot."""
        for name in SEEDED:
            shutil.rmtree(self.card(name), ignore_errors=True)
            self.card(name).mkdir(parents=True)
            shutil.copy(CMDLINE, self.card(name))
        (self.card("pi-trixie") / "user-data").write_text("#cloud-config\n\n# Comments.\nssh_pwauth: false\n")
        (self.card("pi-trixie") / "meta-data").write_text("dsmode: local\ninstance_id: rpios-image\n")
        self.play("playbooks/card.yml")
        done = threading.Event()
        engine = Engine.find("auto", Host.detect())
        thread = threading.Thread(target=switch_on_again, args=(engine, f"{FLEET}-pi-bookworm", done))
        thread.start()
        try:
            self.play("playbooks/virtual_fleet.yml")
        finally:
            done.set()
            thread.join()

    def destroy(self) -> None:
        """Remove the devices, and all that is on them."""
        self.play("playbooks/virtual_fleet.yml", "-e", "virtual_fleet=none")

    def play(self, playbook: str, *arguments: str) -> Run:
        """Run a playbook, and require that it succeeds."""
        run = self.fleet.playbook(playbook, *arguments)
        assert run.code == 0, run.output[-6000:]
        return run

    def python(self, name: str, script: str) -> Any:
        """Run a script on a device as root; return the JSON document that it prints."""
        port = self.fleet.hosts()[name]["ansible_port"]
        options = ["BatchMode=yes", "StrictHostKeyChecking=yes", f"HostKeyAlias={name}", "IdentitiesOnly=yes"]
        options.append(f"UserKnownHostsFile={self.inventory / 'known_hosts'}")
        argv = ["ssh", *(word for option in options for word in ("-o", option)), "-i", str(self.key), "-p", str(port)]
        done = subprocess.run(
            [*argv, "pi@127.0.0.1", "sudo -S -p '' python3 -"],
            input=f"{self.password}\n{DEVICE}{script}",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout or "null")

    def sums(self) -> dict[str, dict[str, str]]:
        """Return the SHA-256 of the field data of each device."""
        return {name: self.python(name, "print(json.dumps(sums()))") for name in SEEDED}

    def here(self) -> dict[str, dict[str, str]]:
        """Return the SHA-256 of what was collected from each device."""
        folders = {name: self.inventory / "field_data" / name for name in SEEDED}
        return {
            name: {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("[!.]*")}
            for name, folder in folders.items()
        }

    def kill(self, playbook: str, text: str, seconds: float, *arguments: str) -> str:
        """Kill a playbook and what it started, so long after it printed a text; return what it had printed."""
        process = self.fleet.start(playbook, *arguments)
        assert process.stdout
        printed = ""
        while text not in printed:
            line = process.stdout.readline()
            assert line, printed
            printed += line
        time.sleep(seconds)
        return printed + kill_all(process)


def step(name: str) -> Sequence[str]:
    return ("-e", f"reimage_step={name}")


@pytest.fixture(scope="module")
def farm() -> Farm:
    """Two devices in service, with 150 pictures of random bytes each and what a user wrote."""
    farm = Farm(Path(os.environ["E2E_DIRECTORY"]))
    farm.make()
    farm.flash()
    farm.play("playbooks/site.yml")
    for name in SEEDED:
        farm.python(name, MAKE.format(seed=SEED, count=PICTURES, name="'1700000{:06}_clutter_0.5.jpg'", size=1_200_000))
        farm.python(
            name,
            f"folder = Path('{NOTES}')\nfolder.mkdir()\n(folder / 'todo').write_text('water the {name}')\n"
            "(folder / 'todo').chmod(0o600)\n(folder / 'link').symlink_to('todo')\n"
            "[os.chown(path, 1000, 1000, follow_symlinks=False) for path in (folder, *folder.iterdir())]",
        )
    return farm


def test_300_of_300_pictures_survive(farm: Farm) -> None:
    wanted = farm.sums()
    assert [len(found) for found in wanted.values()] == [PICTURES, PICTURES]
    known = (farm.inventory / "known_hosts").read_text()
    early = farm.fleet.playbook(REIMAGE, *step("after"))
    assert early.code != 0
    assert "Nothing is known of the card that" in flat(early)

    farm.python("pi-trixie", HELD)
    held = farm.fleet.playbook(REIMAGE, *step("before"), "--limit", "pi-trixie")
    assert held.code != 0
    assert "ada@elsewhere (process 1 there) provisions it since" in flat(held)
    farm.python("pi-trixie", FREE)

    chance = random.Random(SEED)
    for number in range(KILLS):
        moment = chance.uniform(0.3, 3)
        printed = farm.kill(REIMAGE, "TASK [edge.pi_fleet.reimage : Rescue", moment, *step("before"))
        assert "Flash it now" not in printed, "killed too late to prove anything"
        print(f"kill {number} after {moment:.1f} s: {len(farm.here()['pi-trixie'])} pictures of pi-trixie are here")
    before = farm.play(REIMAGE, *step("before"))
    for name in SEEDED:
        assert f"{name}: {PICTURES} pictures and 1 kept files are here, each verified" in flat(before)
    assert farm.here() == wanted
    still = farm.fleet.playbook(REIMAGE, *step("after"))
    assert still.code != 0
    assert "pi-trixie still has the card that it had: write the card anew" in flat(still)

    farm.destroy()
    farm.flash()
    assert (farm.inventory / "known_hosts").read_text() == known
    forgetful = farm.fleet.playbook(REIMAGE, *step("before"))
    assert forgetful.code != 0
    assert farm.here() == wanted
    begun = time.monotonic()
    farm.kill(REIMAGE, "TASK [edge.pi_fleet.reimage : Put back", chance.uniform(0.3, 2.5), *step("after"))
    after = farm.play(REIMAGE, *step("after"))
    print(f"reimaged in {time.monotonic() - begun:.0f} s")
    assert farm.sums() == wanted
    assert (farm.inventory / "known_hosts").read_text() == known
    assert len(re.findall(r"ok +an answer over MQTT", after.output)) == len(SEEDED)
    for name in SEEDED:
        look = f"[(p.name, p.owner(), oct(p.lstat().st_mode & 0o777)) for p in sorted(Path('{NOTES}').iterdir())]"
        assert farm.python(name, f"print(json.dumps({look}))")[1] == ["todo", "pi", "0o600"]
        assert farm.ssh(name, f"cat {NOTES}/link") == f"water the {name}"
        assert farm.ssh(name, "hostname") == f"{name}\n"
    owners = "sorted({(p.owner(), p.group(), oct(p.stat().st_mode & 0o777)) for p in FOLDER.iterdir()})"
    assert farm.python("pi-trixie", f"print(json.dumps({owners}))") == [["ggc_user", "ggc_group", "0o660"]]


def test_nothing_is_left_to_do(farm: Farm) -> None:
    run = farm.play("playbooks/collect.yml")
    for name in SEEDED:
        assert row(run, name) == ["0", "0.0", str(PICTURES), "0", "0"]


def test_a_dead_card_is_replaced_by_what_was_collected(farm: Farm) -> None:
    wanted = farm.sums()
    farm.python("pi-trixie", "write('1700000999999_clutter_0.5.jpg', b'taken after the last collection')")
    farm.destroy()
    run = farm.play(REIMAGE, *step("lost"))
    said = f"of the {PICTURES} pictures that pi-trixie had at its last collection"
    assert said in flat(run)
    assert f"{PICTURES} are here and verified; 1 files of reimage_keeps are from its last reimaging" in flat(run)
    assert "What came onto the card after that, nobody can know." in flat(run)
    assert farm.here() == wanted
