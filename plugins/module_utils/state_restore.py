# SPDX-License-Identifier: Apache-2.0
"""Put back what roles do not look at: modes, owners, ACLs, links, drop-ins, masks and links of units, groups, flags.

Content is the roles' to put back. What stands where nothing was, or in the place of something else, is set aside, never
deleted: somebody may want it. Nodes of devices hold nothing.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from ansible_collections.edge.pi_fleet.plugins.module_utils.device import (
    Device,
    ids,
    naming_immutable,
    own,
    read_text,
    set_acl,
    switch_link,
    write_text,
)
from ansible_collections.edge.pi_fleet.plugins.module_utils.field_data import FOLDER as FIELD_DATA
from ansible_collections.edge.pi_fleet.plugins.module_utils.kernel_cmdline import locate, split_first
from ansible_collections.edge.pi_fleet.plugins.module_utils.state_observe import (
    ABSENT,
    EXPIRY,
    HALTED,
    Entries,
    Observer,
)
from ansible_collections.edge.pi_fleet.plugins.module_utils.state_record import Role, newer
from ansible_collections.edge.pi_fleet.plugins.module_utils.sysctl import at_boot
from ansible_collections.edge.pi_fleet.plugins.module_utils.unit_folders import NO_LINK, WANTING
from ansible_collections.edge.pi_fleet.plugins.module_utils.units import FOLDER, OWED

# Services of ours that run all the time, and where what they read when they start lies.
OURS = ("localcore.service", "lambda@*", "connector@*")
READ = ("/opt/pi-fleet", "/etc/pi-fleet")
ASIDE = "/var/lib/pi-fleet/set-aside"
# As plugins/action/packages.py has it: settings of the user's own stay as they are, and nobody is there to answer.
APT = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet", "--yes", "-o", "DPkg::Lock::Timeout=300"]
INSTALL = [*APT, "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"]
INSTALL += ["--no-install-recommends", "install"]


class Restorer:
    """Puts entries of a role back, as far as that is not its role's work."""

    def __init__(self, device: Device, dry: bool = False) -> None:
        """Work on this device, or only say what would be done."""
        self._device = device
        self._dry = dry
        self.done: list[str] = []
        """What was done, one sentence each."""
        self.left: list[str] = []
        """What could not be, each with what to do."""
        self._moved: set[Path] = set()
        self._mounts: set[tuple[str, str]] = set()
        self._packages: set[str] = set()
        self._ours: list[str] = []
        self._recorded: Entries = {}

    def restore(
        self, roles: Mapping[str, Role], found: Mapping[str, Entries], differing: Mapping[str, list[str]]
    ) -> None:
        """Put back the entries of each role that differ, and have folders made anew in which content does."""
        recorded = {entry: known for role in roles.values() for entry, known in role.entries.items()}
        self._recorded = recorded
        self._owe(recorded, found, differing)
        steps: list[tuple[str, Callable[[str, Mapping[str, str], Mapping[str, str]], None]]] = [
            # What belongs to somebody is given back by name.
            ("group", self._group),
            ("user", self._user),
            ("group", self._members),
            ("package", self._package),
            ("path", self._path),
            ("unit", self._unit),
            ("kernel", self._flags),
            ("sysctl", self._sysctl),
        ]
        for kind, put_back in steps:
            # What several roles manage is put back once: what was found of it is true no longer then.
            done: set[tuple[str, frozenset[tuple[str, str]]]] = set()
            for role, entries in differing.items():
                for entry in sorted(set(entries)):
                    before, now = roles[role].entries.get(entry, ABSENT), found[role].get(entry, ABSENT)
                    if entry.startswith(f"{kind} ") and (entry, frozenset(before.items())) not in done:
                        done.add((entry, frozenset(before.items())))
                        put_back(entry.partition(" ")[2], before, now)
                    if kind == "path" and is_another(before, now):
                        wholes = roles[role].manages.get("wholes", ())
                        concerned = [whole for whole in wholes if Path(entry[5:]).is_relative_to(whole["path"])]
                        self._make_anew(concerned, found[role])

    def _owe(self, recorded: Entries, found: Mapping[str, Entries], differing: Mapping[str, list[str]]) -> None:
        """Mark the units that may run what differs: whatever is mended beneath a process, it goes on with what it read.

        Before anything is put back, so that who is killed then owes it still.
        """
        units = [entry.removeprefix("unit ") for entry, known in recorded.items() if known.get("loaded") == "loaded"]
        self._ours = sorted(unit for unit in units if any(fnmatchcase(unit, pattern) for pattern in OURS))
        owing = {
            unit
            for name, entries in differing.items()
            for entry in entries
            if not entry.startswith("package ")
            or not is_held_alone(self._device, recorded.get(entry, {}), found[name].get(entry, {}))
            for unit in units
            if runs(unit, entry, recorded.get(entry, {}), found[name].get(entry, {}))
        }
        for unit in () if self._dry else owing:
            write_text(self._device.path(f"{OWED}/{unit}"), "")

    def _do(self, sentence: str, action: Callable[..., object], *arguments: object) -> None:
        if not self._dry:
            with naming_immutable():
                action(*arguments)
        self.done.append(sentence)

    def _make_anew(self, wholes: Iterable[Mapping[str, str]], found: Entries) -> None:
        for whole in wholes:
            mark, entry = self._device.path(whole["mark"]), f"path {whole['mark']}"
            if entry in found and self._is_covered(whole["mark"], ABSENT, found[entry]):
                continue
            # A folder in its place is set aside.
            if mark not in self._moved and os.path.lexists(mark) and not mark.is_dir():
                self._moved.add(mark)
                self._do(f"{whole['path']} is made anew as a whole", mark.unlink)

    def _path(self, name: str, before: Mapping[str, str], now: Mapping[str, str]) -> None:
        path = self._device.path(name)
        if now["type"] == "absent" or self._is_moved(path):
            return
        if self._is_covered(name, before, now):
            return
        if "device" in now["type"] and before.get("number") != now["number"]:
            # It holds nothing; its role makes another one.
            self._moved.add(path)
            self._do(f"{name}, another device than before, was removed", path.unlink)
            return
        if before["type"] != now["type"]:
            # A folder of field data may be moved by nobody.
            if now["type"] != "directory" or not Path(FIELD_DATA).is_relative_to(name):
                self._set_aside(path)
            return
        if before["type"] == "link" and before["target"] != now["target"]:
            self._do(f"{name} leads to {before['target']} again", switch_link, path, before["target"])
        if before.get("acl", now.get("acl")) != now.get("acl"):
            # Before the mode: with an ACL that of the group is the most that anybody named in it may.
            self._do(f"{name} has the ACL that it had", set_acl, path, before["acl"])
        if (before["owner"], before["group"]) != (now["owner"], now["group"]):
            try:
                numbers = ids(before["owner"], before["group"])
            except KeyError:
                # The user is gone; its role makes it first.
                return
            self._do(f"{name} belongs to {before['owner']}:{before['group']} again", own, path, numbers, _mode(before))
        elif before.get("mode") != now.get("mode"):
            self._do(f"{name} has mode {before['mode']} again", own, path, (-1, -1), _mode(before))

    def _is_covered(self, name: str, before: Mapping[str, str], now: Mapping[str, str]) -> bool:
        """Say whether something lies on a mount that came or went, which is not ours to change, nor to take away."""
        lies = now.get("mounted", "")
        # Where nothing was, only what is mounted there itself is another mount.
        lay = before.get("mounted", "" if before["type"] == "absent" and lies.endswith(f" at {name}") else lies)
        if lies != lay and (lies, lay) not in self._mounts:
            self._mounts.add((lies, lay))
            self.left.append(
                f"{name} lies on {lies or 'no mount'}, and lay on {lay or 'no mount'}: undo that on the device and run "
                "again, or accept it by -e full=true."
            )
        return lies != lay or (lies != "" and lies in {each for each, _ in self._mounts})

    def _is_moved(self, path: Path) -> bool:
        """Say whether it is gone meanwhile, alone or with its folder; a dry run only knows that it would be."""
        return not self._moved.isdisjoint((path, *path.parents)) or not os.path.lexists(path)

    def _set_aside(self, path: Path) -> None:
        # A drop-in is a unit's and a file.
        if self._is_moved(path):
            return
        self._moved.add(path)
        name = self._device.name(path)
        aside = f"{ASIDE}/{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}{name}"
        self._do(
            f"{name}, which was not there before, was moved to {aside}", self._move, path, self._device.path(aside)
        )

    def _move(self, path: Path, there: Path) -> None:
        # It may have been nobody else's to read.
        aside = self._device.path(ASIDE)
        aside.mkdir(parents=True, exist_ok=True)
        aside.chmod(0o700)
        there.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.rename(there)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # /run and /dev are in memory. Owners, modes and links go with it.
            self._device.command("mv", "--", str(path), str(there))
        if path.parent.suffix in (".d", *WANTING) and "systemd" in path.parts:
            # Somebody made the folder of a unit's drop-in or link, too.
            with suppress(OSError):
                path.parent.rmdir()

    def _unit(self, name: str, before: Mapping[str, str], now: Mapping[str, str]) -> None:
        there = now.get("loaded", "not-found") not in ("masked", "not-found") or "active" in now
        added = not was_there(before) and there
        if added:
            # Its file is set aside.
            sentence = f"{name}, which was not there before, was stopped"
            self._do(sentence, self._device.run, ["systemctl", "stop", name])
        extra = extra_drop_ins(before, now)
        for drop_in in sorted(extra):
            # One for all units, or of a generator, is not this unit's.
            if Path(drop_in).parent.name == f"{name}.d":
                self._set_aside(self._device.path(drop_in))
        links = extra_links(before, now)
        for link in sorted(links):
            self._set_aside(self._device.path(link))
        masked = now.get("loaded") == "masked"
        if masked and before.get("loaded") != "masked":
            self._do(f"{name} is masked no longer", self._unmask, name)
        if (added or extra or links or masked) and not self._dry:
            self._device.command("systemctl", "daemon-reload")

    def _unmask(self, name: str) -> None:
        link = self._device.path(f"{FOLDER}/{name}")
        if link.is_symlink():
            link.unlink()
        self._device.command("systemctl", "unmask", "--quiet", name)
        self._device.command("systemctl", "unmask", "--runtime", "--quiet", name)

    def _user(self, name: str, before: Mapping[str, str], now: Mapping[str, str]) -> None:
        options = {"group": "--gid", "comment": "--comment", "home": "--home", "shell": "--shell"}
        options |= {"groups": "--groups", "number": "--uid"}
        if "number" not in before:
            return
        holder = self._account("passwd", 2, before["number"]) if before["number"] != now.get("number") else []
        # A dry run makes none.
        has_group = self._dry or bool(self._account("group", 0, before["group"]))
        if "number" not in now:
            if is_renamed(holder, before):
                self._do(f"{holder[0]} is {name} again", self._usermod, "--login", name, holder[0])
                return
            if holder:
                self._leave(f"the user {name}", before["number"], holder[0])
                return
            if not has_group:
                if before["group"] != name:
                    # Both are for its role to make.
                    return
                # With the user a group of the same name is made.
                del options["group"]
            # Its role would give it another number, and its files to nobody.
            options["home"] = "--home-dir"
            given = [f"{option}={before[each]}" for each, option in options.items() if before.get(each)]
            sentence = f"{name} is there again, with the number {before['number']}"
            self._do(sentence, self._device.command, "useradd", "--system", "--no-create-home", *given, name)
            return
        for attribute, option in options.items():
            if attribute not in before or before[attribute] == now[attribute]:
                continue
            if attribute == "number" and holder:
                self._leave(f"the user {name}", before["number"], holder[0])
            elif attribute != "group" or has_group:
                sentence = f"the {attribute} of {name} is {before[attribute] or 'none'} again"
                self._do(sentence, self._usermod, option, before[attribute], name)

        self._login(name, before, now)

    def _login(self, name: str, before: Mapping[str, str], now: Mapping[str, str]) -> None:
        """Have a user be locked, and not expire, as before."""
        if before.get("password") == "locked" != now["password"]:
            # Where no x leads to shadow, usermod sets that in passwd. An x is nobody's password.
            self._do(f"{name} is locked again", self._lock, name)
        if "expiry" in before and before["expiry"] != now["expiry"]:
            wanted, found = (dict(each.split("=") for each in known["expiry"].split()) for known in (before, now))
            differing = [option for option in EXPIRY if wanted.get(option) != found.get(option)]
            options = [f"--{option}={wanted.get(option, '-1')}" for option in differing]
            sentence = f"the expiry of {name} is {before['expiry'] or 'none'} again"
            self._do(sentence, self._device.command, "chage", *options, name)

    def _lock(self, name: str) -> None:
        # Where no x in passwd leads to shadow, usermod changes passwd. As a password, x is nobody's.
        for password in ("x", "*"):
            self._device.command("usermod", "--password", password, name)

    def _usermod(self, option: str, value: str, name: str) -> None:
        if option in ("--home", "--uid", "--login"):
            # Of who runs anything it changes none. All that is stopped owes a restart.
            self._device.run(["systemctl", "stop", *self._ours])
        self._device.command("usermod", option, value, name)

    def _account(self, file: str, index: int, value: str) -> list[str]:
        """Return the fields of a user or group by one of them, as it is now; none if there is none."""
        lines = (read_text(self._device.path(f"/etc/{file}")) or "").splitlines()
        return next((fields for fields in (line.split(":") for line in lines) if fields[index:][:1] == [value]), [])

    def _leave(self, whose: str, number: str, holder: str) -> None:
        sentence = f"{whose} had the number {number}, which is that of {holder} now: give {holder} another one"
        sentence += " on the device, and run again."
        if sentence not in self.left:
            self.left.append(sentence)

    def _group(self, name: str, before: Mapping[str, str], now: Mapping[str, str]) -> None:
        if "number" not in before or before["number"] == now.get("number"):
            return
        number, holder = before["number"], self._account("group", 2, before["number"])
        if holder and "number" not in now and self._is_group_of(name, number):
            self._do(f"the group {holder[0]} is {name} again", self._device.command, "groupmod", "-n", name, holder[0])
        elif holder:
            self._leave(f"the group {name}", number, holder[0])
        else:
            self._do(f"the number of {name} is {number} again", self._number, name, number, now.get("number", ""))

    def _is_group_of(self, name: str, number: str) -> bool:
        """Say whether a number is still the group of a user whose group was called so: it has another name alone."""
        if self._account("passwd", 0, name)[3:4] == [number]:
            # A package's user and its group.
            return True
        for entry, known in self._recorded.items():
            if entry.startswith("user ") and known.get("group") == name:
                holder = self._account("passwd", 2, known["number"])
                if holder[3:4] == [number] and (entry == f"user {holder[0]}" or is_renamed(holder, known)):
                    return True
        return False

    def _number(self, name: str, number: str, former: str) -> None:
        if not former:
            self._device.command("groupadd", "--system", "--gid", number, name)
            return
        self._device.command("groupmod", "--gid", number, name)
        folder = self._device.path(FIELD_DATA)
        if folder.is_dir():
            # Nothing of what is in it is recorded; of a user's number usermod does as much.
            give = ["-execdir", "chgrp", "--no-dereference", name, "{}", "+"]
            self._device.command("find", str(folder), "-xdev", "-group", former, *give)

    def _members(self, name: str, before: Mapping[str, str], now: Mapping[str, str]) -> None:
        if not (self._dry or self._account("group", 0, name)):
            # Somebody has its number, and its role makes it.
            return
        # One that was removed since can be no member; whose user a role manages is there again.
        users = {line.partition(":")[0] for line in (read_text(self._device.path("/etc/passwd")) or "").splitlines()}
        for attribute in ("members", "administrators"):
            if before.get(attribute, now.get(attribute)) == now.get(attribute):
                continue
            wanted = ",".join(each for each in before[attribute].split(",") if each in users)
            if wanted != now.get(attribute, ""):
                sentence = f"the {attribute} of {name} are {wanted or 'none'} again"
                self._do(sentence, self._device.command, "gpasswd", f"--{attribute}", wanted, name)
        if before.get("password") == "none" and now.get("password") == "set":
            self._do(f"the group {name} has no password again", self._device.command, "gpasswd", "-r", name)

    def _package(self, name: str, before: Mapping[str, str], now: Mapping[str, str]) -> None:
        if before.get("state") != "installed" or now.get("state") != "installed":
            return
        if name in self._packages:
            return
        self._packages.add(name)
        for path in sorted(shadows(before, now)):
            self._set_aside(self._device.path(path))
        now = {**now, "shadowed by": before.get("shadowed by", "")}
        if is_held_alone(self._device, before, now):
            if now.get("held") == "yes" != before.get("held", "yes"):
                self.left.append(
                    f"{name} is held, and was not: run 'sudo apt-mark unhold {name}' on the device, or site.yml with"
                    " -e full=true, which accepts it."
                )
            return
        if before["version"] != now["version"]:
            options, sentence = [], f"{name}, older than it was, was installed anew"
            differs, none = f"{name} is {now['version']} and was {before['version']}", "has none that is newer"
        else:
            options, sentence = ["--reinstall"], f"{name}, whose files were other ones, was installed anew"
            differs, none = f"{name} has other files than it had", "does not bring them back"
        if name in self._device.command("apt-mark", "showhold").split():
            self.left.append(f"{differs}, and is held: run 'sudo apt-mark unhold {name}' on the device, and run again.")
        elif self._dry:
            self.done.append(sentence)
        else:
            # Lists of another day may lead to nothing, and to do with them is better than nothing.
            self._device.run([*APT, "update"])
            _, output, errors = self._device.run([*INSTALL, *options, name])
            found = Observer(self._device).observe({"": {"packages": [name]}})[""][f"package {name}"]
            if found == {**found, **before} or newer(self._device, before, found):
                self.done.append(sentence)
            else:
                said = (errors.strip() or output.strip() or "it said nothing").splitlines()[-1]
                self.left.append(f"{differs}, and apt {none} ({said}): mend that, and run again.")

    def _flags(self, _: str, before: Mapping[str, str], now: Mapping[str, str]) -> None:
        path = locate(self._device)
        if path is None:
            return
        line, rest = split_first(read_text(path) or "")
        kept = [word for word in line.split() if word not in now["flags"].split()]
        text = " ".join([*kept, *before["flags"].split()]) + rest
        self._do(
            f"{self._device.name(path)} has {before['flags'] or 'none of the flags'} again", write_text, path, text
        )

    def _sysctl(self, name: str, before: Mapping[str, str], now: Mapping[str, str]) -> None:
        value, file = at_boot(self._device).get(name, ("", ""))
        # In a role's own file it is the role's to mend.
        if file and value != before.get("at boot", value) and f"path {file}" not in self._recorded:
            said = (
                f"{file} has {name} be {value or 'unset'} at the next boot, and it was {before['at boot'] or 'unset'}"
            )
            self.left.append(f"{said}: remove that line, and run again.")


