#!/usr/bin/python3
"""Stop the services that fill the card when space or inodes are short; start them again when there is room.

field-data-guard.service runs this when space is short, or was short at the last look. Nothing is ever
deleted. Which units can be writing is asked of three witnesses, because none knows all: the processes (user
and groups), their open files, and what the units are configured for. Lambdas and connectors are stopped
whoever they run as: each has a /tmp of its own on the card. A unit that a timer, a path or a
socket starts for moments only would slip between two looks: what starts it is stopped as well.

Settings are the environment's: FIELD_DATA_FOLDER, FIELD_DATA_MIN_FREE (`500M`, `5%`), RUNTIME_DIRECTORY.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

OWNER, GROUP = "ggc_user", "ggc_group"
OURS = ("lambda@*.service", "connector@*.service")
STATE = "low.json"
# Per cent of the inodes that have to stay free: empty files take nothing else. The unit's ExecCondition has it too.
MIN_FREE_INODES = 5
# Started again only that much above the limit, or services would stop and start by turns.
MARGIN = 0.10
# Seconds that they have to end by themselves, and what timeout(1) exits with after them.
PATIENCE = 20
TIMED_OUT = 124
UNITS = {"K": 1024, "M": 1024**2, "G": 1024**3}
# Without them a device cannot be reached, mended or shut down. Whoever writes from within is named instead.
NEVER_STOPPED = (
    "field-data-guard.service",
    "systemd-*.service",
    "user@*.service",
    "user-runtime-dir@*.service",
    "dbus.service",
    "dbus-broker.service",
    "polkit.service",
    "ssh.service",
    "sshd.service",
    "ssh@*.service",
    "sshd@*.service",
    "*getty*.service",
    "cron.service",
    "rsyslog.service",
    "networking.service",
    "NetworkManager.service",
    "wpa_supplicant*.service",
    "dhcpcd.service",
)
PROPERTIES = (
    "Id",
    "LoadState",
    "ActiveState",
    "UnitFileState",
    "User",
    "Group",
    "SupplementaryGroups",
    "ReadWritePaths",
    "BindPaths",
    "TriggeredBy",
)
ERROR, WARNING, NOTICE = 3, 4, 5  # syslog's numbers, which the journal reads at the start of a line

FileId = tuple[int, int]
"""Device and inode: paths say little, as services and containers may see the folder elsewhere."""
Runner = Callable[[list[str]], "subprocess.CompletedProcess[str]"]


class GuardError(Exception):
    """One sentence: what was found, what was wanted, what to do next."""


def say(level: int, text: str) -> None:
    """Write a line to the journal."""
    print(f"<{level}>{text}", flush=True)


def parse_limit(text: str, size: int) -> int:
    """Return the bytes that `text` (`500M`, `2G`, `5%` of a file system of `size` bytes) wants free."""
    found = re.fullmatch(r"([1-9][0-9]*)([KMG])|([1-9][0-9]?)%", text, re.ASCII)
    if found is None:
        raise GuardError(
            f"FIELD_DATA_MIN_FREE is '{text}', not a whole number with K, M or G (500M) or a share of the "
            "card (5%): correct field_data_min_free and run the role field_data again."
        )
    if found[3]:
        return size * int(found[3]) // 100
    return int(found[1]) * UNITS[found[2]]


def mebibytes(count: int) -> str:
    """Return a number of bytes as people read it."""
    return f"{count // 1024**2} MiB"


@dataclass(frozen=True)
class Space:
    """What a file system has: bytes, and inodes, which some file systems do not count (0 of 0)."""

    free: int
    size: int
    free_inodes: int
    inodes: int

    @classmethod
    def of(cls, path: Path) -> Space:
        """Ask for what is there for others than root."""
        found = os.statvfs(path)
        return cls(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize, found.f_ffree, found.f_files)

    def missing(self, path: Path, min_free: str, margin: float = 0) -> str:
        """Say what is short for `path`, '' if nothing is; with a margin, that much more is wanted."""
        if self.free < parse_limit(min_free, self.size) * (1 + margin):
            return f"{mebibytes(self.free)} are free for {path} and {min_free} have to stay free"
        if self.free_inodes * 100 < self.inodes * MIN_FREE_INODES * (1 + margin):
            return (
                f"{self.free_inodes} of {self.inodes} inodes are free for {path} and {MIN_FREE_INODES}% have to "
                "stay free"
            )
        return ""


@dataclass(frozen=True)
class Folder:
    """The guarded folder, and who besides root its mode 2770 lets write."""

    path: Path
    uid: int
    gid: int
    users: frozenset[str]
    groups: frozenset[str]

    @classmethod
    def of(cls, path: Path) -> Folder:
        """Ask the user database. The folder's own owner is no guide: root's would mean every service."""
        try:
            uid, group = pwd.getpwnam(OWNER).pw_uid, grp.getgrnam(GROUP)
        except KeyError as error:
            raise GuardError(f"{OWNER} or {GROUP} is not there ({error}): run the role greengrass_user.") from None
        return cls(
            path,
            uid,
            group.gr_gid,
            users=frozenset({OWNER, str(uid), *group.gr_mem}),
            groups=frozenset({GROUP, str(group.gr_gid)}),
        )

    def files(self) -> set[FileId]:
        """Return every file below."""
        found = set()
        for parent, _, names in os.walk(self.path):
            for name in names:
                try:
                    status = Path(parent, name).lstat()
                except FileNotFoundError:  # collected or classified meanwhile
                    continue
                found.add((status.st_dev, status.st_ino))
        return found


@dataclass(frozen=True)
class Unit:
    """A unit as `systemctl show` describes it."""

    name: str
    load_state: str
    active_state: str
    file_state: str
    user: str
    groups: frozenset[str]
    paths: tuple[PurePosixPath, ...]
    triggers: tuple[str, ...]

    @property
    def active(self) -> bool:
        """Whether it runs, or is about to."""
        return self.active_state in ("active", "activating", "reloading")

    def may_write(self, folder: Folder) -> bool:
        """Whether it runs as somebody who may write into the folder, has the folder opened for it, or is ours."""
        return (
            any(fnmatchcase(self.name, pattern) for pattern in OURS)
            or self.user in folder.users
            or bool(self.groups & folder.groups)
            or any(path.is_relative_to(folder.path) for path in self.paths)
        )


def parse_units(text: str) -> list[Unit]:
    """Read `systemctl show` of several units: `Key=value` lines, an empty line between two units.

    Paths look like `-/optional /plain /source:/inside:rbind` (systemd.exec(5)).
    """
    units = []
    for block in text.strip().split("\n\n"):
        found = dict(line.partition("=")[::2] for line in block.splitlines())
        paths = f"{found.get('ReadWritePaths', '')} {found.get('BindPaths', '')}".split()
        units.append(
            Unit(
                name=found.get("Id", ""),
                load_state=found.get("LoadState", ""),
                active_state=found.get("ActiveState", ""),
                file_state=found.get("UnitFileState", ""),
                user=found.get("User", ""),
                groups=frozenset([found.get("Group", ""), *found.get("SupplementaryGroups", "").split()]),
                paths=tuple(PurePosixPath(path.lstrip("-+").partition(":")[0]) for path in paths),
                triggers=tuple(found.get("TriggeredBy", "").split()),
            )
        )
    return units


@dataclass(frozen=True)
class Process:
    """A process and what it could write."""

    pid: int
    name: str
    unit: str
    uids: frozenset[int]
    gids: frozenset[int]
    writes: frozenset[FileId]


def parse_cgroup(text: str) -> str:
    """Return the outermost service or scope in /proc/PID/cgroup, '' if there is none (cgroups(7)).

    The unified hierarchy, number 0, is the one that systemd goes by, where there is one with units.
    """
    lines = [line.split(":", 2) for line in text.splitlines()]
    unified = [path for number, _, path in lines if number == "0"]
    legacy = [path for _, controllers, path in lines if controllers == "name=systemd"]
    for path in unified + legacy:
        for part in path.split("/"):
            if part.endswith((".service", ".scope")):
                return part
    return ""


def open_for_writing(process: Path) -> frozenset[FileId]:
    """Return the plain files that a process (/proc/PID) has open for writing: octal flags, see proc(5)."""
    found = set()
    # In a container without SYS_PTRACE nobody may look: two witnesses are left.
    with suppress(PermissionError):
        for descriptor in (process / "fd").iterdir():
            try:
                status = descriptor.stat()
                if not stat.S_ISREG(status.st_mode):
                    continue
                info = (process / "fdinfo" / descriptor.name).read_text()
            except (FileNotFoundError, ProcessLookupError):  # closed meanwhile
                continue
            flags = re.search(r"^flags:\s*([0-7]+)", info, re.MULTILINE)
            if flags and int(flags[1], 8) & os.O_ACCMODE != os.O_RDONLY:
                found.add((status.st_dev, status.st_ino))
    return frozenset(found)


def read_processes(proc: Path) -> Iterator[Process]:
    """Yield every process that belongs to a unit."""
    for entry in proc.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            unit = parse_cgroup((entry / "cgroup").read_text())
            if not unit:
                continue
            lines = (entry / "status").read_text(errors="replace").splitlines()
            status = dict(line.partition(":")[::2] for line in lines)
            yield Process(
                pid=int(entry.name),
                name=status["Name"].strip(),
                unit=unit,
                uids=frozenset(map(int, status["Uid"].split())),
                gids=frozenset(map(int, f"{status['Gid']} {status['Groups']}".split())),
                writes=open_for_writing(entry),
            )
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
            continue


def may_be_stopped(unit: str) -> bool:
    """Whether it is a service that a device can do without for a while."""
    return unit.endswith(".service") and not any(fnmatchcase(unit, pattern) for pattern in NEVER_STOPPED)


def find_writers(folder: Folder, units: list[Unit], processes: Iterator[Process]) -> tuple[set[str], set[str]]:
    """Return the units to stop lest they write field data, and the processes that no such unit explains."""
    running = {unit.name for unit in units if unit.active_state not in ("inactive", "failed")}
    configured = {unit.name for unit in units if may_be_stopped(unit.name) and unit.may_write(folder)}
    writing, out_of_reach = set(), set()
    pictures = folder.files()
    for process in processes:
        writes = folder.uid in process.uids or not pictures.isdisjoint(process.writes)
        # What a stopped service left behind (KillMode=process) cannot be stopped by its name again.
        if may_be_stopped(process.unit) and process.unit in running:
            if writes or folder.gid in process.gids:
                writing.add(process.unit)
        elif writes:
            out_of_reach.add(f"{process.name} (process {process.pid} in {process.unit})")
    concerned = [unit for unit in units if unit.name in configured | writing]
    triggers = {trigger for unit in concerned for trigger in unit.triggers}
    return writing | ((configured | triggers) & running), out_of_reach


@dataclass
class State:
    """What is remembered while space is short: the stopped units with their UnitFileState, who was named."""

    stopped: dict[str, str] = field(default_factory=dict)
    named: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> State | None:
        """Return what was recorded, or None if space was not short."""
        try:
            found = json.loads(path.read_text())
            return cls(dict(found["stopped"]), list(found["named"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            say(ERROR, f"{path} cannot be read ({error}): start yourself what the guard had stopped.")
            return cls()

    def save(self, path: Path) -> None:
        """Record it whole or not at all; where there is no room for it, writers are stopped all the same."""
        new = path.with_suffix(".new")
        try:
            with new.open("w") as stream:
                json.dump({"stopped": self.stopped, "named": self.named}, stream)
            new.replace(path)
        except OSError as error:
            units = ", ".join(self.stopped) or "no unit"
            say(ERROR, f"{path} cannot be written ({error}): start {units} yourself when there is room again.")


@dataclass(frozen=True)
class Guard:
    """One look at the folder's file system, and what follows from it."""

    folder: Folder
    min_free: str
    state_path: Path
    run: Runner
    proc: Path = Path("/proc")

    def look(self, space: Space) -> None:
        """Stop what writes, or start it again; `space` is that of the folder's file system."""
        state = State.load(self.state_path)
        if short := space.missing(self.folder.path, self.min_free):
            self._stop_writers(state, short)
        elif state is not None and not space.missing(self.folder.path, self.min_free, MARGIN):
            self._start_again(state, space.free)
            self.state_path.unlink(missing_ok=True)

    def _show(self, *units: str) -> list[Unit]:
        # --all, or a pattern stands for active units only.
        shown = self.run(["systemctl", "show", "--all", f"--property={','.join(PROPERTIES)}", *units])
        if shown.returncode != 0:
            raise GuardError(
                f"'systemctl show' failed ({shown.stderr.strip()}), so nobody knows who writes to "
                f"{self.folder.path}: ask 'systemctl status' what is wrong."
            )
        return parse_units(shown.stdout)

    def _stop_writers(self, known: State | None, space: str) -> None:
        units = self._show("*.service", "*.timer", "*.path", "*.socket")
        writers, out_of_reach = find_writers(self.folder, units, read_processes(self.proc))
        state = known or State()
        file_states = {unit.name: unit.file_state for unit in units}
        first_named = sorted(out_of_reach - set(state.named))
        state.stopped.update({name: file_states.get(name, "") for name in sorted(writers)})
        state.named.extend(first_named)
        if known is None or writers or first_named:
            # Before anything is stopped: a guard that is killed half-way must not forget what it stopped.
            state.save(self.state_path)
        for name in first_named:
            say(WARNING, f"{name} can write field data and is no service to stop: {space}; stop it yourself.")
        if writers:
            self._stop(sorted(writers), space)
        elif known is None and not first_named:
            say(WARNING, f"No service writes field data, yet {space}; collect field data or free space.")

    def _stop(self, names: list[str], space: str) -> None:
        stopped = self.run(["timeout", str(PATIENCE), "systemctl", "stop", *names])
        if stopped.returncode == TIMED_OUT:
            # Who goes on for longer, in what it calls its last event, may go on writing.
            self.run(["systemctl", "kill", "--signal=KILL", *names])
            stopped = self.run(["systemctl", "stop", *names])
        still_active = {unit.name for unit in self._show(*names) if unit.active}
        for name in names:
            if name in still_active:
                why = stopped.stderr.strip() or "it is active again"
                say(ERROR, f"{name} could not be stopped ({why}): {space}; stop it yourself.")
            else:
                say(
                    WARNING,
                    f"Stopped {name}: {space}; collect field data or free space, then it is started again.",
                )

    def _start_again(self, state: State, free: int) -> None:
        if not state.stopped:
            return
        there = {unit.name: unit for unit in self._show(*state.stopped)}
        startable = []
        for name, file_state in state.stopped.items():
            unit = there.get(name)
            if unit is None or unit.load_state != "loaded":
                say(WARNING, f"{name} is not started again: it was removed or masked meanwhile.")
            elif file_state == "enabled" and unit.file_state == "disabled":
                say(WARNING, f"{name} is not started again: it was disabled meanwhile.")
            elif not unit.active:
                say(NOTICE, f"Starting {name} again: {mebibytes(free)} are free for {self.folder.path}.")
                startable.append(name)
        if startable:
            # Not waited for: a slow start is no reason to hold up the next look.
            self.run(["systemctl", "start", "--no-block", *startable])


def run_command(argv: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command in English and wait for it."""
    return subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Look once; 1 and one sentence when that was impossible."""
    try:
        folder = Folder.of(Path(environment["FIELD_DATA_FOLDER"]))
        guard = Guard(
            folder,
            environment["FIELD_DATA_MIN_FREE"],
            Path(environment["RUNTIME_DIRECTORY"]) / STATE,
            run_command,
        )
        guard.look(Space.of(folder.path))
    except KeyError as error:
        say(ERROR, f"{error} is not set: start the guard with 'systemctl start field-data-guard.service'.")
        return 1
    except OSError as error:
        say(ERROR, f"{error.filename} cannot be examined ({error.strerror}): run the role field_data again.")
        return 1
    except GuardError as error:
        say(ERROR, str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
