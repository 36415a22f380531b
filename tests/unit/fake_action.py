"""An action plugin without a control node: its connection, its transfers and its module are played."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

from ansible.parsing.dataloader import DataLoader
from ansible.playbook.play_context import PlayContext
from ansible.playbook.task import Task
from ansible.plugins.action import ActionBase
from ansible.template import Templar


def make(
    kind: type[ActionBase],
    arguments: dict[str, Any],
    reply: dict[str, Any] | Exception | None = None,
    module: dict[str, Any] | list[dict[str, Any]] | None = None,
) -> Any:
    """Make an action plugin for a task with these arguments.

    Its shell command returns `reply` or raises it, its module returns `module` or, one after another, its parts. Both
    fail the test when they are called and have nothing to return.
    """
    task = Task()
    task.args = arguments
    context = PlayContext()
    context.remote_addr, context.port, context.remote_user = "10.0.0.7", 2222, "pi"
    connection = Mock()
    connection._shell.tmpdir = None
    connection._shell.join_path = lambda *parts: "/".join(parts)
    loader = DataLoader()
    plugin = kind(task, connection, context, loader, Templar(loader), None)
    plugin._low_level_execute_command = Mock(side_effect=[reply] if reply is not None else [])
    results = module if isinstance(module, list) else [module] if module is not None else []
    plugin._execute_module = Mock(side_effect=results)
    plugin._transfer_file = Mock()
    plugin._fixup_perms2 = Mock()
    plugin._make_tmp_path = Mock(return_value="/tmp/ansible-tmp-1")
    return plugin
