# SPDX-License-Identifier: Apache-2.0
"""What makes a device the one that it is, as the control node keeps it: host name, SSH host keys, credentials.

Pure: files and their encryption are `plugin_utils/identity_store.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import yaml
from ansible_collections.edge.pi_fleet.plugins.module_utils.host_key import HostKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

HEADER = "# The identity of a device. Made once; 'ansible-vault view' shows it.\n"
HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""RFC 1123: one label."""


class IdentityError(Exception):
    """One sentence: what is wrong with an identity, and what to do."""


@dataclass(frozen=True)
class Identity:
    """A device's identity. Nothing of it is printed: its representation names no secret."""

    hostname: str
    host_keys: Mapping[str, str] = field(repr=False)
    """Private keys in OpenSSH's format, by what their files are called after: `ed25519`."""
    credentials: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    """Of the broker and the bridge, by their names."""

    @classmethod
    def make(cls, hostname: str) -> Identity:
        """Make an identity, with keys of its own."""
        if not HOSTNAME.fullmatch(hostname):
            raise IdentityError(
                f"The host name '{hostname}' is not one label of a-z, 0-9 and hyphens, at most 63 long: set"
                " identity_hostname in the inventory."
            )
        return cls(hostname, {"ed25519": _new_key()})

    @classmethod
    def parse(cls, text: str) -> Identity:
        """Read the text of an identity's file; raise IdentityError, without quoting it, if it is none."""
        try:
            data = yaml.safe_load(text)
            identity = cls(str(data["hostname"]), dict(data["host_keys"]), dict(data.get("credentials") or {}))
            if not HOSTNAME.fullmatch(identity.hostname) or not identity.public_keys():
                raise ValueError
        except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError):
            raise IdentityError("it holds no identity with a hostname and host_keys") from None
        return identity

    def dump(self) -> str:
        """Return the text of the identity's file."""
        data = {
            "hostname": self.hostname,
            "host_keys": dict(self.host_keys),
            "credentials": {name: dict(values) for name, values in self.credentials.items()},
        }
        return HEADER + yaml.safe_dump(data, default_style=None, sort_keys=False)

    def public_keys(self) -> list[HostKey]:
        """Return the public parts of its host keys."""
        return [HostKey.parse(public_key(text)) for text in self.host_keys.values()]

    def rotated(self) -> Identity:
        """Return the identity with new host keys."""
        return replace(self, host_keys={name: _new_key() for name in self.host_keys})

    def with_credentials(self, credentials: Mapping[str, Mapping[str, Any]]) -> Identity:
        """Return the identity with credentials that it does not have yet; those that it has stay."""
        return replace(self, credentials={**credentials, **self.credentials})


def public_key(private: str) -> str:
    """Return `TYPE BASE64` of a private key; raise ValueError if it is none."""
    key = load_ssh_private_key(private.encode(), password=None)
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _new_key() -> str:
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
