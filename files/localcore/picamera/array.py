"""Pictures as numpy arrays, for scripts that process them: `PiRGBArray`."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from picamera.camera import PiCamera
from picamera.exc import PiCameraValueError
from picamera.pictures import raw_size


class PiRGBArray(io.BytesIO):
    """An output for captures in the formats 'rgb' and 'bgr', whose `array` is rows x columns x 3 bytes.

    `size` is (width, height) where the capture scales the picture, else the camera's resolution.
    """

    def __init__(self, camera: PiCamera, size: tuple[int, int] | None = None) -> None:
        """Wait for a capture of `camera`."""
        super().__init__()
        self.camera = camera
        self.size = size
        self.array: Any = None

    def flush(self) -> None:
        """Make the array of what was captured; PiCameraValueError if it is no raw picture of the size."""
        super().flush()
        content = self.getvalue()
        if not content:
            return
        width, height = self.size or self.camera.resolution
        columns, rows = raw_size((width, height))
        if len(content) != columns * rows * 3:
            raise PiCameraValueError(
                f"{len(content)} bytes are no picture of {width}x{height} in rgb or bgr; capture one picture in such "
                "a format, and call truncate(0) before the next."
            )
        self.array = np.frombuffer(bytearray(content), np.uint8).reshape(rows, columns, 3)[:height, :width]

    def truncate(self, size: int | None = None) -> int:
        """Drop what is beyond `size`, and go on writing there, as picamera's streams do."""
        length = super().truncate(size)
        self.seek(length)
        return length
