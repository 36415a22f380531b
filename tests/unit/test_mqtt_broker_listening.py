"""Which addresses a port listens on, as /proc/net has it."""

from __future__ import annotations

import socket
import struct
import sys
from pathlib import Path

import pytest
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device
from ansible_collections.edge.pi_fleet.plugins.module_utils.listening import (
    check_listening,
    check_loopback,
    listening,
    parse_address,
)
from fake_device import FakeDevice

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
LISTEN, ESTABLISHED = "0A", "01"


def line(address: str, port: int, state: str) -> str:
    """Return a line as this machine's kernel writes it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    local = "".join(f"{word:08X}" for word in words)
    return f"   0: {local}:{port:04X} {'0' * len(local)}:0000 {state} 00000000:00000000 00:00000000 00000000 0 0 1 1\n"


@pytest.fixture
def fake(tmp_path: Path) -> FakeDevice:
    fake = FakeDevice(tmp_path)
    fake.write(
        "/proc/net/tcp",
        HEAD
        + line("127.0.0.1", 1883, LISTEN)
        + line("127.0.0.1", 1883, ESTABLISHED)
        + line("192.168.1.20", 1883, ESTABLISHED)
        + line("0.0.0.0", 8883, LISTEN),
    )
    fake.write("/proc/net/tcp6", HEAD + line("::", 8883, LISTEN) + line("fe80::1", 22, LISTEN))
    return fake


@pytest.mark.skipif(sys.byteorder == "big", reason="written by a little-endian kernel, as all of Raspberry Pi's are")
@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0100007F", "127.0.0.1"),
        ("00000000", "0.0.0.0"),
        ("00000000000000000000000001000000", "::1"),
        ("B80D0120000000000000000001000000", "2001:db8::1"),
    ],
)
def test_addresses_are_read_as_a_pi_writes_them(text: str, address: str) -> None:
    assert parse_address(text) == address


def test_only_what_listens_counts(fake: FakeDevice) -> None:
    assert listening(fake.device(), 1883) == ["127.0.0.1"]
    assert listening(fake.device(), 8883) == ["0.0.0.0", "::"]
    assert listening(fake.device(), 8884) == []


@pytest.mark.parametrize(
    ("port", "addresses", "right", "found", "wanted"),
    [
        (1883, ["127.0.0.1"], True, "127.0.0.1", "127.0.0.1"),
        (1883, [], False, "127.0.0.1", "nothing listens"),
        (8883, ["127.0.0.1"], False, "0.0.0.0, ::", "127.0.0.1"),
        (8883, ["0:0::0", "0.0.0.0"], True, "0.0.0.0, ::", "0.0.0.0, ::"),
        (9, [], True, "nothing listens", "nothing listens"),
    ],
)
def test_all_addresses_that_are_wanted_and_no_others(
    fake: FakeDevice, port: int, addresses: list[str], right: bool, found: str, wanted: str
) -> None:
    assert check_listening(fake.device(), port, addresses) == (right, found, wanted)


def test_a_device_without_ipv6(fake: FakeDevice) -> None:
    (fake.root / "proc/net/tcp6").unlink()
    assert listening(fake.device(), 8883) == ["0.0.0.0"]


def test_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert listening(Device(lambda argv: (1, "", "")), port) == ["127.0.0.1"]
    assert listening(Device(lambda argv: (1, "", "")), port) == []


def test_loopback_alone(fake: FakeDevice) -> None:
    assert check_loopback(fake.device(), 1883) == (True, "127.0.0.1", "loopback alone")
    fake.write("/proc/net/tcp6", HEAD + line("::1", 1883, LISTEN))
    assert check_loopback(fake.device(), 1883) == (True, "127.0.0.1, ::1", "loopback alone")
    fake.write("/proc/net/tcp6", HEAD + line("fe80::1", 1883, LISTEN))
    assert not check_loopback(fake.device(), 1883)[0]
    assert check_loopback(fake.device(), 9) == (False, "nothing listens", "loopback alone")
