"""What is another one is found, whatever it is; what is not managed is not; a run that is killed is remembered."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.edge.pi_fleet.plugins.module_utils import (
    device_state,
    state_observe,
    state_record,
    state_restore,
)
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, DeviceError
from ansible_collections.edge.pi_fleet.plugins.module_utils.kernel_cmdline import FIRMWARE
from ansible_collections.edge.pi_fleet.plugins.module_utils.state_restore import ASIDE
from ansible_collections.edge.pi_fleet.plugins.module_utils.units import OWED
from ansible_collections.edge.pi_fleet.plugins.modules import device_state as module
from ansible_collections.edge.pi_fleet.plugins.plugin_utils.fingerprint import Roles

PROJECT = Path(__file__).parents[2]
ROLES = PROJECT / "roles"
INPUTS = {"camera": "a", "user": "b"}
DECLARED: dict[str, dict[str, Any]] = {
    "camera": {
        "paths": ["/etc/camera.json", "/etc/none.conf", "/etc/conf.d/*"],
        "trees": ["/opt/camera"],
        "packages": ["rsync", "rpicam-apps"],
        "units": ["camera.service", "worker@*"],
        "seen": ["/etc/mosquitto/*.conf"],
        "edited": ["/etc/swapfile"],
    },
    "user": {
        "users": ["ggc_user"],
        "groups": ["ggc_group"],
        "sysctls": ["fs.protected_hardlinks"],
        "flags": ["cgroup"],
        "ssh logins": True,
        "host name": True,
        "first boot": True,
        "changing": [state_record.PATH],
    },
}
STATUS = """Package: rsync
Status: install ok installed
Priority: optional
Version: {version}
Description: fast
 Version: of nothing

Package: perl
Status: deinstall ok config-files
Version: 5
"""
SHOWN = {
    "LoadState": "loaded",
    "FragmentPath": "/etc/systemd/system/camera.service",
    "DropInPaths": "",
    "UnitFileState": "enabled",
    "ActiveState": "active",
    "NeedDaemonReload": "no",
}


SYSCTL = "/etc/sysctl.d/80-pi-fleet.conf"
LOCAL = "/usr/local/lib/python3.11/dist-packages"
WANTED_BY = "/etc/systemd/system/multi-user.target.wants/camera.service"


class Pi:
    """A device in a folder; systemd, dpkg and usermod are played."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.unit, self.shown = "camera.service", dict(SHOWN)
        self.system = "running"
        self.container = True
        self.calls: list[list[str]] = []
        self.held, self.newest, self.online = "", "3.2-1", True
        self.passwords = "no"
        self.write("/etc/passwd", "ggc_user:x:990:989:Lambdas:/home/ggc_user:/usr/sbin/nologin\n")
        self.write("/etc/group", "ggc_group:x:989:collect\nvideo:x:44:ggc_user\n")
        self.write("/etc/os-release", "ID=debian\nVERSION_CODENAME=bookworm\n")
        self.write("/usr/bin/python3.11", "")
        (root / "usr/bin/python3").symlink_to("python3.11")
        self.write("/etc/shadow", "ggc_user:!:20000::::::\n")
        self.write("/etc/gshadow", "ggc_group:!::collect\n")
        self.write("/etc/hostname", "kitchen\n")
        self.write("/etc/hosts", "127.0.0.1 localhost\n127.0.1.1\tkitchen\n")
        self.write("/proc/sys/kernel/hostname", "kitchen\n")
        self.write("/boot/firmware/pi-fleet-card.txt", "kitchen\n")
        self.write("/etc/mosquitto/mosquitto.conf", "include_dir conf.d\n")
        self.write("/etc/camera.json", "{}")
        self.write("/etc/conf.d/one", "1")
        self.write("/etc/swapfile", "SIZE=1\n")
        self.write("/opt/camera/current/a.py", "a = 1\n")
        self.write("/var/lib/dpkg/status", STATUS.format(version="3.2-1"))
        self.write("/proc/sys/fs/protected_hardlinks", "1\n")
        self.write(SYSCTL, "# ours\nfs.protected_hardlinks = 1\n")
        self.write(FIRMWARE, "console=tty1 cgroup_memory=1 rootwait\n")
        self.write("/etc/systemd/system/camera.service", "[Service]\n")
        self.write("/etc/systemd/system/worker@x.service", "[Service]\n")
        self.link(WANTED_BY, "/etc/systemd/system/camera.service")
        (root / "opt/camera/link").symlink_to("current")
        self.path("/usr/lib").mkdir(parents=True)
        self.path("/lib").symlink_to("usr/lib")
        self.bring()

    def bring(self) -> None:
        """Unpack what dpkg knows as rsync's."""
        files = ["/usr/bin/rsync", "/lib/systemd/system/rsync.service", "/usr/share/doc/rsync/copyright"]
        for name in [*files, "/etc/default/rsync", "/var/lib/rsync/state"]:
            self.write(name, "as it came")
            os.utime(self.path(name), (1.6e9, 1.6e9))
        if not os.path.lexists(self.path("/usr/bin/rrsync")):
            self.path("/usr/bin/rrsync").symlink_to("rsync")
        more = ["/usr/lib/python3/dist-packages/rsync.cpython-311-x86_64-linux-gnu.so"]
        more += ["/usr/bin", "/usr/bin/rrsync", "/usr/share/locale/de/rsync.mo", "/usr/lib/rsync/excluded"]
        self.write("/var/lib/dpkg/info/rsync.list", "".join(f"{name}\n" for name in [*files, *more]))

    @property
    def device(self) -> Device:
        return Device(self.run, self.root)

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def write(self, name: str, text: str) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_text(text)

    def link(self, name: str, target: str) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).symlink_to(target)

    def as_written(self, name: str) -> dict[str, str]:
        """Return what systemd shows of a unit that is left alone."""
        file = f"/etc/systemd/system/{name}"
        return {**SHOWN, "FragmentPath": file if self.path(file).exists() else ""}

    def run(self, argv: list[str]) -> tuple[int, str, str]:
        match argv:
            case ["systemctl", "show", _, "--", *names]:
                if any("@." in name for name in names):
                    return 1, "", "Unit name is neither a valid invocation ID nor unit name.\n"
                blocks = [
                    {"Id": name, **(self.shown if name == self.unit else self.as_written(name))} for name in names
                ]
                return 0, "\n\n".join("\n".join(map("=".join, block.items())) for block in blocks) + "\n", ""
            case ["dpkg", "--compare-versions", one, "gt", other]:
                return int(one <= other), "", ""
            case ["systemctl", "show", "--property=StateChangeTimestamp", *_]:
                return 0, "@1700000000\n", ""
            case ["/usr/sbin/sshd", "-T"]:
                return 0, f"port 22\npasswordauthentication {self.passwords}\npermitrootlogin no\n", ""
            case ["systemctl", "is-system-running"]:
                return 0, f"{self.system}\n", ""
            case ["apt-mark", "showhold"]:
                return 0, self.held, ""
            case ["env", *_, "install", "--reinstall", "rsync"]:
                if self.online:
                    self.path("/usr/bin/rrsync").unlink(missing_ok=True)
                    self.bring()
                self.calls.append(argv)
                return 0, "Reinstallation of rsync is not possible, it cannot be downloaded.", ""
            case ["env", *_, "install", "rsync"]:
                self.write("/var/lib/dpkg/status", STATUS.format(version=self.newest))
                self.calls.append(argv)
                return (0, "rsync is already the newest version", "") if self.online else (100, "", "E: no network\n")
            case ["groupadd", "--system", "--gid", number, name]:
                self.write("/etc/group", f"{self.path('/etc/group').read_text()}{name}:x:{number}:\n")
            case ["usermod" | "groupmod", "--uid" | "--gid" as option, number, name] if number.isdigit():
                file = "/etc/passwd" if option == "--uid" else "/etc/group"
                lines = [line.split(":") for line in self.path(file).read_text().splitlines()]
                numbered = [[*each[:2], number, *each[3:]] if each[0] == name else each for each in lines]
                self.write(file, "".join(":".join(each) + "\n" for each in numbered))
            case ["groupmod", "-n", name, former]:
                self.write("/etc/group", re.sub(f"(?m)^{former}:", f"{name}:", self.path("/etc/group").read_text()))
            case ["useradd", *_, name] if f"--gid={name}" in argv:
                if f"{name}:" not in self.path("/etc/group").read_text():
                    return 6, "", f"useradd: group '{name}' does not exist\n"
            case ["mv", "--", one, other]:
                Path(one).replace(other)
            case ["systemd-detect-virt", *_]:
                return int(not self.container), "", ""
        self.calls.append(argv)
        return 0, "", ""


@pytest.fixture
def pi(tmp_path: Path) -> Pi:
    """A device that was recorded."""
    pi = Pi(tmp_path)
    gate = device_state.begin(pi.device, INPUTS, everything=False)
    assert gate.run == dict.fromkeys(INPUTS, "the device has no state record")
    assert device_state.record(pi.device, INPUTS, DECLARED) == []
    return pi


def manages(role: str, **variables: Any) -> dict[str, Any]:
    """Return what a role of site.yml declares."""
    loader = DataLoader()
    return Roles({"inventory_hostname": "kitchen", **variables}, Templar(loader=loader), loader).manages(role)


def told(pi: Pi) -> list[str]:
    return [str(difference) for difference in device_state.probe(pi.device).differences]


def test_a_device_that_is_as_it_was_has_nothing_to_do(pi: Pi) -> None:
    before = pi.path(state_record.PATH).read_bytes()
    gate = device_state.begin(pi.device, INPUTS, everything=False)
    assert (gate.run, gate.restored, gate.seen.differences) == ({}, [], [])
    assert gate.seen.checked == 23
    assert pi.path(state_record.PATH).read_bytes() == before
    assert pi.path(state_record.PATH).stat().st_mode & 0o777 == 0o600


def acl(path: Path, name: str = "access", user: int = 65534) -> None:
    """Let a user read it, as `setfacl` does: owner, that user, group, mask and others, see acl(5)."""
    bits = struct.Struct("<HHi").pack
    entries = [bits(1, 6, -1), bits(2, 4, user), bits(4, 4, -1), bits(16, 4, -1), bits(32, 4, -1)]
    os.setxattr(path, f"system.posix_acl_{name}", struct.pack("<I", 2) + b"".join(entries))


def shown(name: str, value: str) -> Callable[[Pi], object]:
    return lambda pi: pi.shown.update({name: value})


def change(name: str, text: str) -> Callable[[Pi], object]:
    return lambda pi: pi.write(name, text)


def all_of(*changes: Callable[[Pi], object]) -> Callable[[Pi], object]:
    return lambda pi: [change(pi) for change in changes]


def link(pi: Pi, name: str, target: str) -> None:
    pi.path(name).unlink()
    pi.path(name).symlink_to(target)


def password_in_group(pi: Pi) -> None:
    pi.write("/etc/group", GROUP.replace("ggc_group:x", "ggc_group:$y$x"))
    pi.path("/etc/gshadow").unlink()


