# SPDX-License-Identifier: Apache-2.0
"""Make a contact sheet on the control node: see module contact_sheet, which documents it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.edge.pi_fleet.plugins.module_utils.collecting import CollectError, Ledger, lock
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import write_text

PICTURES = 1000
"""A page of more than these is slow on a phone; there are several then."""


class ActionModule(ActionBase):
    """See module contact_sheet."""

    _requires_connection = False
    _VALID_ARGS = frozenset(("path", "hosts"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Make pages of what no page shows yet, and write down which page shows what."""
        super().run(tmp, task_vars)
        _, given = self.validate_argument_spec(
            argument_spec={
                "path": {"type": "path", "required": True},
                "hosts": {"type": "list", "elements": "str", "required": True},
            }
        )
        # Other playbooks need no Pillow.
        try:
            from ansible_collections.edge.pi_fleet.plugins.module_utils.contact_sheet import Picture, page
        except ImportError as error:
            raise AnsibleActionFail(
                f"Contact sheets need Pillow on the control node ({error}): install it for the Python of Ansible"
                " ('pip install pillow'), then run again; what was collected stays collected."
            ) from error
        folder = Path(given["path"])
        try:
            pictures = [
                Picture(host, name, path if (path := folder / host / entry.file).is_file() else None)
                for host in given["hosts"]
                for name, entry in Ledger.load(folder / host).entries.items()
                if entry.sheet is None
            ]
            if self._task.check_mode or not pictures:
                return {"changed": False, "sheets": []}
            moment = datetime.now(UTC)
            sheets = []
            for begin in range(0, len(pictures), PICTURES):
                part = pictures[begin : begin + PICTURES]
                number = f"-{begin // PICTURES + 1}" if len(pictures) > PICTURES else ""
                sheet = folder / f"{moment:%Y-%m-%dT%H-%M-%SZ}{number}.html"
                write_text(sheet, page(f"Collected {moment:%Y-%m-%d %H:%M} UTC", part, folder), mode=0o600)
                self._write_down(folder, part, sheet.name)
                sheets.append(str(sheet))
        except CollectError as error:
            raise AnsibleActionFail(str(error)) from error
        except OSError as error:
            raise AnsibleActionFail(
                f"The contact sheet cannot be written ({error}): mend it and run again; what was collected is kept."
            ) from error
        return {"changed": True, "sheets": sheets}

    @staticmethod
    def _write_down(folder: Path, pictures: list[Any], sheet: str) -> None:
        for host in {picture.host for picture in pictures}:
            with lock(folder / host, host):
                ledger = Ledger.load(folder / host)
                for picture in pictures:
                    # It may have been renamed meanwhile.
                    if picture.host == host and picture.name in ledger.entries:
                        ledger.entries[picture.name].sheet = sheet
                ledger.save()
