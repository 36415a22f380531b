"""The router's settings: their defaults, and one sentence for what cannot be meant."""

from __future__ import annotations

import json
from typing import Any

import pytest
from localcore.errors import LocalCoreError
from localcore.settings import Settings, parse_settings


def test_settings_are_read() -> None:
    broker = {"host": "::1", "port": 1, "client_id": "second"}
    given = {"device": "pi-1", "port": 8001, "broker": broker, "queue_bytes": 2, "queue_items": 3}
    assert parse_settings(json.dumps(given).encode()) == Settings("pi-1", 8001, "::1", 1, "second", 2, 3)


def test_all_but_the_device_has_a_default() -> None:
    expected = Settings("pi-1", 8000, "127.0.0.1", 1883, "localcore", 2621440, 1000)
    assert parse_settings(b'{"device": "pi-1"}') == expected


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"device": None}, "a text as device"),
        ({"device": "a/b"}, "device 'a/b'"),
        ({"device": "#"}, "device '#'"),
        ({"port": 0}, "from 1 to 65535 as port"),
        ({"port": "8000"}, "as port"),
        ({"port": True}, "as port"),
        ({"broker": []}, "an object of keys and values as broker"),
        ({"broker": {"port": 70000}}, r"as broker\.port"),
        ({"broker": {"hostname": "x"}}, "unknown keys hostname"),
        ({"broker": {"client_id": ""}}, r"as broker\.client_id"),
        ({"queue_bytes": 0}, "as queue_bytes"),
        ({"queue_items": 1.5}, "as queue_items"),
        ({"queue": 1}, "unknown keys queue"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(LocalCoreError, match=said) as refusal:
        parse_settings(json.dumps({"device": "pi-1", **changes}).encode())
    assert str(refusal.value).endswith(".")


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000, b"[]"])
def test_what_is_no_settings_is_one_sentence(text: bytes) -> None:
    with pytest.raises(LocalCoreError, match="The settings of the local core"):
        parse_settings(text)
