"""Fleets of copies of one provisioned virtual Pi, each with a name, host key, machine id and tokens of its own."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# systemd in each container takes several of these, and the host has 128 by default.
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")


# What an emulated processor has to be given, which takes ten times as long.
PATIENCE = {"image_classifier_timeout": 150, "classifier_lambda_timeout": 180, "classify_timeout": 210}


def run(*command: str, cwd: Path = ROOT, **environment: str) -> str:
    """Run a command in the project and return what it prints; end with its last words if it fails."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"'{shlex.join(command[:3])} ...' failed:\n" + "\n".join(done.stdout.splitlines()[-20:]))
    return done.stdout


@dataclass(frozen=True)
class Fleet:
    """Virtual Pis that stand in one inventory."""

    folder: Path
    label: str
    """What their containers' names begin with."""
    names: Sequence[str]

    @classmethod
    def make(cls, folder: Path, label: str, count: int, release: str, architecture: str = "", image: str = "") -> Fleet:
        """Make virtual Pis, from a blank card or as copies."""
        (folder / "inventory").mkdir(parents=True, exist_ok=True)
        names = [f"pi-{number:02}" for number in range(1, count + 1)]
        variables = {
            "ansible_python_interpreter": "/usr/bin/python3",
            "virtual_pi_release": release,
            "virtual_pi_image": image,
            "camera_source": "directory",
            "camera_directory": str(ROOT / "files" / "photos"),
            "image_classifier_model": str(ROOT / ".cache" / "models" / "demonstration" / "model.onnx"),
            "rollout_batches": ["100%"],
            **({"virtual_pi_architecture": architecture, **PATIENCE} if architecture else {}),
        }
        hosts = {"devices": {"hosts": {name: {} for name in names}, "vars": variables}}
        (folder / "inventory" / "hosts.json").write_text(json.dumps(hosts))
        fleet = cls(folder, label, names)
        fleet.play("playbooks/virtual_fleet.yml", fleet.called)
        return fleet

    def remove(self) -> None:
        """Remove them."""
        self.play("playbooks/virtual_fleet.yml", self.called | {"virtual_fleet": "all:!all"})

    @property
    def called(self) -> dict[str, str]:
        """What role virtual_pi knows them by."""
        return {"virtual_pi_fleet": self.label, "virtual_pi_directory": str(self.folder)}

    @property
    def connections(self) -> Path:
        """Folder of the connections that Ansible keeps."""
        return self.folder / "cp"

    def play(self, playbook: str, variables: Mapping[str, Any] | None = None, project: Path = ROOT) -> str:
        """Run a playbook, of this checkout or another one."""
        command = ["ansible-playbook", f"--inventory={self.folder / 'inventory'}", playbook]
        given = ["--extra-vars", json.dumps(variables or {})]
        return run(*command, *given, cwd=project, ANSIBLE_SSH_CONTROL_PATH_DIR=str(self.connections))

    def root(self, name: str, script: str) -> str:
        """Run a shell script on a device as root."""
        password = (self.folder / "password").read_text().strip()
        command = ["ssh", "-F", str(self.folder / "ssh_config"), "-o", "BatchMode=yes", name, "sudo -S -p '' sh -s"]
        done = subprocess.run(command, input=f"{password}\n{script}", capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{name}: {done.stderr}")
        return done.stdout

    def groups(self) -> list[Path]:
        """Return the files that count the processor of each device's control group."""
        found = []
        for name in self.names:
            container = run("podman", "inspect", "--format", "{{.Id}}", f"{self.label}-{name}").strip()
            # In this order: the second one looks where services of devices come and go.
            of_version_1 = Path("/sys/fs/cgroup").glob(f"cpuacct/**/libpod-{container}*/cpuacct.usage")
            of_version_2 = Path("/sys/fs/cgroup").glob(f"**/libpod-{container}.scope/cpu.stat")
            found.append(next(of_version_1, None) or next(of_version_2))
        return found


@contextmanager
def copies(name: str, release: str, counts: Sequence[int], architecture: str = "") -> Iterator[Generator[Fleet]]:
    """Make fleets of so many copies, each provisioned, one after the other: each is removed before the next is made."""
    if int(INOTIFY.read_text()) < 8 * max(counts):
        sys.exit(
            f"{max(counts)} virtual Pis need more inotify: sudo sysctl fs.inotify.max_user_instances={16 * max(counts)}"
        )
    folder, image = ROOT / ".cache" / name, f"localhost/pi-fleet/virtual-pi:{name}"
    first = Fleet.make(folder / "first", f"{name}-first", 1, release, architecture)

    def each() -> Generator[Fleet]:
        for count in counts:
            fleet = Fleet.make(folder / str(count), f"{name}-{count}", count, release, architecture, image)
            try:
                # That they are copies is over with it. Tokens that are gone are made anew; what runs has read them.
                with ThreadPoolExecutor(20) as pool:
                    list(pool.map(fleet.root, fleet.names, repeat("rm -r /etc/pi-fleet/private")))
                fleet.play("playbooks/site.yml")
                yield fleet
            finally:
                fleet.remove()

    fleets = each()
    try:
        first.play("playbooks/site.yml")
        wanted = {"fleet": first.label, "name": first.names[0], "image": image}
        run("ansible", "localhost", "-m", "edge.pi_fleet.virtual_pi_snapshot", "-a", json.dumps(wanted))
        yield fleets
    finally:
        fleets.close()
        first.remove()
        run("podman", "rmi", "--force", image)
        shutil.rmtree(folder)
