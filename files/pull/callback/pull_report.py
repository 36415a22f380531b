# SPDX-License-Identifier: Apache-2.0
"""A callback that writes down what a run changed and where it failed, for pull.py."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: pull_report
type: notification
short_description: Write down what a run changed and where it failed
description:
  - Writes a JSON document with C(changed), C(task) and C(message) into the file that the environment variable
    E(PULL_REPORT) names.
"""

LONGEST = 1000


class CallbackModule(CallbackBase):
    """See DOCUMENTATION."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "pull_report"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        """Begin with nothing changed and nothing failed."""
        super().__init__()
        self.changed: list[str] = []
        self.task = ""
        self.message = ""

    def v2_runner_on_ok(self, result: Any) -> None:
        """Note a task that changed something."""
        if result.result.get("changed"):
            self.changed.append(result.task.get_name())

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Note a task that failed; a later one takes its place, as after a rescue."""
        self.task, self.message = result.task.get_name(), sentence(result.result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Note a task that did not reach its host: the device itself, or one that it delegates to."""
        self.task, self.message = result.task.get_name(), sentence(result.result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Write it down; what was rescued is no failure."""
        failed = bool(stats.failures or stats.dark)
        report = {
            "changed": self.changed,
            "task": self.task if failed else "",
            "message": self.message if failed else "",
        }
        Path(os.environ["PULL_REPORT"]).write_text(json.dumps(report))


def sentence(result: dict[str, Any]) -> str:
    """Return what a task's result says of its failure: of a loop, what its first failed item says."""
    if "censored" in result:
        return "Its result may hold secrets and is not shown: 'journalctl -u pull' tells what came before it."
    for item in result.get("results", []):
        if item.get("failed"):
            return sentence(item)
    said = str(result.get("msg") or "it did not say why")
    return said if len(said) <= LONGEST else f"{said[:LONGEST]} ..."