DRIFT: dict[str, tuple[Callable[[Pi], object], str, str]] = {
    "a byte": (change("/etc/camera.json", "{ }"), "camera", "path /etc/camera.json: its content is another one"),
    "a mode": (
        lambda pi: pi.path("/etc/camera.json").chmod(0o666),
        "camera",
        "path /etc/camera.json: mode is 0666, was 0644",
    ),
    "an ACL": (
        lambda pi: acl(pi.path("/etc/camera.json")),
        "camera",
        "path /etc/camera.json: its ACL is another one",
    ),
    "an ACL for what will be made in a folder": (
        lambda pi: acl(pi.path("/opt/camera"), "default"),
        "camera",
        "path /opt/camera: its ACL is another one",
    ),
    "a file that is gone": (
        lambda pi: pi.path("/etc/camera.json").unlink(),
        "camera",
        "path /etc/camera.json: type is absent, was file",
    ),
    "a file where none was": (change("/etc/none.conf", ""), "camera", "path /etc/none.conf: type is file, was absent"),
    "one more of a pattern": (
        change("/etc/conf.d/two", ""),
        "camera",
        "path /etc/conf.d/two: it is there, and was not",
    ),
    "one more in a tree": (change("/opt/camera/b", ""), "camera", "path /opt/camera/b: it is there, and was not"),
    "bytecode in the place of a module": (
        change("/opt/camera/current/json.pyc", "?"),
        "camera",
        "path /opt/camera/current/json.pyc: it is there, and was not",
    ),
    "one less in a tree": (
        lambda pi: pi.path("/opt/camera/current/a.py").unlink(),
        "camera",
        "path /opt/camera/current/a.py: it is gone",
    ),
    "a byte in a tree": (
        change("/opt/camera/current/a.py", "a = 2\n"),
        "camera",
        "path /opt/camera/current/a.py: its content is another one",
    ),
    "a link": (
        lambda pi: link(pi, "/opt/camera/link", "/tmp"),
        "camera",
        "path /opt/camera/link: target is /tmp, was current",
    ),
    "a file that is a link now": (
        lambda pi: link(pi, "/etc/camera.json", "/dev/null"),
        "camera",
        "path /etc/camera.json: type is link, was file",
    ),
    "an older package": (
        change("/var/lib/dpkg/status", STATUS.format(version="3.1-1")),
        "camera",
        "package rsync: version is 3.1-1, was 3.2-1",
    ),
    "a program of a package that is gone": (
        lambda pi: pi.path("/usr/bin/rsync").unlink(),
        "camera",
        "package rsync: files of it are other ones",
    ),
    "another program in the place of a package's": (
        change("/usr/bin/rsync", "of another size"),
        "camera",
        "package rsync: files of it are other ones",
    ),
    "a program of a package that was written later": (
        change("/usr/bin/rsync", "as it cam!"),
        "camera",
        "package rsync: files of it are other ones",
    ),
    "a program of a package whose mode is another one": (
        lambda pi: pi.path("/usr/bin/rsync").chmod(0o4755),
        "camera",
        "package rsync: files of it are other ones",
    ),
    "an ACL of a package's program": (
        lambda pi: acl(pi.path("/usr/bin/rsync")),
        "camera",
        "package rsync: files of it are other ones",
    ),
    "a module in the place of a package's": (
        change(f"{LOCAL}/rsync/__init__.py", ""),
        "camera",
        f"package rsync: shadowed by is {LOCAL}/rsync, was none",
    ),
    "sshd that takes passwords": (
        lambda pi: vars(pi).update(passwords="yes"),
        "user",
        "ssh logins: passwordauthentication is yes, was no",
    ),
    "a link of a package": (
        lambda pi: link(pi, "/usr/bin/rrsync", "/bin/sh"),
        "camera",
        "package rsync: files of it are other ones",
    ),
    "a package's unit": (
        change("/lib/systemd/system/rsync.service", "[Service]\n"),
        "camera",
        "package rsync: files of it are other ones",
    ),
    "a package's program that somebody put elsewhere": (
        change("/var/lib/dpkg/diversions", "/usr/bin/rsync\n/usr/bin/rsync.distrib\n:\n"),
        "camera",
        "package rsync: files of it are other ones",
    ),
    "a held package": (
        change("/var/lib/dpkg/status", STATUS.format(version="3.2-1").replace("install ok i", "hold ok i")),
        "camera",
        "package rsync: held is yes, was no",
    ),
    "a package that is newer, and held": (
        change("/var/lib/dpkg/status", STATUS.format(version="3.3-1").replace("install ok i", "hold ok i")),
        "camera",
        "package rsync: held is yes, was no",
    ),
    "a removed package": (
        change("/var/lib/dpkg/status", STATUS.format(version="3.2-1").replace("ok installed", "ok config-files")),
        "camera",
        "package rsync: state is config files, was installed",
    ),
    "a stopped unit": (
        shown("ActiveState", "inactive"),
        "camera",
        "unit camera.service: active is inactive, was active",
    ),
    "a masked unit": (shown("LoadState", "masked"), "camera", "unit camera.service: loaded is masked, was loaded"),
    "a drop-in": (
        shown("DropInPaths", "/etc/systemd/system/camera.service.d/x.conf /usr/lib/systemd/system/service.d/y.conf"),
        "camera",
        "unit camera.service: drop-ins is /etc/systemd/system/camera.service.d/x.conf, was none",
    ),
    "a drop-in that systemd has not read": (
        change("/etc/systemd/system/camera.service.d/x.conf", "[Service]\n"),
        "camera",
        "unit camera.service: drop-ins is /etc/systemd/system/camera.service.d/x.conf, was none",
    ),
    "one for a part of its name": (
        change("/etc/systemd/system.control/worker@.service.d/x.conf", "[Service]\n"),
        "camera",
        "unit worker@x.service: drop-ins is /etc/systemd/system.control/worker@.service.d/x.conf, was none",
    ),
    "a unit's file that goes before its own and was not read": (
        change("/etc/systemd/system.control/camera.service", "[Service]\n"),
        "camera",
        "path /etc/systemd/system.control/camera.service: it is there, and was not",
    ),
    "a link that is elsewhere": (
        lambda pi: pi.path(WANTED_BY).parent.rename(pi.path("/etc/systemd/system/rescue.target.wants")),
        "camera",
        f"unit camera.service: links is /etc/systemd/system/rescue.target.wants/camera.service, was {WANTED_BY}",
    ),
    "a link to what a unit requires": (
        lambda pi: pi.link("/etc/systemd/system/worker@.service.requires/no.service", "/nowhere"),
        "camera",
        "unit worker@x.service: links is /etc/systemd/system/worker@.service.requires/no.service, was none",
    ),
    "a link that has a static unit started": (
        lambda pi: pi.link("/usr/lib/systemd/system/timers.target.wants/worker@x.service", "/nowhere"),
        "camera",
        "unit worker@x.service: links is /usr/lib/systemd/system/timers.target.wants/worker@x.service, was none",
    ),
    "a link to nothing": (
        lambda pi: link(pi, WANTED_BY, "/dev/null"),
        "camera",
        f"unit camera.service: links is ignored:{WANTED_BY}, was {WANTED_BY}",
    ),
    "a link to nothing before one": (
        lambda pi: pi.link("/run/systemd/system.control/multi-user.target.wants/camera.service", "/dev/null"),
        "camera",
        "unit camera.service: links is /etc/systemd/system/multi-user.target.wants/camera.service "
        f"ignored:/run/systemd/system.control/multi-user.target.wants/camera.service, was {WANTED_BY}",
    ),
    "a drop-in where a distribution's are": (
        shown("DropInPaths", "/usr/lib/systemd/system/camera.service.d/x.conf"),
        "camera",
        "unit camera.service: drop-ins is /usr/lib/systemd/system/camera.service.d/x.conf, was none",
    ),
    "a unit that systemd has not read": (
        shown("NeedDaemonReload", "yes"),
        "camera",
        "unit camera.service: read by systemd is no, was yes",
    ),
    "a unit of a pattern": (
        change("/etc/systemd/system/worker@y.service", ""),
        "camera",
        "unit worker@y.service: it is there, and was not",
    ),
    "a user's shell": (
        lambda pi: pi.write("/etc/passwd", pi.path("/etc/passwd").read_text().replace("nologin", "bash")),
        "user",
        "user ggc_user: shell is /usr/sbin/bash, was /usr/sbin/nologin",
    ),
    "a user's groups": (
        lambda pi: pi.write("/etc/group", pi.path("/etc/group").read_text() + "sudo:x:27:ggc_user\n"),
        "user",
        "user ggc_user: groups is sudo,video, was video",
    ),
    "a user who needs no password": (
        lambda pi: pi.write("/etc/passwd", PASSWD.replace(":x:", "::")),
        "user",
        "user ggc_user: password is none, was locked",
    ),
    "a password in passwd": (
        lambda pi: pi.write("/etc/passwd", PASSWD.replace(":x:", ":$y$x:")),
        "user",
        "user ggc_user: password is set, was locked",
    ),
    "an account that has expired": (
        change("/etc/shadow", "ggc_user:!:20000:::::1:\n"),
        "user",
        "user ggc_user: expiry is expiredate=1, was none",
    ),
    "a password that must be changed": (
        change("/etc/shadow", "ggc_user:!:0::1::::\n"),
        "user",
        "user ggc_user: expiry is lastday=0 maxdays=1, was none",
    ),
    "a comment": (
        lambda pi: pi.write("/etc/passwd", PASSWD.replace("Lambdas", "x")),
        "user",
        "user ggc_user: comment is x, was Lambdas",
    ),
    "a group's password": (
        change("/etc/gshadow", "ggc_group:$y$x::collect\n"),
        "user",
        "group ggc_group: password is set, was none",
    ),
    "a group's password in group": (
        password_in_group,
        "user",
        "group ggc_group: password is set, was none",
    ),
    "a group's administrator": (
        change("/etc/gshadow", "ggc_group:!:eve:collect\n"),
        "user",
        "group ggc_group: administrators is eve, was none",
    ),
    "an empty password": (
        change("/etc/shadow", "ggc_user::20000::::::\n"),
        "user",
        "user ggc_user: password is none, was locked",
    ),
    "a password": (
        change("/etc/shadow", "ggc_user:$y$j9T$secret:20000::::::\n"),
        "user",
        "user ggc_user: password is set, was locked",
    ),
    "the kernel's host name": (
        change("/proc/sys/kernel/hostname", "another\n"),
        "user",
        "host name: kernel is another, was kitchen",
    ),
    "a host name that has no address": (
        change("/etc/hosts", "127.0.0.1 localhost\n"),
        "user",
        "host name: in /etc/hosts is no, was yes",
    ),
    "a seed that is put there again": (
        change("/boot/firmware/user-data", "password: hunter2\n"),
        "user",
        "first boot: secrets left in is /boot/firmware/user-data, was none",
    ),
    "a file of others that a role judges": (
        change("/etc/mosquitto/more.conf", "listener 1884\n"),
        "camera",
        "seen /etc/mosquitto/more.conf: it is there, and was not",
    ),
    "what is in one": (
        change("/etc/mosquitto/mosquitto.conf", "listener 1884\n"),
        "camera",
        "seen /etc/mosquitto/mosquitto.conf: its content is another one",
    ),
    "a group's members": (
        lambda pi: pi.write("/etc/group", pi.path("/etc/group").read_text().replace("collect", "collect,eve")),
        "user",
        "group ggc_group: members is collect,eve, was collect",
    ),
    "a setting of the kernel": (
        change("/proc/sys/fs/protected_hardlinks", "0\n"),
        "user",
        "sysctl fs.protected_hardlinks: value is 0, was 1",
    ),
    "a second flag": (
        change(FIRMWARE, "console=tty1 cgroup_memory=1 cgroup_disable=memory rootwait\n"),
        "user",
        "kernel command line: flags is cgroup_memory=1 cgroup_disable=memory, was cgroup_memory=1",
    ),
}


@pytest.mark.parametrize(("drift", "role", "sentence"), DRIFT.values(), ids=DRIFT)
def test_what_is_another_one_is_told_and_its_role_runs(
    pi: Pi, drift: Callable[[Pi], object], role: str, sentence: str
) -> None:
    drift(pi)
    assert sentence in told(pi)
    assert {difference.role for difference in device_state.probe(pi.device).differences} == {role}
    assert list(device_state.begin(pi.device, INPUTS, everything=False).run) == [role]


SILENT: dict[str, Callable[[Pi], object]] = {
    "a newer package": change("/var/lib/dpkg/status", STATUS.format(version="3.3-1")),
    "a newer package with other files": all_of(
        change("/var/lib/dpkg/status", STATUS.format(version="3.3-1")),
        change("/usr/bin/rsync", "newer"),
    ),
    "the same package again": lambda pi: pi.bring(),
    "a package's prose": lambda pi: pi.path("/usr/share/doc/rsync/copyright").unlink(),
    "a package's settings": change("/etc/default/rsync", "mine"),
    "what a package keeps": change("/var/lib/rsync/state", "later"),
    "bytecode and others' files beside a package's": all_of(
        change("/usr/bin/__pycache__/rsync.pyc", "x"),
        change("/usr/bin/another", "x"),
    ),
    "the same package for another architecture": all_of(
        change("/var/lib/dpkg/info/rsync:arm64.list", "/usr/lib/another\n"),
        change("/var/lib/dpkg/arch", "armhf\narm64\n"),
        lambda pi: pi.path("/var/lib/dpkg/info/rsync.list").rename(pi.path("/var/lib/dpkg/info/rsync:armhf.list")),
    ),
    "another package": lambda pi: pi.write(
        "/var/lib/dpkg/status",
        STATUS.format(version="3.2-1") + "\nPackage: vim\nStatus: install ok installed\nVersion: 9\n",
    ),
    "a package that another choice of its role would need": lambda pi: pi.write(
        "/var/lib/dpkg/status",
        STATUS.format(version="3.2-1") + "\nPackage: rpicam-apps\nStatus: install ok installed\nVersion: 1.5\n",
    ),
    "bytecode": change("/opt/camera/current/__pycache__/a.pyc", "?"),
    "a log": change("/var/log/syslog", "?"),
    "another flag": change(FIRMWARE, "quiet console=tty1 cgroup_memory=1 rootwait\n"),
    "another user": lambda pi: pi.write(
        "/etc/passwd", pi.path("/etc/passwd").read_text() + "eve:x:1001:1001::/:/bin/sh\n"
    ),
    "a distribution's drop-in for all services": shown("DropInPaths", "/usr/lib/systemd/system/service.d/y.conf"),
    "a copy beside a unit": change("/etc/systemd/system/worker@x.service.bak", "[Service]\n"),
    "what a unit of a pattern wants": change("/etc/systemd/system/worker@x.service.wants/mine.service", ""),
    "a setting that is overruled": change("/etc/sysctl.d/10-x.conf", "fs.protected_hardlinks = 0\n"),
    "one of the same name further down": change("/run/sysctl.d/80-pi-fleet.conf", "fs.protected_hardlinks = 0\n"),
    "the same once more": change(
        "/usr/lib/sysctl.d/99-x.conf", "\n; mine\nfs/protected_hardlinks=1\nvm.swappiness = 9\n"
    ),
    "a pattern for a setting": change("/etc/sysctl.d/99-x.conf", "fs.protected_* = 0\n-fs.protected_*\nnonsense\n"),
    "what is no file of settings": change("/etc/sysctl.d/99-x.conf.bak", "fs.protected_hardlinks = 0\n"),
    "another unit's link": lambda pi: pi.link("/etc/systemd/system/multi-user.target.wants/mine.service", "/mine"),
    "a template that a pattern matches": change("/etc/systemd/system/worker@.service", "[Service]\n"),
    "another host's address": change("/etc/hosts", "10.0.0.1 broker\n127.0.1.1 kitchen\n"),
    "another user's password": change("/etc/shadow", "ggc_user:!:20000::::::\neve:$y$j9T$x:20000::::::\n"),
    "a user locked in another way": change("/etc/shadow", "ggc_user:*:20000::::::\n"),
    "a password's last day": change("/etc/shadow", "ggc_user:!:20100::::::\n"),
    "a group without a password": change("/etc/gshadow", "ggc_group:::collect\n"),
    "a device without gshadow": lambda pi: pi.path("/etc/gshadow").unlink(),
    "the same again": change("/etc/camera.json", "{}"),
}


@pytest.mark.parametrize("change", SILENT.values(), ids=SILENT)
def test_what_is_not_managed_stays_silent(pi: Pi, change: Callable[[Pi], object]) -> None:
    change(pi)
    assert told(pi) == []


def spoil_record(pi: Pi, spoil: Callable[[dict[str, Any]], object]) -> None:
    """Have the entries of each role be others, as if an earlier pi-fleet had recorded them."""
    document = json.loads(pi.path(state_record.PATH).read_text())
    for role in document["content"]["roles"].values():
        spoil(role["entries"])
    document["sha256"] = state_record.checksum(document["content"])
    pi.write(state_record.PATH, json.dumps(document))
    pi.path(state_record.PATH).chmod(0o600)


def test_a_copy_beside_a_unit_that_was_once_recorded_as_one_is_no_drift(pi: Pi) -> None:
    spoil_record(pi, lambda entries: entries.update({"unit worker@x.service.bak": {"loaded": "not-found"}}))
    assert told(pi) == []
    assert device_state.begin(pi.device, INPUTS, everything=False).run == {}


def test_what_an_earlier_record_does_not_say_is_no_drift_and_is_left_alone(pi: Pi) -> None:
    def forget(entries: dict[str, Any]) -> None:
        for known in entries.values():
            for attribute in ("links", "at boot", "shadowed by"):
                known.pop(attribute, None)

    spoil_record(pi, forget)
    pi.link("/etc/systemd/system/rescue.target.wants/camera.service", "/nowhere")
    assert told(pi) == []
    assert device_state.begin(pi.device, INPUTS, everything=False).run == {}
    pi.shown |= {"UnitFileState": "disabled"}
    assert device_state.begin(pi.device, INPUTS, everything=False).restored == []
    pi.shown |= {"UnitFileState": "enabled"}
    assert device_state.record(pi.device, {"camera": "a"}, DECLARED) == []
    assert told(pi) == []
    pi.path(WANTED_BY).unlink()
    assert len(told(pi)) == 1


