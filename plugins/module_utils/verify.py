# SPDX-License-Identifier: Apache-2.0
"""What verify looks at: each kind of check is one function of what is wanted, and reads the device alone.

A check function returns whether all is as it should be, what was found, and what was wanted.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.edge.pi_fleet.plugins.module_utils.camera_probe import check_camera
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, DeviceError, read_text
from ansible_collections.edge.pi_fleet.plugins.module_utils.first_boot import check_first_boot
from ansible_collections.edge.pi_fleet.plugins.module_utils.identity import check_host_key, check_hostname
from ansible_collections.edge.pi_fleet.plugins.module_utils.kernel_cmdline import check_cmdline, check_memory_controller
from ansible_collections.edge.pi_fleet.plugins.module_utils.listening import check_listening, check_loopback
from ansible_collections.edge.pi_fleet.plugins.module_utils.pull import check_pull
from ansible_collections.edge.pi_fleet.plugins.module_utils.question import check_answer
from ansible_collections.edge.pi_fleet.plugins.module_utils.raw1394 import check_raw1394
from ansible_collections.edge.pi_fleet.plugins.module_utils.release import check_release
from ansible_collections.edge.pi_fleet.plugins.module_utils.swap import check_swap
from ansible_collections.edge.pi_fleet.plugins.module_utils.units import check_units
from ansible_collections.edge.pi_fleet.plugins.module_utils.venv import check_distribution, last_line

Found = tuple[bool, str, str]

TYPES = {
    "file": stat.S_ISREG,
    "directory": stat.S_ISDIR,
    "link": stat.S_ISLNK,
    "char": stat.S_ISCHR,
}


def check_path(device: Device, wanted: Mapping[str, Any]) -> Found:
    """Check what is at a path: type, owner, group, mode, target, device number, lines that it holds or has alone."""
    path = device.path(wanted["path"])
    try:
        status = path.lstat()
    except OSError:
        return wanted["state"] == "absent", "absent", wanted["state"]
    kind = next((name for name, test in TYPES.items() if test(status.st_mode)), "something else")
    found = {"state": kind, "mode": f"{stat.S_IMODE(status.st_mode):04o}"}
    if "owner" in wanted:
        found["owner"] = _user_name(status.st_uid)
    if "group" in wanted:
        found["group"] = _group_name(status.st_gid)
    if kind == "link":
        found["target"] = str(path.readlink())
    if kind == "char":
        found["device"] = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    if wanted.get("contains"):
        lines = (read_text(path) or "").splitlines() if kind == "file" else []
        found["contains"] = ", ".join(line for line in wanted["contains"] if line in lines) or "none of the lines"
    if "lines" in wanted:
        # Whoever added one is to be seen.
        found["lines"] = _text((read_text(path) or "").splitlines() if kind == "file" else []) or "no lines"
    asked = {key: _text(wanted[key]) for key in ("state", *found) if key in wanted}
    differing = {key: value for key, value in asked.items() if found.get(key) != value}
    if not differing:
        # Lines that are all there need no room in the table.
        text = " ".join(value for key, value in asked.items() if key not in ("contains", "lines"))
        return True, text, text
    return False, _pairs({key: found.get(key, "none") for key in differing}), _pairs(differing)


def check_user(device: Device, wanted: Mapping[str, Any]) -> Found:
    """Check a user's group, home and further groups."""
    groups = wanted.get("groups", [])
    asked = {key: wanted[key] for key in ("group", "home", "shell") if key in wanted}
    text = " ".join([*(f"{key} {value}" for key, value in asked.items()), *(f"in {group}" for group in groups)])
    try:
        user = pwd.getpwnam(wanted["name"])
    except KeyError:
        return False, "no such user", text or "a user"
    found = {"group": _group_name(user.pw_gid), "home": user.pw_dir, "shell": user.pw_shell}
    member = {_group_name(gid) for gid in os.getgrouplist(user.pw_name, user.pw_gid)}
    wrong = [f"{key} {found[key]}" for key, value in asked.items() if found[key] != value]
    wrong += [f"not in {group}" for group in groups if group not in member]
    return not wrong, ", ".join(wrong) or text or "there", text or "a user"


def check_group(device: Device, wanted: Mapping[str, Any]) -> Found:
    """Check that a group is there."""
    try:
        grp.getgrnam(wanted["name"])
    except KeyError:
        return False, "no such group", "a group"
    return True, "there", "a group"


def check_sysctl(device: Device, wanted: Mapping[str, Any]) -> Found:
    """Check what the kernel says of a setting; a container's kernel is not the device's to set."""
    found = (read_text(device.path(f"/proc/sys/{wanted['name'].replace('.', '/')}")) or "not known").strip()
    if found != wanted["value"] and device.is_container():
        return True, f"{found}, activation waits: container", wanted["value"]
    return found == wanted["value"], found, wanted["value"]


