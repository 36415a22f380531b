"""A short run of what `make fuzz` does for long: all of the corpus, and variations of it."""

from __future__ import annotations

import random
import resource
from pathlib import Path

import pytest

from tests.fuzz.targets import CORPUS, TARGETS

VARIATIONS = 30
INTERESTING = (b"\x00", b"\xff", b"\x7f\xff\xff\xff", b"\xff" * 8, b"\x00" * 8, b'"', b"{", b"[" * 50, b"\n", b"-1")
KEPT = sorted(CORPUS.glob("*/*"))


def varied(data: bytes, chance: random.Random) -> bytes:
    """Return bytes that differ in a few places."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        size = chance.choice((0, 1, 4, 8, len(changed) // 3))
        piece = chance.choice((*INTERESTING, chance.randbytes(size), bytes(changed[:size])))
        changed[at : at + chance.choice((0, size))] = piece
    return bytes(changed)


def test_every_target_has_a_corpus() -> None:
    assert {path.parent.name for path in KEPT} == set(TARGETS)


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_nothing_gets_out_but_a_sentence(path: Path) -> None:
    target = TARGETS[path.parent.name]
    data = path.read_bytes()
    chance = random.Random(path.name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    target(data)
    for _ in range(VARIATIONS):
        target(varied(data, chance))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 * 1024
