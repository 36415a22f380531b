"""A callback that writes down which tasks changed which hosts, a line of JSON a playbook run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: changes
type: notification
short_description: Write down which tasks changed which hosts
description:
  - Appends one line of JSON a run to the file that the environment variable E(CHANGES_LOG) names.
"""


class CallbackModule(CallbackBase):
    """See DOCUMENTATION."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "changes"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.playbook = ""
        self.check = False
        self.changed: list[list[str]] = []

    def v2_playbook_on_start(self, playbook: Any) -> None:
        self.playbook = Path(playbook._file_name).stem

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self.check = bool(play.check_mode)

    def v2_runner_on_ok(self, result: Any) -> None:
        if result.is_changed():
            self.changed.append([result._host.get_name(), result._task.get_name()])

    def v2_playbook_on_stats(self, stats: Any) -> None:
        failed = any(stats.summarize(host)["failures"] for host in stats.processed)
        line = {"playbook": self.playbook, "check": self.check, "changed": self.changed, "failed": failed}
        with Path(os.environ["CHANGES_LOG"]).open("a") as log:
            log.write(json.dumps(line) + "\n")
