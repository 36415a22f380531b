"""The package's exception, and the form of it that answers a request."""

from __future__ import annotations


class LocalCoreError(Exception):
    """What went wrong, where, and what to do about it, in one sentence."""


class RefusedError(LocalCoreError):
    """A request that is not served, with the HTTP status that says so to V1's clients."""

    def __init__(self, status: int, sentence: str) -> None:
        """Refuse with `status`, and `sentence` as the body of the answer."""
        super().__init__(sentence)
        self.status = status
