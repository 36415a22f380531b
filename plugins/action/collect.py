# SPDX-License-Identifier: Apache-2.0
"""Collect a device's field data: the control node's half of module field_data, and rsync; see module collect."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.edge.pi_fleet.plugins.module_utils.collecting import CollectError, Collector
from ansible_collections.edge.pi_fleet.plugins.plugin_utils.collecting import COLLECTING, RemoteFieldData


class ActionModule(ActionBase):
    """See module collect."""

    _VALID_ARGS = frozenset(("path", "labeled_path", "user", "key", "min_age", "keep_days", "again"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Collect, then have the device remove what may go."""
        super().run(tmp, task_vars)
        _, given = self.validate_argument_spec(
            argument_spec={
                **COLLECTING,
                "keep_days": {"type": "int", "default": 0},
                "again": {"type": "bool", "default": False},
            }
        )
        host = (task_vars or {}).get("inventory_hostname", "The device")
        device = RemoteFieldData(self, host, given, task_vars)
        collector = Collector(
            host=host,
            folder=Path(given["path"]),
            labeled=Path(given["labeled_path"]),
            device=device,
            say=Display().display,
            again=given["again"],
            check_mode=self._task.check_mode,
        )
        try:
            report = collector.collect()
            if given["keep_days"]:
                report = collector.prune(given["keep_days"])
        except CollectError as error:
            raise AnsibleActionFail(str(error)) from error
        except OSError as error:
            raise AnsibleActionFail(
                f"What is collected from {host} cannot be kept ({error}): mend it and run again, it continues."
            ) from error
        return {"changed": bool(report.collected or report.renamed or report.pruned), **asdict(report)}
