"""What cannot be asked is for role preflight to explain: until it has, all roles run."""

from __future__ import annotations

import importlib
import multiprocessing
import os
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.template import trust_as_template
from ansible_collections.edge.pi_fleet.plugins.action import device_state
from ansible_collections.edge.pi_fleet.plugins.module_utils import run_lock
from ansible_collections.edge.pi_fleet.plugins.plugin_utils import fingerprint
from fake_action import make

ROLES = ["swap", "camera"]
VARIABLES = {"inventory_dir": "/nowhere", "inventory_hostname": "kitchen", "camera_directory": "/nowhere"}


def ask(state: str, module: Any = None, **variables: Any) -> tuple[dict[str, Any], Any]:
    """Run the plugin; return its result, and what it was."""
    plugin = make(device_state.ActionModule, {"state": state, "roles": ROLES}, module=module)
    if isinstance(module, Exception):
        plugin._execute_module.side_effect = module
    result: dict[str, Any] = plugin.run(task_vars={**VARIABLES, **variables})
    return result, plugin


def test_plugins_are_hashed_when_this_one_is_loaded_and_not_once_a_device() -> None:
    fingerprint.plugins.cache_clear()
    importlib.reload(device_state)
    assert fingerprint.plugins.cache_info().misses == 1
    ask("probed", {"run": {}})
    assert fingerprint.plugins.cache_info().misses == 1


def test_roles_learn_what_has_something_to_do() -> None:
    result, plugin = ask("probed", {"run": {"swap": "its inputs are other ones"}, "invocation": {}})
    facts = {"pi_fleet_run": ["swap"]}
    assert result == {"run": {"swap": "its inputs are other ones"}, "ansible_facts": facts, "held": ""}
    given = plugin._execute_module.call_args.kwargs["module_args"]
    assert list(given["fingerprints"]) == ROLES
    assert given["declared"] == {}


def test_a_role_that_something_put_back_concerns_learns_of_it_and_none_forgets() -> None:
    asked = {"ansible_facts": {"pi_fleet_run": ["camera"]}}
    result, _ = ask("begun", {"run": {"swap": "it is gone"}}, **asked)
    assert result["ansible_facts"] == {"pi_fleet_run": ["camera", "swap"]}


@pytest.mark.parametrize(
    "module",
    [
        AnsibleConnectionFailure("no route to host"),
        AnsibleError("Incorrect sudo password"),
        {"failed": True, "msg": "python3: not found"},
    ],
)
def test_a_device_that_cannot_be_asked_runs_everything(module: Any) -> None:
    result, _ = ask("probed", module)
    assert list(result["run"]) == result["ansible_facts"]["pi_fleet_run"] == ROLES
    assert not result.get("failed")


@pytest.mark.parametrize("value", ["{{ nobody_said }}", "{{ 1 / 0 }}", {"a": 1}, None])
def test_inputs_that_make_no_sense_are_for_preflight_too(value: Any) -> None:
    given = trust_as_template(value) if isinstance(value, str) else value
    result, _ = ask("probed", {"run": {}}, camera_directory=given)
    assert not result.get("failed")


@pytest.mark.parametrize("state", ["begun", "recorded"])
def test_later_nothing_is_passed_over(state: str) -> None:
    with pytest.raises(AnsibleError, match="no route to host"):
        ask(state, AnsibleConnectionFailure("no route to host"))


def test_what_roles_manage_is_sent_with_what_they_were_given(tmp_path: Path) -> None:
    _, plugin = ask("recorded", {"differences": []}, camera_directory=str(tmp_path), camera_source="directory")
    declared = plugin._execute_module.call_args.kwargs["module_args"]["declared"]
    assert declared["swap"]["swap"] is True
    assert declared["camera"]["trees"] == ["/opt/pi-fleet/lib", "/opt/pi-fleet/camera"]


def other(**fields: Any) -> dict[str, Any]:
    """Return a run of this control node that has ended, or another one."""
    alive = device_state.this_run()
    return {**alive, "pid": 2**22 + 1, "who": "ada@office", "since": "2026-11-27T11:00:00Z", "by": None, **fields}


@pytest.mark.parametrize("state", ["probed", "begun"])
def test_a_run_of_this_control_node_that_was_killed_holds_nothing_up(state: str) -> None:
    held = other()
    replies = [{"failed": state == "begun", "run": {}, "held": held}, {"run": {"swap": "why"}}]
    result, plugin = ask(state, replies)
    assert result["run"] == {"swap": "why"}
    assert not result.get("held")
    first, second = (call.kwargs["module_args"] for call in plugin._execute_module.call_args_list)
    assert second == {**first, "ended": held}


@pytest.mark.parametrize(
    "fields", [{"machine": "elsewhere"}, {"pid": os.getppid()}], ids=["of another control node", "that is there"]
)
def test_another_run_is_named_with_what_to_do(fields: dict[str, Any]) -> None:
    held = other(**fields)
    result, _ = ask("probed", {"run": {}, "held": held})
    assert result["held"] == run_lock.sentence(held)
    assert "ada@office" in result["held"]
    result, _ = ask("begun", {"failed": True, "msg": "busy", "held": held})
    assert result["failed"]
    assert result["held"] == run_lock.sentence(held)


def test_a_run_is_told_from_others_by_its_control_node_and_process(monkeypatch: pytest.MonkeyPatch) -> None:
    run = device_state.this_run()
    assert run["pid"] == os.getppid()
    assert run_lock.is_alive(run["pid"], run["started"])
    assert not run_lock.is_alive(run["pid"], "another time")
    made_by = Mock(pid=os.getppid())
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: made_by)
    assert device_state.this_run() == run
    # It is gone, and whoever takes orphans is the parent now.
    made_by.pid = 2**22 + 1
    with pytest.raises(AnsibleError, match="has ended"):
        device_state.this_run()


def test_a_role_that_was_asked_for_by_its_tag_runs_also_where_nothing_differs() -> None:
    result, _ = ask("begun", {"run": {}}, ansible_facts={"pi_fleet_run": ["camera"]})
    assert result["ansible_facts"] == {"pi_fleet_run": ["camera"]}
