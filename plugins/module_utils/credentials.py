# SPDX-License-Identifier: Apache-2.0
"""The local core's credentials: a token for each function, made on the device, and the secrets that functions may read.

Only root reads the files. systemd opens them for the services as their standard input, so no function finds another's.
The tokens never leave the device.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, read_text, remove, write_text
from ansible_collections.edge.pi_fleet.plugins.module_utils.units import OWED

FOLDER = "/etc/pi-fleet/private"
CORE = "localcore.json"
TOKEN = re.compile(r"[0-9a-f]{64}")
CLIENT = re.compile(r"localcore-[0-9a-f]{16}")


@dataclass(frozen=True)
class Credentials:
    """What stands in the folder, and what shall."""

    device: Device
    functions: Mapping[str, str]
    """Each function's unit by its name."""
    secrets: Mapping[str, Mapping[str, str]]
    core: str = "localcore.service"

    @property
    def folder(self) -> Path:
        """Return the folder."""
        return self.device.path(FOLDER)

    def wanted(self) -> dict[str, str]:
        """Return the text of each file by its name; a token that is there and whole stays."""
        found = self._core()
        known = found.get("tokens")
        known = known if isinstance(known, dict) else {}
        tokens = {name: _whole(known.get(name), TOKEN) or secrets.token_hex(32) for name in sorted(self.functions)}
        # Who knows the name by which the core is known to the broker could take its place there.
        client = _whole(found.get("client_id"), CLIENT) or f"localcore-{secrets.token_hex(8)}"
        core = {"tokens": tokens, "secrets": self.secrets, "client_id": client}
        return {
            CORE: json.dumps(core, sort_keys=True) + "\n",
            **{f"{name}.token": f"{token}\n" for name, token in tokens.items()},
        }

    def differing(self, wanted: Mapping[str, str]) -> list[str]:
        """Return the names of the files that are to be written."""
        return [name for name, text in wanted.items() if not self._stands(self.folder / name, text)]

    def surplus(self, wanted: Mapping[str, str]) -> list[Path]:
        """Return the tokens of functions that the group no longer has."""
        return sorted(path for path in self.folder.glob("*.token") if path.name not in wanted)

    def write(self, wanted: Mapping[str, str], names: Sequence[str]) -> None:
        """Write files, and first the marks that the services which read them owe a restart."""
        units = {self.core} | {unit for name, unit in self.functions.items() if f"{name}.token" in names}
        for unit in sorted(units) if names else []:
            write_text(self.device.path(f"{OWED}/{unit}"), "")
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in names:
            write_text(self.folder / name, wanted[name], mode=0o600)

    def _stands(self, path: Path, text: str) -> bool:
        return read_text(path) == text and path.stat().st_mode & 0o077 == 0

    def _core(self) -> dict[str, Any]:
        try:
            found: Any = json.loads(read_text(self.folder / CORE) or "{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


def _whole(value: object, pattern: re.Pattern[str]) -> str | None:
    """Return a value that is as it was made, or None."""
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def apply(credentials: Credentials, check_mode: bool) -> list[str]:
    """Make the folder as wanted; return the names of files that were, or would be, written or removed."""
    wanted = credentials.wanted()
    differing, surplus = credentials.differing(wanted), credentials.surplus(wanted)
    if not check_mode:
        credentials.write(wanted, differing)
        for path in surplus:
            remove(path)
    return [*differing, *(path.name for path in surplus)]
