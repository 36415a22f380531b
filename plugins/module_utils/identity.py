# SPDX-License-Identifier: Apache-2.0
"""A device's identity on the device: its SSH host keys, its host name, and whether sshd takes passwords.

sshd goes on running whatever happens: what is written is tested before sshd reads it, and put back if the test fails. A
mark in /run says that sshd has yet to read what was written, so a run killed in between is healed by the next one.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.edge.pi_fleet.plugins.module_utils.device import (
    MANAGED,
    Device,
    DeviceError,
    read_text,
    remove,
    write_text,
)
from ansible_collections.edge.pi_fleet.plugins.module_utils.host_key import HostKey

FOLDER = "/etc/ssh"
# sshd takes the first value that it reads, and cloud-init writes one into 50-cloud-init.conf.
PASSWORDS = "/etc/ssh/sshd_config.d/10-pi-fleet.conf"
CLOSED = f"{MANAGED}PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
OWED = "/run/pi-fleet/reload-owed/ssh.service"


@dataclass(frozen=True)
class HostKeyFile:
    """A host key as sshd reads it: the text of its private and of its public file."""

    private: str
    public: str


@dataclass(frozen=True)
class SshServer:
    """The files that sshd reads, and what they shall hold."""

    device: Device
    host_keys: Mapping[str, HostKeyFile]
    """By the name in their files' names: `ed25519`."""
    passwords: bool = True
    """False closes login by password; True leaves it as it is, closed where it was."""

    def wanted(self) -> dict[str, tuple[str, int]]:
        """Return text and mode of each file."""
        files = {}
        for name, key in self.host_keys.items():
            files[f"{FOLDER}/ssh_host_{name}_key.pub"] = (key.public, 0o644)
            files[f"{FOLDER}/ssh_host_{name}_key"] = (key.private, 0o600)
        if not self.passwords:
            files[PASSWORDS] = (CLOSED, 0o644)
        return files

    def differing(self) -> list[str]:
        """Return the files that are not as they should be."""
        return [name for name, (text, mode) in self.wanted().items() if not self._stands(name, text, mode)]

    def owed(self) -> bool:
        """Say whether sshd has yet to read what a killed run wrote."""
        return self.device.path(OWED).exists()

    def apply(self) -> None:
        """Write what differs, test it, and have sshd read it."""
        names = self.differing()
        before: dict[str, str | None] = {name: read_text(self.device.path(name)) for name in names}
        write_text(self.device.path(OWED), "")
        for name in names:
            write_text(self.device.path(name), *self.wanted()[name])
        try:
            self.device.command("/usr/sbin/sshd", "-t")
        except DeviceError as error:
            for name, text in before.items():
                if text is None:
                    remove(self.device.path(name))
                else:
                    write_text(self.device.path(name), text)
            raise DeviceError(
                f"sshd would not start with the device's identity, so all is as before: {error}"
            ) from None
        # Connections that stand are not touched. Where sshd is started by a socket there is nothing to reload.
        self.device.command("systemctl", "try-reload-or-restart", "ssh.service")
        remove(self.device.path(OWED))

    def _stands(self, name: str, text: str, mode: int) -> bool:
        path = self.device.path(name)
        return read_text(path) == text and path.stat().st_mode & 0o7777 == mode


@dataclass(frozen=True)
class Hostname:
    """The host name that a device shall have, in the files that a boot reads and in the kernel."""

    device: Device
    name: str

    def differs(self) -> bool:
        """Say whether a file or the kernel has another one."""
        return (
            (read_text(self.device.path("/etc/hostname")) or "").strip() != self.name
            or (read_text(self.device.path("/proc/sys/kernel/hostname")) or "").strip() != self.name
            or not self.in_hosts()
        )

    def in_hosts(self) -> bool:
        """Say whether /etc/hosts has the name."""
        return self._hosts() == read_text(self.device.path("/etc/hosts"))

    def apply(self) -> None:
        """Write the files, and tell the kernel."""
        _write(self.device.path("/etc/hostname"), f"{self.name}\n")
        _write(self.device.path("/etc/hosts"), self._hosts())
        self.device.command("hostname", self.name)

    def _hosts(self) -> str:
        """Return /etc/hosts with the name at Debian's address for it, 127.0.1.1; every other line as it is.

        A name that stands at another address already needs no line of its own.
        """
        text = read_text(self.device.path("/etc/hosts")) or ""
        if re.search(rf"^127\.0\.1\.1\s.*\b{re.escape(self.name)}(\s|$)", text, re.MULTILINE):
            return text
        line = f"127.0.1.1\t{self.name}"
        if re.search(r"^127\.0\.1\.1\s", text, re.MULTILINE):
            return re.sub(r"^127\.0\.1\.1\s.*$", line, text, count=1, flags=re.MULTILINE)
        if re.search(rf"^[^#\n]*\s{re.escape(self.name)}(\s|$)", text, re.MULTILINE):
            return text
        return f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{line}\n"


def _write(path: Path, text: str) -> None:
    """Write a file; one that is a mount of its own, as in containers, cannot be replaced and is written in place."""
    if read_text(path) == text:
        return
    try:
        write_text(path, text, mode=0o644)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        path.write_text(text)


def check_host_key(device: Device, key: str) -> tuple[bool, str, str]:
    """Check that sshd answers with a key, given as type and base64: what its files hold is not what it has read."""
    wanted = HostKey.parse(key)
    port = re.search(r"^port (\d+)$", device.run(["/usr/sbin/sshd", "-T"])[1], re.MULTILINE)
    scan = ["ssh-keyscan", "-p", port[1] if port else "22", "-t", wanted.kind.removeprefix("ssh-"), "127.0.0.1"]
    answers = [line.split(" ", 1)[1] for line in device.run(scan)[1].splitlines() if " " in line and line[0] != "#"]
    found = HostKey.parse(answers[0]).fingerprint if answers else "none"
    return found == wanted.fingerprint, found, wanted.fingerprint


def check_hostname(device: Device, name: str) -> tuple[bool, str, str]:
    """Check a device's host name, in the kernel and in what a boot reads."""
    kernel = (read_text(device.path("/proc/sys/kernel/hostname")) or "").strip()
    file = (read_text(device.path("/etc/hostname")) or "").strip()
    return kernel == file == name, kernel if kernel == file else f"{kernel} until the next boot, then {file}", name
