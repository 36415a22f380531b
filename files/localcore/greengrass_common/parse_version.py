"""Interface versions such as 1.5; AWS's own Machine Learning SDK, which many Lambdas bring along, asks for this."""

from __future__ import annotations

import re


def parse_version(version: str | None) -> tuple[str, str]:
    """Return the major and the minor part of a version, both in digits; ValueError if it has none."""
    match = re.fullmatch(r"(\d+)\.(\d+)(\.\d+)*", version or "")
    if match is None:
        raise ValueError(f"{version!r} is no version such as 1.5; set GGC_MAX_INTERFACE_VERSION.")
    return match[1], match[2]
