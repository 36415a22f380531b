# SPDX-License-Identifier: Apache-2.0
"""Filters that turn the inventory into what roles take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def virtual_pi_instances(names: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return, for hosts of the inventory, what role virtual_pi makes of each: see DOCUMENTATION beside this file."""
    return [
        {
            "name": name,
            "release": hostvars[name]["virtual_pi_release"],
            "architecture": hostvars[name].get("virtual_pi_architecture", ""),
            "packages": hostvars[name].get("virtual_pi_packages", []),
        }
        for name in names
    ]


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {"virtual_pi_instances": virtual_pi_instances}
