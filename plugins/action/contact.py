# SPDX-License-Identifier: Apache-2.0
"""Speak to a device for the first time: see module contact, which documents it."""

from __future__ import annotations

from typing import Any

from ansible_collections.edge.pi_fleet.plugins.plugin_utils.contact import Contact

BY_KEY = "-o PreferredAuthentications=publickey -o ControlMaster=no -o ControlPath=none"


class ActionModule(Contact):
    """See module contact."""

    _VALID_ARGS = frozenset(("by_key",))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask the device to say anything."""
        super().run(tmp, task_vars)
        _, given = self.validate_argument_spec(argument_spec={"by_key": {"type": "bool", "default": False}})
        if given["by_key"]:
            self._connection.set_option("ssh_extra_args", BY_KEY)
        _, refusal = self.ask("echo here", "here", task_vars or {})
        return refusal or {"changed": False}
