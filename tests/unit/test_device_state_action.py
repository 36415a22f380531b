"""What cannot be asked is for role preflight to explain: until it has, all roles run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.template import trust_as_template
from ansible_collections.edge.pi_fleet.plugins.action import device_state
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


def test_roles_learn_what_has_something_to_do() -> None:
    result, plugin = ask("probed", {"run": {"swap": "its inputs are other ones"}, "invocation": {}})
    assert result == {"run": {"swap": "its inputs are other ones"}, "ansible_facts": {"pi_fleet_run": ["swap"]}}
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
    assert declared["camera"]["trees"] == ["/opt/pi-fleet/camera"]
