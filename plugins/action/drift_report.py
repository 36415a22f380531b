# SPDX-License-Identifier: Apache-2.0
"""Write what devices said of drift, on the control node: see module drift_report, which documents it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import read_text, utc, write_text
from ansible_collections.edge.pi_fleet.plugins.module_utils.drift_page import drift_state, page

PAGE = "index.html"
LENGTH = 100
"""Reports of which the free disk is remembered."""


class ActionModule(ActionBase):
    """See module drift_report."""

    _requires_connection = False
    _VALID_ARGS = frozenset(("path", "hosts"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write a JSON file for each device, and one page about all."""
        super().run(tmp, task_vars)
        _, given = self.validate_argument_spec(
            argument_spec={
                "path": {"type": "path", "required": True},
                "hosts": {"type": "list", "elements": "str", "required": True},
            }
        )
        folder, hostvars = Path(given["path"]), (task_vars or {})["hostvars"]
        if self._task.check_mode:
            return {"changed": False, "page": ""}
        asked_at = utc()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            reports = []
            for host in given["hosts"]:
                probe = hostvars[host].get("__drift", {})
                file = folder / f"{host}.json"
                reports.append(report(host, probe, asked_at, former(file)))
                write_text(file, json.dumps(reports[-1], indent=2) + "\n", mode=0o600)
                # Pictures are on the page alone, which is their owner's to give away.
                reports[-1]["about"] = probe.get("about", {})
            write_text(folder / PAGE, page(asked_at, reports), mode=0o600)
        except OSError as error:
            raise AnsibleActionFail(
                f"The report cannot be written ({error}): mend it, or name another folder in drift_report_path."
            ) from error
        return {"changed": False, "page": str(folder / PAGE)}


def former(file: Path) -> Mapping[str, Any]:
    """Return the former report of a device; nothing if there is none that can be read."""
    try:
        found: Mapping[str, Any] = json.loads(read_text(file) or "{}")
    except ValueError:
        return {}
    return found


def report(host: str, probe: Mapping[str, Any], asked_at: str, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is written about a device."""
    about = probe.get("about", {})
    free_disk = [*before.get("free_disk", []), *([[asked_at, about["disk_free_mib"]]] if about else [])]
    picture = {name: value for name, value in about.get("picture", {}).items() if name != "thumbnail"}
    return {
        "host": host,
        "state": drift_state(probe),
        "asked_at": asked_at,
        "recorded_at": probe.get("recorded_at", ""),
        "checked": probe.get("checked", 0),
        "seconds": probe.get("seconds", 0),
        "roles": dict(probe.get("run", {})),
        "differences": list(probe.get("differences", [])),
        "reboot_reasons": list(probe.get("reboot_reasons", [])),
        "about": {**about, "picture": picture} if about else {},
        "free_disk": free_disk[-LENGTH:],
    }
