# SPDX-License-Identifier: Apache-2.0
"""The control node's half of module release: hash the files, and send them only where they are missing."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.edge.pi_fleet.plugins.module_utils.release import ReleaseError, gather


class ActionModule(ActionBase):
    """See module release."""

    _VALID_ARGS = frozenset(("path", "src", "patterns", "keep"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module, and once more with the archive if the device lacks the release."""
        super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "path": {"type": "str", "required": True},
                "src": {"type": "list", "elements": "str", "required": True},
                "patterns": {"type": "list", "elements": "str", "default": ["*"]},
                "keep": {"type": "int", "default": 5},
            }
        )
        try:
            content = gather(arguments["src"], arguments["patterns"])
        except (ReleaseError, OSError) as error:
            raise AnsibleActionFail(str(error)) from error
        module_args = {"path": arguments["path"], "release": content.identifier, "keep": arguments["keep"]}
        result = self._device(module_args, task_vars)
        if not result.pop("wants_archive", False):
            return result
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder, "release.tar")
            content.write_archive(archive)
            # Ansible removes this folder when the task is over.
            shell = self._connection._shell
            there = shell.tmpdir or self._make_tmp_path()
            remote = shell.join_path(there, "release.tar")
            self._transfer_file(str(archive), remote)
            self._fixup_perms2((there, remote))
        return self._device({**module_args, "archive": remote}, task_vars)

    def _device(self, module_args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            module_name="edge.pi_fleet.release", module_args=module_args, task_vars=task_vars
        )
        return result
