#!/usr/bin/env python3
"""Remove one task at a time from the roles of site.yml, and ask whether anything notices.

Each mutant is a copy of the project without one task. It provisions a virtual Pi that stands where its role begins: a
snapshot, taken while the whole project provisioned one. Judges are asked in this order: of a task that refuses bad
input, the tests that offer it; then site.yml for the role, verify.yml for the role, its molecule scenarios, and
the whole of site.yml. A judge counts only if it is content with the project as it is.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("block", "rescue", "always")
BENCHES = 2
# Molecule scenarios that are not named after the role, and of a file that other roles include, theirs too.
SCENARIOS = {
    "identity": ["firstboot"],
    "device_state": ["fleet"],
    "local_core/connector.yml": ["image_classifier"],
    "local_core/function.yml": ["local_core", "classifier_lambda"],
}
Trail = tuple[str | int, ...]
"""Where a task is in its file: indexes of lists and the parts of blocks."""


class MutantsError(Exception):
    """One sentence: why mutants would prove nothing, and what to do."""


@dataclass(frozen=True)
class Task:
    """A task of a role that is no block."""

    role: str
    file: str
    trail: Trail
    name: str

    def __str__(self) -> str:
        """Return file and name, as people look for it."""
        return f"{self.role}/{self.file}: {self.name}"

    @property
    def refuses(self) -> bool:
        """Say whether it is there to refuse bad input."""
        return self.role == "preflight" or self.file == "validate.yml"

    def remove_from(self, project: Path) -> None:
        """Write the task's file in a copy of the project without it."""
        path = project / "roles" / self.role / "tasks" / self.file
        data = yaml.safe_load(path.read_text())
        found = data
        for step in self.trail[:-1]:
            found = found[step]
        del found[self.trail[-1]]
        path.write_text(yaml.safe_dump(data, sort_keys=False))


def walk(tasks: Sequence[dict[str, Any]], trail: Trail = ()) -> Iterator[tuple[Trail, str]]:
    """Yield where each task of a list is, and its name; a block is its tasks."""
    for index, task in enumerate(tasks):
        here = (*trail, index)
        parts = [part for part in PARTS if part in task]
        for part in parts:
            yield from walk(task[part], (*here, part))
        if not parts:
            yield here, task["name"]


def tasks_of(role: str) -> Iterator[Task]:
    """Yield the tasks of a role, but for those by which it says what verify looks at."""
    for path in sorted((ROOT / "roles" / role / "tasks").glob("*.yml")):
        if path.name != "verify.yml":
            for trail, name in walk(yaml.safe_load(path.read_text()) or []):
                yield Task(role, path.name, trail, name)


def site_roles() -> list[str]:
    """Return the roles of site.yml in their order: those of its first play, and those that its second imports whole."""
    first, second = yaml.safe_load((ROOT / "playbooks" / "site.yml").read_text())
    imports = [task.get("ansible.builtin.import_role", {}) for task in second["tasks"][0]["block"]]
    names = [entry["role"] for entry in first["roles"]]
    names += [entry["name"] for entry in imports if entry and "tasks_from" not in entry]
    return [name.rpartition(".")[2] for name in names]


