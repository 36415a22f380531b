# SPDX-License-Identifier: Apache-2.0
"""Keep the identity of a device on the control node: see module identity_store, which documents it."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.edge.pi_fleet.plugins.module_utils.host_key import record
from ansible_collections.edge.pi_fleet.plugins.module_utils.identity_store import IdentityError
from ansible_collections.edge.pi_fleet.plugins.plugin_utils.identity_store import IdentityStore


class ActionModule(ActionBase):
    """See module identity_store."""

    _requires_connection = False
    _VALID_ARGS = frozenset(("state", "hostname", "credentials", "record", "secrets", "store", "known_hosts"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Read, or make, an identity; its secrets are returned on request only, and then the result is not logged."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        host = variables["inventory_hostname"]
        _, given = self.validate_argument_spec(
            argument_spec={
                "state": {"choices": ["read", "present"], "default": "read"},
                "hostname": {"type": "str", "default": self._hostname(variables)},
                "credentials": {"type": "dict", "default": {}},
                "record": {"type": "bool", "default": False},
                "secrets": {"type": "bool", "default": False},
                "store": {"type": "path"},
                "known_hosts": {"type": "path"},
            }
        )
        check_mode = self._task.check_mode
        try:
            store = IdentityStore.of(given, variables, self._templar, self._loader)
            if given["state"] == "present":
                identity, changed = store.keep(host, given["hostname"], given["credentials"], check_mode=check_mode)
            else:
                found = store.read(host)
                if found is None:
                    return {"changed": False, "exists": False, "host_keys": []}
                identity, changed = found, False
            keys = identity.public_keys()
            if given["record"]:
                changed = record(store.known_hosts, host, keys, check_mode) or changed
        except IdentityError as error:
            return {"failed": True, "msg": f"{host}: {error}"}
        result = {
            "changed": changed,
            "exists": True,
            "path": str(store.path(host)),
            "hostname": identity.hostname,
            "host_keys": [{"key": key.line, "fingerprint": key.fingerprint} for key in keys],
        }
        if given["secrets"]:
            result["private_keys"] = dict(identity.host_keys)
            result["credentials"] = {name: dict(values) for name, values in identity.credentials.items()}
            result["_ansible_no_log"] = True
        return result

    def _hostname(self, variables: dict[str, Any]) -> str:
        """Return the host name that role identity's input says, else the name in the inventory."""
        return str(self._templar.template(variables.get("identity_hostname", variables["inventory_hostname"])))
