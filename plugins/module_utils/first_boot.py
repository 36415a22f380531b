# SPDX-License-Identifier: Apache-2.0
"""What a first boot leaves of the secrets in its seed: on the boot partition, which has no modes, and in copies.

Only where playbooks/card.yml wrote the seed: a user's own is the user's. Where a file's text without its secrets is of
use to later boots, it was put beside the file; else the file is removed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, read_text, remove, sync, write_text

BOOT = ("/boot/firmware", "/boot")
SEEDS = ("user-data", "network-config", "vendor-data", "userconf.txt", "userconf", "firstrun.sh", "custom.toml")
MARK = "pi-fleet-card.txt"
"""Says on the boot partition for which device pi-fleet wrote the card, and to this module that it did."""
AFTER = ".after-first-boot"
"""A seed's text for later boots, beside the seed."""

CLOUD_INIT = "/var/lib/cloud"
# Copies of user-data, and Python objects that hold it.
COPIES = re.compile(r"(user-data|vendor-data|vendor-data2|cloud-config|cloud_config|network-config)[\w.-]*|obj\.pkl")
FINISHED = "instance/boot-finished"
LOG = "/var/log/cloud-init.log"
# cloud-init logs the whole of what netplan is given.
LOGGED = re.compile(r"((?:password|psk)\W{1,6})[0-9a-f]{64}\b")

SECRET = re.compile(
    r"PRIVATE KEY-----"
    # A password's hash as crypt(5) writes it.
    r"|\$(?:y|gy|7|2[aby]|6|5|1)\$[\w./$=,-]{20,}"
    r"|^[\s\"']*(?:password|psk|passwd|plain_text_passwd)[\"']?\s*[:=]\s*[\"']?[^\s\"'#]",
    re.MULTILINE,
)


@dataclass(frozen=True)
class FirstBoot:
    """The files of a device that a seed's secrets may be in."""

    device: Device

    def left(self) -> list[str]:
        """Return the files that hold a secret, as the device calls them; none while cloud-init still works on them."""
        if not any(self.device.path(f"{folder}/{MARK}").exists() for folder in BOOT) or self._running():
            return []
        return [self.device.name(path) for path in self._files() if self._secret(path)]

    def clean(self) -> None:
        """Remove the secrets; a run killed in between goes on with the next one."""
        for name in self.left():
            path = self.device.path(name)
            if name == LOG:
                write_text(path, LOGGED.sub(r"\1(removed)", read_text(path) or ""))
                continue
            after = path.with_name(path.name + AFTER)
            if after.exists():
                after.replace(path)
                sync(path.parent)
            else:
                remove(path)

    def _files(self) -> list[Path]:
        seeds = [self.device.path(f"{folder}/{name}") for folder in BOOT for name in SEEDS]
        instances = sorted(self.device.path(CLOUD_INIT).glob("instances/*/*"))
        copies = [path for path in instances if COPIES.fullmatch(path.name)]
        return [path for path in [*seeds, *copies, self.device.path(LOG)] if path.is_file()]

    def _secret(self, path: Path) -> bool:
        pattern = LOGGED if self.device.name(path) == LOG else SECRET
        return pattern.search(read_text(path) or "") is not None

    def _running(self) -> bool:
        """Say whether cloud-init's first boot has begun and not ended: it still reads what it copied."""
        cloud = self.device.path(CLOUD_INIT)
        return (cloud / "instance").exists() and not (cloud / FINISHED).exists()


def check_first_boot(device: Device) -> tuple[bool, str, str]:
    """Check that no secret of the first boot is left where others read it."""
    left = FirstBoot(device).left()
    return not left, ", ".join(left) or "none", "none"
