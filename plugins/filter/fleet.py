# SPDX-License-Identifier: Apache-2.0
"""Filters that turn the inventory into what roles take."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.edge.pi_fleet.plugins.module_utils.drift_page import difference, drift_state, other_reasons


def virtual_pi_instances(names: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return, for hosts of the inventory, what role virtual_pi makes of each: see DOCUMENTATION beside this file."""
    optional = ("architecture", "packages", "image", "files")
    return [
        {
            "name": name,
            "release": hostvars[name]["virtual_pi_release"],
            **{key: hostvars[name][f"virtual_pi_{key}"] for key in optional if f"virtual_pi_{key}" in hostvars[name]},
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


def wifi_psk(password: str, ssid: str) -> str:
    """Return the key that a Wi-Fi derives from its password: see DOCUMENTATION beside this file."""
    if re.fullmatch(r"[0-9a-fA-F]{64}", password):
        return password.lower()
    # IEEE 802.11i-2004, H.4.
    return hashlib.pbkdf2_hmac("sha1", password.encode(), ssid.encode(), 4096, 32).hex()


def collect_table(names: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the lines of the table that role collect shows: see DOCUMENTATION beside this file."""
    rows = [("device", "collected", "MiB", "had before", "left", "removed there")]
    notes = []
    for name in names:
        result = hostvars[name].get("__collect", {})
        if "collected" not in result:
            notes.append(f"{name}: {result.get('msg') or 'could not be reached'}")
            continue
        collected, left, pruned = (str(len(result[key])) for key in ("collected", "left", "pruned"))
        rows.append((name, collected, f"{result['size'] / 1024**2:.1f}", str(result["had"]), left, pruned))
        notes += [f"{name}: {picture} {why}; left for the next time" for picture, why in result["left"].items()]
        notes += [f"{name}: {picture} is kept as {file}, beside another" for picture, file in result["beside"].items()]
        notes += [f"{name}: {picture} {why}; not removed there" for picture, why in result["kept"].items()]
    device, *numbers = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = [
        "  ".join([f"{first:<{device}}", *(f"{each:>{width}}" for each, width in zip(rest, numbers, strict=True))])
        for first, *rest in rows
    ]
    return [*lines, *notes]


def drift_lines(probe: Mapping[str, Any]) -> list[str]:
    """Return the lines that role drift shows of a device: see DOCUMENTATION beside this file."""
    differences, state = probe.get("differences", []), drift_state(probe)
    if state == "held":
        return [str(probe["held"])]
    if state == "converged":
        return [f"of {probe['checked']} things, recorded {probe['recorded_at']}, none differs"]
    lines = [f"{role}: {reason}" for role, reason in other_reasons(probe["run"], differences)]
    lines += [f"{each['role']}: {difference(each)}" for each in differences]
    if not probe.get("recorded_at"):
        return ["it could not be asked or was never recorded:", *lines]
    found = "these differ:" if state == "drifted" else "none differs, and roles have something to do:"
    return [f"of {probe['checked']} things, recorded {probe['recorded_at']}, {found}", *lines]


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "answers_table": answers_table,
            "collect_table": collect_table,
            "drift_lines": drift_lines,
            "drift_state": drift_state,
            "virtual_pi_instances": virtual_pi_instances,
            "wifi_psk": wifi_psk,
        }
