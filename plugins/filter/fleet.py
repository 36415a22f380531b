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
            "image": hostvars[name].get("virtual_pi_image", ""),
        }
        for name in names
    ]


def answers_table(names: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the lines of the table that role classify shows: see DOCUMENTATION beside this file."""
    rows = [("device", "category", "confidence", "milliseconds")]
    notes = []
    for name in names:
        result = hostvars[name].get("__classify_answers", {})
        for answer in result.get("answers", []):
            rows.append((name, answer["category"], f"{answer['confidence']:.2f}", str(answer["milliseconds"])))
        if "answers" not in result:
            notes.append(f"{name}: {result.get('msg') or 'could not be reached'}")
    device, category, confidence, milliseconds = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = [
        f"{row[0]:<{device}}  {row[1]:<{category}}  {row[2]:>{confidence}}  {row[3]:>{milliseconds}}".rstrip()
        for row in rows
    ]
    return [*lines, *notes]


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {"answers_table": answers_table, "virtual_pi_instances": virtual_pi_instances}
