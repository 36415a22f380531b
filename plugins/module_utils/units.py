# SPDX-License-Identifier: Apache-2.0
"""systemd units that belong to pi-fleet: their files, whether they are enabled, and whether they run what is written.

A mark in /run, which a boot clears as it clears what it marks, says that a restart is owed: a run killed between
writing a file and restarting its unit is healed by the next one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, read_text, remove, write_text
from ansible_collections.edge.pi_fleet.plugins.module_utils.files import File

FOLDER = "/etc/systemd/system"
OWED = "/run/pi-fleet/restart-owed"
SUFFIXES = (".service", ".path", ".timer")


def is_unit(name: str) -> bool:
    """Say whether a file is a unit of a kind that roles make: no copy beside, no template, no folder of drop-ins."""
    return name.endswith(SUFFIXES) and name.partition("@")[2] not in SUFFIXES


@dataclass(frozen=True)
class Units:
    """Files below /etc/systemd/system by name, what the units read, and those that shall be enabled and active."""

    device: Device
    files: Mapping[str, str]
    enable: Sequence[str]
    configuration: Sequence[File] = ()
    retire: Sequence[str] = ()
    """Patterns of unit files that are removed, with what they run, if they are not in `keep`."""
    keep: Sequence[str] = ()

    def differing(self) -> list[str]:
        """Return the names of the files whose text on the device is another one."""
        return [name for name, text in self.files.items() if read_text(self.device.path(f"{FOLDER}/{name}")) != text]

    def differing_configuration(self) -> list[File]:
        """Return the files that units read and that are not as they should be."""
        return [each for each in self.configuration if each.differs(self.device)]

    def retired(self) -> list[str]:
        """Return the names of units that match `retire` and are not kept; what starts services comes before them."""
        folder = self.device.path(FOLDER)
        found = {path.name for pattern in self.retire for path in folder.glob(pattern) if is_unit(path.name)}
        return sorted(found - set(self.keep) - set(self.files), key=lambda name: (name.endswith(".service"), name))

    @property
    def _started_by_others(self) -> list[str]:
        """Services of these files that something else starts when it is time: a path, a timer."""
        return [name for name in self.files if name.endswith(".service") and name not in self.enable]

    def remove(self, names: Sequence[str]) -> None:
        """Stop and disable units, and remove their files; a run killed in between finds the files again."""
        for name in names:
            self.device.command("systemctl", "disable", "--quiet", "--now", name)
            remove(self.device.path(f"{FOLDER}/{name}"))
        if names:
            self.device.command("systemctl", "daemon-reload")

    def owed(self) -> bool:
        """Say whether an earlier run was killed before it restarted, or systemd has not read what is written."""
        if any(self.device.path(f"{OWED}/{unit}").exists() for unit in (*self.enable, *self._started_by_others)):
            return True
        # A drop-in, UNIT.d/NAME.conf, is no unit: its unit is asked about.
        names = dict.fromkeys(name.partition(".d/")[0] for name in (*self.files, *self.enable))
        _, output, _ = self.device.run(["systemctl", "show", "--property=NeedDaemonReload", "--value", *names])
        return "yes" in output.split()

    def not_enabled(self) -> list[str]:
        """Return the units that a boot would not start."""
        return [unit for unit in self.enable if self._says("is-enabled", unit) != "enabled"]

    def not_active(self) -> list[str]:
        """Return the units that do not run."""
        return [unit for unit in self.enable if self._says("is-active", unit) != "active"]

    def write(self, names: Sequence[str], configuration: Sequence[File] = ()) -> None:
        """Write files, and first the marks that their units owe a restart."""
        for unit in self.enable if names or configuration else []:
            write_text(self.device.path(f"{OWED}/{unit}"), "")
        for each in configuration:
            each.make(self.device)
        for name in names:
            write_text(self.device.path(f"{FOLDER}/{name}"), self.files[name], mode=0o644)

    def activate(self, restart: bool) -> None:
        """Let systemd read the files, enable the units, and start them, or restart them."""
        if restart:
            self.device.command("systemctl", "daemon-reload")
        for unit in self.not_enabled():
            self.device.command("systemctl", "enable", "--quiet", unit)
        for unit in self.enable if restart else self.not_active():
            self.device.command("systemctl", "restart", unit)
            remove(self.device.path(f"{OWED}/{unit}"))
        for unit in self._started_by_others if restart else []:
            # It may run just now, and goes on as it was written before.
            if self._says("is-active", unit) == "active":
                self.device.command("systemctl", "restart", unit)
            mark = self.device.path(f"{OWED}/{unit}")
            if mark.exists():
                remove(mark)

    def _says(self, verb: str, unit: str) -> str:
        return self.device.run(["systemctl", verb, unit])[1].strip()


def check_units(device: Device, files: Mapping[str, str], enable: Sequence[str]) -> tuple[bool, str, str]:
    """Check, for verify, that units are as written, enabled and active."""
    units = Units(device, files, enable)
    wrong = [f"{name} was changed or is missing" for name in units.differing()]
    wrong += [f"{name} is not enabled" for name in units.not_enabled()]
    wrong += [f"{name} is not active" for name in units.not_active()]
    wrong += ["systemd has not read what is written"] if not wrong and units.owed() else []
    wanted = "enabled, active, as written"
    return not wrong, ", ".join(wrong) or wanted, wanted
