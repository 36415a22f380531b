# SPDX-License-Identifier: Apache-2.0
"""What roles manage on a device, as it is now: one entry a thing, each a few named attributes in words.

A role declares what it manages as lists, in its vars/main.yml. An entry's key is its kind and its name, `path /etc/x`.
Two observations of the same declarations differ where the device does; nothing here changes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

from ansible_collections.edge.pi_fleet.plugins.module_utils import sysctl
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, DeviceError, acl, read_text, utc
from ansible_collections.edge.pi_fleet.plugins.module_utils.first_boot import FirstBoot
from ansible_collections.edge.pi_fleet.plugins.module_utils.identity import Hostname
from ansible_collections.edge.pi_fleet.plugins.module_utils.kernel_cmdline import (
    cmdline_reboot_reason,
    locate,
    split_first,
)
from ansible_collections.edge.pi_fleet.plugins.module_utils.swap import swap_reboot_reason
from ansible_collections.edge.pi_fleet.plugins.module_utils.swap_mechanism import RpiSwap, mechanism
from ansible_collections.edge.pi_fleet.plugins.module_utils.unit_folders import NO_LINK, UnitFolders
from ansible_collections.edge.pi_fleet.plugins.module_utils.units import FOLDER, is_unit

Entries = dict[str, dict[str, str]]
Manages = Mapping[str, Any]

KINDS = {
    "paths": "files, folders, links and devices, each alone; patterns too",
    "changing": "files whose content is not recorded, since pi-fleet itself changes it; their modes and owners are",
    "edited": "files of others that a role edits: it judges the rest of what is in them, and leaves that as it is",
    "trees": "folders with all that is in them",
    "large": "folders of files whose sizes and times are recorded, as hashing takes long: when its role runs, it does",
    "wholes": "what its role makes as a whole, mostly a folder: a path, and the mark without which the role does so",
    "seen": "files of others that a role judges, and leaves as they are; patterns too, without what is in paths",
    "packages": "Debian packages",
    "units": "systemd units; patterns too, of files below /etc/systemd/system",
    "users": "users",
    "groups": "groups",
    "sysctls": "settings of the kernel",
    "flags": "words on the kernel's command line, by what they begin with",
    "swap": "true: the swap",
    "ssh logins": "true: how sshd lets users log in",
    "host name": "true: the kernel's, and whether /etc/hosts has what a boot reads",
    "first boot": "true: secrets that are left of it",
    "reboot": "true: why a reboot is needed",
}
ABSENT = {"type": "absent"}
# Where a distribution's own units and drop-ins lie, which come and go with packages.
VENDORS = ("/usr/lib/", "/lib/")
# Where field-data-guard notes what it stopped, and starts again when there is room.
GUARD = "/run/pi-fleet-field-data-guard/low.json"
BOOT = 60
"""Seconds in which a device that boots may have started its units."""
BOOTING = ("initializing", "starting")
SETTLE = 5
"""Seconds in which systemd starts a service again that ended by itself."""
SETTLING = ("activating", "deactivating", "reloading")
SHOWN = (
    *("Id", "LoadState", "FragmentPath", "DropInPaths", "UnitFileState", "ActiveState", "InvocationID"),
    *("NeedDaemonReload", "MainPID"),
)
HALTED = "halted by a signal"
"""What a unit is that systemd takes for active, and that does nothing, as after `kill -STOP`."""
# What Python writes beside sources, and we beside what we replace, is nobody's work. Bytecode in the place of a source
# is somebody's: Python writes none there, and imports it.
IGNORED = ("__pycache__", ".*.pi-fleet-new")
# A paragraph of dpkg's own account, as far as its version.
PACKAGE = re.compile(
    r"^Package: (\S+)\nStatus: (\S+) \S+ (\S+)\n(?:(?!Version: ).+\n)*(?:Version: (\S+)$)?", re.MULTILINE
)
# Where a package's own programs and libraries lie, and no settings; what of it nobody runs may be left out or removed.
INFO = "/var/lib/dpkg/info"
PROGRAMS = ("/usr/", "/bin/", "/sbin/", "/lib")
PROSE = tuple(f"/usr/share/{name}/" for name in ("doc", "info", "lintian", "locale", "man"))
# Where the packages' own Python modules lie, and what Python looks for them in before.
MODULES = "/usr/lib/python3/dist-packages"
LOCAL_MODULES = "usr/local/lib/python3*/dist-packages/*"
# What sshd calls that by which somebody gets in.
LOGINS = (
    *("passwordauthentication", "kbdinteractiveauthentication", "permitemptypasswords", "permitrootlogin"),
    *("pubkeyauthentication", "authorizedkeysfile", "authorizedkeyscommand", "trustedusercakeys"),
)
# What chage sets of an account, in the order of /etc/shadow.
EXPIRY = ("lastday", "mindays", "maxdays", "warndays", "inactive", "expiredate")
TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
}


def unknown_kinds(manages: Manages) -> list[str]:
    """Return the kinds of a declaration that are none."""
    return sorted(manages.keys() - KINDS.keys())


class Observer:
    """Looks at a device once, for all roles together: each file that lists things is read and each program run once."""

    def __init__(self, device: Device) -> None:
        """Look at this device."""
        self._device = device
        self._shown: dict[str, dict[str, str]] = {}
        self._files: dict[str, dict[str, str]] = {}
        self._unit_folders = UnitFolders(device)

    def observe(self, declared: Mapping[str, Manages]) -> dict[str, Entries]:
        """Return the entries of each role."""
        for manages in declared.values():
            if unknown := unknown_kinds(manages):
                raise DeviceError(f"Nobody knows how to look at {', '.join(unknown)}: name one of {', '.join(KINDS)}.")
        self._show({name for manages in declared.values() for name in self._unit_names(manages.get("units", ()))})
        return {role: dict(self._entries(manages)) for role, manages in declared.items()}

    def _entries(self, manages: Manages) -> Iterator[tuple[str, dict[str, str]]]:
        for pattern in [*manages.get("paths", ()), *manages.get("edited", ())]:
            for path in self._expand(pattern):
                yield f"path {path}", self._path(path)
        for path in manages.get("changing", ()):
            found = self._path(path)
            found.pop("sha256", None)
            yield f"path {path}", found
        for tree in [*manages.get("trees", ()), *(whole["path"] for whole in manages.get("wholes", ()))]:
            for path in self._walk(tree):
                yield f"path {path}", self._path(path)
        for tree in manages.get("large", ()):
            for path in self._walk(tree):
                yield f"path {path}", self._path(path, hashed=False)
        for pattern in manages.get("seen", ()):
            for path in self._expand(pattern):
                if path not in manages.get("paths", ()):
                    yield f"seen {path}", self._path(path)
        for name in manages.get("packages", ()):
            yield f"package {name}", self._package(name)
        for name in self._unit_names(manages.get("units", ())):
            yield from self._unit(name)
        for name in manages.get("users", ()):
            yield f"user {name}", self._user(name)
        for name in manages.get("groups", ()):
            yield f"group {name}", self._group(name)
        for name in manages.get("sysctls", ()):
            at_boot, _ = self._sysctls_at_boot.get(name, ("", ""))
            yield f"sysctl {name}", {"value": self._sysctl(name), "at boot": at_boot}
        if manages.get("flags"):
            yield "kernel command line", {"flags": " ".join(self._flags(manages["flags"]))}
        if manages.get("swap"):
            yield "swap", self._swap()
        if manages.get("ssh logins"):
            yield "ssh logins", self._logins()
        if manages.get("host name"):
            name = (read_text(self._device.path("/etc/hostname")) or "").strip()
            in_hosts = Hostname(self._device, name).in_hosts()
            yield "host name", {"kernel": self._sysctl("kernel.hostname"), "in /etc/hosts": "yes" if in_hosts else "no"}
        if manages.get("first boot"):
            yield "first boot", {"secrets left in": ", ".join(FirstBoot(self._device).left())}
        if manages.get("reboot"):
            yield "reboot", {"needed for": "; ".join(self.reboot_reasons)}

    def _expand(self, pattern: str) -> Iterable[str]:
        if "*" not in pattern:
            return [pattern]
        return sorted(self._device.name(path) for path in self._device.root.glob(pattern.lstrip("/")))

    def _walk(self, tree: str) -> Iterator[str]:
        yield tree
        for folder, folders, files in os.walk(self._device.path(tree)):
            folders[:] = sorted(name for name in folders if not ignored(name))
            for name in sorted([*folders, *(name for name in files if not ignored(name))]):
                yield self._device.name(Path(folder, name))

    def _path(self, name: str, hashed: bool = True) -> dict[str, str]:
        path = self._device.path(name)
        try:
            status = path.lstat()
            found = {
                "type": TYPES[stat.S_IFMT(status.st_mode)],
                "mode": f"{stat.S_IMODE(status.st_mode):04o}",
                "owner": self._owner(status.st_uid),
                "group": self._owning_group(status.st_gid),
                "mounted": self._mounted(name),
            }
            if found["type"] in ("file", "directory"):
                # Of nodes in memory the system itself changes it.
                found["acl"] = acl(path)
            if found["type"] == "file" and not hashed:
                found |= {"bytes": str(status.st_size), "written": utc(status.st_mtime)}
            elif found["type"] == "file":
                with path.open("rb") as stream:
                    found["sha256"] = hashlib.file_digest(stream, "sha256").hexdigest()
            elif found["type"] == "link":
                found["target"] = str(path.readlink())
                # All links have the same.
                del found["mode"]
            elif "device" in found["type"]:
                found["number"] = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        except (FileNotFoundError, NotADirectoryError):
            return dict(ABSENT)
        return found

    @cached_property
    def _mounts(self) -> dict[str, str]:
        """The kind of file system of each mount: devices have other names after a boot.

        As the first process sees them: a service has mounts of its own, also one that asks.
        """
        found: dict[str, str] = {}
        try:
            text = read_text(self._device.path("/proc/1/mountinfo")) or ""
        except PermissionError:
            # As some containers have it.
            text = ""
        for line in text.splitlines():
            before, _, after = line.partition(" - ")
            point = before.split()[4]
            # The last one covers the others. What is mounted when somebody looks comes and goes.
            if found.get(point) != "autofs":
                found[point] = after.split()[0]
        return found

    def _mounted(self, name: str) -> str:
        """Return on which mount something lies, if that is not the root's."""
        point = name
        while point not in self._mounts and point != "/":
            point = point.rpartition("/")[0] or "/"
        return "" if point == "/" else f"{self._mounts[point]} at {point}"

    def _owner(self, uid: int) -> str:
        return next((name for name, fields in self._passwd.items() if fields[2] == str(uid)), str(uid))

    def _owning_group(self, gid: int) -> str:
        return next((name for name, fields in self._groups.items() if fields[2] == str(gid)), str(gid))

    @cached_property
    def _passwd(self) -> dict[str, list[str]]:
        return self._colons("/etc/passwd", 7)

    @cached_property
    def _groups(self) -> dict[str, list[str]]:
        return self._colons("/etc/group", 4)

    @cached_property
    def _shadow(self) -> dict[str, list[str]]:
        return self._colons("/etc/shadow", 9)

    @cached_property
    def _gshadow(self) -> dict[str, list[str]]:
        return self._colons("/etc/gshadow", 4)

    def _colons(self, path: str, fields: int) -> dict[str, list[str]]:
        lines = (line.split(":") for line in (read_text(self._device.path(path)) or "").splitlines())
        return {line[0]: line for line in lines if len(line) == fields}

    def _user(self, name: str) -> dict[str, str]:
        if name not in self._passwd:
            return {"state": "absent"}
        _, _, uid, gid, comment, home, shell = self._passwd[name]
        groups = sorted(group for group, fields in self._groups.items() if name in fields[3].split(","))
        return {
            "number": uid,
            "group": self._owning_group(int(gid)),
            "comment": comment,
            "home": home,
            "shell": shell,
            "groups": ",".join(groups),
            "password": self._password(name),
            "expiry": self._expiry(name),
        }

    def _password(self, name: str) -> str:
        """Say whether a user has a password; never which."""
        field = self._passwd[name][1]
        if field == "x":
            field = self._shadow.get(name, ["", ""])[1]
        return "none" if not field else "locked" if field.startswith(("!", "*")) else "set"

    def _expiry(self, name: str) -> str:
        """Return what may keep a user from logging in, as options of chage; of the last day only that there is none."""
        last, *others = self._shadow.get(name, [""] * 8)[2:8]
        fields = zip(EXPIRY, ["0" if last == "0" else "", *others], strict=True)
        return " ".join(f"{option}={value}" for option, value in fields if value)

    def _group(self, name: str) -> dict[str, str]:
        if name not in self._groups:
            return {"state": "absent"}
        _, password, gid, members = self._groups[name]
        # Where there is such a line, it is what newgrp and sg look at.
        _, password, administrators, _ = self._gshadow.get(name, ["", password, "", ""])
        return {
            "number": gid,
            "members": names(members),
            "administrators": names(administrators),
            # With an empty one only members have the group's rights.
            "password": "none" if password in ("", "x") or password.startswith(("!", "*")) else "set",
        }

    def _sysctl(self, name: str) -> str:
        return (read_text(self._device.path(f"/proc/sys/{name.replace('.', '/')}")) or "not known").strip()

    @cached_property
    def _sysctls_at_boot(self) -> dict[str, tuple[str, str]]:
        return sysctl.at_boot(self._device)

    def _flags(self, beginnings: Sequence[str]) -> list[str]:
        path = locate(self._device)
        line, _ = split_first("" if path is None else read_text(path) or "")
        return [word for word in line.split() if word.startswith(tuple(beginnings))]

    def _swap(self) -> dict[str, str]:
        found = mechanism(self._device)
        active = found.active()
        kernels = {"active": "no" if active is None else "yes"}
        if self._device.is_container():
            kernels["active"] = "a host's matter"
        elif not isinstance(found, RpiSwap):
            # Of that, a boot alone makes another size, and role reboot knows of it.
            kernels = {"KiB": "0" if active is None else str(active.kib), "mode": f"{found.mode() or 0:04o}"}
        return {
            "by": type(found).__name__,
            "MiB": str(found.configured_mib()),
            "enabled": str(found.enabled()),
            **kernels,
        }

    def _logins(self) -> dict[str, str]:
        """Return what sshd makes of all its files; nothing of any where it refuses them."""
        _, output, _ = self._device.run(["/usr/sbin/sshd", "-T"])
        shown = dict(line.partition(" ")[::2] for line in output.splitlines())
        return {name: shown.get(name, "") for name in LOGINS}

    @cached_property
    def reboot_reasons(self) -> list[str]:
        """Sentences that say why the device needs a reboot."""
        reasons = [swap_reboot_reason(self._device), cmdline_reboot_reason(self._device)]
        return [reason for reason in reasons if reason]

    @cached_property
    def _packages(self) -> dict[str, dict[str, str]]:
        """Every package that dpkg knows: its word on it, and the version."""
        found: dict[str, dict[str, str]] = {}
        for match in PACKAGE.finditer(read_text(self._device.path("/var/lib/dpkg/status")) or ""):
            name, want, state, version = match.groups()
            # Of a package that is there for two architectures, the installed one counts.
            if found.get(name, {}).get("state") != "installed":
                found[name] = {
                    "state": state.replace("-", " "),
                    "version": version or "",
                    "held": "yes" if want == "hold" else "no",
                }
        return found

    def _package(self, name: str) -> dict[str, str]:
        found = dict(self._packages.get(name, {"state": "not installed"}))
        if found["state"] == "installed":
            if name not in self._files:
                self._files[name] = {"files": self._files_of(name), "shadowed by": " ".join(self._shadows(name))}
            found |= self._files[name]
        return found

    def _files_of(self, package: str) -> str:
        """Return a hash of a package's files, by all but their content: to read it would take minutes."""
        digest = hashlib.sha256()
        for name in self._listed(package):
            if not name.startswith(PROGRAMS) or name.startswith(PROSE):
                continue
            # Another package, or somebody, may have had it put elsewhere.
            place, by = self._diverted.get(name, (name, package))
            place = name if by == package else place
            # They are thousands: no Path is made of each.
            path = f"{self._device.root}/{place}"
            try:
                status = os.lstat(path)
                if stat.S_ISDIR(status.st_mode):
                    continue
                link = stat.S_ISLNK(status.st_mode)
                found = Path(path).readlink() if link else f"{status.st_size} {int(status.st_mtime)}"
                line = f"{found} {status.st_mode:o} {status.st_uid} {status.st_gid}"
                line += "" if link else f" {acl(path)}".rstrip()
            except (FileNotFoundError, NotADirectoryError):
                line = "absent"
            digest.update(f"{place} {line}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def _shadows(self, package: str) -> list[str]:
        """Return what Python imports instead of a package's modules, as after `pip install` by root."""
        if not self._local_modules:
            return []
        folders_and_files = (name.rpartition("/") for name in self._listed(package))
        own = {module(name) for folder, _, name in folders_and_files if folder == MODULES}
        return [path for path in self._local_modules if module(path.rpartition("/")[2]) in own]

    @cached_property
    def _local_modules(self) -> list[str]:
        found = self._device.root.glob(LOCAL_MODULES)
        return sorted(self._device.name(path) for path in found if not ignored(path.name))

    def _listed(self, package: str) -> list[str]:
        """Return the files and folders of a package."""
        found = self._lists.get(package, [""])
        own = f"{package}:{self._architecture}.list"
        return (read_text(self._device.path(f"{INFO}/{own if own in found else found[0]}")) or "").splitlines()

    @cached_property
    def _architecture(self) -> str:
        """The device's own, which comes first where packages of others may be installed."""
        return (read_text(self._device.path("/var/lib/dpkg/arch")) or "").partition("\n")[0]

    @cached_property
    def _lists(self) -> dict[str, list[str]]:
        """The lists of each package's files, one for each architecture."""
        found: dict[str, list[str]] = {}
        for path in sorted(self._device.path(INFO).glob("*.list")):
            found.setdefault(path.stem.partition(":")[0], []).append(path.name)
        return found

    @cached_property
    def _diverted(self) -> dict[str, tuple[str, str]]:
        """Where files are put instead, and by which package."""
        lines = (read_text(self._device.path("/var/lib/dpkg/diversions")) or "").splitlines()
        return {name: (place, by) for name, place, by in zip(lines[::3], lines[1::3], lines[2::3], strict=False)}

    def _unit_names(self, patterns: Sequence[str]) -> list[str]:
        folder = self._device.path(FOLDER)
        names: dict[str, None] = {}
        for pattern in patterns:
            if "*" in pattern:
                names |= dict.fromkeys(sorted(path.name for path in folder.glob(pattern) if is_unit(path.name)))
            else:
                names[pattern] = None
        return list(names)

    def _show(self, names: set[str]) -> None:
        """Ask systemd about all units at once: each question costs a Pi as much as all of them."""
        if not names:
            return
        asked = [f"--property={','.join(SHOWN)}", "--", *sorted(names)]
        restless: dict[str, dict[str, str]] = {}
        for second in range(BOOT):
            output = self._device.command("systemctl", "show", *asked)
            for block in output.strip().split("\n\n"):
                fields = dict(line.split("=", 1) for line in block.splitlines())
                self._shown[fields["Id"]] = fields
                before = restless.get(fields["Id"], fields)
                if fields.get("InvocationID") != before.get("InvocationID") and fields.get("ActiveState") == "active":
                    # One that is started again and again is so for a moment, too.
                    fields["ActiveState"] = "activating"
            shown = self._shown.items()
            restless = {name: each for name, each in shown if enabled(each) and each.get("ActiveState") != "active"}
            if not restless:
                return
            settling = second < SETTLE and any(each.get("ActiveState") in SETTLING for each in restless.values())
            if not settling and self._device.run(["systemctl", "is-system-running"])[1].strip() not in BOOTING:
                return
            time.sleep(1)

    def _unit(self, name: str) -> Iterator[tuple[str, dict[str, str]]]:
        shown = self._shown.get(name, {})
        vendors: tuple[str, ...] = VENDORS
        if not self._is_vendors(name):
            # No package knows it: of those there, only what is for all services is a distribution's.
            kind = name.rpartition(".")[2]
            vendors = tuple(f"{top}systemd/system/{kind}." for top in VENDORS)
        file, loaded = shown.get("FragmentPath", ""), shown.get("DropInPaths", "").split()
        drop_ins = [path for path in [*loaded, *self._unread(name, loaded)] if not path.startswith(vendors)]
        links = self._unit_folders.links(name)
        found = {
            "loaded": shown.get("LoadState", "not-found"),
            "start at boot": shown.get("UnitFileState", ""),
            "drop-ins": " ".join(sorted(drop_ins)),
            "links": " ".join(sorted(link for link in links if not link.removeprefix(NO_LINK).startswith(vendors))),
            "read by systemd": "no" if shown.get("NeedDaemonReload") == "yes" else "yes",
        }
        # What is started by others, a timer or a path, runs now and then; what has no file any more shall not.
        if enabled(shown) or (found["loaded"] == "not-found" and shown.get("ActiveState") in ("active", *SETTLING)):
            stopped = name in self._stopped_by_guard and shown.get("ActiveState") in ("inactive", "failed")
            halted = shown.get("ActiveState") == "active" and self._is_halted(shown.get("MainPID", "0"))
            found["active"] = "active" if stopped else HALTED if halted else shown.get("ActiveState", "")
        yield f"unit {name}", found
        files = [file, *drop_ins]
        # Somebody's in the place of a package's, of which systemd says nothing before it reads all anew.
        on_disk = self._unit_folders.file(name)
        if shown.get("LoadState") != "masked" and not self._unit_folders.same(on_disk, file):
            files.append(on_disk)
        for path in files:
            # What masks a unit is everybody's.
            if path and not path.startswith((*vendors, "/dev/")):
                yield f"path {path}", self._path(path)

    def _is_halted(self, process: str) -> bool:
        # A program's name, which stands in parentheses before its state, may have any characters.
        return (read_text(self._device.path(f"/proc/{process}/stat")) or "").rpartition(")")[2].startswith(" T ")

    @cached_property
    def _stopped_by_guard(self) -> set[str]:
        """Units that stand still for as long as the card has no room for what they write."""
        try:
            return set(json.loads(read_text(self._device.path(GUARD)) or "{}").get("stopped", {}))
        except (ValueError, AttributeError, TypeError):
            return set()

    def _unread(self, name: str, loaded: Sequence[str]) -> list[str]:
        """Return the drop-ins that systemd will take as soon as anybody has it read all anew."""
        if self._shown.get(name, {}).get("LoadState", "not-found") == "not-found":
            return []
        same = self._unit_folders.same
        return [path for path in self._unit_folders.drop_ins(name) if not any(same(path, each) for each in loaded)]

    def _is_vendors(self, name: str) -> bool:
        """Say whether a package brought a unit, whatever file is in its place; we have instances of our own alone."""
        return any(self._device.path(f"{top}systemd/system/{name}").exists() for top in VENDORS)


def names(field: str) -> str:
    """Return the names of a field of group or gshadow, sorted."""
    return ",".join(sorted(filter(None, field.split(","))))


def module(file: str) -> str:
    """Return the name by which Python imports a file or folder."""
    return file.partition(".")[0]


def enabled(shown: Mapping[str, str]) -> bool:
    """Say whether systemd starts a unit when the device boots."""
    return shown.get("UnitFileState") == "enabled"


def ignored(name: str) -> bool:
    """Say whether a file is one that programs write of themselves."""
    return any(fnmatchcase(name, pattern) for pattern in IGNORED)