@pytest.mark.parametrize(
    ("file", "line", "value"),
    [
        ("/etc/sysctl.d/99-x.conf", "fs.protected_hardlinks = 0", "0"),
        ("/run/sysctl.d/90-x.conf", "-fs/protected_hardlinks=0", "0"),
        ("/usr/lib/sysctl.d/99-x.conf", "fs.protected_hardlinks = 1\nfs.protected_hardlinks=0", "0"),
        ("/etc/sysctl.d/99-x.conf", "-fs.protected_hardlinks", ""),
    ],
)
def test_what_overrules_a_setting_of_the_kernel_at_the_next_boot_is_told_until_it_is_undone(
    pi: Pi, file: str, line: str, value: str
) -> None:
    pi.write(file, f"{line}\n")
    sentence = f"sysctl fs.protected_hardlinks: at boot is {value or 'none'}, was 1"
    # Booted meanwhile.
    pi.write("/proc/sys/fs/protected_hardlinks", "0\n")
    assert told(pi) == [sentence, "sysctl fs.protected_hardlinks: value is 0, was 1"]
    begun = device_state.begin(pi.device, INPUTS, everything=False)
    assert (list(begun.run), begun.restored) == (["user"], [])
    said = f"{file} has fs.protected_hardlinks be {value or 'unset'} at the next boot, and it was 1"
    assert begun.left == [f"{said}: remove that line, and run again."]
    pi.write("/proc/sys/fs/protected_hardlinks", "1\n")
    assert [str(each) for each in device_state.record(pi.device, {"user": "b"}, DECLARED)] == [sentence]
    pi.path(file).unlink()
    assert told(pi) == []


def test_a_setting_in_its_roles_own_file_is_the_roles_to_mend(tmp_path: Path) -> None:
    pi, declared = Pi(tmp_path), {"user": {"sysctls": ["fs.protected_hardlinks"], "paths": [SYSCTL]}}
    device_state.begin(pi.device, {"user": "b"}, everything=False)
    device_state.record(pi.device, {"user": "b"}, declared)
    pi.write(SYSCTL, "fs.protected_hardlinks = 0\n")
    assert device_state.begin(pi.device, {"user": "b"}, everything=False).left == []


@pytest.mark.parametrize("unit", ["dphys-swapfile.service", "var-swap.swap", "swap"])
@pytest.mark.parametrize("folder", ["/etc/systemd/system", "/etc/systemd/system.control"])
def test_a_drop_in_for_what_swaps_at_the_next_boot_is_set_aside(tmp_path: Path, folder: str, unit: str) -> None:
    pi, drop_in = Pi(tmp_path), f"{folder}/{unit}.d/x.conf"
    declared = {"paths": yaml.safe_load((ROLES / "swap/vars/main.yml").read_text())["__swap_manages"]["paths"]}
    device_state.begin(pi.device, {"swap": "s"}, everything=False)
    device_state.record(pi.device, {"swap": "s"}, {"swap": declared})
    assert told(pi) == []
    pi.write(drop_in, "[Service]\nExecStart=\n")
    assert told(pi) == [f"path {drop_in}: it is there, and was not"]
    assert len(device_state.begin(pi.device, {"swap": "s"}, everything=False).restored) == 1
    assert not pi.path(drop_in).parent.exists()


def test_a_boot_that_takes_a_link_changes_nothing(tmp_path: Path) -> None:
    pi, in_memory = Pi(tmp_path), "/run/systemd/system/rescue.target.wants/camera.service"
    pi.link(in_memory, "/nowhere")
    device_state.begin(pi.device, INPUTS, everything=False)
    device_state.record(pi.device, INPUTS, DECLARED)
    pi.path(in_memory).unlink()
    assert told(pi) == []
    pi.path(WANTED_BY).unlink()
    assert told(pi) == [f"unit camera.service: links is none, was {WANTED_BY} {in_memory}"]
    pi.link(WANTED_BY, "/etc/systemd/system/camera.service")
    pi.link("/run/systemd/system/basic.target.wants/camera.service", "/nowhere")
    assert len(told(pi)) == 1


LINKS = [
    "/etc/systemd/system/rescue.target.wants/camera.service",
    "/etc/systemd/system/camera.service.requires/no.service",
    "/run/systemd/system/timers.target.upholds/worker@x.service",
]


@pytest.mark.parametrize("link", LINKS)
def test_a_link_of_a_unit_that_was_not_there_is_set_aside_with_its_folder(pi: Pi, link: str) -> None:
    pi.link(link, "/nowhere")
    calls = len(pi.calls)
    dry = device_state.begin(pi.device, INPUTS, everything=False, dry=True).restored
    assert (len(dry), pi.path(link).is_symlink(), pi.calls[calls:]) == (1, True, [])
    (moved,) = device_state.begin(pi.device, INPUTS, everything=False).restored
    assert moved.startswith(f"{link}, which was not there before, was moved to {ASIDE}/")
    assert not pi.path(link).parent.exists()
    assert [path.readlink() for path in pi.path(ASIDE).rglob("*") if path.is_symlink()] == [Path("/nowhere")]
    # Else systemd would have it started still.
    assert pi.calls[-1] == ["systemctl", "daemon-reload"]
    assert device_state.record(pi.device, {"camera": "a"}, DECLARED) == []
    assert told(pi) == []


def test_what_is_in_the_place_of_a_units_link_stands_in_nobodys_way(pi: Pi) -> None:
    pi.path(WANTED_BY).unlink()
    pi.write(WANTED_BY, "")
    (moved,) = device_state.begin(pi.device, INPUTS, everything=False).restored
    assert moved.startswith(f"{WANTED_BY}, which was not there before, was moved")
    assert not os.path.lexists(pi.path(WANTED_BY))


@pytest.fixture
def vendors(tmp_path: Path) -> Pi:
    """A device that was recorded, with a unit that a package brought, and a drop-in of its role's."""
    pi = Pi(tmp_path)
    pi.path("/etc/systemd/system/camera.service").unlink()
    pi.write("/usr/lib/systemd/system/camera.service", "[Service]\n")
    pi.write("/etc/systemd/system/camera.service.d/80-pi-fleet.conf", "[Service]\n")
    pi.shown |= {
        "FragmentPath": "/lib/systemd/system/camera.service",
        "DropInPaths": "/etc/systemd/system/camera.service.d/80-pi-fleet.conf",
    }
    device_state.begin(pi.device, INPUTS, everything=False)
    device_state.record(pi.device, INPUTS, DECLARED)
    assert told(pi) == []
    return pi


def mask(pi: Pi) -> None:
    pi.path("/etc/systemd/system/camera.service").symlink_to("/dev/null")
    pi.shown |= {"LoadState": "masked", "FragmentPath": "/dev/null", "DropInPaths": ""}


VENDORS_DRIFT: dict[str, tuple[Callable[[Pi], object], list[str], list[str]]] = {
    "a package's own drop-in": (
        shown(
            "DropInPaths",
            "/etc/systemd/system/camera.service.d/80-pi-fleet.conf /usr/lib/systemd/system/camera.service.d/y.conf",
        ),
        [],
        [],
    ),
    "one that was not read": (change("/usr/lib/systemd/system/camera.service.d/y.conf", ""), [], []),
    "one that the role's goes before": (
        change("/run/systemd/system/camera.service.d/80-pi-fleet.conf", "[Service]\n"),
        [],
        [],
    ),
    "what is no drop-in": (change("/etc/systemd/system/camera.service.d/.80-pi-fleet.conf.swp", ""), [], []),
    "a file of the package's unit that is newer": (
        change("/usr/lib/systemd/system/camera.service", "[Service]\n\n"),
        [],
        [],
    ),
    "a unit in its place": (
        change("/etc/systemd/system/camera.service", "[Service]\n"),
        ["path /etc/systemd/system/camera.service: it is there, and was not"],
        ["/etc/systemd/system/camera.service"],
    ),
    "a mask that was not read": (
        lambda pi: pi.path("/etc/systemd/system/camera.service").symlink_to("/dev/null"),
        ["path /etc/systemd/system/camera.service: it is there, and was not"],
        ["/etc/systemd/system/camera.service"],
    ),
    "one that was read": (mask, ["unit camera.service: loaded is masked, was loaded"], []),
    "one that goes before the role's": (
        change("/etc/systemd/system.control/camera.service.d/80-pi-fleet.conf", "[Service]\n"),
        [
            "path /etc/systemd/system.control/camera.service.d/80-pi-fleet.conf: it is there, and was not",
            "unit camera.service: drop-ins is /etc/systemd/system.control/camera.service.d/80-pi-fleet.conf "
            "/etc/systemd/system/camera.service.d/80-pi-fleet.conf, was "
            "/etc/systemd/system/camera.service.d/80-pi-fleet.conf",
        ],
        ["/etc/systemd/system.control/camera.service.d/80-pi-fleet.conf"],
    ),
}


@pytest.mark.parametrize(("drift", "sentences", "moved"), VENDORS_DRIFT.values(), ids=VENDORS_DRIFT)
def test_of_a_packages_unit_what_is_not_the_packages_is_told_and_set_aside(
    vendors: Pi, drift: Callable[[Pi], object], sentences: list[str], moved: list[str]
) -> None:
    drift(vendors)
    assert told(vendors) == sentences
    begun = device_state.begin(vendors.device, INPUTS, everything=False)
    assert [each.partition(",")[0] for each in begun.restored if "moved" in each] == moved
    assert not any(os.path.lexists(vendors.path(name)) for name in moved)
    assert vendors.path("/etc/systemd/system/camera.service.d/80-pi-fleet.conf").exists()


def test_units_of_a_device_that_boots_are_waited_for(pi: Pi, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            pi.shown["ActiveState"] = "active"

    monkeypatch.setattr(time, "sleep", sleep)
    pi.shown["ActiveState"], pi.system = "activating", "starting"
    assert told(pi) == []
    assert sum(slept) == 3


@pytest.mark.parametrize(
    ("system", "state", "seconds"),
    [
        *[("starting", "activating", 60), ("starting", "inactive", 60)],
        *[("running", "activating", 5), ("degraded", "deactivating", 5)],
        *[("running", "inactive", 0), ("degraded", "failed", 0)],
    ],
)
def test_units_that_do_not_start_are_told_in_the_end(
    pi: Pi, monkeypatch: pytest.MonkeyPatch, system: str, state: str, seconds: int
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    pi.shown["ActiveState"], pi.system = state, system
    assert told(pi) == [f"unit camera.service: active is {state}, was active"]
    assert sum(slept) == seconds


STATES = Callable[[int], tuple[str, str]]


@pytest.mark.parametrize(
    ("states", "differs", "seconds"),
    [
        # Killed once: after RestartSec it is another one, and stays so.
        (lambda second: ("active", "2") if second else ("activating", "1"), False, 2),
        (lambda second: ("active", "2") if second > 1 else ("activating", "2"), False, 2),
        (lambda second: ("activating", "1") if second < 2 else ("active", "2"), False, 3),
        # It ends whenever it is started.
        (lambda second: ("active" if second % 2 else "activating", str(second // 2 + second % 2)), True, 5),
        (lambda second: ("active" if second else "activating", str(second)), True, 5),
    ],
)
def test_a_service_that_systemd_starts_again_is_waited_for_unless_it_ends_again(
    pi: Pi, monkeypatch: pytest.MonkeyPatch, states: STATES, differs: bool, seconds: int
) -> None:
    slept: list[float] = []

    def go_on(seconds: float = 0) -> None:
        slept.extend([seconds] if seconds else [])
        pi.shown["ActiveState"], pi.shown["InvocationID"] = states(int(sum(slept)))

    monkeypatch.setattr(time, "sleep", go_on)
    go_on()
    assert told(pi) == (["unit camera.service: active is activating, was active"] if differs else [])
    assert sum(slept) == seconds


@pytest.mark.parametrize("state", ["inactive", "failed"])
def test_what_the_guard_of_field_data_stopped_is_no_drift(pi: Pi, state: str) -> None:
    pi.shown["ActiveState"] = state
    sentence = f"unit camera.service: active is {state}, was active"
    assert told(pi) == [sentence]
    pi.write(state_observe.GUARD, json.dumps({"stopped": {"camera.service": "enabled"}, "named": []}))
    assert told(pi) == []
    # Recorded meanwhile, it is as it should be when it runs again.
    device_state.record(pi.device, {"camera": "c"}, DECLARED)
    pi.shown["ActiveState"] = "active"
    assert told(pi) == []
    pi.shown["UnitFileState"] = "disabled"
    assert "unit camera.service: start at boot is disabled, was enabled" in told(pi)


def test_a_unit_that_a_signal_halted_is_told_and_owes_a_restart(pi: Pi) -> None:
    pi.shown["MainPID"] = "77"
    pi.write("/proc/77/stat", "77 (a T ) b) S 1 77")
    assert told(pi) == []
    pi.write("/proc/77/stat", "77 (a) b) T 1 77")
    assert told(pi) == ["unit camera.service: active is halted by a signal, was active"]
    (difference,) = device_state.probe(pi.device).differences
    # systemd does not know since when.
    assert device_state.since(pi.device, difference) == ""
    device_state.begin(pi.device, INPUTS, everything=False)
    assert pi.path(f"{OWED}/camera.service").exists()
    pi.shown["ActiveState"] = "inactive"
    assert "unit camera.service: active is inactive, was active" in told(pi)


@pytest.mark.parametrize("spoilt", ["", "{", "[]", '{"stopped": 1}', '{"stopped": {"another.service": ""}}'])
def test_what_the_guard_did_not_stop_is_told(pi: Pi, spoilt: str) -> None:
    pi.shown["ActiveState"] = "inactive"
    pi.write(state_observe.GUARD, spoilt)
    assert told(pi) == ["unit camera.service: active is inactive, was active"]


def test_the_guard_notes_it_where_it_is_looked_for() -> None:
    unit = (PROJECT / "roles/field_data/templates/field-data-guard.service.j2").read_text()
    guard = (PROJECT / "roles/field_data/files/field_data_guard.py").read_text()
    folder, name = state_observe.GUARD.removeprefix("/run/").split("/")
    assert f"RuntimeDirectory={folder}\n" in unit
    assert f'STATE = "{name}"\n' in guard


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: "{",
        lambda text: "[]",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("0644", "0666", 1),
        lambda text: json.dumps({**json.loads(text), "format": 2}),
    ],
)
def test_with_a_record_that_is_damaged_all_roles_run(pi: Pi, damage: Callable[[str], str]) -> None:
    path = pi.path(state_record.PATH)
    path.write_text(damage(path.read_text()))
    gate = device_state.begin(pi.device, INPUTS, everything=False)
    assert list(gate.run) == list(INPUTS)
    assert set(gate.run.values()) <= {
        "the state record was changed or damaged",
        "the state record is in another version's format",
    }


def test_a_role_with_other_inputs_runs_and_no_other(pi: Pi) -> None:
    assert device_state.begin(pi.device, {**INPUTS, "user": "c"}, everything=False).run == {
        "user": "its inputs are other ones"
    }


@pytest.mark.parametrize(
    "upgrade",
    [
        change("/etc/os-release", "ID=debian\nVERSION_CODENAME=trixie\n"),
        lambda pi: link(pi, "/usr/bin/python3", "python3.13"),
    ],
    ids=["release", "Python"],
)
def test_on_another_system_all_roles_run(pi: Pi, upgrade: Callable[[Pi], object]) -> None:
    upgrade(pi)
    assert device_state.begin(pi.device, INPUTS, everything=False).run == dict.fromkeys(
        INPUTS, "its inputs are other ones"
    )
    device_state.record(pi.device, INPUTS, DECLARED)
    assert device_state.begin(pi.device, INPUTS, everything=False).run == {}


def test_on_another_machine_all_roles_run(pi: Pi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("", "", "", "", "armv6l")))
    assert list(device_state.begin(pi.device, INPUTS, everything=False).run) == list(INPUTS)


def test_a_role_that_is_new_runs(pi: Pi) -> None:
    assert device_state.begin(pi.device, {**INPUTS, "swap": "c"}, everything=False).run == {
        "swap": "it was never recorded"
    }


def test_everything_runs_if_it_is_asked_for(pi: Pi) -> None:
    assert list(device_state.begin(pi.device, INPUTS, everything=True).run) == list(INPUTS)


def test_a_run_that_was_killed_is_begun_again(pi: Pi) -> None:
    pi.write("/etc/camera.json", "half")
    device_state.begin(pi.device, INPUTS, everything=False)
    # The role mended it, and the run was killed before it was recorded.
    pi.write("/etc/camera.json", "{}")
    assert device_state.begin(pi.device, INPUTS, everything=False).run == {
        "camera": "an earlier run began with it and was not recorded"
    }


def test_what_a_role_mends_is_recorded(pi: Pi) -> None:
    pi.write("/etc/camera.json", "half")
    device_state.begin(pi.device, INPUTS, everything=False)
    pi.write("/etc/camera.json", "{}")
    assert device_state.record(pi.device, {"camera": "a"}, DECLARED) == []
    assert told(pi) == []


def test_what_a_role_makes_of_other_inputs_is_recorded(pi: Pi) -> None:
    device_state.begin(pi.device, {**INPUTS, "camera": "c"}, everything=False)
    pi.write("/etc/camera.json", "{1}")
    assert device_state.record(pi.device, {"camera": "c"}, DECLARED) == []
    assert device_state.begin(pi.device, {**INPUTS, "camera": "c"}, everything=False).run == {}


def test_what_no_role_mends_is_never_recorded(pi: Pi) -> None:
    pi.write("/etc/camera.json", "half")
    for _ in range(2):
        device_state.begin(pi.device, INPUTS, everything=False)
        (left,) = device_state.record(pi.device, {"camera": "a"}, DECLARED)
        assert str(left) == "path /etc/camera.json: its content is another one"
        assert told(pi) == [str(left)]


FORMER, CURRENT = "/opt/camera/releases/00000000000000aa", "/opt/camera/releases/00000000000000bb"


@pytest.fixture
def releases(tmp_path: Path) -> Pi:
    """A device that has two releases of something."""
    pi = Pi(tmp_path)
    for release in (FORMER, CURRENT):
        pi.write(f"{release}/a.py", release)
    pi.path("/opt/camera/current").rename(pi.path("/opt/camera/more"))
    pi.path("/opt/camera/current").symlink_to("releases/00000000000000bb")
    device_state.begin(pi.device, INPUTS, everything=False)
    device_state.record(pi.device, INPUTS, DECLARED)
    assert told(pi) == []
    return pi


@pytest.mark.parametrize("gone", [f"{FORMER}/a.py", FORMER])
def test_of_a_release_that_is_not_current_what_is_gone_stays_gone(releases: Pi, gone: str) -> None:
    releases.path(gone).rename(releases.path("/gone"))
    assert f"path {gone}: it is gone" in told(releases)
    assert list(device_state.begin(releases.device, INPUTS, everything=False).run) == ["camera"]
    assert device_state.record(releases.device, {"camera": "a"}, DECLARED) == []
    assert told(releases) == []


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (Path.unlink, f"path {CURRENT}/a.py: it is gone"),
        (lambda path: path.write_text("?"), f"path {CURRENT}/a.py: its content is another one"),
        (
            lambda path: Path(str(path).replace("bb", "aa")).write_text("?"),
            f"path {FORMER}/a.py: its content is another one",
        ),
    ],
)
def test_of_the_current_release_whatever_differs_stays_told_and_of_others_what_is_left_of_them(
    releases: Pi, spoil: Callable[[Path], object], sentence: str
) -> None:
    spoil(releases.path(f"{CURRENT}/a.py"))
    device_state.begin(releases.device, INPUTS, everything=False)
    assert [str(each) for each in device_state.record(releases.device, {"camera": "a"}, DECLARED)] == [sentence]
    assert told(releases) == [sentence]


