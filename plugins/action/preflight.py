# SPDX-License-Identifier: Apache-2.0
"""The control node's half of module preflight: first contact, in words that name the next step."""

from __future__ import annotations

import time
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.edge.pi_fleet.plugins.module_utils.preflight import QUESTION, Answer, refusals


class ActionModule(ActionBase):
    """See module preflight."""

    _VALID_ARGS = frozenset(("apt_timeout", "disk_free", "install_free", "install_packages"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask with a shell; only a device that can run modules runs one."""
        super().run(tmp, task_vars)
        host = (task_vars or {}).get("inventory_hostname", "The device")
        asked = time.time()
        try:
            reply = self._low_level_execute_command(QUESTION)
        except AnsibleConnectionFailure as error:
            return {"unreachable": True, "msg": self._unreachable(host, str(error))}
        except AnsibleError as error:
            # How the ssh connection says that sudo's password is wrong or missing.
            return {"failed": True, "msg": self._refused(host, str(error))}
        if reply["rc"] != 0 and "clock=" not in reply["stdout"]:
            said = (reply.get("msg") or reply["stderr"] or reply["stdout"]).strip()
            return {"failed": True, "msg": self._refused(host, said)}
        answer = Answer.parse(reply["stdout"])
        sentences = refusals(answer, asked, time.time())
        if sentences:
            return {"failed": True, "msg": f"{host}: {' '.join(sentences)}"}
        result: dict[str, Any] = self._execute_module(
            module_name="edge.pi_fleet.preflight", module_args=self._task.args, task_vars=task_vars
        )
        if result.get("failed"):
            result["msg"] = f"{host}: {result['msg']}"
        return {**result, "release": answer.release, "architecture": answer.architecture}

    def _unreachable(self, host: str, said: str) -> str:
        reason = said.strip().splitlines()[-1] if said.strip() else "no answer"
        address = f"{self._play_context.remote_addr}:{self._play_context.port or 22}"
        if "Host key verification failed" in said or "REMOTE HOST IDENTIFICATION" in said:
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
