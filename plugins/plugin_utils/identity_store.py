# SPDX-License-Identifier: Apache-2.0
"""The identity store: one file a device, each encrypted whole by ansible-vault with the run's own secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib, match_encrypt_secret
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import read_text, write_text
from ansible_collections.edge.pi_fleet.plugins.module_utils.host_identity import Wanted, knowledge
from ansible_collections.edge.pi_fleet.plugins.module_utils.host_key import locked
from ansible_collections.edge.pi_fleet.plugins.module_utils.identity_store import Identity, IdentityError

STORE = "identities"
KNOWN_HOSTS = "known_hosts"
"""Beside the inventory, where role identity's inputs do not say otherwise."""


@dataclass(frozen=True)
class IdentityStore:
    """The identities of an inventory's devices, and the `known_hosts` that is written from them."""

    folder: Path
    known_hosts: Path
    vault: VaultLib

    @classmethod
    def of(
        cls, arguments: Mapping[str, Any], variables: Mapping[str, Any], templar: Any, loader: DataLoader
    ) -> IdentityStore:
        """Find the store of a task: by its arguments, else by role identity's inputs, else beside the inventory."""

        def place(argument: str, name: str) -> Path:
            given = arguments.get(argument) or templar.template(variables.get(f"identity_{argument}", ""))
            beside = variables.get("inventory_dir") or ""
            if not given and not beside:
                raise IdentityError(f"identity_{argument} is not set and the inventory is in no folder: set it.")
            return Path(given or Path(beside, name)).expanduser()

        return cls(place("store", STORE), place("known_hosts", KNOWN_HOSTS), loader._vault)

    def path(self, host: str) -> Path:
        """Return the file of a device, which may not be there."""
        return self.folder / f"{host}.yml"

    def read(self, host: str) -> Identity | None:
        """Return a device's identity, None if it has none."""
        path = self.path(host)
        text = read_text(path)
        if text is None:
            return None
        if not self.vault.is_encrypted(text):
            raise IdentityError(f"{path} is not encrypted: 'ansible-vault encrypt {path}' encrypts it.")
        if not self.vault.secrets:
            raise IdentityError(f"{path} is encrypted and no vault password was given: add --vault-password-file.")
        try:
            return Identity.parse(self.vault.decrypt(text).decode())
        except IdentityError as error:
            raise IdentityError(f"{path} is no identity ({error}): restore it from your backup.") from None
        except AnsibleError:
            raise IdentityError(
                f"{path} does not open with the vault password that was given: give the one that it was made with."
            ) from None

    def write(self, host: str, identity: Identity) -> None:
        """Write a device's identity, for this user alone, at once."""
        path = self.path(host)
        secret = match_encrypt_secret(self.vault.secrets, constants.DEFAULT_VAULT_ENCRYPT_IDENTITY)
        if not secret:
            raise IdentityError(
                f"The identity of {host} is to be encrypted and no vault password was given: add --vault-password-file."
            )
        vault_id, value = secret
        text = self.vault.encrypt(identity.dump(), value, None if vault_id == "default" else vault_id).decode()
        write_text(path, text, mode=0o600)

    def keep(
        self, host: str, hostname: str, credentials: Mapping[str, Any], rotate: bool = False, check_mode: bool = False
    ) -> tuple[Identity, bool]:
        """Return a device's identity, made if it has none, and whether it was, or would be, made or changed."""
        if check_mode:
            return self._keep(host, hostname, credentials, rotate, check_mode)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self.folder):
            return self._keep(host, hostname, credentials, rotate, check_mode)

    def _keep(
        self, host: str, hostname: str, credentials: Mapping[str, Any], rotate: bool, check_mode: bool
    ) -> tuple[Identity, bool]:
        before = self.read(host)
        after = (before or Identity.make(hostname)).with_credentials(credentials)
        if rotate and before:
            after = after.rotated()
        if after != before and not check_mode:
            self.write(host, after)
        return after, after != before

    def wanted(self, host: str) -> Wanted:
        """Return what is known of a device before it is asked."""
        identity = self.read(host)
        return knowledge(host, self.known_hosts, identity.public_keys() if identity else [])
