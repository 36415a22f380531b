#!/usr/bin/env python3
"""A still from whatever camera a device has: Picamera2, V4L2, or a directory of pictures.

`open_camera()` returns a `Camera`, whose `capture_jpeg()` returns one JPEG; as a program, `pi_camera.py`
takes one picture and says from where and how fast. Only the standard library is needed to import it:
`picamera2`, `cv2` and Pillow are imported when a source needs them. Whatever goes wrong is a `CameraError`: one
sentence that says what to do.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import importlib
import io
import json
import os
import struct
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

CONFIG_PATH = Path("/etc/pi-fleet/camera.json")
CONFIG_VARIABLE = "PI_CAMERA_CONFIG"
SOURCES = ("auto", "picamera2", "v4l2", "directory")
PICTURES = (".jpg", ".jpeg", ".png")
JPEG_QUALITY = 95
LARGEST_JPEG_SIDE = 65_535
# 16-bit greys: Pillow 9.4 has them as I, 11.1 as I;16. Either would turn white when converted as it is.
WIDE_GREYS = ("I", "I;16")
CAPTURE_SECONDS = 5.0

DEVICES = Path("/dev")
# One more than the four buffers that OpenCV asks of a driver: they hold what the camera saw just after the
# previous picture, however long ago that was, and the first frames after opening are badly exposed.
STALE_FRAMES = 5
# From linux/videodev2.h: _IOR('V', 0, struct v4l2_capability), the same on 32 and 64 bits, ARM and x86.
VIDIOC_QUERYCAP = 0x80685600
V4L2_CAPABILITY = struct.Struct("=16s32s32sIII12x")
V4L2_CAP_VIDEO_CAPTURE = 0x00000001
V4L2_CAP_DEVICE_CAPS = 0x80000000
# On a Pi most /dev/video* are image processors, codecs, or sensors that give raw data: no camera for us.
NO_CAMERA_DRIVERS = frozenset({"bcm2835-codec", "bcm2835-isp", "pispbe", "rpi-hevc-dec", "rp1-cfe", "unicam"})


class CameraError(Exception):
    """What went wrong, where, and what to do about it, in one sentence."""


@dataclass(frozen=True)
class CameraConfig:
    """Which camera to use, and the size in pixels of its pictures.

    `directory` belongs to the source `directory`, whose pictures are given in the size they have. `device`
    belongs to V4L2; None means the first one that is a camera.
    """

    source: str = "auto"
    directory: Path | None = None
    device: str | None = None
    width: int = 400
    height: int = 400

    def __post_init__(self) -> None:
        """Refuse what no camera could be opened with."""
        if self.source not in SOURCES:
            raise CameraError(f"source must be one of {', '.join(SOURCES)}, not {self.source!r}.")
        if self.directory is not None and not isinstance(self.directory, Path):
            raise CameraError(f"directory must be a path, not {self.directory!r}.")
        if self.source == "directory" and self.directory is None:
            raise CameraError("directory must name the pictures to replay when source is 'directory'.")
        if self.device is not None and not (isinstance(self.device, str) and self.device.startswith("/")):
            raise CameraError(f"device must be a path such as /dev/video0, not {self.device!r}.")
        for name, value in (("width", self.width), ("height", self.height)):
            if type(value) is not int or not 1 <= value <= LARGEST_JPEG_SIDE:
                raise CameraError(f"{name} must be a number of pixels to {LARGEST_JPEG_SIDE}, not {value!r}.")


def load_config(path: Path | None = None) -> CameraConfig:
    """Read a JSON object with the keys of CameraConfig; a file that is not there means the defaults.

    Without `path`, the file is the one that PI_CAMERA_CONFIG names, else /etc/pi-fleet/camera.json.
    """
    if path is None:
        path = Path(os.environ.get(CONFIG_VARIABLE) or CONFIG_PATH)
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise CameraError("it must hold one JSON object.")
        known = [field.name for field in dataclasses.fields(CameraConfig)]
        if unknown := sorted(settings.keys() - set(known)):
            raise CameraError(f"{', '.join(unknown)} is not known; the keys are {', '.join(known)}.")
        if isinstance(settings.get("directory"), str):
            settings["directory"] = Path(settings["directory"])
        return CameraConfig(**settings)
    except FileNotFoundError:
        return CameraConfig()
    except (OSError, ValueError, RecursionError, CameraError) as error:
        raise CameraError(f"The camera's configuration {path} cannot be used: {_reason(error)}") from error


class Camera(ABC):
    """A camera that is open until `close()` or the end of its `with` block."""

    source: str
    _place: str

    def capture_jpeg(self) -> bytes:
        """Take one picture and return it as a complete JPEG file."""
        try:
            frame = self._capture()
        except CameraError:
            raise
        except Exception as error:
            raise CameraError(
                f"The {self.source} camera ({self._place}) gave no picture ({_reason(error)}); check its "
                "cable, and that no other program uses it."
            ) from error
        if not (frame.startswith(b"\xff\xd8") and frame.endswith(b"\xff\xd9")):
            raise CameraError(
                f"The {self.source} camera ({self._place}) gave {len(frame)} bytes that are no complete "
                "JPEG; check its cable, or replace the picture if it is a file."
            )
        return frame

    def close(self) -> None:
        """Let go of the camera; closing again does nothing."""
        try:
            self._close()
        except Exception as error:
            raise CameraError(
                f"The {self.source} camera ({self._place}) cannot be closed ({_reason(error)}); restart the "
                "program that uses it."
            ) from error

    def __enter__(self) -> Camera:
        """Return the camera itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the camera."""
        self.close()

    @abstractmethod
    def _capture(self) -> bytes: ...

    @abstractmethod
    def _close(self) -> None: ...


class _Picamera2Camera(Camera):
    """A camera at the ribbon connector, through libcamera."""

    source = "picamera2"

    def __init__(self, config: CameraConfig, number: int) -> None:
        self._place = f"number {number}"
        self._camera: Any = importlib.import_module("picamera2").Picamera2(number)
        try:
            size = (config.width, config.height)
            # Without queue=False Picamera2 hands out the frame it kept since the previous picture.
            self._camera.configure(self._camera.create_still_configuration(main={"size": size}, queue=False))
            self._camera.start()
        except BaseException:
            self._camera.close()
            raise

    def _capture(self) -> bytes:
        picture = io.BytesIO()
        # A sensor with a loose cable never delivers; old versions of Picamera2 take the limit as a yes.
        self._camera.capture_file(picture, format="jpeg", wait=CAPTURE_SECONDS)
        return picture.getvalue()

    def _close(self) -> None:
        self._camera.close()


class _V4L2Camera(Camera):
    """A USB camera, or whatever else the kernel shows as one."""

    source = "v4l2"

    def __init__(self, config: CameraConfig, device: str) -> None:
        # OpenCV reads it when it is imported; else it waits 10 s for each frame of a camera that hangs.
        os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", f"{CAPTURE_SECONDS:.0f}")
        self._cv2 = _import_library("cv2", "OpenCV for Python", "python3-opencv")
        self._place = device
        self._size = (config.width, config.height)
        self._video: Any = self._cv2.VideoCapture(device, self._cv2.CAP_V4L2)
        if not self._video.isOpened():
            self._video.release()
            raise CameraError(
                f"The camera {device} cannot be opened; check that it is plugged in, that no other program "
                "uses it, and that this user is in the group video."
            )

    def _capture(self) -> bytes:
        for _ in range(STALE_FRAMES):
            if not self._video.grab():
                raise CameraError(
                    f"The camera {self._place} gave no frame in {CAPTURE_SECONDS:.0f} s; plug it in again."
                )
        delivered, frame = self._video.read()
        if not delivered or frame is None or frame.size == 0:
            raise CameraError(f"The camera {self._place} gave an empty frame; plug it in again.")
        return _encode_jpeg(self._cv2, self._cv2.resize(_crop(frame, self._size), self._size))

    def _close(self) -> None:
        self._video.release()


class _DirectoryCamera(Camera):
    """Pictures of a directory in the order of their names, again and again."""

    source = "directory"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._place = str(directory)
        self._previous = ""

    def _capture(self) -> bytes:
        picture = self._next_picture()
        self._place, self._previous = str(picture), picture.name
        if picture.suffix.lower() == ".png":
            return _convert_png(picture)
        try:
            return picture.read_bytes()
        except OSError as error:
            raise CameraError(f"{picture} cannot be read ({error.strerror}); remove it.") from error

    def _next_picture(self) -> Path:
        # Listed every time, so that pictures may come and go while the camera is open.
        try:
            pictures = sorted(
                entry
                for entry in self._directory.iterdir()
                if entry.suffix.lower() in PICTURES and not entry.name.startswith(".") and entry.is_file()
            )
        except OSError as error:
            raise CameraError(
                f"The pictures in {self._directory} cannot be listed ({error.strerror}); create the "
                "directory or set camera_source to another camera."
            ) from error
        if not pictures:
            raise CameraError(
                f"{self._directory} holds no picture ({', '.join(PICTURES)}); put one there or set "
                "camera_source to another camera."
            )
        return next((picture for picture in pictures if picture.name > self._previous), pictures[0])

    def _close(self) -> None:
        """Nothing is held open between two pictures."""


def open_camera(config: CameraConfig | None = None) -> Camera:
    """Open the camera that `config` (by default `load_config()`) asks for.

    The source `auto` prefers Picamera2, then V4L2, and never replays a directory.
    """
    config = load_config() if config is None else config
    try:
        return _open(config)
    except CameraError:
        raise
    except Exception as error:
        raise CameraError(
            f"The camera (source {config.source}) cannot be opened ({_reason(error)}); check its cable, "
            "and that no other program uses it."
        ) from error


def _open(config: CameraConfig) -> Camera:
    if config.directory is not None and config.source == "directory":
        return _DirectoryCamera(config.directory)
    looked_at = []
    if config.source in ("auto", "picamera2"):
        number, without = _find_picamera2()
        if number is not None:
            return _Picamera2Camera(config, number)
        looked_at.append(without)
    if config.source in ("auto", "v4l2"):
        device, without = (config.device, "") if config.device else _find_v4l2()
        if device is not None:
            return _V4L2Camera(config, device)
        looked_at.append(without)
    raise CameraError(
        f"No camera was found: {'; '.join(looked_at)}; enable the camera or plug one in, or set "
        "camera_source to what this device has."
    )


def _find_picamera2() -> tuple[int | None, str]:
    """Return the number of the first camera at the ribbon connector, or None and the reason."""
    try:
        cameras = importlib.import_module("picamera2").Picamera2.global_camera_info()
    except Exception as error:  # a library that does not fit (numpy, libcamera) is no ImportError
        return None, f"picamera2 is not usable ({_reason(error)})"
    for position, camera in enumerate(cameras):
        # libcamera lists USB cameras too, but they cannot give what a still configuration asks for: V4L2 can.
        if "/usb" not in camera.get("Id", ""):
            return camera.get("Num", position), ""
    return None, "picamera2 sees no camera at the ribbon connector"


def _find_v4l2() -> tuple[str | None, str]:
    """Return the first /dev/video* that is a camera, or None and the reason."""
    nodes = [node for node in DEVICES.glob("video*") if node.name.removeprefix("video").isdigit()]
    refused = []
    for node in sorted(nodes, key=lambda node: int(node.name.removeprefix("video"))):
        try:
            driver, capabilities = _query_capabilities(node)
        except OSError as error:
            refused.append(f"{node} cannot be opened ({error.strerror})")
            continue
        if capabilities & V4L2_CAP_VIDEO_CAPTURE and driver not in NO_CAMERA_DRIVERS:
            return str(node), ""
    return None, ", ".join([f"none of the {len(nodes)} devices {DEVICES}/video* is a camera", *refused])


def _query_capabilities(node: Path) -> tuple[str, int]:
    """Return the driver of a video device and what this very node can do (V4L2_CAP_*)."""
    descriptor = os.open(node, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        answer = fcntl.ioctl(descriptor, VIDIOC_QUERYCAP, bytes(V4L2_CAPABILITY.size))
    finally:
        os.close(descriptor)
    driver, _card, _bus, _version, of_hardware, of_node = V4L2_CAPABILITY.unpack(answer)
    capabilities = of_node if of_hardware & V4L2_CAP_DEVICE_CAPS else of_hardware
    return driver.rstrip(b"\0").decode(errors="replace"), capabilities


def _import_library(module: str, name: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except Exception as error:  # a numpy that does not fit is no ImportError
        raise CameraError(f"{name} is not usable ({_reason(error)}); install the package {package}.") from error


def _crop(frame: Any, size: tuple[int, int]) -> Any:
    """Return the middle of `frame` (rows x columns x colours) in the shape of `size` (width, height).

    Scaling alone would squeeze what is seen; Picamera2 cuts the same way.
    """
    height, width = frame.shape[:2]
    kept_width = max(1, min(width, round(height * size[0] / size[1])))
    kept_height = max(1, min(height, round(width * size[1] / size[0])))
    left, top = (width - kept_width) // 2, (height - kept_height) // 2
    return frame[top : top + kept_height, left : left + kept_width]


def _encode_jpeg(cv2: Any, frame: Any) -> bytes:
    encoded, jpeg = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not encoded:
        raise CameraError("OpenCV cannot encode a picture as JPEG; install the package python3-opencv.")
    return bytes(jpeg.tobytes())


def _convert_png(picture: Path) -> bytes:
    """Return a PNG picture as JPEG: without its transparency, and of 16-bit samples the upper byte.

    OpenCV would do it too, but to import it takes most of the 128 MiB that the Lambda may use.
    """
    image = _import_library("PIL.Image", "Pillow", "python3-pil")
    jpeg = io.BytesIO()
    try:
        with image.open(picture, formats=["PNG"]) as source:
            # A conversion drops it anyhow, but warns where it belongs to a palette.
            source.info.pop("transparency", None)
            frame = source
            if source.mode in WIDE_GREYS:
                frame = source.convert("I").point(lambda value: value * (1 / 256)).convert("L")
            frame.convert("RGB").save(jpeg, "JPEG", quality=JPEG_QUALITY)
    except Exception as error:  # broken files draw SyntaxError, struct.error and more out of Pillow
        raise CameraError(
            f"{picture} cannot be read as a PNG picture ({_reason(error)}); replace or remove it."
        ) from error
    return jpeg.getvalue()


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def write_whole(output: Path, frame: bytes) -> None:
    """Write `frame` so that `output` is always absent, its former self, or complete, also after a loss of power.

    What is no file, such as a pipe, is written to as it is. Raises OSError.
    """
    if output.exists() and not output.is_file():
        output.write_bytes(frame)
        return
    output = output.resolve()
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            if output.exists():
                os.fchmod(file.fileno(), output.stat().st_mode & 0o777)
            file.write(frame)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(output)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    folder = os.open(output.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _write(output: Path, frame: bytes) -> None:
    try:
        write_whole(output, frame)
    except OSError as error:
        raise CameraError(
            f"The picture cannot be written to {output} ({error.strerror}); choose another place."
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Take one picture; print one line of JSON, or on standard error what is wrong."""
    parser = argparse.ArgumentParser(description="Take one picture with the camera that this device has.")
    parser.add_argument("--config", type=Path, help=f"default: ${CONFIG_VARIABLE}, else {CONFIG_PATH}")
    parser.add_argument("--output", type=Path, help="where to write the picture")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        with open_camera(load_config(options.config)) as camera:
            frame = camera.capture_jpeg()
        milliseconds = round((time.monotonic() - started) * 1000)
        if options.output is not None:
            _write(options.output, frame)
    except CameraError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"source": camera.source, "bytes": len(frame), "milliseconds": milliseconds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