def check_package(device: Device, wanted: Mapping[str, Any]) -> Found:
    """Check that Debian packages are installed and configured."""
    names = wanted["name"] if isinstance(wanted["name"], list) else [wanted["name"]]
    _, output, _ = device.run(["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *names])
    states = dict(line.rsplit(" ", 1) for line in output.splitlines() if " " in line)
    wrong = [f"{name} {states.get(name, 'not-installed')}" for name in names if states.get(name) != "installed"]
    return not wrong, ", ".join(wrong) or "installed", "installed"


def check_unit(device: Device, wanted: Mapping[str, Any]) -> Found:
    """Check whether a unit is enabled and active."""
    asked = {"enabled": wanted.get("enabled"), "active": wanted.get("active")}
    found = {"enabled": "is-enabled", "active": "is-active"}
    states = {key: device.run(["systemctl", verb, wanted["name"]])[1].strip() for key, verb in found.items()}
    right = all(flag is None or (states[key] == key) is flag for key, flag in asked.items())
    text = ", ".join(key if flag else f"not {key}" for key, flag in asked.items() if flag is not None)
    return right, ", ".join(state or "unknown" for state in states.values()), text


def check_import(device: Device, wanted: Mapping[str, Any]) -> Found:
    """Check that a user can import Python modules: what pip and apt say proves nothing."""
    statement = f"import {', '.join(wanted['modules'])}"
    paths = wanted.get("path", [])
    setup = f"import sys; sys.path[:0] = {paths!r}; " if paths else ""
    before = f"{wanted['before']}; " if "before" in wanted else ""
    # Without -P a numpy.py where the run happens to stand would be found first.
    argv = ["runuser", "-u", wanted["user"], "--", wanted["python"], "-P", "-c", setup + before + statement]
    code, _, errors = device.run(argv)
    text = f"{', '.join(wanted['modules'])} by {wanted['user']}"
    return code == 0, text if code == 0 else last_line(errors), text


CHECKS: dict[str, Callable[[Device, Mapping[str, Any]], Found]] = {
    "path": check_path,
    "user": check_user,
    "group": check_group,
    "sysctl": check_sysctl,
    "package": check_package,
    "unit": check_unit,
    "import": check_import,
    "raw1394": lambda device, wanted: check_raw1394(device),
    "release": lambda device, wanted: check_release(wanted["path"]),
    "distribution": lambda device, wanted: check_distribution(wanted["venv"], wanted["name"], wanted["version"]),
    "swap": lambda device, wanted: check_swap(device, wanted["size"], wanted["restore_after_install"]),
    "kernel_cmdline": lambda device, wanted: check_cmdline(device, wanted["flags"]),
    "memory_controller": lambda device, wanted: check_memory_controller(device),
    "units": lambda device, wanted: check_units(device, wanted["files"], wanted["enable"]),
    "camera": lambda device, wanted: check_camera(wanted["user"]),
    "listening": lambda device, wanted: check_listening(device, wanted["port"], wanted["addresses"]),
    "loopback": lambda device, wanted: check_loopback(device, wanted["port"]),
    "host_key": lambda device, wanted: check_host_key(device, wanted["key"]),
    "hostname": lambda device, wanted: check_hostname(device, wanted["name"]),
    "first_boot": lambda device, wanted: check_first_boot(device),
    "pull": lambda device, wanted: check_pull(device, wanted["path"], int(wanted["max_age"])),
    "answer": lambda device, wanted: check_answer(wanted),
}


def verify(device: Device, checks: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Carry out all checks; each gives a row with role, check, found, wanted and ok.

    What keeps a check from being made is what is found.
    """
    rows = []
    for wanted in checks:
        try:
            ok, found, asked = CHECKS[wanted["kind"]](device, wanted)
        except (DeviceError, OSError) as error:
            ok, found, asked = False, str(error), "to be looked at"
        rows.append({"role": wanted["role"], "check": wanted["check"], "found": found, "wanted": asked, "ok": ok})
    return rows


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Lay rows out as lines of text, one a check, what is wrong marked."""
    if not rows:
        return []
    width = max(len(row["check"]) for row in rows)
    lines = []
    for row in rows:
        wrong = "" if row["ok"] else f"   wanted: {row['wanted']}"
        lines.append(f"{'ok   ' if row['ok'] else 'WRONG'} {row['check']:<{width}}  {row['found']}{wrong}")
    return lines


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def _pairs(values: Mapping[str, str]) -> str:
    return " ".join(value if key == "state" else f"{key} {value}" for key, value in values.items())


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
