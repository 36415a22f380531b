"""What systemd is told of a service (sd_notify(3))."""

from __future__ import annotations

import os
import socket

from localcore.errors import LocalCoreError

VARIABLE = "NOTIFY_SOCKET"
LONGEST_STATUS = 500


def notify(state: str) -> None:
    """Tell systemd how this service fares, if it wants to know; LocalCoreError if it cannot be told."""
    address = os.environ.get(VARIABLE, "")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(state.encode(errors="replace"), f"\0{address[1:]}" if address.startswith("@") else address)
    except OSError as error:
        raise LocalCoreError(
            f"systemd cannot be notified at {address} ({error.strerror}); unset {VARIABLE}."
        ) from error


def say(status: str) -> None:
    """Show a status of one line in `systemctl status`, whatever text it is made of."""
    notify(f"STATUS={' '.join(status.split())[:LONGEST_STATUS]}")
