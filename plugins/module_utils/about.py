# SPDX-License-Identifier: Apache-2.0
"""What a page tells of a device beside what differs: its system, releases, disk, swap and the last picture it kept."""

from __future__ import annotations

import base64
import os
import re
from contextlib import suppress
from typing import Any

from ansible_collections.edge.pi_fleet.plugins.module_utils import history
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, read_text
from ansible_collections.edge.pi_fleet.plugins.module_utils.field_data import FOLDER
from ansible_collections.edge.pi_fleet.plugins.module_utils.picture_name import NAME, prediction, taken

MIB = 1024**2


def about(device: Device, thumbnail: bool) -> dict[str, Any]:
    """Return facts by name; the thumbnail, a JPEG as base64, only if it is allowed."""
    release = re.search(r'^PRETTY_NAME="?([^"\n]*)', read_text(device.path("/etc/os-release")) or "", re.MULTILINE)
    disk = os.statvfs(device.path("/"))
    memory = dict(re.findall(r"^(\w+): +(\d+) kB$", read_text(device.path("/proc/meminfo")) or "", re.MULTILINE))
    return {
        "system": release[1] if release else "unknown",
        "model": (read_text(device.path("/proc/device-tree/model")) or "").strip("\0\n"),
        "kernel": (read_text(device.path("/proc/sys/kernel/osrelease")) or "unknown").strip(),
        "disk_mib": disk.f_blocks * disk.f_frsize // MIB,
        "disk_free_mib": device.free_bytes(device.path("/")) // MIB,
        "swap_mib": int(memory.get("SwapTotal", 0)) // 1024,
        "swap_free_mib": int(memory.get("SwapFree", 0)) // 1024,
        "releases": history.running(history.stores(device)),
        "picture": _last_picture(device, thumbnail),
    }


def _last_picture(device: Device, thumbnail: bool) -> dict[str, str]:
    folder = device.path(FOLDER)
    newest, millis = None, -1
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            named = NAME.fullmatch(entry.name)
            if named and named["category"] and int(named["millis"]) > millis:
                newest, millis = entry.name, int(named["millis"])
    if newest is None:
        return {}
    small = b""
    if thumbnail:
        # Pillow is there where role mxnet_dependencies was.
        with suppress(ImportError):
            from ansible_collections.edge.pi_fleet.plugins.module_utils import contact_sheet

            small = contact_sheet.thumbnail(folder / newest) or b""
    return {
        "prediction": prediction(newest),
        "time": taken(newest),
        "thumbnail": base64.b64encode(small).decode(),
    }
