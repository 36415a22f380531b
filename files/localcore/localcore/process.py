"""What every process that holds a token does first."""

from __future__ import annotations

import ctypes
import os

from localcore.errors import LocalCoreError

PR_SET_DUMPABLE = 4  # from linux/prctl.h


def hide() -> None:
    """Make this process non-dumpable: neither its memory nor its descriptors are open to others of its user."""
    no = ctypes.c_ulong(0)
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, no, no, no, no) != 0:
        raise LocalCoreError(f"This process cannot be hidden (prctl: {os.strerror(ctypes.get_errno())}).")
