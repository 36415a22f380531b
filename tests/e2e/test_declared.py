"""A run changes nothing on a device that no role declares.

What is not declared is not looked at: a device could drift there, and site.yml would find nothing to do. The packages
are in the device's image: what their scripts write is not the roles' to declare.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.e2e.conftest import Fleet, noted_blank

# What roles say that they manage, and what Debian's packages and their scripts brought.
DECLARED = """
import json, subprocess
from pathlib import Path
record = json.loads(Path("/var/lib/pi-fleet/state.json").read_text())["content"]["roles"]
entries = [entry for role in record.values() for entry in role["entries"]]
declared = [entry.removeprefix("path ") for entry in entries if entry.startswith("path ")]
packaged = [line for name in Path("/var/lib/dpkg/info").glob("*.list") for line in name.read_text().splitlines()]
# Where /bin and /lib are links, packages name both ways.
packaged += [f"/usr{name}" for name in packaged]
packaged += [str(path) for path in Path("/etc/alternatives").iterdir()]
query = ["update-alternatives", "--get-selections"]
for line in subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines():
    packaged += [entry[1] for entry in [line.split()] if entry[2:] and entry[2].startswith("/")]
print(json.dumps([declared, packaged]))
"""
# Written beside what is declared: accounts and what starts at boot, which are declared as users, units and flags; what
# apt, dpkg and the scripts of packages keep; where systemd binds pictures for the Lambda; the memory of runs.
BESIDE = re.compile(
    r"/etc/(passwd|group|shadow|gshadow|subuid|subgid)$|/home/ggc_user/\.(profile|bashrc|bash_logout)$"
    r"|/boot/(firmware/)?cmdline\.txt$|/etc/rc[0-6S]\.d/|/etc/systemd/system/[^/]+\.wants(/|$)"
    r"|/var/lib/(dpkg|apt|pi-fleet)/|/raw_field_data$|/home/ggc_user/raw_field_data/"
)


def test_a_run_changes_nothing_that_no_role_declares(fleet: Fleet) -> None:
    for host in fleet.hosts():
        blank, made = noted_blank(host), fleet.manifest(host)
        declared, packaged = map(set, json.loads(fleet.root(host, DECLARED)))
        changed = {path for path in blank.keys() | made if blank.get(path) != made.get(path)}
        files = {path for path in changed if path.startswith("/")}
        above = {str(folder) for path in declared for folder in Path(path).parents}
        beside = {path for path in files if BESIDE.match(path)}
        undeclared = sorted(files - declared - packaged - above - beside)
        assert not undeclared, f"{host}: {' '.join(undeclared)}"
        assert len(files & declared) > 100
