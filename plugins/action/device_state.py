# SPDX-License-Identifier: Apache-2.0
"""The control node's half of module device_state: what roles are given, and what they declare that they manage."""

from __future__ import annotations

import getpass
import multiprocessing
import os
import platform
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.edge.pi_fleet.plugins.module_utils import run_lock
from ansible_collections.edge.pi_fleet.plugins.plugin_utils.fingerprint import Roles, plugins

# Ansible loads this before it makes a worker for each device: none of them has to hash it again.
plugins()


class ActionModule(ActionBase):
    """See module device_state."""

    _VALID_ARGS = frozenset(("state", "roles", "everything", "about", "thumbnail"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask the device; one that cannot be asked is for role preflight to explain, and runs everything."""
        super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "state": {
                    "type": "str",
                    "choices": ["probed", "begun", "recorded", "taken", "kept", "released"],
                    "required": True,
                },
                "roles": {"type": "list", "elements": "str", "default": []},
                "everything": {"type": "bool", "default": False},
                "about": {"type": "bool", "default": False},
                "thumbnail": {"type": "bool", "default": False},
            }
        )
        state, names = arguments["state"], arguments["roles"]
        try:
            result = self._ask(arguments, task_vars or {})
        except AnsibleError as error:
            if state != "probed":
                raise
            result = {"failed": True, "msg": str(error)}
        if state == "probed":
            if result.get("failed"):
                result = {"run": dict.fromkeys(names, f"it could not be asked: {result['msg']}")}
            result["ansible_facts"] = {"pi_fleet_run": list(result["run"])}
        if result.get("held"):
            result["held"] = run_lock.sentence(result["held"])
        elif state == "probed":
            result["held"] = ""
        if state == "begun" and not result.get("failed"):
            asked = (task_vars or {}).get("ansible_facts", {}).get("pi_fleet_run", [])
            result["ansible_facts"] = {"pi_fleet_run": list(dict.fromkeys([*asked, *result["run"]]))}
        return result

    def _ask(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        roles, names = Roles(task_vars, self._templar, self._loader), arguments["roles"]
        recorded = arguments["state"] == "recorded"
        module_args = {
            **{name: value for name, value in arguments.items() if name != "roles"},
            "fingerprints": {name: roles.fingerprint(name, done=recorded) for name in names},
            "declared": {name: roles.manages(name) for name in names} if recorded else {},
        }
        module_args["run"] = this_run()
        result = self._execute(module_args, task_vars)
        if result.get("held") and run_lock.has_ended(result["held"]):
            result = self._execute({**module_args, "ended": result["held"]}, task_vars)
        # There are fingerprints in it.
        result.pop("invocation", None)
        return result

    def _execute(self, module_args: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            module_name="edge.pi_fleet.device_state", module_args=module_args, task_vars=task_vars
        )
        return result


def this_run() -> dict[str, Any]:
    """Return what tells this run from all others, and whose it is; its process is the one that made this worker."""
    made_by = multiprocessing.parent_process()
    pid = made_by.pid if made_by and made_by.pid else os.getppid()
    if pid != os.getppid():
        raise AnsibleError("ansible-playbook has ended: nothing is begun any more.")
    found = run_lock.process(pid)
    return {
        **run_lock.this_node(),
        "pid": pid,
        "started": found.started if found else "",
        "who": f"{getpass.getuser()}@{platform.node()}",
    }
