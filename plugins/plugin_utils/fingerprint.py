# SPDX-License-Identifier: Apache-2.0
"""What a role is given, as one hash: its code, its options' values, and the files of the control node that these name.

A role's vars/main.yml says beside its other data: __ROLE_manages, what it manages on a device; __ROLE_inputs, files and
folders of the control node that it reads; __ROLE_reads, roles whose inputs are its own too; __ROLE_once, options that
ask for something once; __ROLE_packages and __ROLE_further_packages, what it installs from Debian.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ansible.constants import config
from ansible.parsing.dataloader import DataLoader
from ansible_collections.edge.pi_fleet.plugins.module_utils.state_observe import ignored

PROJECT = Path(__file__).resolve().parents[2]
ROLES = PROJECT / "roles"
# What roles' tasks are made of. Which role takes which module is not told apart: a change of any is one for all.
PLUGINS = ("plugins/action", "plugins/modules", "plugins/module_utils", "plugins/plugin_utils", "plugins/filter")
# What a run learns on its way, and is known at its end alone: its own inputs are read by __ROLE_reads.
FACTS = ("local_core_group",)
# A role's own words on itself change nothing on a device.
PROSE = ("README.md",)


@dataclass(frozen=True)
class Roles:
    """The roles of this collection, with the variables of one device."""

    variables: Mapping[str, Any]
    templar: Any
    loader: DataLoader

    def fingerprint(self, role: str, done: bool = False) -> str:
        """Return the hash of all that a role is given; once it has done it, without what was asked for once."""
        # Settings and topics carry the device's name.
        digest = hashlib.sha256(f"{self.variables.get('inventory_hostname')}\n".encode())
        # What templates begin with.
        managed = self.variables.get("ansible_managed", config.get_config_value("DEFAULT_MANAGED_STR"))
        digest.update(f"{managed}\n".encode())
        for name in [role, *self._of(role, "reads")]:
            options = self._evaluated(name, self._options(name), unknown=FACTS)
            if done:
                options |= {once: self._file(name, "defaults")[once] for once in self._of(name, "once")}
            # Not where they are: the built collection has files of its own elsewhere, the same ones.
            inputs = [content(str(path)) for path in self._of(name, "inputs")]
            given = json.dumps([code(name), options, inputs], sort_keys=True, default=str)
            digest.update(f"{name} {given}\n".encode())
        return digest.hexdigest()

    def manages(self, role: str) -> dict[str, Any]:
        """Return what a role declares that it manages."""
        return dict(self._evaluated(role, [f"__{role}_manages"])[f"__{role}_manages"])

    def option(self, role: str, name: str) -> Any:
        """Return what a role is given for one of its options."""
        return self._evaluated(role, [name])[name]

    def packages(self, role: str) -> list[str] | dict[str, list[str]]:
        """Return the Debian packages that a role installs, or those of each release."""
        names = [f"__{role}_packages", f"__{role}_further_packages"]
        packages, further = (self._evaluated(role, [name]).get(name, []) for name in names)
        return dict(packages) if isinstance(packages, dict) else [*packages, *further]

    def _of(self, role: str, what: str) -> list[str]:
        name = f"__{role}_{what}"
        return list(self._evaluated(role, [name])[name]) if name in self._file(role, "vars") else []

    def _options(self, role: str) -> list[str]:
        specs = self._file(role, "meta", "argument_specs.yml")
        return list(specs["argument_specs"]["main"]["options"])

    def _evaluated(self, role: str, names: list[str], unknown: Collection[str] = ()) -> dict[str, Any]:
        known = {
            **self._file(role, "defaults"),
            **{name: value for name, value in self.variables.items() if name not in unknown},
            **self._file(role, "vars"),
            "role_path": str(ROLES / role),
        }
        templar = self.templar.copy_with_new_env(available_variables=known)
        return {name: templar.template(known[name]) for name in names if name in known}

    def _file(self, role: str, folder: str, name: str = "main.yml") -> dict[str, Any]:
        path = ROLES / role / folder / name
        # Nobody changes it: a copy each time would cost more than all the rest.
        return (
            self.loader.load_from_file(str(path), unsafe=True, trusted_as_template=True) or {} if path.is_file() else {}
        )


@cache
def code(role: str) -> str:
    """Return the hashes of a role's folder and of the plugins."""
    return f"{content(str(ROLES / role), PROSE)} {plugins()}"


@cache
def plugins() -> str:
    """Return the hashes of the plugins, once for all roles."""
    return " ".join(content(str(PROJECT / part), PROSE) for part in PLUGINS)


def content(path: str, but: Collection[str] = ()) -> str:
    """Return the hash of a file, or of a folder with all that is in it but files of some names.

    Of what is not there or not named, it is a word.
    """
    if not path:
        return "absent"
    place = Path(path).expanduser()
    if place.is_file():
        return of_file(place)
    if not place.is_dir():
        return "absent"
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(place):
        folders[:] = sorted(name for name in folders if not ignored(name))
        for name in sorted(files):
            if not ignored(name) and name not in but:
                file = Path(folder, name)
                digest.update(f"{file.relative_to(place)} {os.access(file, os.X_OK)} {of_file(file)}\n".encode())
    return digest.hexdigest()


def of_file(path: Path) -> str:
    """Return the hash of a file."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        return "absent"
