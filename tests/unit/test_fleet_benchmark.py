"""What the benchmark of a fleet makes of what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from base64 import b64encode
from pathlib import Path

import pytest

from benchmarks import fleet
from benchmarks.copies import Fleet
from benchmarks.fleet import Checks, Cost

COSTS = {"10": {"site.yml": [Cost(2, 1, 4), Cost(4, 3, 6), Cost(3, 2, 5)], "a <b>": [Cost(1, 1, 1)]}}


def test_the_table_has_medians_and_the_spread() -> None:
    head, first, second = fleet.table(COSTS)
    assert head.split() == ["devices", "contender", "control", "devices", "processor", "(spread)", "wall"]
    assert first.split() == ["10", "site.yml", "3.0", "2.0", "5.0", "(3.0", "to", "7.0)", "5.0"]
    assert second.split()[-1] == "1.0"


def test_the_chart_is_a_picture_of_what_a_device_costs() -> None:
    drawn = ElementTree.fromstring(fleet.chart(COSTS))
    words = ["".join(element.itertext()) for element in drawn]
    assert "site.yml, 10 devices" in words
    assert "a <b>, 10 devices" in words
    assert words.index("0.50") == words.index("site.yml, 10 devices") + 3
    widths = [float(element.get("width", 0)) for element in drawn if element.tag.endswith("rect")]
    assert widths[0] + widths[1] == pytest.approx(420, abs=0.2)


@pytest.mark.parametrize(
    ("name", "text"), [("cpuacct.usage", "2500000000\n"), ("cpu.stat", "usage_usec 2500000\nuser_usec 1\n")]
)
def test_the_processor_of_a_device_is_read_from_either_layout(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert fleet.processor([tmp_path / name, tmp_path / name]) == 5.0


def test_idle_work_is_not_the_contenders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100, 3))
    monkeypatch.setattr("benchmarks.fleet.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("benchmarks.fleet.time.sleep", lambda seconds: None)
    usage = iter((0, 300, 300, 1600))
    monkeypatch.setattr("benchmarks.fleet.processor", lambda groups: next(usage) / 100)
    monkeypatch.setattr(Fleet, "groups", lambda self: [])
    cost = fleet.measure(lambda: None, Fleet(tmp_path, "bench", []))
    # A second of each second and three seconds went by: 13 less 3.
    assert (cost.wall, cost.devices) == (3, 10.0)


def test_a_connection_that_is_kept_ends_with_the_contender(tmp_path: Path) -> None:
    program = "import sys, time; print('up', flush=True); time.sleep(60)"
    kept = [
        subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE)
        for folder in (tmp_path / "cp" / "socket", tmp_path / "other")
    ]
    assert all(process.stdout and process.stdout.readline() for process in kept)
    fleet.disconnect(tmp_path / "cp")
    assert [process.poll() is None for process in kept] == [False, True]
    kept[1].kill()
    kept[1].communicate()
    kept[0].communicate()


def test_what_is_recorded_is_what_others_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owned = {"owner": "root", "group": "root", "mode": "0644"}
    entries = {
        "path /etc/a b.conf": {"type": "file", "sha256": "0", **owned},
        "path /etc/changing": {"type": "file", **owned},
        "path /etc/none": {"type": "absent"},
        "path /opt/tree": {"type": "directory", **owned},
        "path /opt/tree/in": {"type": "file", **owned},
        "package rsync": {"state": "installed", "version": "3"},
        "package gone": {"state": "not installed"},
        "unit a.service": {"loaded": "loaded", "start at boot": "enabled", "active": "active"},
        "unit b.service": {"loaded": "loaded", "start at boot": "static"},
        "user pi": {"group": "pi", "home": "/home/pi", "shell": "/bin/sh", "number": "1", "groups": ""},
        "group pi": {"number": "1", "members": ""},
        "sysctl kernel.x": {"value": "1"},
    }
    asked: list[str] = []

    def root(self: Fleet, name: str, script: str) -> str:
        asked.append(script)
        roles = {"one": {"entries": entries, "manages": {"trees": ["/opt/tree"]}}}
        return json.dumps({"content": {"roles": roles}}) if "state.json" in script else "said\n"

    monkeypatch.setattr(Fleet, "root", root)
    checks = Checks.of(Fleet(tmp_path, "bench", ["pi"]), "pi")
    assert "find '/etc/a b.conf' /etc/changing -maxdepth 0" in checks.look
    assert "\nsha256sum '/etc/a b.conf'\n" in checks.look
    assert "/etc/none" not in checks.look
    assert checks.pyinfra["packages"] == ["rsync"]
    assert checks.pyinfra["units"] == [["a.service", True]]
    assert [(each["path"], "copy" in each) for each in checks.pyinfra["paths"]] == [
        ("/etc/a b.conf", True),
        ("/etc/changing", False),
    ]
    assert checks.pyinfra["expected"] == {"pi": "said"}
    assert len(asked) == 3


def test_pyinfra_is_given_what_is_in_the_files_of_each_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some have the device's name in them."""
    monkeypatch.setattr(Fleet, "root", lambda self, name, script: f"{b64encode(name.encode()).decode()}\n\n")
    fleet.keep(Fleet(tmp_path, "bench", ["pi-01", "pi-02"]), ["/etc/name", "/etc/empty"])
    kept = {str(path.relative_to(tmp_path / "copies")): path.read_text() for path in tmp_path.glob("copies/*/*")}
    assert kept == {"pi-01/0": "pi-01", "pi-01/1": "", "pi-02/0": "pi-02", "pi-02/1": ""}
