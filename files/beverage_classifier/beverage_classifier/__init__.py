"""The Lambda that answers each message with what is in front of the camera."""

from __future__ import annotations

from beverage_classifier.errors import ClassifierError
from beverage_classifier.handler import function_handler

__all__ = ["ClassifierError", "function_handler"]