def test_what_a_role_with_other_inputs_does_not_mend_is_not_recorded_either(pi: Pi) -> None:
    pi.write("/etc/camera.json", "half")
    pi.path("/opt/camera/current/a.py").unlink()
    device_state.begin(pi.device, {**INPUTS, "camera": "c"}, everything=False)
    left = device_state.record(pi.device, {"camera": "c"}, DECLARED)
    assert (
        [str(each) for each in left]
        == told(pi)
        == [
            "path /etc/camera.json: its content is another one",
            "path /opt/camera/current/a.py: it is gone",
        ]
    )
    assert list(device_state.begin(pi.device, {**INPUTS, "camera": "c"}, everything=False).run) == ["camera"]


@pytest.mark.parametrize("inputs", ["a", "c"], ids=["the same inputs", "other inputs"])
def test_what_a_role_leaves_of_what_it_mends_else_is_not_recorded(pi: Pi, inputs: str) -> None:
    pi.shown |= {"UnitFileState": "static", "NeedDaemonReload": "yes"}
    device_state.begin(pi.device, {**INPUTS, "camera": inputs}, everything=False)
    pi.shown |= {"NeedDaemonReload": "no"}
    left = [str(each) for each in device_state.record(pi.device, {"camera": inputs}, DECLARED)]
    assert (
        left
        == told(pi)
        == [
            "unit camera.service: active is none, was active",
            "unit camera.service: start at boot is static, was enabled",
        ]
    )
    pi.shown |= {"UnitFileState": "enabled"}
    assert told(pi) == []


def test_what_a_role_takes_away_of_what_somebody_switched_off_is_recorded(pi: Pi) -> None:
    pi.shown |= {"UnitFileState": "disabled", "ActiveState": "inactive"}
    device_state.begin(pi.device, {**INPUTS, "camera": "c"}, everything=False)
    pi.shown |= {"LoadState": "not-found", "UnitFileState": "", "FragmentPath": ""}
    assert device_state.record(pi.device, {"camera": "c"}, DECLARED) == []
    assert told(pi) == []


def test_what_a_role_judges_and_lets_be_stays_where_it_is_and_is_recorded(pi: Pi) -> None:
    pi.write("/etc/mosquitto/more.conf", "max_connections 5\n")
    pi.path("/etc/mosquitto/mosquitto.conf").chmod(0o640)
    assert device_state.begin(pi.device, INPUTS, everything=False).restored == []
    assert device_state.record(pi.device, {"camera": "a"}, DECLARED) == []
    assert told(pi) == []
    assert pi.path("/etc/mosquitto/more.conf").exists()


@pytest.mark.parametrize("edit", [lambda path: path.write_text("SIZE=1\n# why\n"), Path.unlink])
def test_of_a_file_that_a_role_edits_it_judges_the_rest(pi: Pi, edit: Callable[[Path], object]) -> None:
    edit(pi.path("/etc/swapfile"))
    assert len(told(pi)) == 1
    assert list(device_state.begin(pi.device, INPUTS, everything=False).run) == ["camera"]
    assert device_state.record(pi.device, {"camera": "a"}, DECLARED) == []
    assert told(pi) == []


def test_of_a_file_that_a_role_edits_all_else_is_put_back(pi: Pi) -> None:
    path = pi.path("/etc/swapfile")
    path.write_text("SIZE=1\n# why\n")
    path.chmod(0o600)
    restored = device_state.begin(pi.device, INPUTS, everything=False).restored
    assert restored == ["/etc/swapfile has mode 0644 again"]
    path.unlink()
    path.symlink_to("/dev/null")
    (moved,) = device_state.begin(pi.device, INPUTS, everything=False).restored
    assert moved.startswith("/etc/swapfile, which was not there before, was moved")


@pytest.mark.parametrize("attribute", ["mode", "owner", "group"])
def test_who_may_read_a_file_that_a_role_edits_is_not_judged(attribute: str) -> None:
    left = state_record.Difference("camera", "path /etc/swapfile", attribute, "another", "one")
    assert not state_record.judged(left, {}, DECLARED["camera"])


def test_a_reboot_that_was_made_meanwhile_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pi, declared = Pi(tmp_path), {"user": {"reboot": True}}
    monkeypatch.setattr(state_observe, "swap_reboot_reason", lambda device: "swap: starts with the next boot")
    device_state.begin(pi.device, {"user": "b"}, everything=False)
    device_state.record(pi.device, {"user": "b"}, declared)
    monkeypatch.setattr(state_observe, "swap_reboot_reason", lambda device: None)
    device_state.begin(pi.device, {"user": "b"}, everything=False)
    assert device_state.record(pi.device, {"user": "b"}, declared) == []
    assert told(pi) == []


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (change("/proc/swaps", "head\n/var/swap file 508 0 -2\n"), "swap: KiB is 508, was 1020"),
        (change("/proc/swaps", "head\n"), "swap: KiB is 0, was 1020"),
        (lambda pi: pi.path("/var/swap").chmod(0o644), "swap: mode is 0644, was 0600"),
    ],
)
def test_another_size_and_mode_of_the_swap_file_are_told(
    tmp_path: Path, spoil: Callable[[Pi], object], sentence: str
) -> None:
    pi = Pi(tmp_path)
    pi.container = False
    pi.write("/etc/dphys-swapfile", "CONF_SWAPSIZE=1\n")
    pi.write("/proc/swaps", "head\n/var/swap file 1020 0 -2\n")
    pi.write("/var/swap", "")
    pi.path("/var/swap").chmod(0o600)
    device_state.begin(pi.device, {"user": "b"}, everything=False)
    device_state.record(pi.device, {"user": "b"}, {"user": {"swap": True}})
    assert told(pi) == []
    spoil(pi)
    assert told(pi) == [sentence]


@pytest.mark.parametrize("made", ["/etc/rpi/swap.conf.d", "/etc/rpi/swap.conf.d/10-mine.conf"])
def test_what_would_pass_for_another_mechanism_of_swap_is_set_aside(tmp_path: Path, made: str) -> None:
    pi = Pi(tmp_path)
    device_state.begin(pi.device, {"swap": "s"}, everything=False)
    device_state.record(pi.device, {"swap": "s"}, {"swap": manages("swap")})
    if made.endswith(".d"):
        pi.path(made).mkdir(parents=True)
    else:
        pi.write(made, "[Main]\n")
    assert "swap: by is RpiSwap, was PlainFile" in told(pi)
    assert device_state.begin(pi.device, {"swap": "s"}, everything=False).restored
    assert told(pi) == []


@pytest.mark.parametrize("folder", ["/etc/mosquitto", "/etc/mosquitto/conf.d"])
def test_folders_that_the_broker_reads_stay_open_to_it(tmp_path: Path, folder: str) -> None:
    pi = Pi(tmp_path)
    pi.write("/etc/mosquitto/conf.d/pi-fleet.conf", "listener 1883 127.0.0.1\n")
    device_state.begin(pi.device, {"broker": "m"}, everything=False)
    device_state.record(pi.device, {"broker": "m"}, {"broker": manages("mqtt_broker")})
    pi.path(folder).chmod(0o700)
    assert told(pi) == [f"path {folder}: mode is 0700, was 0755"]
    assert device_state.begin(pi.device, {"broker": "m"}, everything=False).restored == [
        f"{folder} has mode 0755 again"
    ]


PACKAGES = "/opt/pi-fleet/offline/releases/00000000000000bb"


@pytest.fixture
def offline(tmp_path: Path) -> Pi:
    """A device that has packages of a bundle."""
    pi = Pi(tmp_path)
    pi.write(f"{PACKAGES}/a.deb", "packed")
    pi.path("/opt/pi-fleet/offline/current").symlink_to("releases/00000000000000bb")
    os.utime(pi.path(f"{PACKAGES}/a.deb"), (1_700_000_000, 1_700_000_000))
    device_state.begin(pi.device, {"offline": "o"}, everything=False)
    device_state.record(pi.device, {"offline": "o"}, {"offline": manages("offline", offline_packages="/srv")})
    assert told(pi) == []
    return pi


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda path: os.truncate(path, 0), f"path {PACKAGES}/a.deb: bytes is 0, was 6"),
        (lambda path: path.write_text("broken"), f"path {PACKAGES}/a.deb: written is "),
        (Path.unlink, f"path {PACKAGES}/a.deb: it is gone"),
        (lambda path: path.parent.rename(path.parents[4] / "mine"), f"path {PACKAGES}: it is gone"),
    ],
)
def test_packages_of_a_bundle_that_are_others_or_gone_are_told_without_hashing_them(
    offline: Pi, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], object], sentence: str
) -> None:
    spoil(offline.path(f"{PACKAGES}/a.deb"))
    monkeypatch.setattr(hashlib, "file_digest", Mock(side_effect=AssertionError))
    assert any(each.startswith(sentence) for each in told(offline))
    begun = device_state.begin(offline.device, {"offline": "o"}, everything=False)
    assert list(begun.run) == ["offline"]
    assert begun.restored == []
    left = device_state.record(offline.device, {"offline": "o"}, {"offline": manages("offline")})
    # Of what has just another time its role knows by the hash that it is whole.
    assert bool(left) == bool(told(offline)) == ("written" not in sentence)


def test_no_password_is_in_the_record(pi: Pi) -> None:
    pi.write("/etc/shadow", "ggc_user:$y$j9T$secret:20000::::::\n")
    device_state.begin(pi.device, INPUTS, everything=True)
    device_state.record(pi.device, INPUTS, DECLARED)
    assert "$y$" not in pi.path(state_record.PATH).read_text()


def test_a_record_that_others_may_read_is_closed(pi: Pi) -> None:
    pi.path(state_record.PATH).chmod(0o644)
    assert told(pi) == ["path /var/lib/pi-fleet/state.json: mode is 0644, was 0600"]
    begun = device_state.begin(pi.device, INPUTS, everything=False)
    assert begun.restored == ["/var/lib/pi-fleet/state.json has mode 0600 again"]
    assert pi.path(state_record.PATH).stat().st_mode & 0o777 == 0o600
    device_state.record(pi.device, {"user": "b"}, DECLARED)
    assert told(pi) == []


def test_what_no_role_mends_is_accepted_where_all_are_asked_for(pi: Pi) -> None:
    pi.write("/etc/camera.json", "half")
    device_state.begin(pi.device, INPUTS, everything=True)
    assert device_state.record(pi.device, INPUTS, DECLARED) == []
    assert device_state.begin(pi.device, INPUTS, everything=False).run == {}


def test_what_a_role_declares_anew_or_no_longer_is_no_drift(pi: Pi) -> None:
    pi.path("/opt/camera/current/a.py").unlink()
    declared = {"camera": {"paths": ["/etc/camera.json", "/etc/new.conf"], "packages": ["perl"]}}
    device_state.begin(pi.device, {**INPUTS, "camera": "c"}, everything=False)
    assert device_state.record(pi.device, {"camera": "c"}, declared) == []
    assert device_state.begin(pi.device, {**INPUTS, "camera": "c"}, everything=False).run == {}


