# SPDX-License-Identifier: Apache-2.0
"""Who answers at a device's address: its sshd is asked for its host key, and nobody logs in.

Runs on the control node, with paramiko as a library. A server proves during the key exchange that it has the private
part of the key that it shows, so a key that is ours is proof enough.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.edge.pi_fleet.plugins.module_utils.host_key import HostKey, known_keys, record

# Told in exceptions; without a handler the library would print it.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

KNOWN = "known"
REIMAGED = "reimaged"
BLANK = "blank"
FOREIGN = "foreign"
UNREACHABLE = "unreachable"

TYPES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
"""What a server may be asked for, the one that devices are given first."""

RSA = "ssh-rsa"
"""What a key is called that answers to the last two of them."""


class UnreachableError(Exception):
    """What kept an SSH server from saying its host key, in a few words."""


def ask(address: str, port: int, timeout: float, types: Iterable[str] = ()) -> HostKey:
    """Return the host key that a server shows and proves to have; keys of these types are asked for first."""
    # Devices that converge themselves ask nobody, and do without it.
    import paramiko

    wanted = [name for kind in types for name in (TYPES[-2:] if kind == RSA else (kind,)) if name in TYPES]
    try:
        connection = socket.create_connection((address, port), timeout)
    except OSError as error:
        raise UnreachableError(error.strerror or str(error)) from None
    transport = paramiko.Transport(connection)
    transport.banner_timeout = timeout
    try:
        offered = transport.get_security_options().key_types
        order = dict.fromkeys([*wanted, *TYPES])
        transport.get_security_options().key_types = [name for name in order if name in offered]
        transport.start_client(timeout=timeout)
        key = transport.get_remote_server_key()
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise UnreachableError(str(error) or "no SSH server answers") from None
    finally:
        transport.close()
    return HostKey(key.get_name(), key.get_base64())


@dataclass(frozen=True)
class Wanted:
    """What is known of a device before it is asked."""

    known: Sequence[HostKey] = ()
    """By `known_hosts`: what ssh accepts."""
    seeded: Sequence[HostKey] = ()
    """By the identity store: what the device was, or will be, given."""
    others: Mapping[str, Sequence[HostKey]] = field(default_factory=dict)
    """Those of the inventory's other devices, by their names."""

    @property
    def types(self) -> list[str]:
        """Types to ask for first, so that what answers can be compared."""
        return [key.kind for key in (*self.known, *self.seeded)]

    @property
    def fingerprint(self) -> str:
        """The key that is wanted, as people compare it; empty where none is known."""
        keys = [*self.seeded, *self.known]
        return keys[0].fingerprint if keys else ""

    def owner(self, found: HostKey) -> str:
        """Return the other device that a key belongs to, or ''."""
        return next((name for name, keys in self.others.items() if found in keys), "")

    def state(self, found: HostKey) -> str:
        """Say what a key tells of who answers."""
        if found in self.known:
            return KNOWN
        if found in self.seeded:
            return REIMAGED
        if self.owner(found) or self.known or self.seeded:
            return FOREIGN
        return BLANK


@dataclass(frozen=True)
class Answer:
    """Who answers at the address of `host`."""

    host: str
    address: str
    state: str
    found: HostKey | None = None
    wanted: Wanted = field(default_factory=Wanted)
    reason: str = ""

    @property
    def fingerprint(self) -> str:
        """The key that answers, as people compare it; empty if none does."""
        return self.found.fingerprint if self.found else ""

    @property
    def sentence(self) -> str:
        """What was found and wanted, and how to decide."""
        if self.state == UNREACHABLE:
            return (
                f"{self.host} does not answer at {self.address} ({self.reason}): check its power, network and address,"
                " then run again."
            )
        if self.state in (KNOWN, REIMAGED):
            return (
                f"{self.host} ({self.address}) answers with its own host key {self.fingerprint}: if ssh does not take"
                " it, let ssh read this inventory's known_hosts (ansible_ssh_common_args, as in inventory/example)."
            )
        begin = (
            f"{self.host} ({self.address}) answers with a host key that is not the known one: found is"
            f" {self.fingerprint}, wanted"
        )
        owner = self.found and self.wanted.owner(self.found)
        if owner:
            return (
                f"{begin} is {self.wanted.fingerprint or 'one of its own'}, and {owner} has the one found: correct"
                f" ansible_host of {self.host} or {owner}, or give the card that was copied an identity of its own"
                " with playbooks/card.yml."
            )
        take = (
            f"ansible-playbook playbooks/bootstrap.yml --limit {self.host} -e bootstrap_fingerprint={self.fingerprint}"
        )
        if self.state == BLANK:
            return (
                f"{begin} is one that you confirm: compare it with what 'ssh-keygen -lf"
                f" /etc/ssh/ssh_host_ed25519_key.pub' prints on the device, and if they are equal, run '{take}'."
            )
        return (
            f"{begin} is {self.wanted.fingerprint}: if its card was written anew without playbooks/card.yml, compare"
            " the found one with what 'ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub' prints on the device, and if"
            f" they are equal, run '{take}'; else somebody else answers there, so find out who before anything goes on."
        )


def identify(host: str, address: str, port: int, timeout: float, wanted: Wanted) -> Answer:
    """Ask an address for its host key, and say who answers."""
    shown = f"{address}:{port}"
    try:
        found = ask(address, port, timeout, wanted.types)
    except UnreachableError as error:
        return Answer(host, shown, UNREACHABLE, wanted=wanted, reason=str(error))
    return Answer(host, shown, wanted.state(found), found, wanted)


def accept(answer: Answer, path: Path, fingerprint: str = "", check_mode: bool = False) -> bool:
    """Write a key into `known_hosts` that may be there: our own, or the one that a person has confirmed.

    Return whether the file changes. Another device's key is taken in no case.
    """
    if answer.found is None or answer.wanted.owner(answer.found):
        return False
    if answer.state == KNOWN:
        return False
    if answer.state != REIMAGED and answer.fingerprint != fingerprint:
        return False
    return record(path, answer.host, [answer.found], check_mode)


def knowledge(host: str, path: Path, seeded: Sequence[HostKey]) -> Wanted:
    """Return what is known of a device and of the others: by `known_hosts`, and by its identity."""
    found = known_keys(path)
    return Wanted(found.pop(host, []), seeded, found)
