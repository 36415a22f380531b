"""Makes what is dropped on devices importable, as it is there; property tests may take their time on busy machines."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import settings

FILES = Path(__file__).resolve().parents[2] / "files"

sys.path.insert(0, str(FILES.parent))
for directory in ("camera", "beverage_classifier", "localcore", "pull"):
    sys.path.insert(0, str(FILES / directory))

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
