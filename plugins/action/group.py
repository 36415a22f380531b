# SPDX-License-Identifier: Apache-2.0
"""Compose the group of a device on the control node, or take a user's own: see module group, which documents it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.edge.pi_fleet.plugins.module_utils.group import (
    InventoryError,
    check_code,
    check_inventory,
    check_resources,
    cloud_topics,
    compose,
    describe_connectors,
    describe_functions,
    take,
)

LOCAL_CORE = Path(__file__).resolve().parents[2] / "files" / "localcore"


class ActionModule(ActionBase):
    """See module group."""

    _requires_connection = False
    _VALID_ARGS = frozenset(("device", "definition", "functions", "connectors", "subscriptions", "secrets"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Compose or take the group, and have the local core's own parser say what of it is not served."""
        super().run(tmp, task_vars)
        dicts = {"type": "list", "elements": "dict", "default": []}
        _, given = self.validate_argument_spec(
            argument_spec={
                "device": {"type": "str", "required": True},
                "definition": {"type": "str", "default": ""},
                "functions": dicts,
                "connectors": dicts,
                "subscriptions": dicts,
                "secrets": {"type": "dict", "default": {}, "no_log": True},
            }
        )
        if str(LOCAL_CORE) not in sys.path:
            sys.path.insert(0, str(LOCAL_CORE))
        parser, settings = (importlib.import_module(f"localcore.{name}") for name in ("group", "settings"))
        try:
            data = (
                take(Path(given["definition"]).expanduser(), given["functions"])
                if given["definition"]
                else compose(given["device"], given["functions"], given["connectors"], given["subscriptions"])
            )
            group = parser.parse(data)
            for name, value in given["secrets"].items():
                settings.parse_secret("local_core_secrets", name, value)
        except (InventoryError, settings.LocalCoreError) as error:
            return {"failed": True, "msg": str(error)}
        problems = [
            *check_inventory(group, given["functions"], given["connectors"], given["secrets"]),
            *check_resources(group),
            *check_code(group, given["functions"]),
        ]
        if problems:
            return {"failed": True, "msg": " ".join(problems)}
        functions, connectors = describe_functions(group, given["functions"]), describe_connectors(group)
        readers = {name: each["unit"] for name, each in functions.items()}
        readers |= {each["function"]: each["unit"] for each in connectors.values()}
        return {
            "changed": False,
            # Variables of functions may be secret; a refusal is to be read.
            "_ansible_no_log": True,
            "group": data,
            "functions": functions,
            "connectors": connectors,
            "readers": readers,
            "topics": cloud_topics(group),
        }
