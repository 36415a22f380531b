# SPDX-License-Identifier: Apache-2.0
"""The control node's half of module preflight: first contact, in words that name the next step."""

from __future__ import annotations

import time
from typing import Any

from ansible_collections.edge.pi_fleet.plugins.module_utils.preflight import QUESTION, Answer, refusals
from ansible_collections.edge.pi_fleet.plugins.plugin_utils.contact import Contact
from ansible_collections.edge.pi_fleet.plugins.plugin_utils.fingerprint import Roles


class ActionModule(Contact):
    """See module preflight."""

    _VALID_ARGS = frozenset(("apt_timeout", "disk_free", "field_data_min_free", "install_free", "install_packages"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask with a shell; only a device that can run modules runs one."""
        super().run(tmp, task_vars)
        host = (task_vars or {}).get("inventory_hostname", "The device")
        asked = time.time()
        printed, refusal = self.ask(QUESTION, "clock=", task_vars or {})
        if refusal:
            return refusal
        answer = Answer.parse(printed)
        sentences = refusals(answer, asked, time.time())
        if sentences:
            return {"failed": True, "msg": f"{host}: {' '.join(sentences)}"}
        min_free = Roles(task_vars or {}, self._templar, self._loader).option("field_data", "field_data_min_free")
        result: dict[str, Any] = self._execute_module(
            module_name="edge.pi_fleet.preflight",
            module_args={"field_data_min_free": min_free, **self._task.args},
            task_vars=task_vars,
        )
        if result.get("failed"):
            result["msg"] = f"{host}: {result['msg']}"
        found = {
            "release": answer.release,
            "architecture": answer.architecture,
            "offline": answer.offline,
            "needed": result.pop("needed", 0),
            "packages": result.pop("packages", []),
        }
        return {**result, "ansible_facts": {"pi_fleet_preflight": found}}
