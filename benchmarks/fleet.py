"""What it costs to know that nothing changed: site.yml with its question, all roles, pyinfra, and a shell script.

    python -m benchmarks.fleet [--hosts 1,10,50] [--repetitions 5] [--release trixie] [--architecture armhf]
                               [--first [--before COMMIT]] [--write FOLDER]

Provisions a virtual Pi, makes copies of it that are provisioned each, and asks all of them, one contender after the
other, several times over. Measured are the processor of the control node (with all children of the contender, kept
connections too, which end with it), that of the devices (by their control groups), and the time that goes by. Prints a
table of medians with the least and the most; with --write also fleet.json and fleet.svg. With --first, blank virtual
Pis are provisioned too, by turns with the site.yml of an earlier commit if one is named, and with apt alone, which
installs the same packages and does nothing else.
"""

from __future__ import annotations

import argparse
import ctypes
import difflib
import json
import os
import platform
import re
import resource
import shlex
import shutil
import signal
import statistics
import sys
import time
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.copies import ROOT, Fleet, copies, run

# Beyond this many devices an Ansible that runs all roles takes too long to be asked five times.
FULL_AT_MOST = 10
# See prctl(2).
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Cost:
    """What one run took, in seconds."""

    control: float
    devices: float
    wall: float

    @property
    def processor(self) -> float:
        """All of the processor."""
        return self.control + self.devices


def processor(groups: Sequence[Path]) -> float:
    """Return the seconds that devices have computed so far."""
    total = 0.0
    for path in groups:
        text = path.read_text()
        total += int(text) / 1e9 if path.name == "cpuacct.usage" else int(text.split()[1]) / 1e6
    return total


def disconnect(folder: Path) -> None:
    """End the connections whose sockets are in a folder: as children of this process they count from then on."""
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        pid = int(command.parent.name)
        # Some are another's, or gone.
        with suppress(OSError):
            if str(folder).encode() in command.read_bytes():
                os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)


def measure(contender: Callable[[], object], fleet: Fleet) -> Cost:
    """Measure one run of a contender, without what the devices do anyway meanwhile."""
    groups = fleet.groups()
    begun, before = time.monotonic(), processor(groups)
    time.sleep(3)
    idle = (processor(groups) - before) / (time.monotonic() - begun)

    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    begun, before, control = time.monotonic(), processor(groups), spent()
    contender()
    wall = time.monotonic() - begun
    disconnect(fleet.connections)
    return Cost(spent() - control, max(0.0, processor(groups) - before - idle * wall), wall)


LOOK = """\
find {paths} -maxdepth 0 -printf '%p %y %m %u %g %l\\n'
find {trees} -not -name '*.pyc' -not -name __pycache__ -printf '%p %y %m %u %g %l\\n' | sort
sha256sum {files}
find {trees} -type f -not -name '*.pyc' -exec sha256sum {{}} + | sort
dpkg-query --show --showformat='${{Package}} ${{Status}} ${{Version}}\\n' {packages}
systemctl show --property=Id,LoadState,UnitFileState,DropInPaths,NeedDaemonReload {units}
systemctl is-active {started}
getent passwd {users}
getent group {groups}
sysctl {sysctls}
cat /boot/firmware/cmdline.txt
cat /etc/dphys-swapfile /etc/rpi/swap.conf.d/*.conf 2>/dev/null || true
"""
APT = """\
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq --yes --no-install-recommends install {packages} >/dev/null
"""


Entries = dict[str, dict[str, str]]


def recorded(fleet: Fleet, name: str) -> dict[str, Any]:
    """Return what the record of a device holds of each role."""
    roles: dict[str, Any] = json.loads(fleet.root(name, "cat /var/lib/pi-fleet/state.json"))["content"]["roles"]
    return roles


