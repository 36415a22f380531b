"""The module `picamera` of Lambdas written before libcamera, over whatever camera the device has (`pi_camera`).

It takes stills: `PiCamera(resolution=(400, 400))`, `capture`, `capture_sequence`, `capture_continuous`, and
`picamera.array.PiRGBArray`. Pictures have the resolution, rotation and flips that were asked for. Other settings
(brightness, awb_mode, annotate_text ...) are accepted and change nothing: the camera's own automatic stays. There is
no preview and no recording.
"""

from __future__ import annotations

from picamera.camera import PiCamera, PiResolution
from picamera.exc import (
    PiCameraClosed,
    PiCameraDeprecated,
    PiCameraError,
    PiCameraIOError,
    PiCameraMMALError,
    PiCameraRuntimeError,
    PiCameraValueError,
    PiCameraWarning,
)

__all__ = [
    "PiCamera",
    "PiCameraClosed",
    "PiCameraDeprecated",
    "PiCameraError",
    "PiCameraIOError",
    "PiCameraMMALError",
    "PiCameraRuntimeError",
    "PiCameraValueError",
    "PiCameraWarning",
    "PiResolution",
]