def copy_project(target: Path) -> None:
    """Copy what is or could be committed; links stay links. The models are those of this checkout."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name, follow_symlinks=False)
    (target / ".cache").mkdir()
    (target / ".cache" / "models").symlink_to(ROOT / ".cache" / "models")


@dataclass
class Bench:
    """Where mutants are tried: a folder for all that is made, and a virtual Pi that is made anew for each."""

    folder: Path
    release: str
    fleet: str
    snapshots: dict[str, str] = field(default_factory=dict)
    """By role, the image of a virtual Pi where it begins; the first role begins on a blank one."""
    content: set[tuple[str, str]] = field(default_factory=set)
    """Judges that are content with the project as it is, each with the role that it was asked about."""
    made: set[str] = field(default_factory=set)
    """Fleets that were made and not removed yet."""
    said: str = ""

    @property
    def host(self) -> str:
        """Name of the virtual Pi."""
        return f"pi-{self.release}"

    @property
    def inventory(self) -> Path:
        """Folder of the virtual Pi's inventory."""
        return self.folder / "inventory"

    def write_inventory(self) -> None:
        """Describe the virtual Pi as molecule's shared settings do, with a cache that holds nothing yet."""
        shared = yaml.safe_load((ROOT / ".config" / "molecule" / "config.yml").read_text())
        devices = shared["provisioner"]["inventory"]["group_vars"]["devices"]
        variables = {
            "ansible_python_interpreter": "/usr/bin/python3",
            "virtual_pi_packages": [
                *devices["molecule_packages"],
                *devices["molecule_packages_of_release"][self.release],
            ],
            "image_classifier_model": str(ROOT / ".cache" / "models" / "demonstration" / "model.onnx"),
            "camera_source": "directory",
            "camera_directory": str(ROOT / "files" / "photos"),
            "greengrass_sdk_cache": str(self.folder / "wheels"),
        }
        self.inventory.mkdir(parents=True)
        hosts = {"devices": {"hosts": {self.host: {"virtual_pi_release": self.release}}, "vars": variables}}
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump(hosts))

    def run(self, *command: str, project: Path = ROOT, **environment: str) -> int:
        """Run a command in a project, keep what it says, and return its exit code."""
        done = subprocess.run(
            command,
            cwd=project,
            env={**os.environ, "ANSIBLE_HOME": str(self.folder / "home"), "ANSIBLE_NOCOLOR": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self.said = done.stdout
        return done.returncode

    def play(self, playbook: str, *arguments: str, project: Path = ROOT) -> bool:
        """Run a playbook of a project against the virtual Pi, and return whether it succeeded."""
        return self.run("ansible-playbook", f"--inventory={self.inventory}", playbook, *arguments, project=project) == 0

    def renew(self, image: str = "") -> None:
        """Have a virtual Pi that stands where a role begins, and nothing that was cached for it since."""
        self.remove(self.fleet)
        self._have(self.fleet, {"virtual_pi_image": image})
        if not image:
            shutil.rmtree(self.folder / "wheels", ignore_errors=True)

    def remove(self, fleet: str) -> None:
        """Remove the virtual Pis of a fleet."""
        self._have(fleet, {"virtual_pi_instances": []})
        self.made.discard(fleet)

    def _have(self, fleet: str, extra: dict[str, Any]) -> None:
        self.made.add(fleet)
        variables = {"virtual_pi_fleet": fleet, "virtual_pi_directory": str(self.folder / "fleet"), **extra}
        self._need(self.play("playbooks/virtual_fleet.yml", "--extra-vars", json.dumps(variables)))

    def _need(self, success: bool) -> None:
        if not success:
            raise MutantsError(f"This fails without any mutant, mend it first: {last_words(self.said)}")

    def provision(self, roles: Sequence[str]) -> None:
        """Provision a virtual Pi with the project as it is, role by role, and keep it where each begins."""
        self.renew()
        self.snapshots[roles[0]] = ""
        for role, following in itertools.zip_longest(roles, roles[1:]):
            self._need(self.play("playbooks/site.yml", "--tags", role))
            self._need(self._verify(role))
            if following:
                image = self.snapshots[following] = f"localhost/pi-fleet/virtual-pi:{self.fleet}-{following}"
                wanted = json.dumps({"fleet": self.fleet, "name": self.host, "image": image})
                module = ["ansible", "localhost", "-m", "edge.pi_fleet.virtual_pi_snapshot", "-a", wanted]
                self._need(self.run(*module) == 0)
        self._need(self.play("playbooks/site.yml") and self.play("playbooks/verify.yml"))
        self.content |= {(judge, role) for judge in ("site", "verify", "whole") for role in roles}

    def _verify(self, role: str) -> bool:
        roles = yaml.safe_load((ROOT / "roles" / "verify" / "defaults" / "main.yml").read_text())["verify_roles"]
        wanted = json.dumps({"verify_roles": [role] if role in roles else []})
        return self.play("playbooks/verify.yml", "--extra-vars", wanted)

    def notices(self, judge: str, project: Path, role: str) -> bool:
        """Ask one judge about a project; see `judges`."""
        if judge == "site":
            self.renew(self.snapshots[role])
            return not self.play("playbooks/site.yml", "--tags", role, project=project)
        if judge == "verify":
            # Of what site.yml of the mutant has just made.
            return not self._verify(role)
        if judge == "whole":
            return not (self.play("playbooks/site.yml", project=project) and self.play("playbooks/verify.yml"))
        if judge.startswith("refusals"):
            self.renew()
            only = [f"-k={role}"] if judge == "refusals of the role" else []
            test = ["pytest", "--exitfirst", "--quiet", *only, "tests/e2e/test_refusals.py"]
            # 5 says that no test has the role's name.
            return self.run(*test, E2E_INVENTORY=str(self.inventory), E2E_PROJECT=str(project)) not in (0, 5)
        config = f"--base-config={project / '.config' / 'molecule' / 'config.yml'}"
        scenario = judge.removeprefix("scenario ")
        self.made.add(f"{self.fleet}-{scenario}")
        test = ["molecule", config, "test", "--destroy=always", f"--scenario-name={scenario}"]
        return self.run(*test, project=project, PI_FLEET_PREFIX=self.fleet) != 0

    def first_to_notice(self, task: Task) -> str | None:
        """Return the judge that notices that a task is missing, or None."""
        project = self.folder / "project"
        shutil.rmtree(project, ignore_errors=True)
        copy_project(project)
        task.remove_from(project)
        noticed = next((judge for judge in judges(task) if self.notices(judge, project, task.role)), None)
        if noticed and (noticed, task.role) not in self.content:
            whole = self.folder / "whole"
            if not whole.exists():
                copy_project(whole)
            self._need(not self.notices(noticed, whole, task.role))
            self.content.add((noticed, task.role))
        return noticed

    def close(self) -> None:
        """Remove all that was made in the container engine."""
        for fleet in sorted(self.made):
            self.remove(fleet)


def judges(task: Task) -> list[str]:
    """Return what is asked about a task's absence, in order."""
    refusals = ["refusals of the role", "refusals"] if task.refuses else []
    scenarios = SCENARIOS.get(f"{task.role}/{task.file}") or SCENARIOS.get(task.role) or [task.role]
    return [*refusals, "site", "verify", *(f"scenario {name}" for name in scenarios), "whole"]


def last_words(text: str) -> str:
    """Return the end of what a command said."""
    return "\n".join(text.strip().splitlines()[-30:])


def judge_all(tasks: Iterable[Task], bench: Bench) -> list[Task]:
    """Try mutants, print a line about each, and return those that nothing noticed."""
    survivors = []
    for task in tasks:
        begun = time.monotonic()
        noticed = bench.first_to_notice(task)
        survivors += [] if noticed else [task]
        verdict = f"noticed by {noticed}" if noticed else "SURVIVED"
        print(f"{verdict:<32}  {task}  ({time.monotonic() - begun:.0f} s)", flush=True)
    return survivors


def side_by_side(tasks: Sequence[Task], benches: Sequence[Bench]) -> list[Task]:
    """Judge tasks on several benches at once: each takes the next one when free, until one fails or is stopped."""
    left = collections.deque(tasks)

    def taken() -> Iterator[Task]:
        with contextlib.suppress(IndexError):
            while True:
                yield left.popleft()

    with ThreadPoolExecutor(len(benches)) as pool:
        futures = [pool.submit(judge_all, taken(), bench) for bench in benches]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            left.clear()
        return [task for future in futures for task in future.result()]


def main(arguments: Sequence[str]) -> int:
    """Try all mutants, or those of some roles; 1 if any survived."""
    parser = argparse.ArgumentParser(description="Remove one task at a time and ask whether anything notices.")
    parser.add_argument("--role", choices=site_roles(), action="append", help="only the tasks of this role; repeatable")
    parser.add_argument("--release", default="trixie", help="release of the virtual Pi that site.yml runs on")
    parser.add_argument("--list", action="store_true", help="name the mutants and try none")
    asked = parser.parse_args(arguments)
    roles = site_roles()
    found = [task for role in asked.role or roles for task in tasks_of(role)]
    if asked.list:
        print(*found, f"{len(found)} mutants", sep="\n")
        return 0

    # An end from outside is one like Ctrl-C: what was made is removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="pi-fleet-mutants-", ignore_cleanup_errors=True) as folder:
        benches = [Bench(Path(folder, str(n)), asked.release, f"mutants-{os.getpid()}-{n}") for n in range(BENCHES)]
        for bench in benches:
            bench.write_inventory()
        first = benches[0]
        try:
            first.provision(roles)
            for bench in benches[1:]:
                bench.snapshots, bench.content = first.snapshots, set(first.content)
                shutil.copytree(first.folder / "wheels", bench.folder / "wheels")
            survivors = side_by_side(found, benches)
        except MutantsError as error:
            print(error, file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("Interrupted: what was made is removed.", file=sys.stderr)
            return 130
        finally:
            for bench in benches:
                bench.close()
            first.run("podman", "rmi", "--force", *filter(None, first.snapshots.values()))
    print(*(f"survived  {task}" for task in survivors), sep="\n", end="\n" if survivors else "")
    print(f"{len(found)} mutants, {len(found) - len(survivors)} noticed, {len(survivors)} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
