# SPDX-License-Identifier: Apache-2.0
"""Install the Debian packages of roles: one call of apt for all that preflight did not see installed."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.edge.pi_fleet.plugins.plugin_utils.fingerprint import Roles

APT = {
    "state": "fixed",
    "install_recommends": False,
    "update_cache": True,
    "cache_valid_time": 86400,
    "lock_timeout": 300,
}
RELEASE = {"gather_subset": ["!all", "!min", "distribution_release"], "filter": ["ansible_distribution_release"]}


class ActionModule(ActionBase):
    """See module packages."""

    _VALID_ARGS = frozenset(("roles",))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Call apt where anything is missing; the roles that follow know what is installed then."""
        super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            argument_spec={"roles": {"type": "list", "elements": "str", "required": True}}
        )
        variables = task_vars or {}
        found = dict(variables.get("ansible_facts", {}).get("pi_fleet_preflight", {}))
        declared = Roles(variables, self._templar, self._loader)
        wanted: set[str] = set()
        for role in arguments["roles"]:
            packages = declared.packages(role)
            if isinstance(packages, dict):
                if "release" not in found:
                    found["release"] = self._release(variables)
                packages = packages[found["release"]]
            wanted.update(packages)
        installed = set(found.get("packages", []))
        if wanted <= installed:
            return {"changed": False}
        finished = not installed and self._finish()
        result: dict[str, Any] = self._execute_module(
            module_name="ansible.builtin.apt", module_args={"name": sorted(wanted), **APT}, task_vars=variables
        )
        if result.get("failed"):
            return result
        found["packages"] = sorted(installed | wanted)
        return {
            **result,
            "changed": finished or result.get("changed", False),
            "ansible_facts": {"pi_fleet_preflight": found},
        }

    def _release(self, variables: dict[str, Any]) -> str:
        answer = self._execute_module(
            module_name="ansible.builtin.setup", module_args=dict(RELEASE), task_vars=variables
        )
        return str(answer["ansible_facts"]["ansible_distribution_release"])

    def _finish(self) -> bool:
        """Configure what was only unpacked; apt brings what that may lack. Say whether there was any."""
        if self._task.check_mode:
            return False
        return bool(self._low_level_execute_command("dpkg --configure --pending")["stdout"].strip())
