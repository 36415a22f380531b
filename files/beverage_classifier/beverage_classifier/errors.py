"""The package's one exception."""

from __future__ import annotations


class ClassifierError(Exception):
    """What went wrong, where, and what to do about it, in one sentence."""
