"""A short run of what `make fuzz` does for long: all of the corpus, and variations of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.fuzz import short
from tests.fuzz.targets import CORPUS, TARGETS

ROOT = CORPUS.parents[2]
MOST_MIB = 256


def test_every_target_has_a_corpus() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert all(any(path.iterdir()) for path in CORPUS.iterdir())


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_gets_out_but_a_sentence(target: str) -> None:
    # A process of its own: its memory and time are those of the target alone, and what hangs or eats ends.
    paths = [str(ROOT / path) for path in (".", "collections", "files/localcore")]
    done = subprocess.run(
        [sys.executable, short.__file__, target],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    assert int(done.stdout) < MOST_MIB
