"""What role virtual_pi is given for hosts of the inventory."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.edge.pi_fleet.plugins.filter.fleet import FilterModule, virtual_pi_instances


def test_instances_in_the_order_of_the_names_with_what_is_left_out() -> None:
    hostvars: dict[str, dict[str, Any]] = {
        "kitchen": {"virtual_pi_release": "trixie"},
        "bar": {
            "virtual_pi_release": "bookworm",
            "virtual_pi_architecture": "armhf",
            "virtual_pi_packages": ["mosquitto"],
            "swap_size": 100,
        },
        "elsewhere": {},
    }
    assert virtual_pi_instances(["kitchen", "bar"], hostvars) == [
        {"name": "kitchen", "release": "trixie", "architecture": "", "packages": []},
        {"name": "bar", "release": "bookworm", "architecture": "armhf", "packages": ["mosquitto"]},
    ]
    assert virtual_pi_instances([], hostvars) == []


def test_a_host_without_a_release_is_no_virtual_pi() -> None:
    with pytest.raises(KeyError, match="virtual_pi_release"):
        virtual_pi_instances(["elsewhere"], {"elsewhere": {}})


def test_ansible_finds_the_filter() -> None:
    assert FilterModule().filters() == {"virtual_pi_instances": virtual_pi_instances}
