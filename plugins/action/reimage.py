# SPDX-License-Identifier: Apache-2.0
"""Rescue what a card holds, and put it back after the card was written anew: see module reimage, which documents it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.edge.pi_fleet.plugins.module_utils.collecting import CollectError, Collector, make_private
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import sync
from ansible_collections.edge.pi_fleet.plugins.module_utils.kept import KeptError, check
from ansible_collections.edge.pi_fleet.plugins.module_utils.reimaging import (
    ARCHIVE,
    DONE,
    READY,
    State,
    begin,
    finish,
    lost,
    new_card,
    put_back,
    rescued,
)
from ansible_collections.edge.pi_fleet.plugins.plugin_utils.collecting import (
    COLLECTING,
    RemoteFieldData,
    remote_path,
    send,
)


class ActionModule(ActionBase):
    """See module reimage."""

    _requires_connection = False
    _VALID_ARGS = frozenset(("step", "state_path", "keeps", *COLLECTING))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Take one step."""
        super().run(tmp, task_vars)
        _, given = self.validate_argument_spec(
            argument_spec={
                **COLLECTING,
                "step": {
                    "type": "str",
                    "choices": ["rescue", "lost", "recognise", "put_back", "done"],
                    "required": True,
                },
                "state_path": {"type": "path", "required": True},
                "keeps": {"type": "list", "elements": "path", "default": []},
            }
        )
        self.task_vars = task_vars or {}
        self.host = self.task_vars.get("inventory_hostname", "The device")
        self.folder = Path(given["state_path"])
        self.device = RemoteFieldData(self, self.host, given, task_vars)
        self.collector = Collector(
            host=self.host,
            folder=Path(given["path"]),
            labeled=Path(given["labeled_path"]),
            device=self.device,
            say=Display().display,
            again=True,
            check_mode=self._task.check_mode,
        )
        steps = {
            "rescue": lambda: self._rescue(given["keeps"]),
            "lost": self._lost,
            "recognise": self._recognise,
            "put_back": lambda: self._put_back(given["keeps"]),
            "done": self._done,
        }
        try:
            return steps[given["step"]]()
        except (CollectError, KeptError) as error:
            raise AnsibleActionFail(str(error)) from error
        except OSError as error:
            raise AnsibleActionFail(
                f"What is on {self.host} cannot be kept or put back ({error}): mend it and run again, it continues."
            ) from error

    def _rescue(self, keeps: list[str]) -> dict[str, Any]:
        begin(self.host, self.folder, self._kept({})["card"])
        report = self.collector.collect()
        if self._task.check_mode:
            return {"changed": bool(report.collected), "collected": report.collected, "said": ""}
        make_private(self.folder)
        archive = remote_path(self, ARCHIVE)
        saved = self._kept({"archive": archive, "paths": keeps, "card": new_card()})
        arriving = self.folder / f".{ARCHIVE}"
        self._connection.fetch_file(archive, str(arriving))
        arriving.chmod(0o600)
        check(arriving, saved["files"], keeps)
        pictures = rescued(self.collector)
        sync(arriving)
        arriving.rename(self.folder / ARCHIVE)
        State(READY, saved["card"], time.time(), pictures, saved["files"]).save(self.folder)
        missing = f" ({', '.join(saved['missing'])} of reimage_keeps is not there)" if saved["missing"] else ""
        return {
            "changed": True,
            "collected": report.collected,
            "said": (
                f"{self.host}: {len(pictures)} pictures and {len(saved['files'])} kept files are here, each verified by"
                f" its SHA-256{missing}. Flash it now."
            ),
        }

    def _lost(self) -> dict[str, Any]:
        state, known = lost(self.collector, self.folder)
        if not self._task.check_mode:
            make_private(self.folder)
            state.save(self.folder)
        return {"changed": True, "said": f"{self.host}: its card is taken for lost: {known}"}

    def _recognise(self) -> dict[str, Any]:
        state = finish(self.host, self.folder, self._kept({})["card"])
        return {"changed": False, "pictures": len(state.pictures), "kept": len(state.kept)}

    def _put_back(self, keeps: list[str]) -> dict[str, Any]:
        state = finish(self.host, self.folder, self._kept({})["card"])
        if self._task.check_mode:
            return {"changed": True, "moved": 0, "restored": [], "left": {}}
        restored = []
        if (self.folder / ARCHIVE).exists():
            check(self.folder / ARCHIVE, state.kept, keeps)
            archive = send(self, self.folder / ARCHIVE)
            restored = self._kept({"archive": archive, "restore": state.kept})["restored"]
        moved, left = put_back(self.collector, state.pictures, self.device.put)
        return {"changed": bool(moved or restored), "moved": moved, "restored": restored, "left": left}

    def _done(self) -> dict[str, Any]:
        state = State.load(self.folder)
        if state is None or state.step == DONE or self._task.check_mode:
            return {"changed": False}
        state.step = DONE
        state.save(self.folder)
        return {"changed": True}

    def _kept(self, arguments: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self._execute_module(
            module_name="edge.pi_fleet.kept", module_args=arguments, task_vars=self.task_vars
        )
        if found.get("failed"):
            raise KeptError(f"{self.host}: {found.get('msg', 'the module kept failed')}")
        return found
