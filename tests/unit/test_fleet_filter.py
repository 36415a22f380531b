"""What role virtual_pi is given for hosts of the inventory, and what role classify shows of them."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.edge.pi_fleet.plugins.filter.fleet import (
    FilterModule,
    answers_table,
    collect_table,
    drift_lines,
    virtual_pi_instances,
    wifi_psk,
)
from ansible_collections.edge.pi_fleet.plugins.module_utils.drift_page import drift_state


def test_instances_in_the_order_of_the_names_with_what_is_said_of_them() -> None:
    hostvars: dict[str, dict[str, Any]] = {
        "kitchen": {"virtual_pi_release": "trixie"},
        "bar": {
            "virtual_pi_release": "bookworm",
            "virtual_pi_architecture": "armhf",
            "virtual_pi_packages": ["mosquitto"],
            "virtual_pi_files": [{"src": "card", "dest": "/boot/firmware"}],
            "swap_size": 100,
        },
        "elsewhere": {},
    }
    assert virtual_pi_instances(["kitchen", "bar"], hostvars) == [
        {"name": "kitchen", "release": "trixie"},
        {
            "name": "bar",
            "release": "bookworm",
            "architecture": "armhf",
            "packages": ["mosquitto"],
            "files": [{"src": "card", "dest": "/boot/firmware"}],
        },
    ]
    assert virtual_pi_instances([], hostvars) == []


def test_a_host_without_a_release_is_no_virtual_pi() -> None:
    with pytest.raises(KeyError, match="virtual_pi_release"):
        virtual_pi_instances(["elsewhere"], {"elsewhere": {}})


def answers(*found: tuple[str, float, int]) -> dict[str, Any]:
    keys = ("category", "confidence", "milliseconds")
    return {"__classify_answers": {"answers": [dict(zip(keys, each, strict=True)) for each in found]}}


def test_answers_are_lines_of_a_table_and_what_is_missing_is_told_below() -> None:
    hostvars: dict[str, dict[str, Any]] = {
        "kitchen": answers(("coffee-mug", 0.96432, 312), ("clutter", 1.0, 8)),
        "roof": {"__classify_answers": {"failed": False, "msg": "No answer on answer within 15 s: look."}},
        "a-device-with-a-long-name": answers(("a", 0.0, 12345)),
        "cellar": {},
    }
    assert answers_table(hostvars, hostvars) == [
        "device                     category    confidence  milliseconds",
        "kitchen                    coffee-mug        0.96           312",
        "kitchen                    clutter           1.00             8",
        "a-device-with-a-long-name  a                 0.00         12345",
        "roof: No answer on answer within 15 s: look.",
        "cellar: could not be reached",
    ]


def test_the_table_has_its_names_asked_for_alone_and_in_their_order() -> None:
    hostvars = {name: answers((name, 0.5, 1)) for name in ("a", "b", "c")}
    assert [line.split()[0] for line in answers_table(["c", "a"], hostvars)] == ["device", "c", "a"]


def test_the_table_of_nobody_is_its_heading() -> None:
    assert answers_table([], {}) == ["device  category  confidence  milliseconds"]
    assert answers_table(["a"], {"a": answers()}) == ["device  category  confidence  milliseconds"]


def test_what_differs_has_a_line_each_beside_other_reasons() -> None:
    told = {"role": "camera", "told": "path /etc/camera.json: mode is 0600, was 0644", "since": "2026-11-26T17:02:11Z"}
    user = {"role": "user", "told": "user ggc_user: shell is /bin/sh, was none", "since": ""}
    probe = {
        "run": {
            "swap": "it was never recorded",
            "camera": f"its inputs are other ones; {told['told']}",
            "user": user["told"],
        },
        "differences": [told, user],
        "checked": 12,
        "recorded_at": "2026-11-26T15:40:00Z",
    }
    assert drift_lines(probe) == [
        "of 12 things, recorded 2026-11-26T15:40:00Z, these differ:",
        "swap: it was never recorded",
        "camera: its inputs are other ones",
        "camera: path /etc/camera.json: mode is 0600, was 0644, since 2026-11-26T17:02:11Z",
        "user: user ggc_user: shell is /bin/sh, was none",
    ]
    assert drift_lines({**probe, "run": {}, "differences": []}) == [
        "of 12 things, recorded 2026-11-26T15:40:00Z, none differs"
    ]


def test_what_is_wanted_otherwise_now_is_no_drift() -> None:
    known = {"differences": [], "checked": 12, "recorded_at": "2026-11-26T15:40:00Z"}
    probe = {**known, "run": {"camera": "its inputs are other ones"}}
    assert drift_state(probe) == "due"
    assert drift_lines(probe) == [
        "of 12 things, recorded 2026-11-26T15:40:00Z, none differs, and roles have something to do:",
        "camera: its inputs are other ones",
    ]
    assert drift_state({**probe, "differences": [{"role": "camera"}]}) == "drifted"
    assert drift_state({**known, "run": {}}) == "converged"
    assert drift_state({"run": {"camera": "it could not be asked"}}) == "silent"


def test_what_differs_while_another_run_provisions_it_is_that_runs_work() -> None:
    probe = {"run": {"camera": "?"}, "differences": [{}], "checked": 12, "held": "ada provisions it", "recorded_at": ""}
    assert drift_state(probe) == "held"
    assert drift_lines(probe) == ["ada provisions it"]


def test_a_device_that_could_not_be_asked_says_why() -> None:
    assert drift_lines({"run": {"swap": "it could not be asked: no route to host"}}) == [
        "it could not be asked or was never recorded:",
        "swap: it could not be asked: no route to host",
    ]


def test_ansible_finds_the_filters() -> None:
    filters = [answers_table, collect_table, drift_lines, drift_state, virtual_pi_instances, wifi_psk]
    assert FilterModule().filters() == {function.__name__: function for function in filters}


@pytest.mark.parametrize(
    ("ssid", "password", "key"),
    [
        # IEEE 802.11i-2004, H.4.3.
        ("IEEE", "password", "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"),
        ("ThisIsASSID", "ThisIsAPassword", "0dc0d6eb90555ed6419756b9a15ec3e3209b63df707dd508d14581f8982721af"),
        ("any", "AB" * 32, "ab" * 32),
    ],
)
def test_a_wifi_derives_its_key_from_its_name_and_password(ssid: str, password: str, key: str) -> None:
    assert wifi_psk(password, ssid) == key


def test_what_was_collected_is_a_table_and_what_was_not_is_told_below() -> None:
    nothing: dict[str, Any] = {"collected": [], "size": 0, "had": 0, "left": {}, "beside": {}, "pruned": [], "kept": {}}
    some = {
        **nothing,
        "collected": ["1.jpg", "2.jpg"],
        "size": 3 * 2**20,
        "had": 10,
        "left": {"3.jpg": "is being written"},
        "beside": {"1.jpg": "1-00c0ffee.jpg"},
        "pruned": ["0.jpg"],
        "kept": {"9.jpg": "is gone"},
    }
    hostvars: dict[str, dict[str, Any]] = {
        "roof-1": {"__collect": some},
        "conveyor-1": {"__collect": nothing},
        "roof-2": {"__collect": {"msg": "It was cut off."}},
        "roof-3": {},
    }
    assert collect_table(list(hostvars), hostvars) == [
        "device      collected  MiB  had before  left  removed there",
        "roof-1              2  3.0          10     1              1",
        "conveyor-1          0  0.0           0     0              0",
        "roof-1: 3.jpg is being written; left for the next time",
        "roof-1: 1.jpg is kept as 1-00c0ffee.jpg, beside another",
        "roof-1: 9.jpg is gone; not removed there",
        "roof-2: It was cut off.",
        "roof-3: could not be reached",
    ]
