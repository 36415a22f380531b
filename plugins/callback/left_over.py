# SPDX-License-Identifier: Apache-2.0
"""Say at the end of a run which devices are left over, and the command for just them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible import constants, context
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: left_over
type: aggregate
short_description: Say at the end of a run which devices are left over, and the command for just them
version_added: 0.1.0
description:
  - Names the devices that could not be reached, those that failed with why and what became of
    them, and those that a stopped rollout did not come to, each with the command that tries just them again.
  - It says nothing where nothing is left over. The exit code is ansible-playbook's, which is not 0 then.
requirements:
  - Enabled as C(edge.pi_fleet.left_over) in C(callbacks_enabled), as the checkout's ansible.cfg does.
"""

GROUP = "rollout_devices"
"""The devices that role rollout goes on with."""


class CallbackModule(CallbackBase):
    """See DOCUMENTATION."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "edge.pi_fleet.left_over"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        """Begin a run."""
        super().__init__()
        self.said: dict[str, list[str]] = {}
        self.begun: set[str] = set()
        self.rollout: set[str] = set()

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Note which devices a rollout is for, once for each batch."""
        self.rollout = set(play.get_variable_manager().get_vars(play=play)["groups"].get(GROUP, []))

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Note that the rollout came to a device."""
        if self.rollout:
            self.begun.add(host.get_name())

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Remember why something failed on a device, and what became of it."""
        if not ignore_errors:
            self._remember(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Remember why a device is not reached."""
        self._remember(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Show what is left over."""
        # The control node is no device.
        unreachable, failed = (set(hosts) - {"localhost"} for hosts in (stats.dark, stats.failures))
        lines = report(unreachable, failed, self.rollout - self.begun, self.said, again())
        if lines:
            self._display.banner("LEFT OVER")
            self._display.display("\n".join(lines))

    def _remember(self, result: Any) -> None:
        # Ansible has taken out what is not to be logged.
        message = " ".join(str(result.result.get("msg", "")).split())
        said = self.said.setdefault(result.host.get_name(), [])
        if message and message not in said:
            said.append(message)


def report(
    unreachable: set[str], failed: set[str], waiting: set[str], said: Mapping[str, Sequence[str]], command: list[str]
) -> list[str]:
    """Return the lines about devices that are left over, none if there are none."""
    lines = []
    for title, hosts in (
        ("Not reached", unreachable),
        ("Failed", failed - unreachable),
        ("Left as they were, since the rollout stopped", waiting),
    ):
        if hosts:
            lines.append(f"{title}: {', '.join(sorted(hosts))}")
            for host in sorted(hosts):
                lines += [f"  {text if host in text else f'{host}: {text}'}" for text in said.get(host, [])]
            lines.append(f"  try just {'them' if len(hosts) > 1 else 'it'} again: {limited(command, hosts)}")
    return lines


def limited(command: list[str], hosts: Iterable[str]) -> str:
    """Return a command line for some hosts only."""
    return shlex.join([*command, "--limit", ",".join(sorted(hosts))])


def again() -> list[str]:
    """Return the command of this run, without what may be secret in it: playbooks, inventories and tags."""
    given = context.CLIARGS
    inventories = [] if list(given["inventory"]) == list(constants.DEFAULT_HOST_LIST) else given["inventory"]
    tags = [] if list(given["tags"]) == ["all"] else [f"--tags={','.join(given['tags'])}"]
    return [
        "ansible-playbook",
        *(f"--inventory={short(name)}" for name in inventories),
        *map(short, given["args"]),
        *tags,
    ]


def short(name: str) -> str:
    """Return a path as it is called from here."""
    path = Path(name)
    return str(path.relative_to(Path.cwd())) if path.is_absolute() and path.is_relative_to(Path.cwd()) else name
