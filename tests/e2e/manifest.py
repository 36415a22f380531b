"""Describe all that stands on this machine's disk, as JSON: path to type, mode, owner, and content.

Runs on a device, with the standard library alone. What programs write of themselves (logs, caches, lists of packages
on offer, times, this machine's own keys) is left out: it differs between two machines that were made alike.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import subprocess
from pathlib import Path

SKIPPED = {
    "/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/var/log", "/var/cache", "/var/lib/apt/lists",
    "/var/lib/apt/periodic", "/var/lib/systemd", "/var/lib/dpkg/updates", "/root/.ansible", "/home/pi",
    "/etc/machine-id", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/etc/.pwd.lock", "/etc/mtab",
    "/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_ed25519_key.pub", "/etc/ld.so.cache",
    "/var/lib/dbus", "/var/lib/sudo", "/var/lib/dpkg/lock", "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/triggers/Lock", "/var/lib/mosquitto", "/var/lib/pi-fleet/state.json",
}  # fmt: skip
# Written anew in an order of their own by each installation; the packages themselves are compared by dpkg's word.
UNORDERED = {
    "/var/lib/dpkg/status", "/var/lib/dpkg/available", "/var/lib/apt/extended_states", "/var/lib/dpkg/diversions",
    "/var/lib/dpkg/statoverride", "/var/lib/dpkg/triggers/File", "/var/lib/dpkg/triggers/Unincorp",
}  # fmt: skip
BACKUPS = ("-old", "-")


def describe(path: Path) -> str:
    status = path.lstat()
    kind = stat.S_IFMT(status.st_mode)
    text = f"{kind:o} {stat.S_IMODE(status.st_mode):04o} {status.st_uid}:{status.st_gid}"
    if stat.S_ISLNK(status.st_mode):
        return f"{text} -> {path.readlink()}"
    if stat.S_ISREG(status.st_mode):
        content = path.read_bytes()
        if path == Path("/etc/shadow"):
            # A password is each machine's own; that there is one is not.
            content = re.sub(rb"\$[^:]+", b"set", content)
        if path.parent == Path("/etc/pi-fleet/private"):
            # So are a token and the core's name at the broker.
            content = re.sub(rb"[0-9a-f]{64}|localcore-[0-9a-f]{16}", b"token", content)
        return f"{text} {hashlib.sha256(content).hexdigest()}"
    return text


def main() -> None:
    found = {}
    for folder, folders, files in os.walk("/"):
        here = Path(folder)
        folders[:] = [name for name in folders if str(here / name) not in SKIPPED and name != "__pycache__"]
        for name in folders + files:
            path = str(here / name)
            if path in SKIPPED or path in UNORDERED or (name.endswith(BACKUPS) and folder.startswith(("/etc", "/var"))):
                continue
            found[path] = describe(here / name)
    query = ["dpkg-query", "--show", "--showformat", "${Package}:${Architecture} ${Version} ${db:Status-Abbrev}\n"]
    for line in subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines():
        name, _, state = line.partition(" ")
        found[f"package {name}"] = state.strip()
    print(json.dumps(found))


main()
