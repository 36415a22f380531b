#!/usr/bin/env python3
"""Try the corpus of a target and variations of it, within bounds of time and memory that end this process.

short.py TARGET
"""

from __future__ import annotations

import faulthandler
import logging
import random
import resource
import sys
from pathlib import Path

from tests.fuzz.targets import CORPUS, PATIENCE, TARGETS, tighten

VARIATIONS = 30
INTERESTING = (b"\x00", b"\xff", b"\x7f\xff\xff\xff", b"\xff" * 8, b"\x00" * 8, b'"', b"{", b"[" * 50, b"\n", b"-1")
MOST_ADDRESSES = 3 * 2**30
"""Bytes; a picture and a model have their place in it."""


def varied(data: bytes, chance: random.Random) -> bytes:
    """Return bytes that differ in a few places."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        size = chance.choice((0, 1, 4, 8, len(changed) // 3))
        piece = chance.choice((*INTERESTING, chance.randbytes(size), bytes(changed[:size])))
        changed[at : at + chance.choice((0, size))] = piece
    return bytes(changed)


def memory(name: str) -> int:
    """Return what the kernel says of this process, in MiB."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) // 1024


def main() -> None:
    """Try one target, and print the MiB that it took at most beyond what it began with."""
    target = TARGETS[sys.argv[1]]
    tighten()
    logging.disable(logging.WARNING)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
    # From here on the kernel counts the peak anew.
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    for path in sorted((CORPUS / sys.argv[1]).iterdir()):
        chance = random.Random(path.name)
        data = path.read_bytes()
        for each in (data, *(varied(data, chance) for _ in range(VARIATIONS))):
            print(f"{path.name}: {each[:2000]!r}", file=sys.stderr)
            # A thread of C ends it, whatever holds the interpreter.
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            target(each)
    faulthandler.cancel_dump_traceback_later()
    print(memory("VmHWM") - before)


if __name__ == "__main__":
    main()
