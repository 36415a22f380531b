# SPDX-License-Identifier: Apache-2.0
"""Write what a first boot reads onto a card, on the control node: see module card, which documents it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.edge.pi_fleet.plugins.module_utils.card import CMDLINE, Card, CardError


class ActionModule(ActionBase):
    """See module card."""

    _requires_connection = False
    _VALID_ARGS = frozenset(("path", "release", "seeds", "cmdline", "replace"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Look what image is there, and write its seed; a refusal comes before anything is written."""
        super().run(tmp, task_vars)
        _, given = self.validate_argument_spec(
            argument_spec={
                "path": {"type": "path", "required": True},
                "release": {"type": "str", "choices": ["auto", "bookworm", "trixie"], "default": "auto"},
                "seeds": {"type": "dict", "required": True},
                "cmdline": {"type": "str", "default": ""},
                "replace": {"type": "bool", "default": False},
            }
        )
        card = Card(Path(given["path"]))
        try:
            release = card.release() if given["release"] == "auto" else given["release"]
            # Text that templates made carries marks of theirs.
            files = {str(name): str(text) for name, text in given["seeds"][release].items()}
            theirs = [] if given["replace"] else card.theirs(files)
            if theirs:
                raise CardError(
                    f"{card.path} holds {', '.join(theirs)}, which neither its image nor pi-fleet wrote: flash the card"
                    " again without customising it, or have them replaced with -e card_replace=true."
                )
            if release == "bookworm":
                files[CMDLINE] = card.cmdline(given["cmdline"])
            differing = card.differing(files)
            if not self._task.check_mode:
                card.write(files, differing)
        except (CardError, OSError) as error:
            return {"failed": True, "msg": str(error)}
        diff = {"before": "", "after": "".join(f"{name}\n" for name in sorted(differing))}
        return {"changed": bool(differing), "release": release, "written": sorted(differing), "diff": diff}
