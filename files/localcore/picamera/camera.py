"""PiCamera, as far as stills go."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import pi_camera

from picamera.exc import PiCameraClosed, PiCameraError, PiCameraRuntimeError, PiCameraValueError
from picamera.pictures import DEFAULT_QUALITY, FILE_FORMATS, RAW_FORMATS, Look, convert

NAMED_RESOLUTIONS = {
    "QVGA": (320, 240),
    "VGA": (640, 480),
    "SVGA": (800, 600),
    "XGA": (1024, 768),
    "HD": (1280, 720),
    "720p": (1280, 720),
    "FHD": (1920, 1080),
    "1080p": (1920, 1080),
}
WITH_EFFECT = ("hflip", "resolution", "rotation", "vflip")
# Settings that scripts make, and their defaults in picamera; they are remembered and change nothing.
WITHOUT_EFFECT: dict[str, Any] = {
    "ISO": 0,
    "annotate_background": None,
    "annotate_foreground": None,
    "annotate_frame_num": False,
    "annotate_text": "",
    "annotate_text_size": 32,
    "awb_gains": (0, 0),
    "awb_mode": "auto",
    "brightness": 50,
    "color_effects": None,
    "contrast": 0,
    "crop": (0.0, 0.0, 1.0, 1.0),
    "drc_strength": "off",
    "exposure_compensation": 0,
    "exposure_mode": "auto",
    "flash_mode": "off",
    "framerate": 30,
    "framerate_range": None,
    "image_denoise": True,
    "image_effect": "none",
    "image_effect_params": None,
    "iso": 0,
    "led": False,
    "meter_mode": "average",
    "saturation": 0,
    "sensor_mode": 0,
    "sharpness": 0,
    "shutter_speed": 0,
    "still_stats": False,
    "video_denoise": True,
    "video_stabilization": False,
    "zoom": (0.0, 0.0, 1.0, 1.0),
}
ARGUMENTS_WITHOUT_EFFECT = frozenset({"clock_mode", "led_pin", "stereo_decimate", "stereo_mode"})
# Options of captures that ask for nothing that could be seen in the picture.
OPTIONS_WITHOUT_EFFECT = frozenset({"bayer", "burst", "restart", "splitter_port", "thumbnail", "use_video_port"})


class PiResolution(NamedTuple):
    """A width and a height in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        """Return such as 400x400."""
        return f"{self.width}x{self.height}"


