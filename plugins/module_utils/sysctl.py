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


# Of files with one name, the first one counts.
FOLDERS = ("/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d")


def at_boot(device: Device) -> dict[str, tuple[str, str]]:
    """Return name -> value that systemd-sysctl gives it at the next boot, and the file; sysctl.d(5), patterns left out.

    A value is empty where the last line on it, `-NAME`, has the kernel's own stay.
    """
    files: dict[str, str] = {}
    for folder in FOLDERS:
        for path in device.path(folder).glob("*.conf"):
            if not path.name.startswith("."):
                files.setdefault(path.name, device.name(path))
    found = {}
    for _, file in sorted(files.items()):
        for line in (read_text(device.path(file)) or "").splitlines():
            name, assigns, value = line.strip().partition("=")
            if not name.startswith(("#", ";")) and (assigns or name.startswith("-")):
                found[_dotted(name.removeprefix("-").strip())] = value.strip(), file
    return found


def _dotted(name: str) -> str:
    """Return a name as it is said: what separates first is what separates, a dot or a slash."""
    separators = [each for each in name if each in "./"]
    return name.translate(str.maketrans("./", "/.")) if separators[:1] == ["/"] else name
