"""The text of the files that configure swap: read and edited as text, without a device.

Formats: dphys-swapfile(8), a sourced file of shell assignments; swap.conf(5) of rpi-swap; systemd.swap(5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ansible_collections.edge.pi_fleet.plugins.module_utils.device import MANAGED

DPHYS_DEFAULT_MAXSWAP = 2048


@dataclass(frozen=True)
class Assignment:
    """The last assignment, which counts: its line, and its value as written (None: shell code)."""

    line: int
    raw: str | None

    @property
    def value(self) -> str | None:
        """The value without its quotes, or None if only a shell could tell."""
        return None if self.raw is None else self.raw.strip("\"'")


def last_assignment(text: str, name: str) -> Assignment | None:
    """Return the last line that assigns `name`; only one of nothing but `NAME=literal` has a `raw`."""
    plain = re.compile(rf"{name}=(?P<raw>\"[^\"$`\\]*\"|'[^']*'|[\w./+-]*)(?:[ \t]+#.*|[ \t]*)", re.ASCII)
    mention = re.compile(rf"(?<!\w){name}=", re.ASCII)
    for number, line in reversed(list(enumerate(text.split("\n")))):
        if line.lstrip().startswith("#") or not mention.search(line):
            continue
        found = plain.fullmatch(line)
        return Assignment(number, found["raw"] if found else None)
    return None


def assign(text: str, name: str, raw: str | None) -> str:
    """Return `text` in which `name` ends up as `raw`; None takes the line that assigns it away.

    A plain line is edited in place. Where the last assignment is shell code (a condition, a computed value),
    or where there is none, a line at the end has the last word. All other lines stay, byte for byte.
    """
    lines = text.split("\n")
    last = last_assignment(text, name)
    if last is not None and last.raw is not None:
        if raw is None:
            del lines[last.line]
        else:
            start = len(name) + 1
            lines[last.line] = f"{name}={raw}{lines[last.line][start + len(last.raw) :]}"
    elif raw is not None:
        end = len(lines) - 1 if lines[-1] == "" else len(lines)
        lines[end:] = [f"{name}={raw}", ""]
    return "\n".join(lines)


def megabytes(text: str, name: str, default: int | None) -> int | None:
    """Return the MiB that `name` is set to; `default` if it is not set; None if it is empty or shell code."""
    last = last_assignment(text, name)
    if last is None:
        return default
    return int(last.value) if last.value and last.value.isdecimal() else None


def dphys_size(text: str) -> int | None:
    """Return the MiB that dphys-swapfile makes of its configuration; None if it computes them."""
    size = megabytes(text, "CONF_SWAPSIZE", None)
    limit = megabytes(text, "CONF_MAXSWAP", DPHYS_DEFAULT_MAXSWAP)
    return size if size is None or limit is None else min(size, limit)


def dphys_with_size(text: str, mib: int) -> str:
    """Return `text` with a size of `mib`, and with CONF_MAXSWAP raised to it if that would cut it off."""
    last_limit = last_assignment(text, "CONF_MAXSWAP")
    limit = megabytes(text, "CONF_MAXSWAP", DPHYS_DEFAULT_MAXSWAP)
    computed = last_limit is not None and last_limit.value is None
    if (limit is not None and mib > limit) or (computed and mib > DPHYS_DEFAULT_MAXSWAP):
        text = assign(text, "CONF_MAXSWAP", str(mib))
    if megabytes(text, "CONF_SWAPSIZE", None) == mib:
        return text
    return assign(text, "CONF_SWAPSIZE", str(mib))


def merge_rpi(texts: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Return option -> (value, file that decided it) for rpi-swap's files, given in the order of reading.

    Options are named `Section.Option`; an empty value takes back what an earlier file said.
    """
    merged: dict[str, tuple[str, str]] = {}
    for name, text in texts.items():
        section = ""
        for line in map(str.strip, text.splitlines()):
            if line.startswith("[") and line.endswith("]"):
                section = line[1:-1]
            elif "=" in line and not line.startswith(("#", ";")):
                option, value = (part.strip() for part in line.split("=", 1))
                merged[f"{section}.{option}"] = (value, name)
    return merged


def rpi_drop_in(mib: int) -> str:
    """Return the drop-in that makes rpi-swap use a file of `mib`, or no swap at all for 0.

    Without `Mechanism` the size would be that of the file behind zram.
    """
    if mib == 0:
        return f"{MANAGED}[Main]\nMechanism=none\n"
    return f"{MANAGED}[Main]\nMechanism=swapfile\n[File]\nFixedSizeMiB={mib}\n"


def rpi_size(drop_in: str) -> int:
    """Return the MiB of a drop-in that `rpi_drop_in` made."""
    value, _ = merge_rpi({"": drop_in}).get("File.FixedSizeMiB", ("0", ""))
    return int(value) if value.isdecimal() else 0


def rpi_file(options: dict[str, tuple[str, str]]) -> int | None:
    """Return the MiB of the file that rpi-swap swaps on by the options of `merge_rpi`; None if it works them out.

    Only the mechanism `swapfile` swaps on one: behind zram the kernel does not list it.
    """
    mechanism, _ = options.get("Main.Mechanism", ("", ""))
    size, _ = options.get("File.FixedSizeMiB", ("", ""))
    if mechanism != "swapfile":
        return 0
    return int(size) if size.isdecimal() else None


def swap_unit(path: str, mib: int) -> str:
    """Return the unit for a swap file of our own.

    The condition on the path keeps a boot quiet between the writing of this unit and that of the file.
    """
    return (
        f"{MANAGED}[Unit]\nDescription=Swap file of {mib} MiB\nConditionVirtualization=!container\n"
        f"ConditionPathExists={path}\n\n[Swap]\nWhat={path}\n\n[Install]\nWantedBy=swap.target\n"
    )