def by_kind(roles: Mapping[str, Any]) -> dict[str, Entries]:
    """Return what is recorded of all roles together: kind, name, attributes."""
    kinds: dict[str, Entries] = {}
    for role in roles.values():
        for entry, attributes in role["entries"].items():
            kind, _, what = entry.partition(" ")
            kinds.setdefault(kind, {})[what] = attributes
    return kinds


def installed(kinds: Mapping[str, Entries]) -> list[str]:
    """Return the packages that roles installed."""
    return [name for name, found in kinds["package"].items() if found["state"] == "installed"]


def keep(fleet: Fleet, files: Sequence[str]) -> None:
    """Keep what is in files of each device, by their numbers: names of devices are in some of them."""
    script = "\n".join(f"base64 --wrap=0 {shlex.quote(path)} && echo" for path in files)
    for name in fleet.names:
        folder = fleet.folder / "copies" / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number, line in enumerate(fleet.root(name, script).splitlines()):
            (folder / str(number)).write_bytes(b64decode(line))


@dataclass(frozen=True)
class Checks:
    """What is recorded of a device, for those who ask without pi-fleet."""

    look: str
    """A shell script that prints what there is."""
    pyinfra: dict[str, Any]

    @classmethod
    def of(cls, fleet: Fleet, name: str) -> Checks:
        """Read the record of a device."""
        roles = recorded(fleet, name)
        trees: set[str] = set()
        for role in roles.values():
            trees |= {*role["manages"].get("trees", []), *(each["path"] for each in role["manages"].get("wholes", []))}
        kinds = by_kind(roles)
        there = {path: found for path, found in kinds["path"].items() if found["type"] != "absent"}
        trees &= there.keys()
        alone = {path: found for path, found in there.items() if not any(f"{path}/".startswith(f"{t}/") for t in trees)}
        # Not of those that site.yml itself writes anew, as its record.
        files = [path for path, found in alone.items() if "sha256" in found]
        packages = installed(kinds)
        units = {unit: found for unit, found in kinds["unit"].items() if found["loaded"] == "loaded"}
        # Nobody asks of what others start whether it runs.
        started = [unit for unit, found in units.items() if found["start at boot"] == "enabled"]
        users = {user: found for user, found in kinds["user"].items() if "home" in found}
        words = {
            "paths": alone,
            "files": files,
            "trees": sorted(trees),
            "packages": packages,
            "units": units,
            "started": started,
            "users": users,
            "groups": kinds["group"],
            "sysctls": kinds["sysctl"],
        }
        look = LOOK.format(**{key: shlex.join(value) for key, value in words.items()})
        folders = "\n".join(line for line in look.splitlines() if "find" in line and shlex.join(words["trees"]) in line)
        keep(fleet, files)
        paths = []
        for path, found in sorted(alone.items()):
            given = {"path": path, "type": found["type"], "target": found.get("target", "")}
            given |= {"copy": str(files.index(path))} if path in files else {}
            paths.append({**given, "user": found["owner"], "group": found["group"], "mode": found.get("mode", "")})
        pyinfra = {
            "packages": packages,
            "units": [[unit, True] for unit in started],
            "users": [{"name": user, **found} for user, found in users.items()],
            "groups": list(kinds["group"]),
            "sysctls": [[key, int(found["value"])] for key, found in kinds["sysctl"].items()],
            "paths": paths,
            "copies": str(fleet.folder / "copies"),
            "folders": f"sh -c {shlex.quote(folders)}",
            "expected": {each: fleet.root(each, folders).rstrip("\n") for each in fleet.names},
        }
        return cls(look, pyinfra)


