# SPDX-License-Identifier: Apache-2.0
"""Install the Debian packages of roles: one call of apt for all that preflight did not see installed."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.edge.pi_fleet.plugins.plugin_utils.fingerprint import Roles

APT = {
    "state": "fixed",
    "install_recommends": False,
    "update_cache": True,
    "cache_valid_time": 86400,
    "lock_timeout": 300,
}
# Nobody is there to answer: settings of the user's own stay as they are.
FINISH = (
    'test -z "$(dpkg --audit; ls /var/lib/dpkg/updates)" || DEBIAN_FRONTEND=noninteractive '
    "dpkg --force-confdef --force-confold --configure --pending"
)
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
                if found["release"] not in packages:
                    raise AnsibleActionFail(
                        f"Role {role} knows no packages for the release '{found['release']}', only for"
                        f" {' and '.join(packages)}: write the card with one of these."
                    )
                packages = packages[found["release"]]
            wanted.update(packages)
        installed = set(found.get("packages", []))
        if wanted <= installed:
            return {"changed": False}
        finished = not installed and self._finish(variables)
        result = self._apt(variables, name=sorted(wanted))
        if result.get("failed") and not no_lists(result):
            # Lists of today may be of a mirror that has other packages by now, or that had none to give.
            again = self._apt(variables, name=sorted(wanted), cache_valid_time=0)
            if no_lists(again):
                again = {**result, "msg": f"{result['msg']}; package lists could not be fetched anew: {again['msg']}"}
            result = again
        if result.get("failed") and "held" in str(result["msg"]).lower():
            held = " ".join(sorted((wanted - installed) & self._held(variables)))
            if held:
                sentence = f"What roles need is held on the device ({held}): run 'sudo apt-mark unhold {held}' there."
                return {**result, "msg": sentence}
        if result.get("failed"):
            roles = ", ".join(arguments["roles"])
            asked = f"Asked for were the packages of {roles}, and what local_core_packages of the inventory adds."
            return {**result, "msg": f"{result.get('msg', 'apt failed')} ({asked})"}
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
        return str(answer.get("ansible_facts", {}).get("ansible_distribution_release", ""))

    def _apt(self, variables: dict[str, Any], **arguments: Any) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            module_name="ansible.builtin.apt", module_args={**APT, **arguments}, task_vars=variables
        )
        return result

    def _held(self, variables: dict[str, Any]) -> set[str]:
        """Return the packages that apt may not touch."""
        answer = self._execute_module(
            module_name="ansible.builtin.command", module_args={"_raw_params": "apt-mark showhold"}, task_vars=variables
        )
        return set(str(answer.get("stdout", "")).split())

    def _finish(self, variables: dict[str, Any]) -> bool:
        """Configure what was only unpacked; apt brings what that may lack. Say whether there was any."""
        if self._task.check_mode:
            return False
        answer = self._execute_module(
            module_name="ansible.builtin.command",
            module_args={"_raw_params": FINISH, "_uses_shell": True},
            task_vars=variables,
        )
        return bool(answer.get("stdout"))


def no_lists(result: dict[str, Any]) -> bool:
    """Say whether apt failed for want of package lists."""
    return bool(result.get("failed")) and str(result["msg"]).startswith("Failed to update apt cache")
