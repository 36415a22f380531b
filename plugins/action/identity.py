# SPDX-License-Identifier: Apache-2.0
"""The control node's half of module identity: takes the identity from the store, and writes known_hosts after it."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.edge.pi_fleet.plugins.module_utils.host_key import record
from ansible_collections.edge.pi_fleet.plugins.module_utils.identity_store import IdentityError, public_key
from ansible_collections.edge.pi_fleet.plugins.plugin_utils.identity_store import IdentityStore


class ActionModule(ActionBase):
    """See module identity."""

    _VALID_ARGS = frozenset(("passwords", "rotate", "store", "known_hosts"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Have the device's half install what the store has; private keys pass through its arguments alone."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        host = variables["inventory_hostname"]
        _, given = self.validate_argument_spec(
            argument_spec={
                "passwords": {"type": "bool", "default": True, "no_log": False},
                "rotate": {"type": "bool", "default": False},
                "store": {"type": "path"},
                "known_hosts": {"type": "path"},
            }
        )
        check_mode = self._task.check_mode
        arguments: dict[str, Any] = {"passwords": given["passwords"]}
        try:
            store = IdentityStore.of(given, variables, self._templar, self._loader)
            identity, rotated = store.read(host), False
            if identity and given["rotate"]:
                identity, rotated = store.keep(host, identity.hostname, {}, rotate=True, check_mode=check_mode)
        except IdentityError as error:
            return {"failed": True, "msg": f"{host}: {error}"}
        if identity:
            arguments["hostname"] = identity.hostname
            arguments["host_keys"] = {
                name: {"private": private, "public": f"{public_key(private)} {identity.hostname}\n"}
                for name, private in identity.host_keys.items()
            }
        result: dict[str, Any] = self._execute_module(
            module_name="edge.pi_fleet.identity", module_args=arguments, task_vars=task_vars
        )
        result.get("invocation", {}).get("module_args", {}).pop("host_keys", None)
        if result.get("failed") or result.get("unreachable"):
            return {**result, "msg": f"{host}: {result.get('msg', '')}"}
        recorded = identity is not None and record(store.known_hosts, host, identity.public_keys(), check_mode)
        return {**result, "changed": result["changed"] or rotated or recorded}
