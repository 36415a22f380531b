"""What a run says at its end about devices that are left over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible import constants, context
from ansible_collections.edge.pi_fleet.plugins.callback import left_over
from ansible_collections.edge.pi_fleet.plugins.callback.left_over import CallbackModule, report

COMMAND = ["ansible-playbook", "playbooks/site.yml"]


class Thing:
    """Something of Ansible's, as far as the callback looks at it."""

    def __init__(self, **parts: Any) -> None:
        self.__dict__.update(parts)


def result(host: str, **said: Any) -> Any:
    return Thing(host=Thing(get_name=lambda: host), result=said)


def test_who_is_left_over_has_a_command_of_its_own() -> None:
    said = {"pi-1": ["pi-1 does not answer."], "pi-2": ["A disk is full.", "pi-2 went back."]}
    assert report({"pi-1"}, {"pi-2", "pi-1"}, {"pi-4", "pi-3"}, said, COMMAND) == [
        "Not reached: pi-1",
        "  pi-1 does not answer.",
        "  try just it again: ansible-playbook playbooks/site.yml --limit pi-1",
        "Failed: pi-2",
        "  pi-2: A disk is full.",
        "  pi-2 went back.",
        "  try just it again: ansible-playbook playbooks/site.yml --limit pi-2",
        "Left as they were, since the rollout stopped: pi-3, pi-4",
        "  try just them again: ansible-playbook playbooks/site.yml --limit pi-3,pi-4",
    ]
    assert report(set(), set(), set(), said, COMMAND) == []


@pytest.fixture
def arguments(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    given: dict[str, Any] = {"inventory": list(constants.DEFAULT_HOST_LIST), "tags": ["all"], "args": ["site.yml"]}
    monkeypatch.setattr(context, "CLIARGS", given)
    return given


def test_the_command_is_that_of_the_run_without_what_may_be_secret(arguments: dict[str, Any]) -> None:
    assert left_over.again() == ["ansible-playbook", "site.yml"]
    arguments |= {
        "inventory": [f"{Path.cwd()}/inventory/my fleet", "/etc/fleet"],
        "tags": ["swap", "camera"],
        "extra_vars": ["ansible_become_password=secret"],
    }
    assert left_over.limited(left_over.again(), ["b", "a"]) == (
        "ansible-playbook '--inventory=inventory/my fleet' --inventory=/etc/fleet site.yml "
        "--tags=swap,camera --limit a,b"
    )


def test_a_run_is_followed_to_its_end(arguments: dict[str, Any]) -> None:
    callback = CallbackModule()
    shown: list[str] = []
    callback._display = Thing(banner=shown.append, display=shown.append)
    groups = {"rollout_devices": ["pi-2", "pi-3", "pi-4"]}
    manager = Thing(get_vars=lambda play: {"groups": groups})
    callback.v2_playbook_on_play_start(Thing(hosts=["devices"], get_variable_manager=lambda: manager))
    callback.v2_runner_on_start(Thing(get_name=lambda: "pi-1"), None)
    callback.v2_runner_on_unreachable(result("pi-1", msg="pi-1 does not\nanswer."))
    callback.v2_playbook_on_play_start(Thing(hosts=["devices:&rollout_devices"], get_variable_manager=lambda: manager))
    for host in ("pi-2", "pi-3"):
        callback.v2_runner_on_start(Thing(get_name=lambda host=host: host), None)
    callback.v2_runner_on_failed(result("pi-3", msg="It is not there yet."), ignore_errors=True)
    callback.v2_runner_on_failed(result("pi-3", msg="A disk is full."))
    callback.v2_runner_on_failed(result("pi-3", censored="the output has been hidden"))
    callback.v2_runner_on_failed(result("pi-3", msg="pi-3 went back."))
    callback.v2_runner_on_failed(result("pi-3", msg="pi-3 went\nback."))
    callback.v2_playbook_on_stats(Thing(dark={"pi-1": 1}, failures={"pi-3": 1}))
    assert shown[0] == "LEFT OVER"
    assert shown[1].splitlines() == [
        "Not reached: pi-1",
        "  pi-1 does not answer.",
        "  try just it again: ansible-playbook site.yml --limit pi-1",
        "Failed: pi-3",
        "  pi-3: A disk is full.",
        "  pi-3 went back.",
        "  try just it again: ansible-playbook site.yml --limit pi-3",
        "Left as they were, since the rollout stopped: pi-4",
        "  try just it again: ansible-playbook site.yml --limit pi-4",
    ]


def test_where_nothing_is_left_over_nothing_is_said(arguments: dict[str, Any]) -> None:
    callback = CallbackModule()
    shown: list[str] = []
    callback._display = Thing(banner=shown.append, display=shown.append)
    callback.v2_playbook_on_stats(Thing(dark={}, failures={"localhost": 1}))
    assert shown == []
