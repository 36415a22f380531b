"""The exceptions of picamera, under the names that scripts catch."""

from __future__ import annotations


class PiCameraWarning(Warning):
    """Base of picamera's warnings; never given here."""


class PiCameraDeprecated(PiCameraWarning, DeprecationWarning):
    """Never given here; scripts name it in filters of warnings."""


class PiCameraError(Exception):
    """What went wrong, and what to do about it, in one sentence."""


class PiCameraRuntimeError(PiCameraError, RuntimeError):
    """The camera gave no picture, or is used in a wrong order."""


# These two keep picamera's names, hence no suffix Error.
class PiCameraClosed(PiCameraRuntimeError):  # noqa: N818
    """The camera was used after `close()`."""


class PiCameraMMALError(PiCameraError):
    """Never raised here; scripts catch it where another program used the camera."""


class PiCameraValueError(PiCameraError, ValueError):
    """An argument cannot be meant."""


class PiCameraIOError(PiCameraError, OSError):
    """Never raised here; scripts catch it."""
