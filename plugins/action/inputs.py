# SPDX-License-Identifier: Apache-2.0
"""Check the inputs of all roles on the control node, before the first device is asked: see module inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase

ROLES = Path(__file__).parents[2] / "roles"

NOUNS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "path": "a path"}


class ActionModule(ActionBase):
    """See module inputs."""

    _requires_connection = False
    _VALID_ARGS = frozenset(("roles",))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Compare each variable that a role takes with the type and choices that the role documents."""
        super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            argument_spec={"roles": {"type": "list", "elements": "str", "required": True}}
        )
        variables = task_vars or {}
        sentences = []
        for role in arguments["roles"]:
            specs = yaml.safe_load((ROLES / role / "meta" / "argument_specs.yml").read_text())["argument_specs"]
            for name, spec in specs["main"]["options"].items():
                if name in variables:
                    sentences += problem(name, spec, self._templar.template(variables[name]))
        if sentences:
            raise AnsibleActionFail(" ".join(sentences))
        return {"changed": False}


def problem(name: str, spec: Mapping[str, Any], value: Any) -> list[str]:
    """Return a sentence if a value is not what an option takes, else nothing."""
    errors = ArgumentSpecValidator({name: dict(spec)}).validate({name: value}).error_messages
    # To Ansible true is 1.
    if not errors and not (isinstance(value, bool) and spec.get("type") in ("int", "float")):
        return []
    shown = "a value that is not shown" if secret(spec) else repr(value)
    if "options" in spec:
        # What is wrong with a part may quote it.
        wanted = "its parts as documented" + ("" if secret(spec) else f" ({'; '.join(errors)})")
    elif "choices" in spec:
        wanted = f"one of {', '.join(map(str, spec['choices']))}"
    else:
        wanted = NOUNS.get(spec["type"], f"a {spec['type']}")
    description = spec["description"][0] if isinstance(spec["description"], list) else spec["description"]
    description = description.partition(". ")[0]
    return [f"{name} is {shown}; wanted is {wanted} ({description.rstrip('.')}): correct it in the inventory."]


def secret(spec: Mapping[str, Any]) -> bool:
    """Say whether an option, or a part of it, is one that is never printed."""
    return bool(spec.get("no_log")) or any(secret(part) for part in spec.get("options", {}).values())