def test_modes_links_and_what_stands_in_the_way_are_put_back_before_roles_run(pi: Pi) -> None:
    pi.path("/etc/camera.json").chmod(0o666)
    link(pi, "/opt/camera/link", "/tmp")
    pi.write("/opt/camera/b", "somebody's")
    pi.path("/etc/conf.d/one").unlink()
    pi.path("/etc/conf.d/one").symlink_to("/dev/null")
    pi.write(FIRMWARE, "console=tty1 cgroup_memory=1 cgroup_disable=memory rootwait\n")
    gate = device_state.begin(pi.device, INPUTS, everything=False)
    assert len(gate.restored) == 5
    assert pi.path("/etc/camera.json").stat().st_mode & 0o777 == 0o644
    assert pi.path("/opt/camera/link").readlink() == Path("current")
    assert not pi.path("/opt/camera/b").exists()
    assert not os.path.lexists(pi.path("/etc/conf.d/one"))
    assert pi.path("/etc/conf.d").is_dir()
    (aside,) = pi.path(ASIDE).rglob("b")
    assert aside.read_text() == "somebody's"
    assert pi.path(FIRMWARE).read_text() == "console=tty1 rootwait cgroup_memory=1\n"


def test_acls_are_put_back_with_the_mode_behind_them(pi: Pi) -> None:
    file, folder = pi.path("/etc/camera.json"), pi.path("/opt/camera")
    file.chmod(0o600)
    acl(file)
    acl(folder, "default")
    assert file.stat().st_mode & 0o777 == 0o644
    file.chmod(0o664)
    begun = device_state.begin(pi.device, INPUTS, everything=False)
    assert begun.restored == [
        "/etc/camera.json has the ACL that it had",
        "/etc/camera.json has mode 0644 again",
        "/opt/camera has the ACL that it had",
    ]
    assert os.listxattr(file) == os.listxattr(folder) == []
    assert file.stat().st_mode & 0o777 == 0o644
    assert told(pi) == []


@pytest.mark.parametrize(
    "spoil", [lambda path: os.removexattr(path, "system.posix_acl_access"), lambda path: acl(path, user=1)]
)
def test_an_acl_that_was_recorded_is_put_back_too(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    pi = Pi(tmp_path)
    acl(path := pi.path("/etc/camera.json"))
    before = os.getxattr(path, "system.posix_acl_access")
    device_state.begin(pi.device, INPUTS, everything=False)
    device_state.record(pi.device, INPUTS, DECLARED)
    spoil(path)
    assert told(pi) == ["path /etc/camera.json: its ACL is another one"]
    device_state.begin(pi.device, INPUTS, everything=False)
    assert os.getxattr(path, "system.posix_acl_access") == before
    assert told(pi) == []


MOUNTS = """21 1 179:2 / / rw,noatime shared:1 - ext4 /dev/root rw
24 21 0:22 / /run rw,nosuid shared:9 - tmpfs tmpfs rw,size=1k
"""


def mount(pi: Pi, name: str, kind: str = "tmpfs", more: str = "") -> None:
    pi.write("/proc/1/mountinfo", f"{MOUNTS}40 21 0:40 / {name} rw shared:30 - {kind} x rw\n{more}")


@pytest.mark.parametrize("name", ["/home/ggc_user/raw_field_data", "/home/ggc_user", "/home"])
def test_what_is_mounted_on_what_roles_manage_is_told_and_nothing_on_it_is_changed(tmp_path: Path, name: str) -> None:
    pi, folder = Pi(tmp_path), "/home/ggc_user/raw_field_data"
    pi.path(folder).mkdir(parents=True)
    pi.write("/proc/1/mountinfo", MOUNTS)
    pi.write("/home/ggc_user/tree/a", "")
    declared = {"user": {"paths": [folder], "trees": ["/home/ggc_user/tree"]}}
    device_state.begin(pi.device, {"user": "b"}, everything=False)
    device_state.record(pi.device, {"user": "b"}, declared)
    mount(pi, name)
    pi.path(folder).chmod(0o700)
    pi.write("/home/ggc_user/tree/mine", "precious")
    assert f"path {folder}: mounted is tmpfs at {name}, was none" in told(pi)
    begun = device_state.begin(pi.device, {"user": "b"}, everything=False)
    assert begun.left == [
        f"{folder} lies on tmpfs at {name}, and lay on no mount: undo that on the device and run again, or accept it "
        "by -e full=true."
    ]
    assert pi.path(folder).stat().st_mode & 0o777 == 0o700
    assert pi.path("/home/ggc_user/tree/mine").exists() == (name != folder)
    # Whatever its role makes of it there, it stays told.
    pi.path(folder).chmod(0o755)
    device_state.record(pi.device, {"user": "b"}, declared)
    assert f"path {folder}: mounted is tmpfs at {name}, was none" in told(pi)
    device_state.begin(pi.device, {"user": "b"}, everything=True)
    device_state.record(pi.device, {"user": "b"}, declared)
    assert told(pi) == []
    # As a disk that is not there.
    pi.write("/proc/1/mountinfo", MOUNTS)
    pi.path("/home/ggc_user/tree/a").chmod(0o600)
    assert f"path {folder}: mounted is none, was tmpfs at {name}" in told(pi)
    begun = device_state.begin(pi.device, {"user": "b"}, everything=False)
    assert begun.left[0].startswith(f"{folder} lies on no mount, and lay on tmpfs at {name}")
    # What lies elsewhere is put back as ever.
    assert begun.restored == (["/home/ggc_user/tree/a has mode 0644 again"] if name == folder else [])


def test_what_a_role_makes_on_a_mount_over_the_folder_above_stays_told(pi: Pi) -> None:
    pi.path("/etc/camera.json").unlink()
    device_state.begin(pi.device, INPUTS, everything=False)
    mount(pi, "/etc")
    pi.write("/etc/camera.json", "{}")
    device_state.record(pi.device, {"camera": "a"}, DECLARED)
    assert "path /etc/camera.json: mounted is tmpfs at /etc, was none" in told(pi)


def test_what_is_mounted_where_nothing_was_stays(pi: Pi) -> None:
    pi.write("/etc/none.conf", "")
    mount(pi, "/etc/none.conf")
    begun = device_state.begin(pi.device, INPUTS, everything=False)
    assert len(begun.left) == 1
    assert pi.path("/etc/none.conf").exists()


def test_the_mark_of_a_whole_that_lies_on_a_mount_stays(tmp_path: Path) -> None:
    pi = Pi(tmp_path)
    for name in ("mark", "a"):
        pi.write(f"/opt/whole/{name}", name)
    device_state.begin(pi.device, {"user": "b"}, everything=False)
    wholes = {"wholes": [{"path": "/opt/whole", "mark": "/opt/whole/mark"}]}
    device_state.record(pi.device, {"user": "b"}, {"user": wholes})
    mount(pi, "/opt/whole")
    pi.write("/opt/whole/a", "another")
    assert device_state.begin(pi.device, {"user": "b"}, everything=False).restored == []
    assert pi.path("/opt/whole/mark").exists()


def test_what_is_mounted_when_somebody_looks_is_the_same_before_and_after(tmp_path: Path) -> None:
    pi = Pi(tmp_path)
    mount(pi, "/opt/camera", "autofs")
    device_state.begin(pi.device, INPUTS, everything=False)
    device_state.record(pi.device, INPUTS, DECLARED)
    mount(pi, "/opt/camera", "autofs", "41 40 8:1 / /opt/camera rw - ext4 /dev/sda1 rw\n")
    assert told(pi) == []


def test_a_mount_of_which_the_record_says_nothing_is_no_drift(tmp_path: Path) -> None:
    pi = Pi(tmp_path)
    mount(pi, "/opt/camera", "ext4")
    device_state.begin(pi.device, INPUTS, everything=False)
    device_state.record(pi.device, INPUTS, DECLARED)
    forget(pi, "mounted")
    pi.path("/opt/camera/current").chmod(0o700)
    begun = device_state.begin(pi.device, INPUTS, everything=False)
    assert (begun.left, begun.restored) == ([], ["/opt/camera/current has mode 0755 again"])


def forget(pi: Pi, *attributes: str) -> None:
    """Have a record that was written before these were looked at."""
    record, _ = state_record.load(pi.device)
    for role in record.roles.values():
        for known in role.entries.values():
            for attribute in attributes:
                known.pop(attribute, None)
    state_record.save(pi.device, record)


def test_an_acl_of_which_the_record_says_nothing_is_no_drift_and_recorded_with_its_role(pi: Pi) -> None:
    forget(pi, "acl")
    acl(pi.path("/etc/camera.json"))
    assert told(pi) == []
    # Another version of pi-fleet is another input of all roles.
    begun = device_state.begin(pi.device, {**INPUTS, "camera": "c"}, everything=False)
    assert begun.restored == []
    assert device_state.record(pi.device, {"camera": "c"}, DECLARED) == []
    assert told(pi) == []
    os.removexattr(pi.path("/etc/camera.json"), "system.posix_acl_access")
    assert told(pi) == ["path /etc/camera.json: its ACL is another one"]


def test_what_nobody_mended_since_a_run_of_an_older_version_was_killed_is_not_recorded(pi: Pi) -> None:
    pi.write("/etc/camera.json", "by hand")
    device_state.begin(pi.device, INPUTS, everything=False)
    record, _ = state_record.load(pi.device)
    for known in (record.roles["camera"].found or {}).values():
        known.pop("acl", None)
    state_record.save(pi.device, record)
    device_state.begin(pi.device, {**INPUTS, "camera": "c"}, everything=False)
    left = device_state.record(pi.device, {"camera": "c"}, DECLARED)
    assert [str(each) for each in left] == ["path /etc/camera.json: its content is another one"]


def test_where_a_file_system_keeps_no_acls_there_are_none(pi: Pi, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *, follow_symlinks: bool) -> list[str]:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP), str(path))

    monkeypatch.setattr(os, "listxattr", refuse)
    assert told(pi) == []


def test_what_is_in_memory_is_set_aside_too(pi: Pi, monkeypatch: pytest.MonkeyPatch) -> None:
    drop_in = "/run/systemd/system/camera.service.d/override.conf"
    pi.write(drop_in, "[Service]\nEnvironment=TOKEN=secret\n")
    pi.path(drop_in).chmod(0o600)
    pi.path(ASIDE).mkdir(parents=True)
    pi.shown["DropInPaths"] = drop_in

    def rename(one: Path, other: Path) -> None:
        if one.is_relative_to(pi.path("/run")) != other.is_relative_to(pi.path("/run")):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(one), None, str(other))
        one.replace(other)

    monkeypatch.setattr(Path, "rename", rename)
    (restored,) = device_state.begin(pi.device, INPUTS, everything=False).restored
    assert restored.startswith(f"{drop_in}, which was not there before, was moved to {ASIDE}/")
    assert not pi.path(drop_in).parent.exists()
    (aside,) = pi.path(ASIDE).rglob("override.conf")
    assert aside.stat().st_mode & 0o777 == 0o600
    # Whoever made the folder, and whatever of others' lies there.
    assert pi.path(ASIDE).stat().st_mode & 0o777 == 0o700


def test_a_folder_in_the_place_of_a_file_or_a_link_is_set_aside_with_what_is_in_it(pi: Pi) -> None:
    for name in ("/etc/camera.json", "/opt/camera/link"):
        pi.path(name).unlink()
        pi.write(f"{name}/mine/a", "somebody's")
    dry = device_state.begin(pi.device, INPUTS, everything=False, dry=True).restored
    done = device_state.begin(pi.device, INPUTS, everything=False).restored
    # Its role finds nothing, and makes what shall be there.
    assert not os.path.lexists(pi.path("/etc/camera.json"))
    assert not os.path.lexists(pi.path("/opt/camera/link"))
    assert len(dry) == len(done) == 2
    assert [path.read_text() for path in pi.path(ASIDE).rglob("a")] == ["somebody's"] * 2


@pytest.mark.parametrize("name", ["/home/ggc_user", "/home/ggc_user/raw_field_data"])
def test_a_folder_that_holds_field_data_stays_where_it_is(tmp_path: Path, name: str) -> None:
    pi, declared = Pi(tmp_path), {"user": {"paths": [name]}}
    pi.path("/home").mkdir()
    pi.path(name).parent.mkdir(exist_ok=True)
    pi.path(name).symlink_to("/mnt")
    device_state.begin(pi.device, {"user": "b"}, everything=False)
    device_state.record(pi.device, {"user": "b"}, declared)
    pi.path(name).unlink()
    pi.path("/home/ggc_user/raw_field_data").mkdir(parents=True)
    assert told(pi) == [f"path {name}: type is directory, was link"]
    assert device_state.begin(pi.device, {"user": "b"}, everything=False).restored == []
    assert pi.path("/home/ggc_user/raw_field_data").is_dir()


def test_a_link_in_the_place_of_the_folder_of_field_data_is_set_aside(tmp_path: Path) -> None:
    name, pi = "/home/ggc_user/raw_field_data", Pi(tmp_path)
    pi.path(name).mkdir(parents=True)
    device_state.begin(pi.device, {"user": "b"}, everything=False)
    device_state.record(pi.device, {"user": "b"}, {"user": {"paths": [name]}})
    pi.path(name).rmdir()
    pi.path(name).symlink_to("/mnt")
    assert len(device_state.begin(pi.device, {"user": "b"}, everything=False).restored) == 1
    assert not os.path.lexists(pi.path(name))


def test_what_lies_behind_a_link_that_is_set_aside_is_not_touched(tmp_path: Path) -> None:
    pi, declared = Pi(tmp_path), {"user": {"paths": ["/etc/conf.d", "/etc/conf.d/one"]}}
    device_state.begin(pi.device, {"user": "b"}, everything=False)
    device_state.record(pi.device, {"user": "b"}, declared)
    pi.path("/etc/conf.d").rename(pi.path("/elsewhere"))
    pi.path("/elsewhere/one").chmod(0o600)
    pi.path("/etc/conf.d").symlink_to(pi.path("/elsewhere"))
    (restored,) = device_state.begin(pi.device, {"user": "b"}, everything=False).restored
    assert restored.startswith("/etc/conf.d, which was not there before, was moved")
    assert pi.path("/elsewhere/one").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone makes nodes of devices")
