#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Converge this device from a git repository, from commits alone that a key which the fleet trusts has signed.

pull.service runs this. ansible-pull does the work, yet its --verify-commit looks at a commit that is checked out
already, and takes an older one as well. So the branch is fetched into a repository of the device's own first, and
what passes here becomes the branch `verified` there, which is all that ansible-pull is shown.

What became of it stands in pull.json, and as a retained message in the topic pi-fleet/DEVICE/pull:

    {"device": "...", "time": "...", "seconds": N, "status": "...", "commit": "...", "converged": "...",
     "changed": ["TASK", ...], "task": "...", "message": "..."}

`status` is converged, failed (`task` says where), refused (the commit), or unreachable (the repository). `commit` is
what the branch pointed to, `converged` what the device last converged to.

usage: pull.py [--withdraw]    with --withdraw the message and pull.json are taken back, and nothing is pulled
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

BROKER = "127.0.0.1"
ERROR, WARNING = 3, 4  # syslog's numbers, which the journal reads at the start of a line

# Branches of the device's own repository: what was fetched, what passed, and what the device last converged to.
CANDIDATE, VERIFIED, CONVERGED = "candidate", "verified", "converged"


class PullError(Exception):
    """One sentence: why nothing was converged, and what to do next."""

    status = "failed"


class RefusedError(PullError):
    """The commit is not one that this device takes."""

    status = "refused"


class UnreachableError(PullError):
    """The repository does not answer."""

    status = "unreachable"


@dataclass(frozen=True)
class Settings:
    """What settings.json says, as role pull wrote it."""

    device: str
    repository: str
    branch: str
    inventory: str
    playbook: str
    rewind: str
    """A commit that may be gone back to, or ''."""


@dataclass(frozen=True)
class Paths:
    """Where things are; unit tests put a folder here."""

    root: Path = Path("/")

    @property
    def configuration(self) -> Path:
        """What role pull wrote, for root alone."""
        return self.root / "etc/pi-fleet/pull"

    @property
    def state(self) -> Path:
        """The repository and what is checked out of it."""
        return self.root / "var/lib/pi-fleet/pull"

    @property
    def repository(self) -> Path:
        """The device's own repository, bare."""
        return self.state / "repository.git"

    @property
    def checkout(self) -> Path:
        """What ansible-pull checks out."""
        return self.state / "checkout"

    @property
    def result(self) -> Path:
        """What became of the last pull."""
        return self.root / "var/lib/pi-fleet/pull.json"

    @property
    def program(self) -> Path:
        """The environment that has ansible-core."""
        return self.root / "opt/pi-fleet/pull/venv/bin"


@dataclass
class Result:
    """What becomes of a pull: see the text of this module."""

    device: str
    time: str = ""
    seconds: int = 0
    status: str = "converged"
    commit: str = ""
    converged: str = ""
    changed: list[str] = field(default_factory=list)
    task: str = ""
    message: str = ""


def say(level: int, text: str) -> None:
    """Write a line to the journal."""
    print(f"<{level}>{text}", file=sys.stderr, flush=True)


