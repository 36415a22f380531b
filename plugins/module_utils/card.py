# SPDX-License-Identifier: Apache-2.0
"""The boot partition of a freshly flashed card: what image is on it, what a user put there, and a first boot's seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import read_text, write_text
from ansible_collections.edge.pi_fleet.plugins.module_utils.first_boot import MARK

CMDLINE = "cmdline.txt"
FIRSTRUN = "firstrun.sh"
RUN = (
    "systemd.run=/boot/firmware/firstrun.sh",
    "systemd.run_success_action=reboot",
    "systemd.unit=kernel-command-line.target",
)
"""What starts firstrun.sh once, as Raspberry Pi Imager has it; the script takes it out again."""

# What an image has of its own, comments apart. Whatever else is there, somebody wrote.
STOCK: Mapping[str, Mapping[str, Any]] = {
    "user-data": {"ssh_pwauth": False},
    "meta-data": {"dsmode": "local", "instance_id": "rpios-image", "instance-id": "rpios-image"},
    "network-config": {"network": {"version": 2, "ethernets": {"eth0": {"dhcp4": True, "optional": True}}}},
}


class CardError(Exception):
    """One sentence: what is wrong with a card, and what to do."""


@dataclass(frozen=True)
class Card:
    """A mounted boot partition, or a folder whose files are to be copied to one."""

    path: Path

    def release(self) -> str:
        """Return the release whose first boot the image has: by cloud-init's files, else by its cmdline.txt."""
        if any((self.path / name).exists() for name in ("user-data", "meta-data")):
            return "trixie"
        if (self.path / CMDLINE).exists():
            return "bookworm"
        raise CardError(
            f"{self.path} holds neither cloud-init's user-data nor a {CMDLINE}, so it is no boot partition of Raspberry"
            " Pi OS: give the folder where the card's 'bootfs' is mounted, or set card_release for a folder of yours."
        )

    def theirs(self, files: Mapping[str, str]) -> list[str]:
        """Return those of the files that somebody else wrote: neither an image nor pi-fleet."""
        if (self.path / MARK).exists():
            return []
        return [name for name, text in files.items() if self._theirs(name, text)]

    def _theirs(self, name: str, text: str) -> bool:
        found = read_text(self.path / name)
        if found is None or found == text:
            return False
        if name not in STOCK:
            return True
        try:
            content = yaml.safe_load(found) or {}
        except yaml.YAMLError:
            return True
        return not isinstance(content, dict) or any(STOCK[name].get(key) != value for key, value in content.items())

    def cmdline(self, extra: str) -> str:
        """Return cmdline.txt, one line, that starts firstrun.sh at the next boot and has these words."""
        text = read_text(self.path / CMDLINE)
        if text is None:
            raise CardError(
                f"{self.path} holds no {CMDLINE}: copy the card's own there, so that a line can be added to it."
            )
        words = text.split()
        if any(word.startswith("systemd.run=") and word != RUN[0] for word in words):
            raise CardError(
                f"{self.path / CMDLINE} starts a script of its own at the first boot: flash the card again, without"
                " customising it."
            )
        words += [word for word in [*extra.split(), *RUN] if word not in words]
        return " ".join(words) + "\n"

    def differing(self, files: Mapping[str, str]) -> list[str]:
        """Return the names of the files that are not there as they should be."""
        return [name for name, text in files.items() if read_text(self.path / name) != text]

    def write(self, files: Mapping[str, str], names: list[str]) -> None:
        """Write files, the mark first and cmdline.txt last: a card that is half written boots as if nothing were."""
        for name in sorted(names, key=lambda name: (name == CMDLINE, name == "meta-data", name != MARK)):
            mode = 0o700 if name == FIRSTRUN else 0o600
            write_text(self.path / name, files[name], mode=None if name == CMDLINE else mode)