def contenders(fleet: Fleet, checks: Checks) -> dict[str, Callable[[], None]]:
    """Return what is compared, by name."""
    given = fleet.folder / "checks.json"
    given.write_text(json.dumps(checks.pyinfra))
    expected = {name: fleet.root(name, checks.look) for name in fleet.names}

    def look(name: str) -> None:
        before, now = expected[name].splitlines(), fleet.root(name, checks.look).splitlines()
        if now != before:
            sys.exit("\n".join([f"{name} is another one:", *difflib.unified_diff(before, now, n=0, lineterm="")]))

    def shell() -> None:
        with ThreadPoolExecutor(20) as pool:
            list(pool.map(look, fleet.names))

    def pyinfra() -> None:
        said = run(
            str(ROOT / ".cache" / "pyinfra" / "bin" / "pyinfra"),
            *("-y", "--parallel", "20", str(fleet.folder / "hosts.py"), "benchmarks/pyinfra/deploy.py"),
            BENCH_CHECKS=str(given),
        )
        total = re.search(r"Grand total +(\d+) .* (\d+) *$", said, re.MULTILINE)
        if total is None or total[1] != total[2]:
            sys.exit(f"pyinfra found something to do:\n{said}")

    def gate() -> None:
        said = fleet.play("playbooks/site.yml")
        if said.count("converged, ") != len(fleet.names):
            sys.exit(f"site.yml found something to do:\n{said}")

    def full() -> None:
        fleet.play("playbooks/site.yml", {"full": True})

    found: dict[str, Callable[[], None]] = {"site.yml": gate, "shell over ssh": shell, "pyinfra": pyinfra}
    return {**found, "site.yml, all roles": full} if len(fleet.names) <= FULL_AT_MOST else found


def first(release: str, architecture: str, repetitions: int, before: str | None) -> dict[str, list[Cost]]:
    """Measure what it takes to provision a blank device, by this checkout, by an earlier commit, and by apt alone."""
    earlier = ROOT / ".cache" / "bench-before"
    packages: list[str] = []

    def site(fleet: Fleet) -> None:
        fleet.play("playbooks/site.yml")

    def formerly(fleet: Fleet) -> None:
        fleet.play("playbooks/site.yml", project=earlier)

    def apt(fleet: Fleet) -> None:
        """Install the same packages, and do nothing else."""
        fleet.root(fleet.names[0], APT.format(packages=shlex.join(packages)))

    ways: dict[str, Callable[[Fleet], None]] = {"site.yml, blank": site}
    if before:
        ways[f"... of {before[:7]}"] = formerly
        run("git", "worktree", "add", "--force", "--detach", str(earlier), before)
    ways["apt alone, blank"] = apt
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    try:
        for _ in range(repetitions):
            for name, provision in ways.items():
                fleet = Fleet.make(ROOT / ".cache" / "bench-blank", "bench-blank", 1, release, architecture)
                try:
                    costs[name].append(measure(partial(provision, fleet), fleet))
                    if provision is site:
                        packages = installed(by_kind(recorded(fleet, fleet.names[0])))
                finally:
                    fleet.remove()
                    shutil.rmtree(fleet.folder)
    finally:
        if before:
            run("git", "worktree", "remove", "--force", str(earlier))
    return costs


def write_pyinfra_inventory(fleet: Fleet) -> None:
    """Say where the devices are, in pyinfra's words."""
    password = (fleet.folder / "password").read_text().strip()
    data = {
        "ssh_user": "pi",
        "ssh_key": str(fleet.folder / "id_ed25519"),
        "ssh_config_file": str(fleet.folder / "ssh_config"),
        "ssh_known_hosts_file": str(fleet.folder / "known_hosts"),
        "ssh_strict_host_key_checking": "yes",
        "_sudo": True,
        "_sudo_password": password,
    }
    path = fleet.folder / "hosts.py"
    path.touch(mode=0o600)
    path.write_text(f"devices = ({list(fleet.names)!r}, {data!r})\n")


def table(results: dict[str, dict[str, list[Cost]]]) -> list[str]:
    """Return the lines of the table: medians, and in brackets the least and the most of the processor."""
    head = ("devices", "contender", "control", "devices", "processor", "(spread)", "wall")
    form = "{:>7}  {:<20} {:>8} {:>8} {:>10} {:>16} {:>7}"
    lines = [form.format(*head)]
    for count, by_name in results.items():
        for name, costs in by_name.items():
            control, devices, both, wall = (
                statistics.median(values)
                for values in zip(*((c.control, c.devices, c.processor, c.wall) for c in costs), strict=True)
            )
            spread = f"({min(c.processor for c in costs):.1f} to {max(c.processor for c in costs):.1f})"
            numbers = (f"{control:.1f}", f"{devices:.1f}", f"{both:.1f}", spread, f"{wall:.1f}")
            lines.append(form.format(count, name, *numbers))
    return lines