def test_a_node_of_another_device_is_removed_for_its_role_to_make_it(tmp_path: Path) -> None:
    pi, declared = Pi(tmp_path), {"user": {"paths": ["/dev/raw1394"]}}
    pi.path("/dev").mkdir()
    os.mknod(pi.path("/dev/raw1394"), 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    device_state.begin(pi.device, {"user": "b"}, everything=False)
    device_state.record(pi.device, {"user": "b"}, declared)
    pi.path("/dev/raw1394").unlink()
    os.mknod(pi.path("/dev/raw1394"), 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    assert told(pi) == ["path /dev/raw1394: number is 1:5, was 1:3"]
    restored = device_state.begin(pi.device, {"user": "b"}, everything=False).restored
    assert restored == ["/dev/raw1394, another device than before, was removed"]
    assert not os.path.lexists(pi.path("/dev/raw1394"))


def test_what_masks_a_unit_is_nobodys_to_move(pi: Pi) -> None:
    pi.write("/dev/null", "")
    pi.shown |= {"LoadState": "masked", "FragmentPath": "/dev/null"}
    assert device_state.begin(pi.device, INPUTS, everything=False).restored == ["camera.service is masked no longer"]
    assert pi.path("/dev/null").exists()


def test_what_is_immutable_is_named_with_what_to_do(pi: Pi, monkeypatch: pytest.MonkeyPatch) -> None:
    pi.path("/etc/camera.json").chmod(0o666)

    def chmod(path: Path, _mode: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))

    monkeypatch.setattr(Path, "chmod", chmod)
    monkeypatch.setattr(fcntl, "ioctl", lambda *_: (0x10).to_bytes(8, sys.byteorder))
    with pytest.raises(
        DeviceError, match=r"camera\.json is immutable: run 'sudo chattr -i /.*' on the device, and run"
    ):
        device_state.begin(pi.device, INPUTS, everything=False)


def test_a_dry_run_says_what_would_be_put_back_and_leaves_it(pi: Pi) -> None:
    pi.path("/etc/camera.json").chmod(0o666)
    link(pi, "/opt/camera/link", "/tmp")
    pi.write("/opt/camera/b", "somebody's")
    pi.write("/etc/group", "ggc_group:x:989:eve\nvideo:x:44:\n")
    pi.write("/etc/systemd/system/camera.service.d/x.conf", "")
    pi.shown |= {"DropInPaths": "/etc/systemd/system/camera.service.d/x.conf", "LoadState": "masked"}
    pi.write(FIRMWARE, "console=tty1 cgroup_memory=1 cgroup_disable=memory rootwait\n")
    record, calls = pi.path(state_record.PATH).read_bytes(), len(pi.calls)
    dry = device_state.begin(pi.device, INPUTS, everything=False, dry=True)
    assert pi.path("/etc/camera.json").stat().st_mode & 0o777 == 0o666
    assert pi.path("/opt/camera/link").readlink() == Path("/tmp")
    assert pi.path("/opt/camera/b").exists()
    assert pi.path("/etc/systemd/system/camera.service.d/x.conf").exists()
    assert not pi.path(ASIDE).exists()
    assert pi.path(state_record.PATH).read_bytes() == record
    assert all(call[:2] == ["systemctl", "show"] for call in pi.calls[calls:])
    # The time in a name of what is set aside may be the next second's.
    done = device_state.begin(pi.device, INPUTS, everything=False).restored
    assert [re.sub(r"\d{8}T\d{6}Z", "", each) for each in dry.restored] == [
        re.sub(r"\d{8}T\d{6}Z", "", each) for each in done
    ]
    assert len(done) == 8


def test_since_when_is_what_the_file_system_keeps(pi: Pi) -> None:
    pi.path("/etc/camera.json").chmod(0o666)
    pi.path("/etc/conf.d/one").unlink()
    pi.write("/var/lib/dpkg/status", STATUS.format(version="3.1-1"))
    pi.write("/var/lib/dpkg/info/rsync.list", "")
    pi.write("/etc/group", "ggc_group:x:989:eve\nvideo:x:44:\n")
    pi.write(FIRMWARE, "console=tty1 rootwait\n")
    pi.write("/proc/sys/fs/protected_hardlinks", "0\n")
    pi.shown["ActiveState"] = "failed"
    found = {each.entry: device_state.since(pi.device, each) for each in device_state.probe(pi.device).differences}
    now = time.strftime("%Y-%m-%dT%H:", time.gmtime())
    dated = {entry for entry, since in found.items() if since.startswith(now)}
    assert dated == {
        "path /etc/camera.json",
        "path /etc/conf.d/one",
        "package rsync",
        "user ggc_user",
        "group ggc_group",
        "kernel command line",
    }
    assert {entry: since for entry, since in found.items() if entry not in dated} == {
        "unit camera.service": "2023-11-14T22:13:20Z",
        "sysctl fs.protected_hardlinks": "",
    }


def test_a_module_before_a_packages_is_there_since_it_was_written_not_since_the_package_was(pi: Pi) -> None:
    pi.write(f"{LOCAL}/rsync.py", "")
    (difference,) = device_state.probe(pi.device).differences
    shutil.rmtree(pi.path("/var/lib/dpkg/info"))
    assert device_state.since(pi.device, difference).startswith(time.strftime("%Y-%m-%dT%H:", time.gmtime()))


@pytest.mark.parametrize("spoil", [lambda path: path.write_text("?"), Path.unlink, Path.chmod])
def test_a_folder_that_is_made_as_a_whole_loses_its_mark_where_content_differs(
    tmp_path: Path, spoil: Callable[..., object]
) -> None:
    pi = Pi(tmp_path)
    for name in ("mark", "a", "b"):
        pi.write(f"/opt/whole/{name}", name)
    declared = {"user": {"wholes": [{"path": "/opt/whole", "mark": "/opt/whole/mark"}]}}
    device_state.begin(pi.device, {"user": "b"}, everything=False)
    device_state.record(pi.device, {"user": "b"}, declared)
    if spoil is Path.chmod:
        pi.path("/opt/whole/a").chmod(0o600)
    else:
        spoil(pi.path("/opt/whole/a"))
        spoil(pi.path("/opt/whole/b"))
    restored = device_state.begin(pi.device, {"user": "b"}, everything=False).restored
    assert pi.path("/opt/whole/mark").exists() == (spoil is Path.chmod)
    assert restored == (
        ["/opt/whole/a has mode 0644 again"] if spoil is Path.chmod else ["/opt/whole is made anew as a whole"]
    )


@pytest.mark.parametrize("spoilt", [["a"], ["mark"], ["link"], ["a", "mark"]])
def test_a_folder_that_is_made_as_a_whole_is_so_whatever_is_in_the_place_of_anything(
    tmp_path: Path, spoilt: list[str]
) -> None:
    pi = Pi(tmp_path)
    for name in ("mark", "a"):
        pi.write(f"/opt/whole/{name}", name)
    pi.path("/opt/whole/link").symlink_to("a")
    declared = {"user": {"wholes": [{"path": "/opt/whole", "mark": "/opt/whole/mark"}]}}
    device_state.begin(pi.device, {"user": "b"}, everything=False)
    device_state.record(pi.device, {"user": "b"}, declared)
    for name in spoilt:
        pi.path(f"/opt/whole/{name}").unlink()
        pi.path(f"/opt/whole/{name}").mkdir()
    device_state.begin(pi.device, {"user": "b"}, everything=False)
    for name in ("mark", *spoilt):
        assert not os.path.lexists(pi.path(f"/opt/whole/{name}"))


def test_a_folder_in_the_place_of_a_file_that_is_read_is_told(tmp_path: Path) -> None:
    pi, declared = Pi(tmp_path), {"user": {"paths": ["/etc/hostname"], "host name": True}}
    device_state.begin(pi.device, {"user": "b"}, everything=False)
    device_state.record(pi.device, {"user": "b"}, declared)
    pi.path("/etc/hostname").unlink()
    pi.path("/etc/hostname").mkdir()
    assert told(pi) == ["path /etc/hostname: type is directory, was file"]


def test_users_groups_and_units_are_put_back(pi: Pi) -> None:
    pi.write("/etc/passwd", pi.path("/etc/passwd").read_text() + "collect:x:991:991::/:/bin/sh\n")
    pi.write("/etc/group", "ggc_group:x:989:eve\nvideo:x:44:\nsudo:x:27:ggc_user\n")
    pi.write("/etc/systemd/system/camera.service.d/x.conf", "")
    pi.shown |= {"DropInPaths": "/etc/systemd/system/camera.service.d/x.conf", "LoadState": "masked"}
    device_state.begin(pi.device, INPUTS, everything=False)
    assert ["usermod", "--groups", "video", "ggc_user"] in pi.calls
    assert ["gpasswd", "--members", "collect", "ggc_group"] in pi.calls
    assert ["systemctl", "unmask", "--quiet", "camera.service"] in pi.calls
    assert ["systemctl", "daemon-reload"] in pi.calls
    assert not pi.path("/etc/systemd/system/camera.service.d").exists()


def older(pi: Pi) -> device_state.Begun:
    pi.write("/var/lib/dpkg/status", STATUS.format(version="3.1-1"))
    return device_state.begin(pi.device, INPUTS, everything=False)


@pytest.mark.parametrize("newest", ["3.2-1", "3.3-1"])
def test_a_package_that_is_older_than_it_was_is_installed_anew(pi: Pi, newest: str) -> None:
    pi.newest = newest
    begun = older(pi)
    assert begun.restored == ["rsync, older than it was, was installed anew"]
    assert begun.left == []
    (install,) = [call for call in pi.calls if "install" in call]
    assert install[:2] == ["env", "DEBIAN_FRONTEND=noninteractive"]
    assert {"Dpkg::Options::=--force-confold", "Dpkg::Options::=--force-confdef"} < set(install)
    assert told(pi) == []


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        ({"newest": "3.1-1", "online": False}, "apt has none that is newer (E: no network): mend that, and run again."),
        ({"newest": "3.1-1"}, "apt has none that is newer (rsync is already the newest version): mend that, and run"),
        ({"held": "perl\nrsync\n"}, "is held: run 'sudo apt-mark unhold rsync' on the device, and run again."),
    ],
)
def test_a_package_that_apt_does_not_bring_is_told_and_stays_told(pi: Pi, spoil: dict[str, Any], why: str) -> None:
    vars(pi).update(spoil)
    begun = older(pi)
    assert begun.restored == []
    (left,) = begun.left
    assert left.startswith(f"rsync is 3.1-1 and was 3.2-1, and {why}")
    device_state.record(pi.device, {"camera": "a"}, DECLARED)
    assert told(pi) == ["package rsync: version is 3.1-1, was 3.2-1"]


def test_a_package_with_other_files_is_installed_anew(pi: Pi) -> None:
    link(pi, "/usr/bin/rrsync", "/bin/sh")
    dry = device_state.begin(pi.device, INPUTS, everything=False, dry=True).restored
    begun = device_state.begin(pi.device, INPUTS, everything=False)
    assert begun.restored == dry == ["rsync, whose files were other ones, was installed anew"]
    assert begun.left == []
    assert told(pi) == []


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        ({"online": False}, "apt does not bring them back (Reinstallation of rsync is not possible, it cannot be down"),
        ({"held": "rsync\n"}, "is held: run 'sudo apt-mark unhold rsync' on the device, and run again."),
    ],
)
def test_files_of_a_package_that_apt_does_not_bring_are_told_and_stay_told(
    pi: Pi, spoil: dict[str, Any], why: str
) -> None:
    vars(pi).update(spoil)
    pi.path("/usr/bin/rsync").unlink()
    begun = device_state.begin(pi.device, INPUTS, everything=False)
    assert begun.restored == []
    (left,) = begun.left
    assert left.startswith(f"rsync has other files than it had, and {why}")
    device_state.record(pi.device, {"camera": "a"}, DECLARED)
    assert told(pi) == ["package rsync: files of it are other ones"]


def test_a_packages_group_has_its_name_again_though_no_role_manages_its_user(tmp_path: Path) -> None:
    pi = Pi(tmp_path)
    pi.write("/etc/passwd", "mosquitto:x:103:109::/var/lib/mosquitto:/usr/sbin/nologin\n")
    pi.write("/etc/group", "mosquitto:x:109:\n")
    device_state.begin(pi.device, {"broker": "b"}, everything=False)
    device_state.record(pi.device, {"broker": "b"}, {"broker": {"groups": ["mosquitto"]}})
    pi.write("/etc/group", "mosquittox:x:109:\n")
    assert device_state.begin(pi.device, {"broker": "b"}, everything=False).restored == [
        "the group mosquittox is mosquitto again"
    ]
    assert told(pi) == []


def test_modules_in_the_place_of_a_packages_are_set_aside_and_no_others(running: Pi) -> None:
    for name in ("rsync/__init__.py", "rsync-9.dist-info/RECORD", "mine/__init__.py", "__pycache__/rsync.pyc"):
        running.write(f"{LOCAL}/{name}", "somebody's")
    begun = device_state.begin(running.device, RUNNING_INPUTS, everything=False)
    assert [sentence.partition(" was moved to ")[0] for sentence in begun.restored] == [
        f"{LOCAL}/rsync, which was not there before,"
    ]
    (aside,) = running.path(ASIDE).rglob("rsync/__init__.py")
    assert aside.read_text() == "somebody's"
    assert sorted(path.name for path in running.path(LOCAL).iterdir()) == ["__pycache__", "mine", "rsync-9.dist-info"]
    assert not [call for call in running.calls if call[0] == "env"], "nothing is installed anew"
    assert running.path(f"{OWED}/lambda@x.service").exists()


def test_of_a_package_that_is_newer_nothing_but_the_module_in_its_place_is_put_back(pi: Pi) -> None:
    pi.write(f"{LOCAL}/rsync.py", "")
    pi.write("/var/lib/dpkg/status", STATUS.format(version="3.3-1"))
    begun = device_state.begin(pi.device, INPUTS, everything=False)
    assert len(begun.restored) == 1
    assert begun.left == []


def test_modules_that_were_there_before_are_somebodys(tmp_path: Path) -> None:
    pi = Pi(tmp_path)
    pi.write(f"{LOCAL}/rsync.py", "")
    device_state.begin(pi.device, INPUTS, everything=False)
    device_state.record(pi.device, INPUTS, DECLARED)
    assert told(pi) == []
    pi.path("/usr/bin/rsync").unlink()
    assert device_state.begin(pi.device, INPUTS, everything=False).restored == [
        "rsync, whose files were other ones, was installed anew"
    ]


def test_a_login_that_somebody_opened_is_told_until_it_is_closed(pi: Pi) -> None:
    pi.passwords = "yes"
    for _ in range(2):
        begun = device_state.begin(pi.device, INPUTS, everything=False)
        assert (list(begun.run), begun.restored) == (["user"], [])
        device_state.record(pi.device, {"user": "b"}, DECLARED)
    pi.passwords = "no"
    assert told(pi) == []


@pytest.mark.parametrize("version", ["3.2-1", "3.3-1"])
def test_a_package_that_somebody_holds_is_left_so_and_told_with_what_to_do(running: Pi, version: str) -> None:
    status, calls = STATUS.format(version=version), len(running.calls)
    running.write("/var/lib/dpkg/status", status.replace("install ok i", "hold ok i"))
    begun = device_state.begin(running.device, RUNNING_INPUTS, everything=False)
    assert begun.left == [
        "rsync is held, and was not: run 'sudo apt-mark unhold rsync' on the device, or site.yml with -e full=true,"
        " which accepts it."
    ]
    # Nor is anything started anew for it.
    assert (begun.restored, running.calls[calls:], list(begun.run)) == ([], [], ["user"])
    device_state.record(running.device, {"user": "b"}, RUNNING)
    assert told(running) == ["package rsync: held is yes, was no"]
    device_state.begin(running.device, RUNNING_INPUTS, everything=True)
    device_state.record(running.device, RUNNING_INPUTS, RUNNING)
    assert told(running) == []
    running.write("/var/lib/dpkg/status", status)
    assert told(running) == []


