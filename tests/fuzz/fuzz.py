#!/usr/bin/env python3
"""Look for bytes on which a reader fails, hangs or takes too much memory; atheris chooses them by what they reach.

    fuzz.py TARGET [--seconds 600]

A finding ends it with 1, is written beside .cache/fuzz, and belongs into tests/fuzz/corpus/TARGET when it is mended:
`make test` tries all that is there, and variations of it.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["localcore", "ansible_collections.edge.pi_fleet"]):
    from tests.fuzz.targets import CORPUS, PATIENCE, TARGETS, tighten

# With the fuzzer's own, and the corpus; tests/unit/test_fuzz.py has the readers' bound.
MEMORY_MIB = 700


def main() -> None:
    """Fuzz one target."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=600)
    asked = parser.parse_args()
    tighten()
    # Of each request that is none a line is told.
    logging.disable(logging.WARNING)
    found = Path(__file__).resolve().parents[2] / ".cache" / "fuzz" / asked.target
    found.mkdir(parents=True, exist_ok=True)
    atheris.Setup(
        [
            sys.argv[0],
            str(found),
            str(CORPUS / asked.target),
            f"-max_total_time={asked.seconds}",
            f"-timeout={PATIENCE:.0f}",
            f"-rss_limit_mb={MEMORY_MIB}",
            "-max_len=65536",
            "-print_final_stats=1",
            f"-artifact_prefix={found}-",
        ],
        TARGETS[asked.target],
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
