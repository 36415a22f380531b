# SPDX-License-Identifier: Apache-2.0
"""Ask who answers at a device's address, from the control node: see module host_identity, which documents it."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.edge.pi_fleet.plugins.module_utils.host_identity import accept, identify
from ansible_collections.edge.pi_fleet.plugins.module_utils.identity_store import IdentityError
from ansible_collections.edge.pi_fleet.plugins.plugin_utils.identity_store import IdentityStore


class ActionModule(ActionBase):
    """See module host_identity."""

    _requires_connection = False
    _VALID_ARGS = frozenset(("address", "port", "timeout", "record", "fingerprint", "store", "known_hosts"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask, compare with what is known, and write down what may be."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        host = variables["inventory_hostname"]
        _, given = self.validate_argument_spec(
            argument_spec={
                "address": {"type": "str", "default": self._play_context.remote_addr},
                "port": {"type": "int", "default": self._play_context.port or 22},
                "timeout": {"type": "int", "default": 10},
                "record": {"type": "bool", "default": False},
                "fingerprint": {"type": "str", "default": ""},
                "store": {"type": "path"},
                "known_hosts": {"type": "path"},
            }
        )
        try:
            store = IdentityStore.of(given, variables, self._templar, self._loader)
            answer = identify(host, given["address"], given["port"], given["timeout"], store.wanted(host))
        except IdentityError as error:
            return {"failed": True, "msg": f"{host}: {error}"}
        changed = given["record"] and accept(answer, store.known_hosts, given["fingerprint"], self._task.check_mode)
        return {
            "changed": changed,
            "state": answer.state,
            "key": answer.found.line if answer.found else "",
            "fingerprint": answer.fingerprint,
            "wanted": answer.wanted.fingerprint,
            "owner": answer.wanted.owner(answer.found) if answer.found else "",
            "recorded": changed or answer.state == "known",
            "sentence": answer.sentence,
        }
