# SPDX-License-Identifier: Apache-2.0
"""Refuse a wheel that a device cannot import: see module wheel_fits, which documents it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.edge.pi_fleet.plugins.module_utils.wheel import WheelError, read_wheel

QUESTION = "dpkg --print-architecture && python3 -c 'import sys; print(\"%d.%d\" % sys.version_info[:2])'"


class ActionModule(ActionBase):
    """See module wheel_fits."""

    _VALID_ARGS = frozenset(("path", "sha256"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Read the wheel here, ask the device what it is, compare."""
        super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            argument_spec={"path": {"type": "str", "required": True}, "sha256": {"type": "str", "required": True}}
        )
        answer = self._low_level_execute_command(QUESTION)
        if answer["rc"] != 0:
            reason = answer["stderr"].strip()
            return {"failed": True, "msg": f"The device does not tell its architecture and Python: {reason}"}
        architecture, python = answer["stdout"].split()[-2:]
        try:
            wheel = read_wheel(Path(arguments["path"]), arguments["sha256"])
            wheel.check(architecture, python)
        except WheelError as error:
            return {"failed": True, "msg": str(error)}
        return {"changed": False, "name": wheel.name, "version": wheel.version}
