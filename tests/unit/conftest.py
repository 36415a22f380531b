"""Makes what is dropped on devices importable, as it is there."""

from __future__ import annotations

import sys
from pathlib import Path

FILES = Path(__file__).resolve().parents[2] / "files"

for directory in ("camera", "beverage_classifier", "localcore", "pull"):
    sys.path.insert(0, str(FILES / directory))
