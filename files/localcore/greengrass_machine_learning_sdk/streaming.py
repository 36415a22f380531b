"""The body of a reply, read as a stream like that of AWS's own clients."""

from __future__ import annotations

from io import BytesIO


class StreamingBody:
    """Bytes that are read once, all or some at a time."""

    def __init__(self, payload: bytes) -> None:
        """Hold `payload` for reading."""
        self._stream = BytesIO(payload)

    def read(self, amt: int | None = None) -> bytes:
        """Return at most `amt` bytes, or all that are left."""
        return self._stream.read(amt)

    def close(self) -> None:
        """Let go of the bytes; reading from now on is a ValueError."""
        self._stream.close()
