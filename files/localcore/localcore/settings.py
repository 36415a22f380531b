"""The router's settings (/etc/pi-fleet/localcore.json) and its credentials, which come on standard input."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from localcore.errors import LocalCoreError
from localcore.group import Group, Secret

TOKEN = re.compile(r"[0-9a-f]{64}")
DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
SETTINGS = "The settings of the local core"
CREDENTIALS = "The credentials of the local core"


@dataclass(frozen=True)
class Settings:
    """What may differ between two devices; the bounds are those of one queue."""

    device: str
    port: int
    broker_host: str
    broker_port: int
    broker_client_id: str
    queue_bytes: int
    queue_items: int


@dataclass(frozen=True)
class Credentials:
    """Tokens by function name, values of secrets by friendly name, and the name that the broker knows the core by.

    Whoever knew that name could take the core's place at the broker; without one it is that of the settings.
    """

    tokens: Mapping[str, str] = field(repr=False)
    secrets: Mapping[str, Mapping[str, str]] = field(repr=False)
    client_id: str | None


def parse_settings(text: bytes) -> Settings:
    """Return the settings in a file's content, or raise LocalCoreError that says what is wrong."""
    data = _mapping(SETTINGS, "the whole", _json(SETTINGS, text))
    _known(SETTINGS, data, {"device", "port", "broker", "queue_bytes", "queue_items"})
    broker = _mapping(SETTINGS, "broker", data.get("broker", {}))
    _known(SETTINGS, broker, {"host", "port", "client_id"})
    device = _text(SETTINGS, "device", data.get("device"))
    if not DEVICE.fullmatch(device):
        raise LocalCoreError(f"{SETTINGS} have the device {device!r}; use letters, digits, '.', '_' and '-'.")
    return Settings(
        device=device,
        port=_number("port", data.get("port", 8000), 1, 65535),
        broker_host=_text(SETTINGS, "broker.host", broker.get("host", "127.0.0.1")),
        broker_port=_number("broker.port", broker.get("port", 1883), 1, 65535),
        # Of two routers at one broker, each needs a name of its own, or it throws the other off.
        broker_client_id=_text(SETTINGS, "broker.client_id", broker.get("client_id", "localcore")),
        queue_bytes=_number("queue_bytes", data.get("queue_bytes", 2621440), 1, 2**30),
        queue_items=_number("queue_items", data.get("queue_items", 1000), 1, 1_000_000),
    )


def parse_credentials(text: bytes, group: Group) -> Credentials:
    """Return the credentials that the group needs; LocalCoreError says what is wrong, and never a credential."""
    data = _mapping(CREDENTIALS, "the whole", _json(CREDENTIALS, text))
    _known(CREDENTIALS, data, {"tokens", "secrets", "client_id"})
    client_id = data.get("client_id")
    if client_id is not None:
        client_id = _text(CREDENTIALS, "client_id", client_id)
    return Credentials(_tokens(data, group), _secrets(data, group), client_id)


def _tokens(data: Mapping[str, Any], group: Group) -> dict[str, str]:
    given = _mapping(CREDENTIALS, "tokens", data.get("tokens"))
    names = [function.name for function in group.functions]
    tokens = {}
    for name in [*names, *(connector.function_name for connector in group.connectors)]:
        token = _text(CREDENTIALS, f"the token of {name}", given.get(name))
        if not TOKEN.fullmatch(token):
            raise LocalCoreError(f"{CREDENTIALS} have a token of {name} that is not 64 hex digits; make a new one.")
        tokens[name] = token
    if len(set(tokens.values())) < len(tokens):
        raise LocalCoreError(f"{CREDENTIALS} have one token twice; give each function its own.")
    return tokens


def _secrets(data: Mapping[str, Any], group: Group) -> dict[str, dict[str, str]]:
    given = _mapping(CREDENTIALS, "secrets", data.get("secrets", {}))
    names = [resource.name for resource in group.resources.values() if isinstance(resource, Secret)]
    return {name: parse_secret(CREDENTIALS, name, given.get(name)) for name in names}


def parse_secret(what: str, name: str, value: object) -> dict[str, str]:
    """Return the value of a secret; LocalCoreError says what is wrong with it in `what`, and never what it is."""
    if not isinstance(value, dict) or len(value) != 1 or not value.keys() <= {"SecretString", "SecretBinary"}:
        raise LocalCoreError(f"{what} must have either SecretString or SecretBinary for the secret {name}; correct it.")
    ((kind, content),) = value.items()
    if not isinstance(content, str) or (kind == "SecretBinary" and not _is_base64(content)):
        shape = "base64" if kind == "SecretBinary" else "string"
        raise LocalCoreError(f"{what} have a {kind} of {name} that is no {shape}; correct it.")
    return {kind: content}


def _json(what: str, text: bytes) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        # The error's own text may show what is in the file.
        raise LocalCoreError(f"{what} are no JSON; converge the device again.") from None


def _mapping(what: str, key: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise LocalCoreError(f"{what} must have an object of keys and values as {key}; converge the device again.")
    return value


def _known(what: str, data: Mapping[str, Any], keys: set[str]) -> None:
    if unknown := sorted(data.keys() - keys):
        raise LocalCoreError(f"{what} have the unknown keys {', '.join(unknown)}; remove them.")


def _text(what: str, key: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise LocalCoreError(f"{what} must have a text as {key}; converge the device again.")
    return value


def _number(key: str, value: object, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise LocalCoreError(f"{SETTINGS} must have a whole number from {least} to {most} as {key}; correct it.")
    return value


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True
