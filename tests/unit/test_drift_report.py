"""The report on drift: what is asked of a device, what is written, and what the page shows and cannot be made to do."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.edge.pi_fleet.plugins.action import drift_report
from ansible_collections.edge.pi_fleet.plugins.module_utils.about import about
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device
from ansible_collections.edge.pi_fleet.plugins.module_utils.drift_page import page
from ansible_collections.edge.pi_fleet.plugins.module_utils.field_data import FOLDER
from fake_action import make
from PIL import Image

PROJECT = Path(__file__).parents[2]
ABOUT: dict[str, Any] = {
    "system": "Raspbian GNU/Linux 13 (trixie)",
    "model": "Raspberry Pi 3 Model B Rev 1.2",
    "kernel": "6.12.20-v7",
    "disk_mib": 29000,
    "disk_free_mib": 21000,
    "swap_mib": 1000,
    "swap_free_mib": 900,
    "releases": {"localcore": "557f1fa8a2464f97", "model/cups": "201066a9df94c150"},
    "picture": {"prediction": "coffee-mug, 95%", "time": "2026-11-26 15:40:00 UTC", "thumbnail": ""},
}
DIFFERENCE = {
    "role": "camera",
    "entry": "path /etc/camera.json",
    "attribute": "mode",
    "found": "0600",
    "wanted": "0644",
    "told": "path /etc/camera.json: mode is 0600, was 0644",
    "since": "2026-11-26T17:02:11Z",
}
CONVERGED: dict[str, Any] = {
    "run": {},
    "differences": [],
    "checked": 1236,
    "seconds": 0.31,
    "recorded_at": "2026-11-26T15:40:00Z",
    "reboot_reasons": [],
    "about": ABOUT,
}
DRIFTED = {**CONVERGED, "run": {"camera": DIFFERENCE["told"]}, "differences": [DIFFERENCE]}


@pytest.fixture
def device(tmp_path: Path) -> Device:
    for name, text in {
        "/etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n',
        "/proc/device-tree/model": "Raspberry Pi 3\0",
        "/proc/sys/kernel/osrelease": "6.12\n",
        "/proc/meminfo": "MemTotal:  1000 kB\nSwapTotal:  1023996 kB\nSwapFree:  512000 kB\n",
    }.items():
        path = tmp_path / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Device(lambda argv: (0, "", ""), root=tmp_path)


def test_what_a_device_tells_of_itself(device: Device) -> None:
    told = about(device, thumbnail=False)
    assert told["system"] == "Debian GNU/Linux 13 (trixie)"
    assert (told["model"], told["kernel"]) == ("Raspberry Pi 3", "6.12")
    assert (told["swap_mib"], told["swap_free_mib"]) == (999, 500)
    assert 0 < told["disk_free_mib"] <= told["disk_mib"]
    assert (told["releases"], told["picture"]) == ({}, {})


def test_the_last_picture_with_a_prediction_and_only_where_it_is_allowed_itself(device: Device) -> None:
    folder = device.path(FOLDER)
    folder.mkdir(parents=True)
    for name in ("1700000000000_clutter_0.9.jpg", "1700000099000_coffee-mug_0.95.jpg", "1800000000000.jpg", "x.jpg"):
        Image.new("RGB", (640, 480), "red").save(folder / name)
    told = about(device, thumbnail=False)["picture"]
    assert told == {"prediction": "coffee-mug, 95%", "time": "2023-11-14 22:14:59 UTC", "thumbnail": ""}
    shown = about(device, thumbnail=True)["picture"]["thumbnail"]
    assert base64.b64decode(shown).startswith(b"\xff\xd8")
    (folder / "1700000099000_coffee-mug_0.95.jpg").write_text("broken")
    assert about(device, thumbnail=True)["picture"]["thumbnail"] == ""


def write(folder: Path, check_mode: bool = False, **probes: dict[str, Any]) -> dict[str, Any]:
    plugin = make(drift_report.ActionModule, {"path": str(folder), "hosts": list(probes)})
    plugin._task.check_mode = check_mode
    hostvars = {host: {"__drift": probe} if probe else {} for host, probe in probes.items()}
    result: dict[str, Any] = plugin.run(task_vars={"hostvars": hostvars})
    return result


def test_a_file_a_device_and_a_page_about_all(tmp_path: Path) -> None:
    folder = tmp_path / "drift"
    shown = {**ABOUT, "picture": {**ABOUT["picture"], "thumbnail": "cGljdHVyZQ=="}}
    result = write(folder, roof={**DRIFTED, "about": shown}, bar=CONVERGED, cellar={}, attic={"run": {"swap": "?"}})
    assert result == {"changed": False, "page": str(folder / "index.html")}
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    told = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("roof", "bar", "cellar", "attic")}
    states = {name: report["state"] for name, report in told.items()}
    assert states == {"roof": "drifted", "bar": "converged", "cellar": "silent", "attic": "silent"}
    assert told["roof"]["differences"] == [DIFFERENCE]
    assert "thumbnail" not in told["roof"]["about"]["picture"]
    assert "cGljdHVyZQ==" in (folder / "index.html").read_text()


def test_where_nobody_answers_no_report_of_another_day_stands(tmp_path: Path) -> None:
    write(tmp_path, roof=CONVERGED)
    inventory = "[devices]\nroof ansible_host=127.0.0.1 ansible_port=9\n"
    (tmp_path / "hosts.ini").write_text(inventory)
    command = ["ansible-playbook", "--inventory", str(tmp_path / "hosts.ini"), "playbooks/drift.yml"]
    given = ["--extra-vars", f"drift_report_path={tmp_path}"]
    done = subprocess.run([*command, *given], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stdout
    assert json.loads((tmp_path / "roof.json").read_text())["state"] == "silent"
    assert "roof" in (tmp_path / "index.html").read_text()


def test_free_disk_is_remembered_and_that_is_bounded(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path, roof={**CONVERGED, "about": {**ABOUT, "disk_free_mib": 100 + number}})
    write(tmp_path, roof={})
    file = tmp_path / "roof.json"
    assert [free for _, free in json.loads(file.read_text())["free_disk"]] == [100, 101, 102]
    file.write_text(json.dumps({"free_disk": [["2026", number] for number in range(500)]}))
    write(tmp_path, roof=CONVERGED)
    assert len(json.loads(file.read_text())["free_disk"]) == drift_report.LENGTH
    file.write_text("{")
    write(tmp_path, roof=CONVERGED)
    assert len(json.loads(file.read_text())["free_disk"]) == 1


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    assert write(tmp_path / "drift", check_mode=True, roof=CONVERGED)["page"] == ""
    assert not (tmp_path / "drift").exists()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "drift").write_text("")
    with pytest.raises(AnsibleActionFail, match=r"The report cannot be written .* name another folder"):
        write(tmp_path / "drift", roof=CONVERGED)


def report(host: str, probe: dict[str, Any], **before: Any) -> dict[str, Any]:
    return {**drift_report.report(host, probe, "2026-11-26T18:00:00Z", before), "about": probe.get("about", {})}


def test_what_is_wanted_otherwise_and_what_another_run_provisions_have_words_of_their_own() -> None:
    due = {**CONVERGED, "run": {"camera": "its inputs are other ones"}}
    held = {**DRIFTED, "held": "ada@office provisions it"}
    shown = page("2026-11-26T18:00:00Z", [report("attic", held), report("bar", CONVERGED), report("roof", due)])
    assert re.findall(r'<article class="(\w+)" id="(\w+)"', shown) == [
        ("due", "roof"),
        ("held", "attic"),
        ("converged", "bar"),
    ]
    assert "1 as it was made, 1 to be provisioned, 1 being provisioned." in shown


def test_who_needs_somebody_is_first_on_the_page() -> None:
    shown = page("2026-11-26T18:00:00Z", [report("attic", CONVERGED), report("cellar", {}), report("roof", DRIFTED)])
    assert re.findall(r'<article class="(\w+)" id="(\w+)"', shown) == [
        ("drifted", "roof"),
        ("silent", "cellar"),
        ("converged", "attic"),
    ]
    assert "<p>Asked 2026-11-26T18:00:00Z: 1 as it was made, 1 drifted, 1 did not answer.</p>" in shown
    assert "path /etc/camera.json: mode is 0600, was 0644, since 2026-11-26T17:02:11Z" in shown
    for text in (
        "Raspbian GNU/Linux 13",
        "21000 MiB of 29000",
        "100 MiB of 1000",
        "557f1fa8a2464f97",
        "coffee-mug, 95%",
    ):
        assert text in shown


def test_the_page_has_a_line_of_free_disk_from_the_second_report_on() -> None:
    assert "<svg" not in page("2026-11-26T18:00:00Z", [report("roof", CONVERGED)])
    shown = page("2026-11-26T18:00:00Z", [report("roof", CONVERGED, free_disk=[["2026", 100], ["2026", 300]])])
    assert "Free disk in 3 reports: between 100 and 21000 MiB" in shown
    assert len(re.findall(r"[\d.]+,[\d.]+", re.findall(r'points="([^"]+)"', shown)[0])) == 3


def test_what_devices_say_stays_text_and_nothing_is_loaded() -> None:
    hostile = '"><script>alert(1)</script>'
    about_it = {
        **ABOUT,
        "system": hostile,
        "releases": {hostile: hostile},
        "picture": dict.fromkeys(ABOUT["picture"], hostile),
    }
    difference = dict.fromkeys(DIFFERENCE, hostile)
    probe = {**DRIFTED, "about": about_it, "differences": [difference], "run": {hostile: hostile}}
    shown = page(
        "2026-11-26T18:00:00Z", [report("roof", {**probe, "recorded_at": hostile, "reboot_reasons": [hostile]})]
    )
    assert "<script" not in shown
    assert "default-src 'none'" in shown
    named = re.findall(r'(?:src|href)="([^"]*)"', shown)
    assert named
    assert all(name.startswith(("data:image/jpeg;base64,", "#")) for name in named)
