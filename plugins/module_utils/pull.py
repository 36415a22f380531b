# SPDX-License-Identifier: Apache-2.0
"""What became of a device's last pull, as files/pull/pull.py writes it down."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime

from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, read_text


def check_pull(device: Device, path: str, max_age: int, now: Callable[[], float] = time.time) -> tuple[bool, str, str]:
    """Check, for verify, that the device converged itself, no more than `max_age` seconds ago."""
    wanted = f"converged within {max_age} s"
    text = read_text(device.path(path))
    if text is None:
        return False, "it has not pulled yet", wanted
    try:
        result = json.loads(text)
        age = round(now() - datetime.fromisoformat(result["time"]).timestamp())
        status, commit, message = result["status"], result["commit"], result["message"]
    except (ValueError, KeyError, TypeError):
        return False, f"{path} cannot be read", wanted
    found = f"{status} {age} s ago, {commit[:12] or 'no commit'}"
    return status == "converged" and age <= max_age, f"{found}: {message}" if message else found, wanted