def first_line(text: str) -> str:
    """Return the first line that says something: there git tells the cause, and what follows from it below."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "it said nothing")


@dataclass(frozen=True)
class Gate:
    """The device's own repository: what is fetched into it, and what of that passes."""

    settings: Settings
    paths: Paths

    def fetch(self) -> str:
        """Fetch the branch and return its commit."""
        self._git("init", "--quiet", "--bare", "--template=", f"--initial-branch={VERIFIED}")
        # Nothing else is fetched: no tags, no refs/replace, which would put one object in place of another.
        reference = f"+refs/heads/{self.settings.branch}:refs/heads/{CANDIDATE}"
        arguments = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", self.settings.repository, reference)
        fetched = self._git(*arguments, check=False)
        if fetched.returncode != 0:
            raise UnreachableError(
                f"The branch {self.settings.branch} of {self.settings.repository} cannot be fetched"
                f" ({first_line(fetched.stderr)}): mend the link or pull_repository; the device stays as it is."
            )
        return self.commit(CANDIDATE)

    def commit(self, branch: str) -> str:
        """Return the commit that a branch points to, '' if there is no such branch."""
        return self._git("rev-parse", "--quiet", "--verify", f"refs/heads/{branch}", check=False).stdout.strip()

    def verify(self, commit: str) -> None:
        """Raise RefusedError unless a trusted key signed the commit and it descends from the converged one."""
        checked = self._git("verify-commit", commit, check=False)
        if checked.returncode != 0:
            raise RefusedError(f"{self._name(commit)} {_blame(checked.stderr)}; the device stays as it is.")
        converged = self.commit(CONVERGED)
        if not converged or commit == self.settings.rewind:
            return
        if self._git("merge-base", "--is-ancestor", converged, commit, check=False).returncode != 0:
            raise RefusedError(
                f"{self._name(commit)} does not descend from {converged[:12]}, to which the device converged: the"
                " branch was rewound or written anew. Put a signed commit on top of that one, or allow this one by"
                f" a run of playbooks/pull.yml with pull_rewind={commit}; the device stays as it is."
            )

    def point(self, branch: str, commit: str) -> None:
        """Point a branch to a commit."""
        self._git("update-ref", f"refs/heads/{branch}", commit)

    def _name(self, commit: str) -> str:
        return f"Commit {commit[:12]} of {self.settings.branch}"

    def _git(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run git on the repository, heedless of any other configuration than this."""
        configuration = {
            "gpg.ssh.allowedSignersFile": self.paths.configuration / "allowed_signers",
            # Signatures of other kinds would be held against keys that nobody gave.
            "gpg.program": "false",
            "gpg.x509.program": "false",
            # What is malformed does not get in.
            "fetch.fsckObjects": "true",
            # A card may lose power at any time, and systemd ends what runs on behind.
            "core.fsync": "all",
            "gc.autoDetach": "false",
            # A link that is cut in the middle ends the fetch.
            "http.lowSpeedLimit": "100",
            "http.lowSpeedTime": "120",
        }
        ssh = ["ssh", "-o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=15 -o StrictHostKeyChecking=yes"]
        ssh += [f"-o UserKnownHostsFile={self.paths.configuration}/known_hosts"]
        if (self.paths.configuration / "key").exists():
            ssh += [f"-o IdentitiesOnly=yes -i {self.paths.configuration}/key"]
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_SSH_COMMAND": " ".join(ssh),
        }
        options = [option for name, value in configuration.items() for option in ("-c", f"{name}={value}")]
        argv = ["git", f"--git-dir={self.paths.repository}", *options, *arguments]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, errors="replace", check=False)
        if check and done.returncode != 0:
            raise PullError(
                f"'git {arguments[0]}' failed on {self.paths.repository} ({first_line(done.stderr)}): free space or"
                " mend the card; without that folder the next pull makes it anew."
            )
        return done


def _blame(said: str) -> str:
    """Return what is wrong with a signature, by what `git verify-commit` said of it (in English)."""
    if not said.strip():
        return "is not signed with an SSH key: sign it with one of pull_allowed_signers"
    key = re.search(r"^Good \"git\" signature with \S+ key (\S+)$", said, re.MULTILINE)
    if key:
        return (
            f"is signed by {key[1]}, which is no key of pull_allowed_signers: sign it with one that is, or add this one"
        )
    return f"has a signature that does not hold ({first_line(said)}): look at who made it, and sign anew"


def converge(settings: Settings, paths: Paths, result: Result) -> None:
    """Have ansible-pull converge the device to the branch `verified`, and note what it changed and where it failed."""
    report = paths.state / "report.json"
    report.unlink(missing_ok=True)
    argv = [
        str(paths.program / "ansible-pull"),
        f"--url=file://{paths.repository}",
        f"--checkout={VERIFIED}",
        f"--directory={paths.checkout}",
        "--clean",
        # Relative: ansible-pull's own preparations must not run what is still checked out from the last time.
        f"--inventory={settings.inventory}",
        f"--limit={settings.device}",
        f"--extra-vars=@{paths.configuration}/variables.json",
    ]
    if (paths.configuration / "vault-password").exists():
        argv.append(f"--vault-password-file={paths.configuration}/vault-password")
    environment = {
        **os.environ,
        "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).resolve().parent / "callback"),
        "ANSIBLE_CALLBACKS_ENABLED": "pull_report",
        "PULL_REPORT": str(report),
    }
    said = ""
    with subprocess.Popen(
        [*argv, settings.playbook], cwd="/", env=environment, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        for line in process.stderr or ():
            sys.stderr.write(line)
            # What ends a run before its first task says so there alone.
            said = line.partition("]: ")[2].strip() if line.startswith("[ERROR]: ") else said
    found: dict[str, Any] = {"changed": [], "task": "", "message": ""}
    if report.exists():
        found = json.loads(report.read_text())
    else:
        # What is checked out may be what a loss of power left of it: the next pull checks out anew.
        shutil.rmtree(paths.checkout, ignore_errors=True)
    result.changed, result.task = found["changed"], found["task"]
    if process.returncode != 0:
        raise PullError(
            found["message"]
            or said
            or f"ansible-pull ended with exit code {process.returncode}: 'journalctl -u pull' tells why."
        )


def write(path: Path, text: str) -> None:
    """Replace a file in one step."""
    new = path.with_name(f".{path.name}.new")
    with new.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(path)


def publish(device: str, payload: str) -> None:
    """Leave a message in the device's broker, in place of the last one; '' takes it back."""
    try:
        from paho.mqtt import MQTTException
        from paho.mqtt import publish as mqtt

        mqtt.single(f"pi-fleet/{device}/pull", payload or None, qos=1, retain=True, hostname=BROKER)
    except (ImportError, OSError, MQTTException) as error:
        say(WARNING, f"The result could not be published ({error}): 'systemctl status mosquitto' tells why.")


def remove_locks(paths: Paths) -> None:
    """Remove what git keeps others out by, and what a loss of power leaves behind: one pull runs at a time."""
    for folder in (paths.repository, paths.checkout / ".git"):
        for lock in folder.rglob("*.lock"):
            lock.unlink()


def stop(*_: object) -> NoReturn:
    """Note that systemd ends this pull: it has ended what it runs, too."""
    raise PullError("The pull was stopped, by a shutdown or after pull_timeout: the next one goes on.")


def pull(settings: Settings, paths: Paths) -> Result:
    """Pull once, and return what became of it."""
    begun = time.monotonic()
    result, gate = Result(settings.device), Gate(settings, paths)
    try:
        remove_locks(paths)
        result.commit = gate.fetch()
        gate.verify(result.commit)
        gate.point(VERIFIED, result.commit)
        converge(settings, paths, result)
        gate.point(CONVERGED, result.commit)
    except PullError as error:
        result.status, result.message = error.status, str(error)
    result.converged = gate.commit(CONVERGED)
    result.seconds = round(time.monotonic() - begun)
    result.time = datetime.now(UTC).isoformat(timespec="seconds")
    return result


def main(arguments: Sequence[str], paths: Paths = Paths()) -> int:
    """Pull, say what became of it, and return 0 if the device has converged."""
    settings = Settings(**json.loads((paths.configuration / "settings.json").read_text()))
    if "--withdraw" in arguments:
        paths.result.unlink(missing_ok=True)
        publish(settings.device, "")
        return 0
    paths.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    result = pull(settings, paths)
    text = json.dumps(asdict(result), indent=2, ensure_ascii=False) + "\n"
    write(paths.result, text)
    publish(settings.device, text)
    if result.status == "converged":
        return 0
    say(ERROR, f"{result.task}: {result.message}" if result.task else result.message)
    return 1


if __name__ == "__main__":
    os.umask(0o022)
    signal.signal(signal.SIGTERM, stop)
    sys.exit(main(sys.argv[1:]))
