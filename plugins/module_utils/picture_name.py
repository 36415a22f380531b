# SPDX-License-Identifier: Apache-2.0
"""What the name of a picture says: when it was taken, and what was seen in it.

A picture is called `<epoch millis>_<category>_<confidence>.jpg`, or `<epoch millis>.jpg` where its handling failed.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import PurePath

NAME = re.compile(r"(?P<millis>[0-9]{1,15})(?:_(?P<category>.+)_(?P<confidence>[0-9.]+(?:e-?[0-9]+)?))?\.\w+")


def prediction(name: str) -> str:
    """Return what was seen, with the confidence."""
    found = NAME.fullmatch(PurePath(name).name)
    if found is None or found["category"] is None:
        return "no prediction"
    try:
        return f"{found['category']}, {float(found['confidence']):.0%}"
    except ValueError:
        return found["category"]


def taken(name: str) -> str:
    """Return when it was taken."""
    found = NAME.fullmatch(PurePath(name).name)
    try:
        moment = datetime.fromtimestamp(int(found["millis"]) / 1000, UTC) if found else None
    except (ValueError, OverflowError, OSError):
        moment = None
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "time unknown"
