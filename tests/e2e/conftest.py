"""What end-to-end tests stand on: playbooks run as a user runs them, and devices reached over SSH.

E2E_INVENTORY names the inventory (several, separated by commas), E2E_HOSTS the devices in it that each have a test of
their own, E2E_FLEET what their containers' names begin with; E2E_PROJECT another checkout than this one.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
PROJECT = Path(os.environ.get("E2E_PROJECT", HERE.parents[1]))
HOSTS = os.environ.get("E2E_HOSTS", "pi-bookworm,pi-trixie").split(",")
ON_DEVICE = (HERE / "on_device.py").read_text()
RECAP = re.compile(r"^(\S+) +: ok=(\d+) +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """A finished ansible-playbook."""

    code: int
    output: str

    @property
    def changed(self) -> dict[str, int]:
        """How many tasks changed each host."""
        return {match[1]: int(match[3]) for match in RECAP.finditer(self.output)}


@dataclass(frozen=True)
class Fleet:
    """Devices of an inventory, and the project that provisions them."""

    inventory: str
    project: Path = PROJECT
    extra: Sequence[str] = field(default=())

    def command(self, playbook: str, *arguments: str) -> list[str]:
        """Return the command line of a playbook."""
        inventories = [f"--inventory={Path(source).resolve()}" for source in self.inventory.split(",")]
        return ["ansible-playbook", *inventories, playbook, *self.extra, *arguments]

    def environment(self) -> dict[str, str]:
        """Return the environment that playbooks run in: no colours, nothing of what runs the tests."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "MOLECULE_"))}
        return {**kept, "ANSIBLE_NOCOLOR": "1"}

    def start(
        self, playbook: str, *arguments: str, cwd: Path | None = None, **environment: str
    ) -> subprocess.Popen[str]:
        """Start a playbook; what it says is to be read."""
        return subprocess.Popen(
            self.command(playbook, *arguments),
            cwd=cwd or self.project,
            env={**self.environment(), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def playbook(self, playbook: str, *arguments: str, cwd: Path | None = None, **environment: str) -> Run:
        """Run a playbook to its end."""
        with self.start(playbook, *arguments, cwd=cwd, **environment) as process:
            output = process.communicate()[0]
        return Run(process.returncode, output)

    def hosts(self) -> dict[str, dict[str, Any]]:
        """Return the devices' variables by name."""
        inventories = [f"--inventory={Path(source).resolve()}" for source in self.inventory.split(",")]
        vault = [word for word in self.extra if word.startswith("--vault-password-file=")]
        listed = subprocess.run(
            ["ansible-inventory", *inventories, *vault, "--list"],
            cwd=self.project,
            env=self.environment(),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        data = json.loads(listed.stdout)
        variables: dict[str, dict[str, Any]] = data["_meta"]["hostvars"]
        return {name: variables[name] for name in data["devices"]["hosts"]}

    def root_python(self, host: str, script: str) -> tuple[list[str], str]:
        """Return the command that runs a Python script on a device as root, over SSH, and its input."""
        folder = key_folder(self.inventory, self.project, host)
        argv = ["ssh", "-F", str(folder / "ssh_config"), "-o", "BatchMode=yes", host, "sudo -S -p '' python3 -"]
        return argv, f"{(folder / 'password').read_text().strip()}\n{script}"

    def root(self, host: str, script: str) -> str:
        """Run a Python script on a device as root, over SSH, and return what it prints."""
        argv, given = self.root_python(host, script)
        done = subprocess.run(argv, input=given, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise AssertionError(f"{host}: {done.stderr}")
        return done.stdout

    def await_boot(self, host: str, timeout: float = 120) -> None:
        """Wait until a device that was restarted is up again, and all that it starts has started."""
        wait = (
            "import subprocess; subprocess.run(['systemctl', 'is-system-running', '--wait'], stdout=subprocess.DEVNULL)"
        )
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.root(host, wait)
            except AssertionError:
                assert time.monotonic() < deadline
                time.sleep(0.5)
            else:
                return

    def manifest(self, host: str) -> dict[str, str]:
        """Return what stands on a device's disk: see manifest.py."""
        found: dict[str, str] = json.loads(self.root(host, (HERE / "manifest.py").read_text()))
        return found


def noted_blank(host: str) -> dict[str, str]:
    """Return what stood on a device's disk when it was blank, as molecule/default/noted.yml noted it."""
    folder = PROJECT / ".cache" / "molecule" / os.environ["MOLECULE_SCENARIO_NAME"]
    noted: dict[str, str] = json.loads((folder / f"blank-{host}.json").read_text())
    return noted


def role_alone(role: str, folder: Path) -> str:
    """Write a playbook that runs a role and no preflight before it, and return its path."""
    path = folder / "alone.yml"
    path.write_text(f"- {{hosts: devices, gather_facts: false, become: true, roles: [edge.pi_fleet.{role}]}}\n")
    return str(path)


def unwrapped(text: str) -> str:
    """Return what Ansible printed without the line breaks and quotes that it put into it."""
    return " ".join(text.split()).replace("''", "'")


def with_all_it_started(process: int) -> set[int]:
    """Return the numbers of a process and of all that stem from it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = {process}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def kill_all(process: subprocess.Popen[str]) -> str:
    """Kill a playbook and all that it started, at once; return what it still had to say.

    Ansible's workers have sessions of their own: killing the playbook's alone would let them finish.
    """
    for pid in with_all_it_started(process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return process.communicate()[0]


@cache
def key_folder(inventory: str, project: Path, host: str) -> Path:
    """Return the folder of the key and the ssh_config by which a device is reached."""
    return Path(Fleet(inventory, project).hosts()[host]["ansible_ssh_private_key_file"]).parent


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    return Fleet(os.environ["E2E_INVENTORY"])


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest, fleet: Fleet) -> str:
    name: str = request.param
    assert name in fleet.hosts()
    return name


def on(fleet: Fleet, host: str, script: str) -> Any:
    """Run a script on a device, after the text of on_device.py; return the JSON document that it prints last."""
    return json.loads(fleet.root(host, f"{ON_DEVICE}\n{script}").splitlines()[-1])