def test_a_file_that_another_package_has_put_elsewhere_is_looked_at_there(tmp_path: Path) -> None:
    pi = Pi(tmp_path)
    pi.write("/var/lib/dpkg/diversions", "/usr/bin/rsync\n/usr/bin/rsync.distrib\nfaster-rsync\n")
    pi.path("/usr/bin/rsync").rename(pi.path("/usr/bin/rsync.distrib"))
    pi.write("/usr/bin/rsync", "faster")
    device_state.begin(pi.device, INPUTS, everything=False)
    device_state.record(pi.device, INPUTS, DECLARED)
    pi.write("/usr/bin/rsync", "faster still")
    assert told(pi) == []
    pi.path("/usr/bin/rsync.distrib").unlink()
    assert told(pi) == ["package rsync: files of it are other ones"]


def test_what_two_roles_manage_is_put_back_once(pi: Pi) -> None:
    shared = {"users": ["ggc_user"], "packages": ["rsync"]}
    device_state.begin(pi.device, {"lambda": "c"}, everything=False)
    device_state.record(pi.device, {"lambda": "c"}, {"lambda": shared})
    pi.held = "rsync\n"
    pi.write("/var/lib/dpkg/status", STATUS.format(version="3.1-1"))
    pi.write("/etc/passwd", "ggc_user:x:990:989:Lambdas:/home/ggc_user:/bin/bash\n")
    begun = device_state.begin(pi.device, {**INPUTS, "lambda": "c"}, everything=False)
    assert len([call for call in pi.calls if call[0] == "usermod"]) == len(begun.restored) == len(begun.left) == 1


def test_what_cannot_be_put_back_is_warned_of(
    pi: Pi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pi.held = "rsync\n"
    pi.write("/var/lib/dpkg/status", STATUS.format(version="3.1-1"))
    warned: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _, sentence: warned.append(sentence))
    monkeypatch.setattr(module, "Device", lambda run: pi.device)
    run = {"machine": "office", "boot": "", "pid": 1, "started": "1", "who": "ada@office"}
    with patch_module_args({"state": "begun", "fingerprints": INPUTS, "run": run}), pytest.raises(SystemExit):
        module.main()
    assert json.loads(capsys.readouterr().out)["restored"] == []
    assert warned == [
        "rsync is 3.1-1 and was 3.2-1, and is held: run 'sudo apt-mark unhold rsync' on the device, and run again."
    ]


# What runs, and what it reads.
RUNNING: dict[str, dict[str, Any]] = {
    "user": {"users": ["ggc_user"], "groups": ["ggc_group"], "packages": ["rsync"], "paths": ["/etc/camera.json"]},
    "sdk": {"trees": ["/opt/pi-fleet"], "paths": ["/etc/pi-fleet/camera.json"]},
    "broker": {"units": ["mosquitto.service"]},
    "core": {"units": ["localcore.service", "lambda@*"]},
    "model": {"units": ["connector@model.service"]},
}
RUNNING_INPUTS = {"user": "b", "sdk": "s", "broker": "m", "core": "c", "model": "d"}
SERVICES = {"localcore.service", "lambda@x.service", "connector@model.service"}


@pytest.fixture
def running(tmp_path: Path) -> Pi:
    """A device whose services run, and that was recorded."""
    pi = Pi(tmp_path)
    pi.write("/opt/pi-fleet/lambda/x/releases/1/x.py", "x = 1\n")
    pi.write("/opt/pi-fleet/lambda/x/releases/0/x.py", "x = 0\n")
    pi.path("/opt/pi-fleet/lambda/x/current").symlink_to("releases/1")
    pi.write("/etc/pi-fleet/camera.json", "{}")
    pi.write("/etc/systemd/system/lambda@x.service", "[Service]\n")
    pi.write("/etc/systemd/system/lambda@x.path", "[Path]\n")
    device_state.begin(pi.device, RUNNING_INPUTS, everything=False)
    assert device_state.record(pi.device, RUNNING_INPUTS, RUNNING) == []
    assert told(pi) == []
    return pi


def owed(pi: Pi) -> set[str]:
    return {path.name for path in pi.path(OWED).glob("*")}


READ: dict[str, tuple[Callable[[Pi], object], str]] = {
    "another release": (lambda pi: link(pi, "/opt/pi-fleet/lambda/x/current", "releases/0"), "sdk"),
    "a byte": (change("/opt/pi-fleet/lambda/x/releases/1/x.py", "x = 2\n"), "sdk"),
    "one more module": (change("/opt/pi-fleet/lambda/x/releases/1/y.py", ""), "sdk"),
    "settings": (change("/etc/pi-fleet/camera.json", "{ }"), "sdk"),
    "a package": (change("/var/lib/dpkg/status", STATUS.format(version="3.1-1")), "user"),
    "a user's shell": (change("/etc/passwd", "ggc_user:x:990:989:Lambdas:/home/ggc_user:/bin/sh\n"), "user"),
    "a group": (change("/etc/group", "ggc_group:x:989:\nvideo:x:44:ggc_user\n"), "user"),
}


@pytest.mark.parametrize(("drift", "role"), READ.values(), ids=READ)
def test_what_may_run_what_differed_owes_a_restart_and_its_roles_run(
    running: Pi, drift: Callable[[Pi], object], role: str
) -> None:
    drift(running)
    assert list(device_state.begin(running.device, RUNNING_INPUTS, everything=False, dry=True).run) == [role]
    assert owed(running) == set()
    begun = device_state.begin(running.device, RUNNING_INPUTS, everything=False)
    assert list(begun.run) == [role, "core", "model"]
    assert begun.run["model"] == "unit connector@model.service: restart is owed, was none"
    assert owed(running) == SERVICES


PASSWD = "ggc_user:x:990:989:Lambdas:/home/ggc_user:/usr/sbin/nologin\n"
GROUP = "ggc_group:x:989:collect\nvideo:x:44:ggc_user\n"
STOP = ["systemctl", "stop", "connector@model.service", "lambda@x.path", "lambda@x.service", "localcore.service"]
FIND = ["find", "{root}/home/ggc_user/raw_field_data", "-xdev", "-group", "1989", "-execdir"]
ACCOUNTS: dict[str, tuple[str, str, list[list[str]], list[str]]] = {
    "a user's number": (
        PASSWD.replace("990", "1990"),
        GROUP,
        [STOP, ["usermod", "--uid", "990", "ggc_user"]],
        ["the number of ggc_user is 990 again"],
    ),
    "a user's home": (
        PASSWD.replace("/home/ggc_user", "/tmp"),
        GROUP,
        [STOP, ["usermod", "--home", "/home/ggc_user", "ggc_user"]],
        ["the home of ggc_user is /home/ggc_user again"],
    ),
    "a user's comment": (
        PASSWD.replace("Lambdas", "x"),
        GROUP,
        [["usermod", "--comment", "Lambdas", "ggc_user"]],
        ["the comment of ggc_user is Lambdas again"],
    ),
    "a user's name": (
        PASSWD.replace("ggc_user:x", "x:x"),
        GROUP.replace("ggc_user", "x"),
        [STOP, ["usermod", "--login", "ggc_user", "x"]],
        ["x is ggc_user again"],
    ),
    "a group's name": (
        PASSWD,
        GROUP.replace("ggc_group:x", "x:x"),
        [["groupmod", "-n", "ggc_group", "x"], ["usermod", "--gid", "ggc_group", "ggc_user"]],
        ["the group x is ggc_group again", "the group of ggc_user is ggc_group again"],
    ),
    "the names of both": (
        PASSWD.replace("ggc_user:x", "x:x"),
        GROUP.replace("ggc_user", "x").replace("ggc_group:x", "y:x"),
        [["groupmod", "-n", "ggc_group", "y"], STOP, ["usermod", "--login", "ggc_user", "x"]],
        ["the group y is ggc_group again", "x is ggc_user again"],
    ),
    "a user's shell": (
        PASSWD.replace("nologin", "sh"),
        GROUP,
        [["usermod", "--shell", "/usr/sbin/nologin", "ggc_user"]],
        ["the shell of ggc_user is /usr/sbin/nologin again"],
    ),
    "a user that is gone": (
        "",
        "ggc_group:x:989:\nvideo:x:44:\n",
        [
            [
                *["useradd", "--system", "--no-create-home", "--gid=ggc_group", "--comment=Lambdas"],
                *["--home-dir=/home/ggc_user", "--shell=/usr/sbin/nologin", "--groups=video", "--uid=990", "ggc_user"],
            ],
        ],
        ["ggc_user is there again, with the number 990"],
    ),
    "a group's number": (
        PASSWD.replace("989", "1989"),
        GROUP.replace("989", "1989"),
        [
            ["groupmod", "--gid", "989", "ggc_group"],
            [*FIND, "chgrp", "--no-dereference", "ggc_group", "{}", "+"],
        ],
        ["the number of ggc_group is 989 again"],
    ),
    "a group that is gone": (
        PASSWD,
        "video:x:44:ggc_user\n",
        [["groupadd", "--system", "--gid", "989", "ggc_group"], ["usermod", "--gid", "ggc_group", "ggc_user"]],
        ["the number of ggc_group is 989 again", "the group of ggc_user is ggc_group again"],
    ),
    "a group's members": (
        PASSWD + "collect:x:991:991::/:/bin/sh\n",
        GROUP.replace("collect", "eve"),
        [["gpasswd", "--members", "collect", "ggc_group"]],
        ["the members of ggc_group are collect again"],
    ),
    "a member that is no user any more": (PASSWD, GROUP.replace("collect", ""), [], []),
}


@pytest.mark.parametrize(("passwd", "group", "calls", "sentences"), ACCOUNTS.values(), ids=ACCOUNTS)
def test_users_and_groups_have_their_numbers_again_too(
    running: Pi, passwd: str, group: str, calls: list[list[str]], sentences: list[str]
) -> None:
    running.path("/home/ggc_user/raw_field_data").mkdir(parents=True)
    running.write("/etc/passwd", passwd)
    running.write("/etc/group", group)
    before = len(running.calls)
    dry = device_state.begin(running.device, RUNNING_INPUTS, everything=False, dry=True).restored
    assert running.calls[before:] == []
    begun = device_state.begin(running.device, RUNNING_INPUTS, everything=False)
    root = str(running.root)
    assert running.calls[before:] == [[word.replace("{root}", root) for word in call] for call in calls]
    assert begun.restored == dry == sentences
    assert owed(running) == SERVICES


def test_what_two_roles_manage_has_its_number_again_once(tmp_path: Path) -> None:
    pi = Pi(tmp_path)
    pi.write("/etc/passwd", "localcore:x:991:992:Local core:/nonexistent:/usr/sbin/nologin\n")
    pi.write("/etc/group", "localcore:x:992:\n")
    inputs = {"one": "b", "other": "b"}
    device_state.begin(pi.device, inputs, everything=False)
    device_state.record(pi.device, inputs, {role: {"users": ["localcore"], "groups": ["localcore"]} for role in inputs})
    pi.write("/etc/passwd", "localcore:x:30991:992:Local core:/nonexistent:/usr/sbin/nologin\n")
    pi.write("/etc/group", "localcore:x:30992:\n")
    begun = device_state.begin(pi.device, inputs, everything=False)
    assert begun.left == []
    numbers = [sentence for sentence in begun.restored if sentence.startswith("the number")]
    assert numbers == ["the number of localcore is 992 again", "the number of localcore is 991 again"]


def test_a_user_and_a_group_of_one_name_and_number_have_both_theirs_again(tmp_path: Path) -> None:
    """As Debian makes them, where the same number is free for both."""
    pi = Pi(tmp_path)
    passwd, group = "collect:x:989:989:Collects:/:/bin/sh\n", "collect:x:989:\n"
    pi.write("/etc/passwd", passwd)
    pi.write("/etc/group", group)
    device_state.begin(pi.device, {"user": "b"}, everything=False)
    device_state.record(pi.device, {"user": "b"}, {"user": {"users": ["collect"], "groups": ["collect"]}})
    pi.write("/etc/passwd", passwd.replace("x:989", "x:30989"))
    pi.write("/etc/group", group.replace("x:989", "x:30989"))
    device_state.begin(pi.device, {"user": "b"}, everything=False)
    assert pi.path("/etc/passwd").read_text() == passwd
    assert pi.path("/etc/group").read_text() == group


TAKEN: dict[str, tuple[str, str, list[str]]] = {
    "a user's, who is gone": (
        "eve:x:990:990:Somebody:/home/ggc_user:/usr/sbin/nologin\n",
        "ggc_group:x:989:collect\nvideo:x:44:\n",
        ["the user ggc_user had the number 990, which is that of eve now: give eve another one"],
    ),
    "a user's, who has another": (
        PASSWD.replace("990", "1990") + "eve:x:990:990:Somebody:/:/bin/sh\n",
        GROUP,
        ["the user ggc_user had the number 990, which is that of eve now: give eve another one"],
    ),
    "a group's, which has another": (
        PASSWD.replace("989", "1989"),
        GROUP.replace("989", "1989") + "eve:x:989:\n",
        ["the group ggc_group had the number 989, which is that of eve now: give eve another one"],
    ),
    "both of those who are gone": (
        "eve:x:990:989:Somebody:/home/ggc_user:/usr/sbin/nologin\ncollect:x:991:991::/:/bin/sh\n",
        "eve:x:989:\nvideo:x:44:\n",
        [
            "the group ggc_group had the number 989, which is that of eve now: give eve another one",
            "the user ggc_user had the number 990, which is that of eve now: give eve another one",
        ],
    ),
}


@pytest.mark.parametrize(("passwd", "group", "left"), TAKEN.values(), ids=TAKEN)
def test_a_number_that_somebody_else_has_now_is_left_and_told_with_what_to_do(
    pi: Pi, passwd: str, group: str, left: list[str]
) -> None:
    pi.write("/etc/passwd", passwd)
    pi.write("/etc/group", group)
    before = len(pi.calls)
    begun = device_state.begin(pi.device, INPUTS, everything=False)
    assert begun.left == [f"{each} on the device, and run again." for each in left]
    assert [call for call in pi.calls[before:] if call[0] != "systemctl"] == []
    assert list(begun.run) == ["user"]


@pytest.mark.parametrize("groups", [[], ["localcore"]])
def test_a_user_is_made_again_with_a_group_of_its_own_that_is_recorded_or_not(
    tmp_path: Path, groups: list[str]
) -> None:
    pi = Pi(tmp_path)
    pi.write("/etc/passwd", "localcore:x:991:992:Local core:/nonexistent:/usr/sbin/nologin\n")
    pi.write("/etc/group", "localcore:x:992:\n")
    device_state.begin(pi.device, {"user": "b"}, everything=False)
    device_state.record(pi.device, {"user": "b"}, {"user": {"users": ["localcore"], "groups": groups}})
    pi.write("/etc/passwd", "")
    pi.write("/etc/group", "")
    made = device_state.begin(pi.device, {"user": "b"}, everything=False).restored
    assert made[-1] == "localcore is there again, with the number 991"
    assert made[:-1] == [f"the number of {group} is 992 again" for group in groups]


