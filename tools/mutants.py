#!/usr/bin/env python3
"""Remove one task at a time from the roles of site.yml, and ask whether anything notices.

Each mutant is a copy of the project without one task, on a fresh virtual Pi. Judges are asked in this order: ansible's
syntax check, site.yml, the project's own verify.yml, and the role's molecule scenario; of a task that refuses bad
input, first of all the test that offers it. A judge counts only if it is content with the project as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("block", "rescue", "always")
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
    """Return the roles of site.yml in their order."""
    plays = yaml.safe_load((ROOT / "playbooks" / "site.yml").read_text())
    return [entry["role"].rpartition(".")[2] for play in plays for entry in play["roles"]]


def copy_project(target: Path) -> None:
    """Copy what is or could be committed; links stay links."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name, follow_symlinks=False)


@dataclass
class Bench:
    """Where mutants are tried: a folder for all that is made, and a virtual Pi that is made anew for each."""

    folder: Path
    release: str
    fleet: str = f"mutants-{os.getpid()}"
    made: set[str] = field(default_factory=set)
    healthy: set[tuple[str, str]] = field(default_factory=set)
    said: str = ""

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
        host = {f"pi-{self.release}": {"virtual_pi_release": self.release}}
        self.inventory.mkdir()
        hosts = {"devices": {"hosts": host, "vars": variables}}
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump(hosts))

    def run(self, *command: str, project: Path = ROOT, **environment: str) -> bool:
        """Run a command in a project, keep what it says, and return whether it succeeded."""
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
        return done.returncode == 0

    def play(self, playbook: str, *arguments: str, project: Path = ROOT) -> bool:
        """Run a playbook of a project against the virtual Pi."""
        return self.run("ansible-playbook", f"--inventory={self.inventory}", playbook, *arguments, project=project)

    def remove(self, fleet: str) -> None:
        """Remove the virtual Pis of a fleet."""
        self._have(fleet, {"virtual_pi_instances": []})
        self.made.discard(fleet)

    def renew(self) -> None:
        """Have a virtual Pi that nothing was done to."""
        if self.fleet in self.made:
            self.remove(self.fleet)
        self._have(self.fleet)
        shutil.rmtree(self.folder / "wheels", ignore_errors=True)

    def _have(self, fleet: str, extra: dict[str, Any] | None = None) -> None:
        self.made.add(fleet)
        variables = {"virtual_pi_fleet": fleet, "virtual_pi_directory": str(self.folder / "fleet"), **(extra or {})}
        if not self.play("playbooks/virtual_fleet.yml", "--extra-vars", json.dumps(variables)):
            raise MutantsError(f"A virtual Pi cannot be made or removed: {last_words(self.said)}")

    def notices(self, judge: str, project: Path, role: str) -> bool:
        """Ask one judge about a project; see `judges`."""
        if judge == "syntax":
            return not self.play("playbooks/site.yml", "--syntax-check", project=project)
        if judge == "site":
            self.renew()
            return not self.play("playbooks/site.yml", project=project)
        if judge == "verify":
            # On what site.yml of the project has just made.
            return not self.play("playbooks/verify.yml")
        if judge == "refusals":
            self.renew()
            test = ["pytest", "--exitfirst", "--quiet", "tests/e2e/test_refusals.py"]
            return not self.run(*test, E2E_INVENTORY=str(self.inventory), E2E_PROJECT=str(project))
        self.made.add(f"{self.fleet}-{role}")
        config = f"--base-config={project / '.config' / 'molecule' / 'config.yml'}"
        test = ["molecule", config, "test", "--destroy=always", f"--scenario-name={role}"]
        return not self.run(*test, project=project, PI_FLEET_PREFIX=self.fleet)

    def first_to_notice(self, task: Task) -> str | None:
        """Return the judge that notices that a task is missing, or None."""
        project = self.folder / "project"
        shutil.rmtree(project, ignore_errors=True)
        copy_project(project)
        task.remove_from(project)
        noticed = next((judge for judge in judges(task) if self.notices(judge, project, task.role)), None)
        if noticed:
            self.require_content(noticed, task)
        return noticed

    def require_content(self, judge: str, task: Task) -> None:
        """Raise MutantsError if a judge is not content with the project as it is."""
        whole = [each for each in ("site", "verify") if judge in ("site", "verify")] or [judge]
        key = (judge, task.role if judge == "molecule" else "")
        if key in self.healthy:
            return
        project = self.folder / "whole"
        if not project.exists():
            copy_project(project)
        if any(self.notices(each, project, task.role) for each in whole):
            raise MutantsError(f"{judge} fails without any mutant, mend that first: {last_words(self.said)}")
        self.healthy |= {(each, "") for each in whole} if key[1] == "" else {key}

    def close(self) -> None:
        """Remove all that was made in the container engine."""
        for fleet in sorted(self.made):
            self.remove(fleet)


def judges(task: Task) -> list[str]:
    """Return what is asked about a task's absence, in order."""
    return [*(["refusals"] if task.refuses else []), "syntax", "site", "verify", "molecule"]


def last_words(text: str) -> str:
    """Return the end of what a command said."""
    return "\n".join(text.strip().splitlines()[-30:])


def judge_all(tasks: Sequence[Task], bench: Bench) -> list[Task]:
    """Try each mutant, print a line about it, and return those that nothing noticed."""
    survivors = []
    for task in tasks:
        begun = time.monotonic()
        noticed = bench.first_to_notice(task)
        survivors += [] if noticed else [task]
        verdict = f"noticed by {noticed}" if noticed else "SURVIVED"
        print(f"{verdict:<20}  {task}  ({time.monotonic() - begun:.0f} s)", flush=True)
    return survivors


def main(arguments: Sequence[str]) -> int:
    """Try all mutants, or those of one role; 1 if any survived."""
    parser = argparse.ArgumentParser(description="Remove one task at a time and ask whether anything notices.")
    parser.add_argument("--role", choices=site_roles(), help="only the tasks of this role")
    parser.add_argument("--release", default="trixie", help="release of the virtual Pi that site.yml runs on")
    parser.add_argument("--list", action="store_true", help="name the mutants and try none")
    asked = parser.parse_args(arguments)
    found = [task for role in site_roles() if asked.role in (None, role) for task in tasks_of(role)]
    if asked.list:
        print(*found, f"{len(found)} mutants", sep="\n")
        return 0

    # An end from outside is one like Ctrl-C: what was made is removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="pi-fleet-mutants-", ignore_cleanup_errors=True) as folder:
        bench = Bench(Path(folder), asked.release)
        bench.write_inventory()
        try:
            survivors = judge_all(found, bench)
        except MutantsError as error:
            print(error, file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("Interrupted: what was made is removed.", file=sys.stderr)
            return 130
        finally:
            bench.close()
    print(*(f"survived  {task}" for task in survivors), sep="\n", end="\n" if survivors else "")
    print(f"{len(found)} mutants, {len(found) - len(survivors)} noticed, {len(survivors)} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
