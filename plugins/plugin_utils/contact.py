# SPDX-License-Identifier: Apache-2.0
"""First contact with a device, in words that name the next step."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.edge.pi_fleet.plugins.module_utils.host_identity import (
    REIMAGED,
    UNREACHABLE,
    Answer,
    accept,
    identify,
)
from ansible_collections.edge.pi_fleet.plugins.module_utils.identity_store import IdentityError
from ansible_collections.edge.pi_fleet.plugins.plugin_utils.identity_store import IdentityStore

REFUSED_KEY = ("Host key verification failed", "REMOTE HOST IDENTIFICATION")
TIMEOUT = 10


class Contact(ActionBase):
    """What action plugins inherit that are the first to speak to a device."""

    def ask(self, question: str, expected: str, variables: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Run a shell command on the device; return what it prints, or '' and the result that says why it did not run.

        What it prints has the expected words in it.

        A host key that ssh does not know and that is the device's own by the identity store is written into the
        inventory's known_hosts, and the device asked once more.
        """
        host = variables.get("inventory_hostname", "The device")
        try:
            try:
                reply = self._low_level_execute_command(question)
            except AnsibleConnectionFailure as error:
                if not any(words in str(error) for words in REFUSED_KEY) or not self._recognised(host, variables):
                    raise
                reply = self._low_level_execute_command(question)
        except AnsibleConnectionFailure as error:
            return "", {"unreachable": True, "msg": self._unreachable(host, str(error), variables)}
        except AnsibleError as error:
            # How the ssh connection says that sudo's password is wrong or missing.
            return "", {"failed": True, "msg": self._refused(host, str(error))}
        if reply["rc"] != 0 and expected not in reply["stdout"]:
            said = (reply.get("msg") or reply["stderr"] or reply["stdout"]).strip()
            return "", {"failed": True, "msg": self._refused(host, said)}
        return reply["stdout"], {}

    def _identify(self, host: str, variables: dict[str, Any]) -> tuple[IdentityStore, Answer]:
        store = IdentityStore.of({}, variables, self._templar, self._loader)
        address, port = self._play_context.remote_addr, self._play_context.port or 22
        return store, identify(host, address, port, TIMEOUT, store.wanted(host))

    def _recognised(self, host: str, variables: dict[str, Any]) -> bool:
        try:
            store, answer = self._identify(host, variables)
        except IdentityError:
            return False
        return answer.state == REIMAGED and accept(answer, store.known_hosts)

    def _unreachable(self, host: str, said: str, variables: dict[str, Any]) -> str:
        reason = said.strip().splitlines()[-1] if said.strip() else "no answer"
        address = f"{self._play_context.remote_addr}:{self._play_context.port or 22}"
        if any(words in said for words in REFUSED_KEY):
            with suppress(IdentityError):
                _, answer = self._identify(host, variables)
                if answer.state != UNREACHABLE:
                    return answer.sentence
            # Without a store to compare with, or behind a jump host.
            return (
                f"{host} ({address}) answers with a host key that is not the known one: if it was reimaged, remove the"
                " old key from known_hosts after checking the new one on the device, else somebody else answers."
            )
        if "Permission denied" in said:
            return (
                f"{host} ({address}) refuses the login of {self._play_context.remote_user or 'this user'}: check"
                " ansible_user and ansible_ssh_private_key_file in the inventory."
            )
        return f"{host} does not answer at {address} ({reason}): check its power, network and address, then run again."

    def _refused(self, host: str, said: str) -> str:
        reason = said.splitlines()[-1] if said else "it did not say why"
        lowered = said.lower()
        if "missing sudo password" in lowered or "a password is required" in lowered:
            return (
                f"{host}'s sudo asks for a password and none was given: put ansible_become_password into a vaulted file"
                " of the inventory, or run with --ask-become-pass."
            )
        if "incorrect sudo password" in lowered or "sorry, try again" in lowered or "incorrect password" in lowered:
            return (
                f"{host}'s sudo refuses the password that was given: correct ansible_become_password in the inventory,"
                " or run with --ask-become-pass."
            )
        if "not in the sudoers" in lowered or "may not run sudo" in lowered:
            return f"{host}'s user may not use sudo: add it to the group sudo on the device."
        return f"{host} did not answer the first question ({reason}): log in by hand, mend what it says, and run again."