SHADOW = "ggc_user:!:20000::::::\n"
LOGIN = {
    "no password": (
        {"/etc/passwd": PASSWD.replace(":x:", "::")},
        [["usermod", "--password", "x", "ggc_user"], ["usermod", "--password", "*", "ggc_user"]],
        "ggc_user is locked again",
    ),
    "expired": (
        {"/etc/shadow": SHADOW.replace("20000::::::", "0:::::1:")},
        [["chage", "--lastday=-1", "--expiredate=-1", "ggc_user"]],
        "the expiry of ggc_user is none again",
    ),
    "a group's password": (
        {"/etc/gshadow": "ggc_group:$y$x::collect\n"},
        [["gpasswd", "-r", "ggc_group"]],
        "the group ggc_group has no password again",
    ),
    "a group's administrator": (
        {"/etc/gshadow": "ggc_group:!:eve:collect\n"},
        [["gpasswd", "--administrators", "", "ggc_group"]],
        "the administrators of ggc_group are none again",
    ),
}


@pytest.mark.parametrize(("files", "calls", "sentence"), LOGIN.values(), ids=LOGIN)
def test_who_may_log_in_and_join_is_put_back(
    pi: Pi, files: dict[str, str], calls: list[list[str]], sentence: str
) -> None:
    for name, text in files.items():
        pi.write(name, text)
    before = len(pi.calls)
    dry = device_state.begin(pi.device, INPUTS, everything=False, dry=True).restored
    assert pi.calls[before:] == []
    assert device_state.begin(pi.device, INPUTS, everything=False).restored == dry == [sentence]
    assert pi.calls[before:] == calls


def test_what_expired_before_and_does_so_still_has_its_dates_again(pi: Pi) -> None:
    pi.write("/etc/shadow", "ggc_user:!:20000:0:99999:7:::\n")
    device_state.begin(pi.device, INPUTS, everything=True)
    device_state.record(pi.device, INPUTS, DECLARED)
    pi.write("/etc/shadow", "ggc_user:!:20000:0:1:7:::\n")
    device_state.begin(pi.device, INPUTS, everything=False)
    assert pi.calls[-1] == ["chage", "--maxdays=99999", "ggc_user"]


def test_what_an_older_record_does_not_know_is_no_drift(pi: Pi) -> None:
    pi.write("/etc/shadow", SHADOW.replace("::::::", ":::::1:"))
    pi.write("/etc/gshadow", "ggc_group:$y$x:eve:collect\n")
    rewrite(pi, "user ggc_user", "comment", "expiry")
    rewrite(pi, "group ggc_group", "administrators", "password")
    pi.path("/usr/bin/rsync").unlink()
    pi.write("/var/lib/dpkg/status", STATUS.format(version="3.2-1").replace("install ok i", "hold ok i"))
    rewrite(pi, "package rsync", "files", "held")
    assert told(pi) == []
    pi.write("/etc/passwd", PASSWD.replace("nologin", "bash"))
    assert told(pi) == ["user ggc_user: shell is /usr/sbin/bash, was /usr/sbin/nologin"]
    begun = device_state.begin(pi.device, INPUTS, everything=False)
    assert begun.restored == ["the shell of ggc_user is /usr/sbin/nologin again"]
    pi.write("/etc/passwd", "")
    assert "user ggc_user: state is absent, was none" in told(pi)


def rewrite(pi: Pi, entry: str, *attributes: str) -> None:
    """Have the record be one of before attributes were recorded."""
    record, _ = state_record.load(pi.device)
    for role in record.roles.values():
        for attribute in attributes if entry in role.entries else ():
            del role.entries[entry][attribute]
    state_record.save(pi.device, record)


def test_who_owns_what_is_put_back_before_what_they_own(pi: Pi, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name: to a user with another number it would be given wrongly."""
    monkeypatch.setattr(os, "chown", lambda *_, **__: pi.calls.append(["chown"]))
    monkeypatch.setattr(state_restore, "ids", lambda *_: (0, 0))
    pi.write("/etc/passwd", PASSWD.replace("990", "1990") + "camera:x:0:0::/:/bin/sh\n")
    device_state.begin(pi.device, INPUTS, everything=False)
    order = [call[0] for call in pi.calls]
    assert order.index("usermod") < order.index("chown")


def test_a_run_that_was_killed_behind_what_it_put_back_owes_the_restart_still(
    running: Pi, monkeypatch: pytest.MonkeyPatch
) -> None:
    link(running, "/opt/pi-fleet/lambda/x/current", "releases/0")
    with monkeypatch.context() as patch:
        patch.setattr(device_state, "save", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            device_state.begin(running.device, RUNNING_INPUTS, everything=False)
    assert running.path("/opt/pi-fleet/lambda/x/current").readlink() == Path("releases/1")
    assert list(device_state.begin(running.device, RUNNING_INPUTS, everything=False).run) == ["core", "model"]
    for path in running.path(OWED).glob("*"):
        path.unlink()
    device_state.record(running.device, {"core": "c", "model": "d"}, RUNNING)
    assert told(running) == []


# Of any breadth.
DROP_INS = {
    "/etc/systemd/system/lambda@.service.d/x.conf": {"lambda@x.service"},
    "/etc/systemd/system/service.d/x.conf": {*SERVICES, "mosquitto.service"},
    "/run/systemd/system/lambda@x.path.d/override.conf": {"lambda@x.path"},
    "/etc/systemd/system/mosquitto.service.d/x.conf": {"mosquitto.service"},
}


@pytest.mark.parametrize("is_read", [True, False])
@pytest.mark.parametrize(("drop_in", "units"), DROP_INS.items())
def test_units_owe_a_restart_for_a_drop_in_that_is_set_aside_whether_systemd_has_read_it_or_not(
    running: Pi, drop_in: str, units: set[str], is_read: bool
) -> None:
    running.write(drop_in, "[Service]\nEnvironment=A=1\n")
    running.unit = max(units)
    running.shown = {**running.as_written(running.unit), "DropInPaths": drop_in if is_read else ""}
    begun = device_state.begin(running.device, RUNNING_INPUTS, everything=False)
    (moved,) = begun.restored
    assert moved.startswith(f"{drop_in}, which was not there before, was moved to {ASIDE}/")
    assert not running.path(drop_in).exists()
    assert running.calls[-1] == ["systemctl", "daemon-reload"]
    assert owed(running) == units


def test_a_unit_that_somebody_added_goes_on_no_longer(running: Pi) -> None:
    running.write("/etc/systemd/system/lambda@y.service", "[Service]\nExecStart=/usr/bin/sleep 1h\n")
    begun = device_state.begin(running.device, RUNNING_INPUTS, everything=False)
    assert [sentence.partition(" to ")[0] for sentence in begun.restored] == [
        "/etc/systemd/system/lambda@y.service, which was not there before, was moved",
        "lambda@y.service, which was not there before, was stopped",
    ]
    assert ["systemctl", "stop", "lambda@y.service"] in running.calls


GATE = {"camera": {"units": ["gate.service"]}}
NO_GATE = {
    "LoadState": "not-found",
    "FragmentPath": "",
    "DropInPaths": "",
    "UnitFileState": "",
    "ActiveState": "inactive",
}


@pytest.fixture
def gateless(tmp_path: Path) -> Pi:
    """A device that was recorded with a unit that no role wants there."""
    pi = Pi(tmp_path)
    pi.unit, pi.shown = "gate.service", {**SHOWN, **NO_GATE}
    device_state.begin(pi.device, {"camera": "a"}, everything=False)
    device_state.record(pi.device, {"camera": "a"}, GATE)
    assert told(pi) == []
    return pi


def test_a_unit_that_somebody_made_where_none_is_asked_for_goes_on_no_longer(gateless: Pi) -> None:
    file = "/etc/systemd/system/gate.service"
    links = ["/etc/systemd/system/multi-user.target.wants/gate.service"]
    gateless.write(file, "[Service]\nExecStart=/usr/bin/sleep 1h\n")
    gateless.link(links[0], file)
    gateless.shown = {**SHOWN, "FragmentPath": file}
    begun = device_state.begin(gateless.device, {"camera": "a"}, everything=False)
    assert [sentence.partition(" to ")[0] for sentence in begun.restored] == [
        f"{file}, which was not there before, was moved",
        "gate.service, which was not there before, was stopped",
        f"{links[0]}, which was not there before, was moved",
    ]
    assert gateless.calls[-2:] == [["systemctl", "stop", "gate.service"], ["systemctl", "daemon-reload"]]


@pytest.mark.parametrize(("state", "runs"), [("active", True), ("activating", True), ("failed", False)])
def test_what_a_unit_that_is_gone_left_running_is_told_and_stopped(gateless: Pi, state: str, runs: bool) -> None:
    """As after a run that set its file aside, and whatever had systemd read all anew."""
    gateless.shown |= {"ActiveState": state}
    assert told(gateless) == ([f"unit gate.service: active is {state}, was none"] if runs else [])
    begun = device_state.begin(gateless.device, {"camera": "a"}, everything=False)
    assert begun.restored == (["gate.service, which was not there before, was stopped"] if runs else [])
    assert (["systemctl", "stop", "gate.service"] in gateless.calls) == runs


def test_a_unit_that_is_masked_where_none_is_asked_for_is_only_unmasked(gateless: Pi) -> None:
    gateless.shown |= {"LoadState": "masked", "FragmentPath": "/dev/null", "UnitFileState": "masked"}
    begun = device_state.begin(gateless.device, {"camera": "a"}, everything=False)
    assert begun.restored == ["gate.service is masked no longer"]


def test_a_unit_owes_a_restart_for_another_file_in_the_place_of_its_own(running: Pi) -> None:
    running.write("/run/systemd/system/mosquitto.service", "[Service]\n")
    running.unit = "mosquitto.service"
    running.shown = {**SHOWN, "FragmentPath": "/run/systemd/system/mosquitto.service"}
    device_state.begin(running.device, RUNNING_INPUTS, everything=False)
    assert owed(running) == {"mosquitto.service"}


def test_nothing_owes_a_restart_for_what_it_does_not_read(running: Pi) -> None:
    running.path("/etc/camera.json").chmod(0o600)
    running.unit, running.shown = "mosquitto.service", {**SHOWN, "ActiveState": "inactive"}
    assert len(device_state.begin(running.device, RUNNING_INPUTS, everything=False).run) == 2
    assert owed(running) == set()


def test_what_a_killed_run_left_of_other_inputs_owes_nothing_to_the_record(running: Pi) -> None:
    device_state.begin(running.device, {**RUNNING_INPUTS, "sdk": "t"}, everything=False)
    running.write("/opt/pi-fleet/lambda/x/releases/2/x.py", "x = 2\n")
    assert list(device_state.begin(running.device, {**RUNNING_INPUTS, "sdk": "t"}, everything=False).run) == ["sdk"]
    assert owed(running) == set()


def test_what_a_role_adds_to_what_another_one_manages_is_no_drift(pi: Pi) -> None:
    pi.write("/etc/conf.d/one", "by hand")
    other = {"user": "b", "lambda": "c"}
    declared = {"paths": ["/opt/camera/more/b.py"], "groups": ["ggc_group"]}
    device_state.begin(pi.device, {"lambda": "c"}, everything=False)
    pi.write("/opt/camera/more/b.py", "b = 1\n")
    pi.write("/etc/group", "ggc_group:x:989:collect,lambda\nvideo:x:44:ggc_user\n")
    pi.write("/etc/camera.json", "by hand, meanwhile")
    device_state.record(pi.device, {"lambda": "c"}, {"lambda": declared})
    # What others changed is still told.
    assert told(pi) == [
        "path /etc/camera.json: its content is another one",
        "path /etc/conf.d/one: its content is another one",
    ]
    again = device_state.begin(pi.device, {**INPUTS, **other}, everything=False)
    assert list(again.run) == ["camera"]
    assert again.restored == []
    assert pi.path("/opt/camera/more/b.py").exists()


def test_what_two_roles_manage_differs_once_and_concerns_all_of(pi: Pi) -> None:
    device_state.record(pi.device, {"lambda": "c"}, {"lambda": {"users": ["ggc_user"]}})
    pi.write("/etc/passwd", "ggc_user:x:990:989:Lambdas:/home/ggc_user:/bin/bash\n")
    probe = device_state.probe(pi.device)
    assert [(each.role, each.entry, each.attribute) for each in probe.told] == [("user", "user ggc_user", "shell")]
    assert list(probe.to_run({**INPUTS, "user": "b", "lambda": "c"}, everything=False)) == ["user", "lambda"]


def test_a_role_of_which_something_is_put_aside_for_another_one_runs_too(pi: Pi) -> None:
    # Somebody's, and known to one of the two that look there.
    pi.write("/opt/camera/current/b.py", "b = 1\n")
    device_state.begin(pi.device, {"lambda": "c"}, everything=False)
    device_state.record(pi.device, {"lambda": "c"}, {"lambda": {"paths": ["/opt/camera/current/b.py"]}})
    assert list(device_state.probe(pi.device).to_run({**INPUTS, "lambda": "c"}, everything=False)) == ["camera"]
    begun = device_state.begin(pi.device, {**INPUTS, "lambda": "c"}, everything=False)
    assert begun.restored
    assert begun.run == {
        "camera": "path /opt/camera/current/b.py: it is there, and was not",
        "lambda": "path /opt/camera/current/b.py: type is absent, was file",
    }


def test_what_somebody_changed_is_put_back_for_a_role_with_other_inputs_too(pi: Pi) -> None:
    pi.path("/etc/camera.json").chmod(0o600)
    pi.write("/opt/camera/b", "somebody's")
    begun = device_state.begin(pi.device, {**INPUTS, "camera": "c"}, everything=False)
    assert begun.run == {
        "camera": "its inputs are other ones; path /etc/camera.json: mode is 0600, was 0644; "
        "path /opt/camera/b: it is there, and was not"
    }
    assert len(begun.restored) == 2


def test_what_a_killed_run_with_other_inputs_left_half_done_is_its_roles_to_finish(pi: Pi) -> None:
    device_state.begin(pi.device, {**INPUTS, "camera": "c"}, everything=False)
    pi.write("/opt/camera/b", "the role's")
    assert device_state.begin(pi.device, {**INPUTS, "camera": "c"}, everything=False).restored == []
    assert pi.path("/opt/camera/b").exists()


def test_fingerprints_are_kept_as_keyed_hashes_alone(pi: Pi) -> None:
    device_state.begin(pi.device, {"camera": "hunter2"}, everything=False)
    device_state.record(pi.device, {"camera": "hunter2"}, DECLARED)
    assert "hunter2" not in pi.path(state_record.PATH).read_text()


def test_a_declaration_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DeviceError, match="Nobody knows how to look at files: name one of paths, changing, edited, trees"
    ):
        device_state.record(Pi(tmp_path).device, {"camera": "a"}, {"camera": {"files": []}})