class PiCamera:
    """The camera of the device, open until `close()` or the end of its `with` block."""

    def __init__(
        self, camera_num: int = 0, *, resolution: tuple[int, int] | str | None = None, **settings: Any
    ) -> None:
        """Open the camera; without `resolution` its pictures have the size that the device is configured for.

        Raises PiCameraError if there is no camera.
        """
        self._camera: pi_camera.Camera | None = None
        self._closed = False
        self._rotation = 0
        self.hflip = False
        self.vflip = False
        if camera_num != 0:
            raise PiCameraError(
                f"There is no camera number {camera_num}; /etc/pi-fleet/camera.json says which is used."
            )
        try:
            self._config = pi_camera.load_config()
        except pi_camera.CameraError as error:
            raise PiCameraError(str(error)) from error
        for name, value in {**WITHOUT_EFFECT, **settings}.items():
            if name not in ARGUMENTS_WITHOUT_EFFECT:
                setattr(self, name, value)
        if resolution is not None:
            self.resolution = resolution
        self._camera = self._open()

    def __setattr__(self, name: str, value: object) -> None:
        """Set what there is, refuse what there is not: a slip of the pen would otherwise change nothing."""
        if not (name.startswith("_") or name in WITH_EFFECT or name in WITHOUT_EFFECT):
            raise AttributeError(self._unknown(name))
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        """Refuse what there is not."""
        raise AttributeError(self._unknown(name))

    @property
    def resolution(self) -> PiResolution:
        """Width and height of the pictures; set it to such a pair, to "400x400" or to a name such as "VGA"."""
        return PiResolution(self._config.width, self._config.height)

    @resolution.setter
    def resolution(self, value: tuple[int, int] | str) -> None:
        width, height = _size(value)
        if (width, height) == self.resolution:
            return
        try:
            self._config = dataclasses.replace(self._config, width=width, height=height)
        except pi_camera.CameraError as error:
            raise PiCameraValueError(f"The resolution {value!r} cannot be used: {error}") from error
        self._let_go()

    @property
    def rotation(self) -> int:
        """By how many degrees pictures are turned clockwise: 0, 90, 180 or 270."""
        return self._rotation

    @rotation.setter
    def rotation(self, value: int) -> None:
        if value not in (0, 90, 180, 270, 360):
            raise PiCameraValueError(f"The rotation must be 0, 90, 180 or 270 degrees, not {value!r}.")
        self._rotation = value % 360

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._closed

    def capture(
        self,
        output: Any,
        format: str | None = None,  # noqa: A002 scripts say format="jpeg"
        use_video_port: bool = False,
        resize: tuple[int, int] | str | None = None,
        **options: Any,
    ) -> None:
        """Take a picture into `output`: a path, a file or stream to write to, or a buffer such as a numpy array.

        The format is one of jpeg, png, gif, bmp, rgb, rgba, bgr, bgra; without one the name's ending says it. Raw
        rows are padded as in picamera: the width to a multiple of 32, the height to one of 16. `resize` scales the
        picture; of the other options only `quality` changes anything, and only where a JPEG has to be made anew.

        Raises PiCameraValueError for what cannot be meant, PiCameraClosed after `close()`, PiCameraRuntimeError if
        the camera gives no picture, OSError if the output cannot be written.
        """
        if unknown := sorted(options.keys() - OPTIONS_WITHOUT_EFFECT - {"quality"}):
            raise TypeError(f"{', '.join(unknown)} is no option of PiCamera.capture here; leave it out.")
        form = _format(output, format)
        size = None if resize is None else _size(resize)
        look = Look(self.resolution, self.rotation, bool(self.hflip), bool(self.vflip))
        quality = options.get("quality") or DEFAULT_QUALITY
        _write(output, convert(self._take(), look, size, form, quality))

    def capture_sequence(
        self,
        outputs: Iterable[Any],
        format: str = "jpeg",  # noqa: A002 scripts say format="jpeg"
        *arguments: Any,
        **options: Any,
    ) -> None:
        """Take one picture into each of `outputs`, like `capture`."""
        for output in outputs:
            self.capture(output, format, *arguments, **options)

    def capture_continuous(
        self,
        output: Any,
        format: str | None = None,  # noqa: A002 scripts say format="jpeg"
        *arguments: Any,
        **options: Any,
    ) -> Iterator[Any]:
        """Take pictures for as long as they are asked for, and yield where each went.

        In a path {counter} and {timestamp} stand for the picture's number, from 1, and its time.
        """
        counter = 0
        while True:
            counter += 1
            place = output
            if isinstance(output, str):
                place = output.format(counter=counter, timestamp=datetime.datetime.now())
            self.capture(place, format, *arguments, **options)
            yield place

    def start_preview(self, **options: Any) -> None:
        """Do nothing: there is no screen."""

    def stop_preview(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Let go of the camera; closing again does nothing."""
        self._closed = True
        self._let_go()

    def __enter__(self) -> PiCamera:
        """Return the camera itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the camera."""
        self.close()

    def _open(self) -> pi_camera.Camera:
        try:
            return pi_camera.open_camera(self._config)
        except pi_camera.CameraError as error:
            raise PiCameraError(str(error)) from error

    def _take(self) -> bytes:
        if self._closed:
            raise PiCameraClosed("The camera is closed; take pictures before close(), or open another PiCamera.")
        try:
            if self._camera is None:
                self._camera = self._open()
            return self._camera.capture_jpeg()
        except pi_camera.CameraError as error:
            with contextlib.suppress(PiCameraRuntimeError):
                self._let_go()  # so that the next picture is taken by a camera opened afresh
            raise PiCameraRuntimeError(str(error)) from error

    def _let_go(self) -> None:
        camera, self._camera = self._camera, None
        if camera is not None:
            try:
                camera.close()
            except pi_camera.CameraError as error:
                raise PiCameraRuntimeError(str(error)) from error

    def _unknown(self, name: str) -> str:
        there = ", ".join(sorted({*WITH_EFFECT, *WITHOUT_EFFECT}))
        return (
            f"pi-fleet's PiCamera has no {name}: it takes stills (capture, capture_sequence, capture_continuous) "
            f"and knows the settings {there}."
        )


def _size(value: object) -> tuple[int, int]:
    if isinstance(value, str):
        named = NAMED_RESOLUTIONS.get(value)
        match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", value)
        if named is None and match is not None:
            named = int(match[1]), int(match[2])
        value = named
    if isinstance(value, tuple | list) and len(value) == 2:
        width, height = value
        if all(isinstance(side, int) and 0 < side <= pi_camera.LARGEST_JPEG_SIDE for side in (width, height)):
            return width, height
    raise PiCameraValueError(
        f"A resolution is (width, height) in pixels, a text such as 400x400, or one of {', '.join(NAMED_RESOLUTIONS)}."
    )


def _format(output: Any, asked: str | None) -> str:
    """Return the format that was asked for, or that the output's name says."""
    name = output if isinstance(output, str | os.PathLike) else getattr(output, "name", None)
    if asked is None and isinstance(name, str | os.PathLike):
        asked = Path(name).suffix.removeprefix(".")
    if not asked:
        raise PiCameraValueError("The format must be said where the output has no name with an ending such as .jpg.")
    form = asked.lower().removeprefix("image/").replace("jpg", "jpeg")
    if form not in FILE_FORMATS and form not in RAW_FORMATS:
        known = ", ".join([*FILE_FORMATS, *RAW_FORMATS])
        raise PiCameraValueError(f"Pictures cannot be given as {asked!r}; ask for one of {known}.")
    return form


def _write(output: Any, picture: bytes) -> None:
    if isinstance(output, str | os.PathLike):
        pi_camera.write_whole(Path(output), picture)
    elif hasattr(output, "write"):
        output.write(picture)
        if hasattr(output, "flush"):
            output.flush()
    else:
        _fill(output, picture)


def _fill(output: Any, picture: bytes) -> None:
    try:
        place = memoryview(output).cast("B")
        place[: len(picture)] = picture
    except (TypeError, ValueError) as error:
        raise PiCameraValueError(
            f"{type(output).__name__} does not take the {len(picture)} bytes of the picture ({error}); give a path, "
            "a file or stream open for bytes, or a writable buffer that is large enough."
        ) from error