def chart(results: dict[str, dict[str, list[Cost]]]) -> str:
    """Return the medians as bars: the processor that each took for a device, of the control node and of the device."""
    rows = [
        (f"{name}, {count} device{'s' if count != '1' else ''}", *per_device(costs, int(count)))
        for count, by_name in results.items()
        for name, costs in by_name.items()
    ]
    widest = max(control + device for _, control, device in rows)
    height = 24 * len(rows) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" font-family="sans-serif" font-size="13">',
        "<title>Processor seconds a device, when nothing changed</title>",
        '<text x="0" y="16">Processor seconds a device: control node (dark), device (light)</text>',
    ]
    for number, (label, control, device) in enumerate(rows):
        y = 32 + 24 * number
        dark, light = 420 * control / widest, 420 * device / widest
        parts.append(f'<text x="0" y="{y + 13}">{escape(label)}</text>')
        parts.append(f'<rect x="250" y="{y}" width="{dark:.1f}" height="16" fill="#1f4e79"/>')
        parts.append(f'<rect x="{250 + dark:.1f}" y="{y}" width="{light:.1f}" height="16" fill="#8ab6d6"/>')
        parts.append(f'<text x="{256 + dark + light:.1f}" y="{y + 13}">{control + device:.2f}</text>')
    return "\n".join([*parts, "</svg>\n"])


def per_device(costs: Sequence[Cost], count: int) -> tuple[float, float]:
    """Return the medians of control node and device, for one device."""
    return statistics.median(c.control for c in costs) / count, statistics.median(c.devices for c in costs) / count


def machine() -> str:
    """Say what this was measured on."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{model}, {os.cpu_count()} processors, {system}"


def main(arguments: Sequence[str]) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hosts", default="1,10,50", help="how many devices, one after the other")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--release", default="trixie")
    parser.add_argument("--architecture", default="", help="another one than this machine's, emulated")
    parser.add_argument("--first", action="store_true", help="provision blank devices as well")
    parser.add_argument("--before", help="commit whose site.yml does so too")
    parser.add_argument("--write", type=Path, help="folder for fleet.json and fleet.svg")
    asked = parser.parse_args(arguments)
    counts = [int(word) for word in asked.hosts.split(",")]
    print(f"On {machine()}", flush=True)
    results: dict[str, dict[str, list[Cost]]] = {}
    # A kept connection outlives who made it: it becomes a child of this process.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    blank: dict[str, list[Cost]] = {}
    if asked.first:
        blank = first(asked.release, asked.architecture, asked.repetitions, asked.before)
        print("\n".join(table({"1": blank})), flush=True)
    with copies("bench", asked.release, counts, asked.architecture) as fleets:
        for count, fleet in zip(counts, fleets, strict=True):
            write_pyinfra_inventory(fleet)
            compared = contenders(fleet, Checks.of(fleet, fleet.names[0]))
            costs: dict[str, list[Cost]] = {name: [] for name in compared}
            for _ in range(asked.repetitions):
                for name, contender in compared.items():
                    costs[name].append(measure(contender, fleet))
            results[str(count)] = costs
            print("\n".join(table({str(count): costs})), flush=True)
            if asked.write:
                asked.write.mkdir(exist_ok=True)
                found = {"machine": machine(), "costs": results, "first": blank}
                (asked.write / "fleet.json").write_text(json.dumps(found, indent=1, default=asdict) + "\n")
                (asked.write / "fleet.svg").write_text(chart(results))


if __name__ == "__main__":
    main(sys.argv[1:])
