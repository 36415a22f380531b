# SPDX-License-Identifier: Apache-2.0
"""Which addresses a TCP port listens on, as the kernel says in /proc/net (proc_net_tcp)."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence

from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, read_text

LISTEN = "0A"


def parse_address(text: str) -> str:
    """Return an address of /proc/net: hexadecimal words of 32 bits, each in this machine's byte order."""
    words = [int(text[place : place + 8], 16) for place in range(0, len(text), 8)]
    # Little-endian or not, the device itself reads what it wrote.
    return str(ipaddress.ip_address(struct.pack(f"={len(words)}I", *words)))


def listening(device: Device, port: int) -> list[str]:
    """Return the addresses, each once and in order, that a port listens on."""
    found = set()
    for table in ("tcp", "tcp6"):
        # The first line names the columns; there is no tcp6 where IPv6 is off.
        for line in (read_text(device.path(f"/proc/net/{table}")) or "").splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, _, found_port = local.partition(":")
            if state == LISTEN and int(found_port, 16) == port:
                found.add(parse_address(address))
    return sorted(found)


def check_loopback(device: Device, port: int) -> tuple[bool, str, str]:
    """Check, for verify, that a port listens, and for the device alone."""
    found = listening(device, port)
    alone = all(ipaddress.ip_address(address).is_loopback for address in found)
    return bool(found) and alone, _text(found), "loopback alone"


def check_listening(device: Device, port: int, addresses: Sequence[str]) -> tuple[bool, str, str]:
    """Check, for verify, that a port listens on these addresses and on no others."""
    wanted = sorted(str(ipaddress.ip_address(address)) for address in addresses)
    found = listening(device, port)
    return found == wanted, _text(found), _text(wanted)


def _text(addresses: Sequence[str]) -> str:
    return ", ".join(addresses) or "nothing listens"
