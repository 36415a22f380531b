"""Kernel settings by an owned file in /etc/sysctl.d: what is written, and what the kernel says now."""

from __future__ import annotations

from ansible_collections.edge.pi_fleet.plugins.module_utils.device import MANAGED, Device, read_text


def drop_in(settings: dict[str, str]) -> str:
    """Return the text of a file for sysctl.d(5)."""
    return MANAGED + "".join(f"{name} = {value}\n" for name, value in settings.items())


def differing(device: Device, settings: dict[str, str]) -> dict[str, str | None]:
    """Return name -> value now (None: the kernel has no such setting) for those that are not as wanted."""
    now: dict[str, str | None] = {}
    for name in settings:
        text = read_text(device.path(f"/proc/sys/{name.replace('.', '/')}"))
        now[name] = None if text is None else " ".join(text.split())
    return {name: value for name, value in now.items() if value != settings[name]}
