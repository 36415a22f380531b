# SPDX-License-Identifier: Apache-2.0
"""What a device has for its camera: packages that apt offers, a process that holds it, or a frame."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, read_text

PROGRAM = "/opt/pi-fleet/lib/pi_camera.py"
CONFIG = "/etc/pi-fleet/camera.json"
# What the Lambda runs with; on a device that has no Lambda yet, Debian's.
PYTHONS = ("/opt/pi-fleet/venv/bin/python", "/usr/bin/python3")
# OpenCV alone takes ten seconds to import from a slow card.
SECONDS = 90
CAMERA_NODE = re.compile(r"/dev/((video|media)[0-9]+)")
# As the kernel calls them. Whoever has a camera at the ribbon connector has its receiver too (unicam, rp1-cfe).
CODECS_AND_PROCESSORS = ("bcm2835-codec", "bcm2835-isp", "pispbe", "rpi-hevc-dec", "rpivid")


def run_for_a_while(argv: list[str]) -> tuple[int, str, str]:
    """Run a command with nothing of the caller's environment; 124 if it does not end in time."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, cwd="/", env=environment, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return 124, "", f"Nothing came in {SECONDS} seconds; check the camera's cable and restart the device."
    return done.returncode, done.stdout, done.stderr


@dataclass(frozen=True)
class Package:
    """What apt says of a package."""

    installed: bool
    offered: bool


def parse_policy(text: str) -> dict[str, Package]:
    """Read `apt-cache policy`: `name:` and indented lines about it; apt leaves out what it does not know."""
    found: dict[str, dict[str, str]] = {}
    fields: dict[str, str] = {}
    for line in text.splitlines():
        if not line.startswith(" "):
            fields = found.setdefault(line.removesuffix(":"), {})
        elif match := re.fullmatch(r"  (Installed|Candidate): (.*)", line):
            fields[match[1]] = match[2]
    return {
        name: Package(fields.get("Installed", "(none)") != "(none)", fields.get("Candidate", "(none)") != "(none)")
        for name, fields in found.items()
    }


def choose(needs: Sequence[Sequence[str]], policy: Mapping[str, Package]) -> tuple[list[str], list[str]]:
    """Return the packages to install, and the needs that apt cannot serve.

    A need is a list of packages of which any will do: the one that is installed already, else the first on offer.
    """
    install, not_offered = [], []
    for need in needs:
        if any(name in policy and policy[name].installed for name in need):
            continue
        offered = [name for name in need if name in policy and policy[name].offered]
        if offered:
            install.append(offered[0])
        else:
            not_offered.append(" or ".join(need))
    return install, not_offered


@dataclass(frozen=True)
class Packages:
    """What apt has to do for a camera; `known` is false where no package list was ever fetched."""

    known: bool
    install: list[str]
    not_offered: list[str]


def find_packages(device: Device, needs: Sequence[Sequence[str]], if_offered: Sequence[Sequence[str]] = ()) -> Packages:
    """Ask apt for what is needed, and for what is wanted only where apt has all of it."""
    names = [name for need in (*needs, *if_offered) for name in need]
    policy = parse_policy(device.command("apt-cache", "policy", *names)) if names else {}
    install, not_offered = choose(needs, policy)
    more, lacking = choose(if_offered, policy)
    return Packages(
        known=any(device.path("/var/lib/apt/lists").glob("*_Packages*")),
        install=install if lacking else [*install, *more],
        not_offered=not_offered,
    )


def find_holders(device: Device) -> list[str]:
    """Return who has a camera open: `lambda@x.service (python3, process 12) holds /dev/video0`."""
    found = []
    for process in sorted(device.path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            links = {str(descriptor.readlink()) for descriptor in (process / "fd").iterdir()}
            held = sorted(link for link in links if _is_camera(device, link))
            if held:
                name = (process / "comm").read_text().strip()
                unit = _unit((process / "cgroup").read_text())
                found.append(f"{unit} ({name}, process {process.name}) holds {', '.join(held)}")
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # ended meanwhile, or not ours to look at
            continue
    return found


def _is_camera(device: Device, link: str) -> bool:
    """Whether an open file may be a camera's: who plays a video has a codec open."""
    node = CAMERA_NODE.fullmatch(link)
    if node is None:
        return False
    paths = (f"/sys/class/video4linux/{node[1]}/name", f"/sys/bus/media/devices/{node[1]}/model")
    return not any((read_text(device.path(path)) or "").startswith(CODECS_AND_PROCESSORS) for path in paths)


def _unit(cgroup: str) -> str:
    """Return the outermost unit in /proc/PID/cgroup (cgroups(7)); the unified hierarchy, number 0, counts first."""
    for hierarchy in ("0:", r"\d+:name=systemd"):
        match = re.search(rf"^{hierarchy}:.*?/([^/\n]+\.(?:service|scope))(?:/|$)", cgroup, re.MULTILINE)
        if match:
            return match[1]
    return "no unit"


class Outcome(Enum):
    """How the attempt to take a frame ended."""

    TAKEN = "taken"
    HELD = "held"
    FAILED = "failed"
    NOT_INSTALLED = "not_installed"


@dataclass(frozen=True)
class Frame:
    """The outcome, and what was found, for people."""

    outcome: Outcome
    text: str


def take_frame(device: Device, user: str) -> Frame:
    """Take one picture as `user` and throw it away, unless somebody holds the camera: it is not taken from them."""
    if not device.path(PROGRAM).exists():
        return Frame(Outcome.NOT_INSTALLED, f"{PROGRAM} is not there: run the role camera.")
    if not _replays(device) and (holders := find_holders(device)):
        return Frame(Outcome.HELD, f"not probed: {'; '.join(holders)}")
    python = next((path for path in PYTHONS if device.path(path).exists()), PYTHONS[-1])
    code, output, errors = device.run(["runuser", "-u", user, "--", python, PROGRAM])
    if code != 0:
        # Libraries for cameras are talkative; the program's own sentence comes last.
        said = errors.strip().splitlines() or [f"{PROGRAM} ended with exit code {code} and no word: run it as {user}."]
        return Frame(Outcome.FAILED, said[-1])
    try:
        picture = json.loads(output.strip().splitlines()[-1])
        text = f"{picture['bytes']} bytes from {picture['source']} in {picture['milliseconds']} ms"
    except (ValueError, IndexError, KeyError, TypeError):
        return Frame(Outcome.FAILED, f"{PROGRAM} printed no line about its frame: run the role camera again.")
    return Frame(Outcome.TAKEN, text)


def _replays(device: Device) -> bool:
    """Whether pictures are replayed from a directory, so that no camera is involved."""
    try:
        return bool(json.loads(read_text(device.path(CONFIG)) or "{}").get("source") == "directory")
    except (ValueError, AttributeError):  # the program itself says what is wrong with its configuration
        return False


def check_camera(user: str, root: Path = Path("/")) -> tuple[bool, str, str]:
    """Return whether `user` can take a frame or the camera is in use, what was found, and what was wanted."""
    frame = take_frame(Device(run_for_a_while, root), user)
    return frame.outcome in (Outcome.TAKEN, Outcome.HELD), frame.text, f"a frame for {user}"
