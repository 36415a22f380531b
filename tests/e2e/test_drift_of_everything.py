"""Whatever is recorded of a device, of any kind: changed, it is told, and the next site.yml makes it as it was.

The changes are made of the device's own record, so that there is no list of them here. E2E_INVENTORY names a
provisioned device that may be spoiled.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Fleet

# Returns the entries that it changed. Pictures are nobody's to change, and without host keys nobody could log in.
CHANGE = """
import json, os, subprocess
from pathlib import Path
record = json.loads(Path("/var/lib/pi-fleet/state.json").read_text())["content"]["roles"]
entries = {entry: known for role in record.values() for entry, known in role["entries"].items()}
paths = {
    entry.removeprefix("path "): known
    for entry, known in entries.items()
    if entry.startswith("path ") and known["type"] != "absent" and not entry.startswith("path /etc/ssh/")
    # Without the record nobody could tell what else is another one.
    and (KIND in ("mode", "owner") or entry != "path /var/lib/pi-fleet/state.json")
}
units = [entry.removeprefix("unit ") for entry, known in entries.items() if known.get("start at boot") == "enabled"]
changed = []
def of(kind):
    return sorted(path for path, known in paths.items() if known["type"] == kind)
def call(*argv):
    subprocess.run(argv, check=True, capture_output=True)
if KIND == "mode":
    for path in of("file") + of("directory") + of("character device"):
        os.chmod(path, os.stat(path).st_mode & 0o7777 ^ 0o002)
        changed.append(f"path {path}")
elif KIND == "owner":
    for path in paths:
        os.chown(path, 1, 1, follow_symlinks=False)
        changed.append(f"path {path}")
elif KIND == "byte":
    for path in of("file"):
        with open(path, "ab") as stream:
            stream.write(b"# somebody was here\\n")
        changed.append(f"path {path}")
elif KIND == "gone":
    for path in of("file") + of("link"):
        os.unlink(path)
        changed.append(f"path {path}")
elif KIND == "link":
    for path in of("link"):
        os.unlink(path)
        os.symlink("/nowhere", path)
        changed.append(f"path {path}")
elif KIND == "another":
    for path in of("file"):
        os.unlink(path)
        os.symlink("/dev/null", path)
        changed.append(f"path {path}")
elif KIND == "stopped":
    for unit in units:
        call("systemctl", "stop", unit)
        changed.append(f"unit {unit}")
elif KIND == "disabled":
    for unit in units:
        call("systemctl", "disable", unit)
        changed.append(f"unit {unit}")
elif KIND == "masked":
    for unit in units:
        if not os.path.lexists(f"/etc/systemd/system/{unit}"):
            call("systemctl", "mask", unit)
            changed.append(f"unit {unit}")
elif KIND == "drop-in":
    for unit in units:
        folder = Path(f"/etc/systemd/system/{unit}.d")
        folder.mkdir(exist_ok=True)
        (folder / "somebody.conf").write_text("[Unit]\\nDescription=another\\n")
        changed.append(f"unit {unit}")
    call("systemctl", "daemon-reload")
print(json.dumps(changed))
"""
# What is not managed: the system's own doings, the user's files, pictures, other packages and units.
UNMANAGED = """
import os, subprocess, time
from pathlib import Path
pictures = Path("/home/ggc_user/raw_field_data")
for name in ("1800000000000_clutter_0.9.jpg", "1800000000001.jpg"):
    (pictures / name).write_bytes(b"a picture")
written = {
    "/var/log/somebody.log": "x", "/var/log/syslog": "x", "/root/notes": "x", "/home/pi/notes": "x",
    "/etc/motd": "hello", "/etc/issue": "hello", "/tmp/x": "x", "/var/tmp/x": "x", "/srv/x": "x",
    "/opt/mine/program": "x", "/usr/local/bin/mine": "x", "/etc/cron.d/mine": "# x",
    "/etc/sysctl.d/50-mine.conf": "# x", "/etc/tmpfiles.d/mine.conf": "# x", "/etc/apt/apt.conf.d/99mine": "// x",
    "/etc/systemd/system/mine.service": "[Service]\\nExecStart=/bin/true\\n",
}
for name, text in written.items():
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
bytecode = Path("/opt/pi-fleet/localcore/current/localcore/__pycache__")
bytecode.mkdir(exist_ok=True)
(bytecode / "mine.cpython-311.pyc").write_bytes(b"x")
subprocess.run(["systemctl", "daemon-reload"], check=True)
subprocess.run(["useradd", "--create-home", "eve"], check=True, capture_output=True)
subprocess.run(["logger", "hello"], check=True)
install = ["apt-get", "-qq", "install", "--yes", "--no-install-recommends", "cowsay"]
subprocess.run(install, check=True, capture_output=True)
"""
UNCHANGED_RUNS = 50
KINDS = ["mode", "owner", "byte", "gone", "link", "another", "stopped", "disabled", "masked", "drop-in"]


def report(fleet: Fleet, folder: Path, host: str) -> tuple[int, dict[str, Any]]:
    run = fleet.playbook("playbooks/drift.yml", "--extra-vars", f"drift_report_path={folder}")
    found: dict[str, Any] = json.loads((folder / f"{host}.json").read_text())
    return run.code, found


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_changed_is_told_and_made_as_it_was(fleet: Fleet, tmp_path: Path, kind: str) -> None:
    (host,) = fleet.hosts()
    code, before = report(fleet, tmp_path, host)
    assert code == 0, before["differences"]
    changed = set(json.loads(fleet.root(host, f"KIND = {kind!r}\n{CHANGE}")))
    assert changed
    code, found = report(fleet, tmp_path, host)
    assert code == 2
    assert changed - {each["entry"] for each in found["differences"]} == set()
    run = fleet.playbook("playbooks/site.yml")
    assert run.code == 0, run.output[-4000:]
    code, healed = report(fleet, tmp_path, host)
    assert [each["told"] for each in healed["differences"]] == []
    assert code == 0
    assert fleet.playbook("playbooks/verify.yml", "--extra-vars", "verify_ask=true").code == 0


def test_what_is_not_managed_stays_silent_and_nothing_else_is_told_in_many_runs(fleet: Fleet, tmp_path: Path) -> None:
    (host,) = fleet.hosts()
    code, before = report(fleet, tmp_path, host)
    assert code == 0, before["differences"]
    fleet.root(host, UNMANAGED)
    alarms = [
        found["differences"] for code, found in (report(fleet, tmp_path, host) for _ in range(UNCHANGED_RUNS)) if code
    ]
    assert alarms == []