def is_renamed(holder: list[str], before: Mapping[str, str]) -> bool:
    """Say whether a line of passwd, which has a user's number, is that user whatever its name is.

    Who was made since may have the number too, even the home and shell of all services.
    """
    known = [before.get(each) for each in ("comment", "home", "shell")]
    return bool(before.get("comment")) and holder[4:] == known


def is_held_alone(device: Device, before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Say whether nothing else differs of a package than that somebody holds it: it is as it was, or newer."""
    if shadows(before, now):
        return False
    if before.get("state") != now.get("state") or before.get("version") == now.get("version"):
        return all(before.get(each, now.get(each)) == now.get(each) for each in ("state", "version", "files"))
    return newer(device, before, now)


def shadows(before: Mapping[str, str], now: Mapping[str, str]) -> set[str]:
    """Return what Python imports instead of a package's modules, and did not."""
    known = before.get("shadowed by", now.get("shadowed by", ""))
    return set(now.get("shadowed by", "").split()) - set(known.split())


def is_another(before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Say whether a file, folder or link that was there is gone, something else, or has other content."""
    return before != ABSENT and any(before.get(each) != now.get(each) for each in ("type", "sha256"))


def runs(unit: str, entry: str, before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Say whether a unit that was started meanwhile runs otherwise for what differs of an entry."""
    kind, _, name = entry.partition(" ")
    if kind == "unit":
        return name == unit and (bool(extra_drop_ins(before, now)) or now.get("active") == HALTED)
    if kind == "path" and not before and Path(name).name == unit:
        # In the place of the unit's own file.
        return True
    if kind == "path" and not any(Path(name).is_relative_to(folder) for folder in READ):
        return False
    ours = unit.endswith(".service") and any(fnmatchcase(unit, pattern) for pattern in OURS)
    return ours and kind in ("path", "package", "user", "group")


def was_there(unit: Mapping[str, str]) -> bool:
    """Say whether a unit was recorded as more than a name that a role looks for."""
    return unit.get("loaded", "not-found") != "not-found"


def extra_drop_ins(before: Mapping[str, str], now: Mapping[str, str]) -> set[str]:
    """Return a unit's drop-ins that it had not."""
    return set(now.get("drop-ins", "").split()) - set(before.get("drop-ins", "").split())


def extra_links(before: Mapping[str, str], now: Mapping[str, str]) -> set[str]:
    """Return where a unit has links that it had not; nothing where it is not known which it had."""
    known = before.get("links", now.get("links", "") if was_there(before) else "")
    return {link.removeprefix(NO_LINK) for link in set(now.get("links", "").split()) - set(known.split())}


def _mode(entry: Mapping[str, str]) -> int | None:
    return int(entry["mode"], 8) if "mode" in entry else None
