"""What services may do: as systemd judges them, and as a Lambda finds that tries what it may not.

E2E_SERVICES names the services that the scenario has, at least. What takes a kernel of its own to hold off is in
test_real_kernel.py: network, floods of processes, a full card.
"""

from __future__ import annotations

import json
import os

from tests.e2e.conftest import Fleet, on

# It converges the device, as root: SECURITY.md.
UNCONFINED = {"pull.service"}
EXPOSURE = 2.0

EXPOSED = """
import subprocess
from pathlib import Path
folder = Path("/etc/systemd/system")
files = [path for path in folder.glob("*.service") if not path.is_symlink()]
ours = {path.name for path in files if "Ansible managed" in path.read_text()}
ours |= {path.parent.name.removesuffix(".d") for path in folder.glob("*.service.d/*-pi-fleet.conf")}
found = {}
for unit in sorted(ours):
    said = subprocess.run(["systemd-analyze", "security", "--no-pager", unit], capture_output=True, text=True)
    found[unit] = float(said.stdout.splitlines()[-1].partition(f"{unit}: ")[2].split()[0])
print(json.dumps(found))
"""

ATTEMPT = """
import subprocess
Path("/dev/shm/of-the-host").touch()
# As Debian bounds it; a container's is as large as its engine made it.
subprocess.run(["mount", "--options", "remount,size=5m", "/run/lock"], check=True)
pid = subprocess.run(["systemctl", "show", "--value", "--property=MainPID", "lambda@echo.service"],
                     capture_output=True, text=True, check=True).stdout
event = {"pid": int(pid), "addresses": [["127.0.0.1", 1883]]}
print(json.dumps(Client().ask("intruder/request", json.dumps(event).encode(), 120)["message"]))
"""
REFUSED = {"PermissionError", "OSError", "FileNotFoundError", "NotADirectoryError"}


def test_every_service_is_confined(fleet: Fleet, host: str) -> None:
    exposure: dict[str, float] = json.loads(fleet.root(host, f"import json\n{EXPOSED}"))
    print(f"{host}: {exposure}")
    assert set(os.environ["E2E_SERVICES"].split()) - {unit.removesuffix(".service") for unit in exposure} == set()
    assert {unit: found for unit, found in exposure.items() if found > EXPOSURE and unit not in UNCONFINED} == {}


def test_a_lambda_that_tries_what_it_may_not_gets_nothing(fleet: Fleet, host: str) -> None:
    answer = on(fleet, host, ATTEMPT)
    print(f"{host}: {json.dumps(answer, indent=1)}")
    assert set(answer["written"].values()) <= REFUSED
    # Each has no room; that of /run would have had it.
    assert set(answer["stuffed"].values()) == {"OSError"}
    assert all(folder.startswith(("/dev/shm", "/run/lock/")) for folder in answer["stuffed"])
    assert answer["others"] == {"/dev/shm": [], "/opt/pi-fleet/lambda": ["intruder"], "/srv": ["granted"]}
    # What is there is empty.
    assert set(map(str, answer["read"].values())) <= REFUSED | {"[]"}
    assert set(map(str, answer["process"].values())) <= REFUSED
    assert answer["status"] == {
        **dict.fromkeys(("CapEff", "CapPrm", "CapBnd", "CapAmb"), "0000000000000000"),
        "NoNewPrivs": "1",
        "Seccomp": "2",
    }
    # Each either ends by the filter of system calls or is refused.
    tried = {answer[what] for what in ("traced", "root", "mounted", "namespace")}
    assert tried <= {"SIGSYS", 99}
    assert answer["reached"]["127.0.0.1:1883"] == "connected"
