"""Packages of roles: what is asked of apt, and what is not asked again."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.edge.pi_fleet.plugins.action import packages
from fake_action import make

CHANGED = {"changed": True}


def action(*roles: str, module: list[dict[str, Any]]) -> Any:
    return make(packages.ActionModule, {"roles": list(roles)}, None, module)


def seen(*names: str, release: str = "trixie") -> dict[str, Any]:
    return {"ansible_facts": {"pi_fleet_preflight": {"release": release, "packages": list(names)}}}


def asked(plugin: Any) -> list[tuple[str, Any]]:
    return [(call.kwargs["module_name"], call.kwargs["module_args"]) for call in plugin._execute_module.call_args_list]


def test_all_roles_are_one_call_of_apt_and_nothing_is_asked_again() -> None:
    plugin = action("swap", "collect", "mqtt_broker", module=[CHANGED])
    result = plugin.run(task_vars=seen("perl"))
    ((module, arguments),) = asked(plugin)
    assert module == "ansible.builtin.apt"
    assert arguments["name"] == ["mosquitto", "rsync"]
    # A half-installed one would else stop apt; recommended ones would fill the card.
    assert arguments["state"] == "fixed"
    assert arguments["install_recommends"] is False
    assert result["changed"] is True
    again = action("mqtt_broker", module=[])
    assert again.run(task_vars=result) == {"changed": False}


def test_what_the_inventory_adds_is_in_it() -> None:
    plugin = action("local_core", module=[CHANGED])
    plugin.run(task_vars={**seen("perl"), "local_core_packages": ["python3-boto3"]})
    assert asked(plugin)[0][1]["name"] == ["python3-aiohttp", "python3-boto3", "python3-paho-mqtt"]


@pytest.mark.parametrize(("release", "calls"), [("trixie", 1), ("bookworm", 0)])
def test_a_role_may_need_others_on_another_release(release: str, calls: int) -> None:
    plugin = action("image_classifier", module=[CHANGED])
    plugin.run(task_vars=seen("perl", release=release))
    assert len(asked(plugin)) == calls


def test_a_device_of_which_nothing_is_known_is_asked_for_its_release() -> None:
    release = {"ansible_facts": {"ansible_distribution_release": "trixie"}}
    plugin = action("image_classifier", module=[release, {"stdout": ""}, CHANGED])
    result = plugin.run(task_vars={})
    assert [module for module, _ in asked(plugin)] == [
        "ansible.builtin.setup",
        "ansible.builtin.command",
        "ansible.builtin.apt",
    ]
    assert result["ansible_facts"]["pi_fleet_preflight"] == {"release": "trixie", "packages": ["python3-onnxruntime"]}


@pytest.mark.parametrize(("words", "changed"), [("Setting up rsync (3.4) ...\n", True), ("", False)])
def test_what_was_left_half_installed_is_finished_first(words: str, changed: bool) -> None:
    plugin = action("collect", module=[{"stdout": words}, {"changed": False}])
    assert plugin.run(task_vars=seen())["changed"] is changed
    command = asked(plugin)[0][1]["_raw_params"]
    # Nobody would answer a question, and a user's settings stay.
    assert "DEBIAN_FRONTEND=noninteractive dpkg --force-confdef --force-confold --configure --pending" in command


def test_a_release_that_a_role_does_not_know_is_refused() -> None:
    with pytest.raises(AnsibleActionFail, match=r"^Role image_classifier knows no packages for the release 'buster'"):
        action("image_classifier", module=[]).run(task_vars=seen("perl", release="buster"))


def test_a_check_configures_nothing() -> None:
    plugin = action("collect", module=[CHANGED])
    plugin._task.check_mode = True
    assert plugin.run(task_vars=seen())["changed"] is True


def test_what_is_held_is_named_with_how_to_let_go_of_it() -> None:
    failed = {
        "failed": True,
        "msg": "E: Held packages were changed and -y was used without --allow-change-held-packages.",
    }
    plugin = action("collect", module=[failed, failed, {"stdout": "linux-image-rpi-v8\nrsync\n"}])
    result = plugin.run(task_vars=seen("perl"))
    assert result["failed"]
    assert result["msg"] == "What roles need is held on the device (rsync): run 'sudo apt-mark unhold rsync' there."


NOT_THERE = {"failed": True, "msg": "No package matching 'rsync' is available"}


def test_lists_of_today_may_be_of_no_use() -> None:
    plugin = action("collect", module=[NOT_THERE, CHANGED])
    assert plugin.run(task_vars=seen("perl"))["changed"]
    assert [arguments["cache_valid_time"] for _, arguments in asked(plugin)] == [86400, 0]


def test_a_mirror_that_has_just_been_asked_is_not_asked_again() -> None:
    failed = {
        "failed": True,
        "msg": "Failed to update apt cache after 5 retries: E:The repository ... has no Release file.",
    }
    result = action("collect", module=[failed]).run(task_vars=seen("perl"))
    assert result["msg"].startswith(failed["msg"])


def test_why_apt_failed_is_not_lost_when_the_mirror_is_away_too() -> None:
    away = {"failed": True, "msg": "Failed to update apt cache: E:The repository 'http://...' has no Release file."}
    result = action("collect", module=[NOT_THERE, away]).run(task_vars=seen("perl"))
    both = f"{NOT_THERE['msg']}; package lists could not be fetched anew: {away['msg']} (Asked for were"
    assert result["msg"].startswith(both)


def test_what_failed_is_not_remembered() -> None:
    result = action("collect", module=[NOT_THERE, NOT_THERE]).run(task_vars=seen("perl"))
    assert result["failed"] is True
    assert "ansible_facts" not in result
    assert result["msg"].startswith("No package matching 'rsync' is available (Asked for were the packages of collect,")
