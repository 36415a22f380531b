"""picamera: scripts of 2018 take pictures, of the size they ask for, with whatever camera there is."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pi_camera
import picamera
import picamera.array
import pytest
from picamera import pictures
from PIL import Image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quarters(size: tuple[int, int]) -> Image.Image:
    """Return a picture that is red and green above, blue and white below."""
    small = Image.new("RGB", (2, 2))
    small.putdata([RED, GREEN, BLUE, WHITE])
    return small.resize(size, Image.Resampling.NEAREST)


def jpeg(picture: Image.Image) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=95, subsampling=0)
    return encoded.getvalue()


def colours(picture: Image.Image) -> list[tuple[int, int, int]]:
    """Return the colours in the middle of the four quarters, each channel rounded to 0 or 255."""
    width, height = picture.size
    places = [(width // 4, height // 4), (width * 3 // 4, height // 4)]
    places += [(x, height * 3 // 4) for x, _ in places]
    found = [picture.convert("RGB").getpixel(place) for place in places]
    return [tuple(255 if channel > 127 else 0 for channel in colour) for colour in found]  # type: ignore[misc,union-attr]


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A device that replays a directory: it holds one picture of 400x400."""
    directory = tmp_path / "shown"
    directory.mkdir()
    (directory / "one.jpg").write_bytes(jpeg(quarters((400, 400))))
    config = tmp_path / "camera.json"
    config.write_text(json.dumps({"source": "directory", "directory": str(directory), "width": 320, "height": 240}))
    monkeypatch.setenv("PI_CAMERA_CONFIG", str(config))
    return directory


class FakeCamera(pi_camera.Camera):
    """A camera that gives pictures of the size it was opened with, and can be broken."""

    source = "fake"
    _place = "here"
    opened: list[FakeCamera]
    broken = False

    def __init__(self, config: pi_camera.CameraConfig) -> None:
        self.size = (config.width, config.height)
        self.closed = 0
        self.opened.append(self)

    def _capture(self) -> bytes:
        if self.broken:
            raise OSError("the cable is loose")
        return jpeg(quarters(self.size))

    def _close(self) -> None:
        self.closed += 1


@pytest.fixture
def cameras(shown: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FakeCamera]]:
    FakeCamera.opened = []
    monkeypatch.setattr(pi_camera, "open_camera", FakeCamera)
    yield FakeCamera.opened
    FakeCamera.broken = False


def test_the_articles_way_to_take_a_picture(shown: Path, tmp_path: Path) -> None:
    camera = picamera.PiCamera(resolution=(400, 400))
    camera.capture(str(tmp_path / "1543000000000.jpg"))
    # Already as asked for: not encoded a second time.
    assert (tmp_path / "1543000000000.jpg").read_bytes() == (shown / "one.jpg").read_bytes()


def test_a_picture_is_whole_from_the_moment_that_it_has_its_name(
    shown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen, sync = tmp_path / "1543000000000.jpg", [], os.fsync

    def note(descriptor: int) -> None:
        seen.append(path.exists())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    picamera.PiCamera(resolution=(400, 400)).capture(str(path))
    assert seen == [False, True]


def test_pillow_is_not_loaded_where_there_is_nothing_to_do(shown: Path, tmp_path: Path) -> None:
    program = """
import sys, picamera
with picamera.PiCamera(resolution="400x400") as camera:
    camera.capture(sys.argv[1])
print([name for name in ("PIL", "numpy", "cv2") if name in sys.modules])
"""
    path = [str(Path(module.__file__ or "").parent) for module in (pi_camera,)] + [
        str(Path(picamera.__file__).parents[1])
    ]
    environment = {"PYTHONPATH": ":".join(path), "PI_CAMERA_CONFIG": str(shown.parent / "camera.json")}
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "p.jpg")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("size", [(400, 400), (320, 240), (101, 333), (1280, 720)])
@pytest.mark.parametrize("shape", [(400, 400), (640, 480), (90, 200)])
def test_a_picture_has_the_resolution_that_was_asked_for(
    shown: Path, size: tuple[int, int], shape: tuple[int, int]
) -> None:
    (shown / "one.jpg").write_bytes(jpeg(quarters(shape)))
    picture = io.BytesIO()
    with picamera.PiCamera(resolution=size) as camera:
        camera.capture(picture, "jpeg")
    found = Image.open(picture)
    assert (found.format, found.size) == ("JPEG", size)
    assert colours(found) == [RED, GREEN, BLUE, WHITE]


def test_proportions_are_kept_and_the_middle_is_seen(shown: Path) -> None:
    # A disc in the middle of a wide picture stays a disc.
    wide = Image.new("RGB", (800, 400))
    wide.paste(Image.new("RGB", (200, 200), WHITE), (300, 100))
    (shown / "one.jpg").write_bytes(jpeg(wide))
    array = np.empty((160, 160, 3), np.uint8)
    picamera.PiCamera(resolution=(160, 160)).capture(array, "rgb")
    bright = np.argwhere(array[:, :, 0] > 127)
    assert (bright.min(0) == [40, 40]).all() and (bright.max(0) == [119, 119]).all()


def test_without_a_resolution_it_is_the_devices(shown: Path) -> None:
    camera = picamera.PiCamera()
    assert camera.resolution == (320, 240)
    assert str(camera.resolution) == "320x240"
    assert (camera.resolution.width, camera.resolution.height) == (320, 240)


@pytest.mark.parametrize(("said", "meant"), [("640x480", (640, 480)), ("VGA", (640, 480)), ([64, 48], (64, 48))])
def test_a_resolution_is_said_in_several_ways(shown: Path, said: Any, meant: tuple[int, int]) -> None:
    assert picamera.PiCamera(resolution=said).resolution == meant


@pytest.mark.parametrize("said", ["", "640", "0x5", "axb", (640,), (0, 1), (1.5, 2), None, 640, (1, 70_000), "99999x1"])
def test_a_resolution_that_is_none_is_refused(shown: Path, said: Any) -> None:
    camera = picamera.PiCamera()
    with pytest.raises(picamera.PiCameraValueError, match="A resolution is"):
        camera.resolution = said
    assert camera.resolution == (320, 240)


@pytest.mark.parametrize(
    ("settings", "seen"),
    [
        ({"rotation": 90}, [BLUE, RED, WHITE, GREEN]),
        ({"rotation": 180}, [WHITE, BLUE, GREEN, RED]),
        ({"rotation": 270}, [GREEN, WHITE, RED, BLUE]),
        ({"rotation": 360}, [RED, GREEN, BLUE, WHITE]),
        ({"hflip": True}, [GREEN, RED, WHITE, BLUE]),
        ({"vflip": True}, [BLUE, WHITE, RED, GREEN]),
        ({"hflip": True, "vflip": True, "rotation": 180}, [RED, GREEN, BLUE, WHITE]),
    ],
)
@pytest.mark.parametrize("size", [(400, 400), (200, 100)])
def test_a_picture_is_turned_and_mirrored(
    shown: Path, settings: dict[str, Any], seen: list[Any], size: tuple[int, int]
) -> None:
    camera = picamera.PiCamera(resolution=size)
    for name, value in settings.items():
        setattr(camera, name, value)
    picture = io.BytesIO()
    camera.capture(picture, format="png")
    found = Image.open(picture)
    assert found.size == size
    assert colours(found) == seen


@pytest.mark.parametrize(
    ("form", "said"), [("jpeg", "JPEG"), ("jpg", "JPEG"), ("png", "PNG"), ("gif", "GIF"), ("image/bmp", "BMP")]
)
def test_a_picture_has_the_format_that_was_asked_for(shown: Path, form: str, said: str) -> None:
    picture = io.BytesIO()
    picamera.PiCamera().capture(picture, form, True, (64, 32))
    found = Image.open(picture)
    assert (found.format, found.size) == (said, (64, 32))
    assert colours(found) == [RED, GREEN, BLUE, WHITE]


def test_the_names_ending_says_the_format(shown: Path, tmp_path: Path) -> None:
    camera = picamera.PiCamera()
    camera.capture(tmp_path / "a.PNG")
    with (tmp_path / "b.jpg").open("wb") as file:
        camera.capture(file)
    for name, said in (("a.PNG", "PNG"), ("b.jpg", "JPEG")):
        assert Image.open(io.BytesIO((tmp_path / name).read_bytes())).format == said


@pytest.mark.parametrize(
    ("output", "form", "said"),
    [
        (io.BytesIO(), None, "The format must be said"),
        ("picture", None, "The format must be said"),
        ("picture.tiff", None, "cannot be given as 'tiff'; ask for one of jpeg, png"),
        ("picture.jpg", "h264", "cannot be given as 'h264'"),
        (bytearray(10), "rgb", r"bytearray does not take the 230400 bytes"),
        (bytes(230_400), "rgb", "bytes does not take the"),
        (None, "jpeg", "NoneType does not take the"),
    ],
)
def test_an_output_that_cannot_be_meant_is_refused(shown: Path, output: Any, form: str | None, said: str) -> None:
    with pytest.raises(picamera.PiCameraValueError, match=said):
        picamera.PiCamera().capture(output, form)


def test_an_unknown_option_is_refused(shown: Path) -> None:
    with pytest.raises(TypeError, match="qualtiy is no option"):
        picamera.PiCamera().capture(io.BytesIO(), "jpeg", qualtiy=3)


def test_quality_counts_where_a_jpeg_is_made_anew(shown: Path) -> None:
    Image.effect_noise((400, 400), 90).convert("RGB").save(shown / "one.jpg")
    sizes = []
    for quality in (10, 90):
        picture = io.BytesIO()
        picamera.PiCamera().capture(picture, "jpeg", quality=quality, use_video_port=True, thumbnail=None)
        sizes.append(len(picture.getvalue()))
    assert sizes[0] < sizes[1] / 2


@pytest.mark.parametrize(("form", "first"), [("rgb", [255, 0, 0]), ("bgr", [0, 0, 255])])
def test_raw_pictures_become_arrays(shown: Path, form: str, first: list[int]) -> None:
    camera = picamera.PiCamera(resolution=(100, 50))
    raw = picamera.array.PiRGBArray(camera)
    for _ in range(2):
        camera.capture(raw, format=form)
        assert raw.array.shape == (50, 100, 3)
        assert np.abs(raw.array[5, 5].astype(int) - first).max() < 10
        raw.array[0, 0] = 1  # scripts draw into it
        raw.truncate(0)


def test_a_scaled_array_has_the_size_that_was_said(shown: Path) -> None:
    camera = picamera.PiCamera()
    with picamera.array.PiRGBArray(camera, size=(64, 48)) as raw:
        camera.capture(raw, "bgr", resize=(64, 48))
        assert raw.array.shape == (48, 64, 3)


def test_an_array_of_the_wrong_size_is_refused(shown: Path) -> None:
    camera = picamera.PiCamera()
    with pytest.raises(picamera.PiCameraValueError, match=r"are no picture of 320x240 in rgb or bgr.*truncate\(0\)"):
        camera.capture(picamera.array.PiRGBArray(camera), "jpeg")


def test_raw_rows_are_padded_as_in_picamera(shown: Path) -> None:
    picture = io.BytesIO()
    picamera.PiCamera(resolution=(100, 100)).capture(picture, "rgba")
    rows = np.frombuffer(picture.getvalue(), np.uint8).reshape(112, 128, 4)
    assert rows[99, 99].tolist()[3] == 255 and not rows[100:].any() and not rows[:, 100:].any()


# --- the life of a camera


def test_the_camera_is_opened_at_once_with_the_resolution_and_kept(cameras: list[FakeCamera]) -> None:
    camera = picamera.PiCamera(resolution=(64, 48), framerate=30, sensor_mode=2)
    assert [each.size for each in cameras] == [(64, 48)]
    camera.capture_sequence([io.BytesIO(), io.BytesIO()])
    camera.resolution = (64, 48)
    camera.capture(io.BytesIO(), "jpeg")
    assert len(cameras) == 1


def test_another_resolution_opens_it_anew(cameras: list[FakeCamera]) -> None:
    camera = picamera.PiCamera(resolution=(64, 48))
    camera.resolution = "32x32"
    picture = io.BytesIO()
    camera.capture(picture, "jpeg")
    assert [(each.size, each.closed) for each in cameras] == [((64, 48), 1), ((32, 32), 0)]
    assert picture.getvalue() == jpeg(quarters((32, 32)))


def test_after_a_failure_it_is_opened_anew(cameras: list[FakeCamera]) -> None:
    camera = picamera.PiCamera()
    FakeCamera.broken = True
    with pytest.raises(picamera.exc.PiCameraRuntimeError, match="the cable is loose"):
        camera.capture(io.BytesIO(), "jpeg")
    FakeCamera.broken = False
    camera.capture(io.BytesIO(), "jpeg")
    assert [each.closed for each in cameras] == [1, 0]


def test_a_closed_camera_takes_no_picture(cameras: list[FakeCamera]) -> None:
    with picamera.PiCamera() as camera:
        assert not camera.closed
    assert camera.closed
    camera.close()
    assert cameras[0].closed == 1
    with pytest.raises(picamera.exc.PiCameraClosed, match="The camera is closed"):
        camera.capture(io.BytesIO(), "jpeg")
    assert len(cameras) == 1


def test_a_device_without_a_camera_says_so(shown: Path) -> None:
    (shown / "one.jpg").unlink()
    camera = picamera.PiCamera()
    with pytest.raises(picamera.PiCameraError, match="holds no picture"):
        camera.capture(io.BytesIO(), "jpeg")


def test_no_camera_is_an_error_at_the_start(shown: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pi_camera, "DEVICES", tmp_path / "dev")
    (tmp_path / "camera.json").write_text(json.dumps({"source": "v4l2"}))
    with pytest.raises(picamera.PiCameraError, match="No camera was found"):
        picamera.PiCamera()


def test_a_broken_configuration_is_an_error_at_the_start(shown: Path, tmp_path: Path) -> None:
    (tmp_path / "camera.json").write_text("{")
    with pytest.raises(picamera.PiCameraError, match="camera's configuration"):
        picamera.PiCamera()


def test_a_second_camera_is_refused(shown: Path) -> None:
    with pytest.raises(picamera.PiCameraError, match="no camera number 1"):
        picamera.PiCamera(1)


def test_a_broken_picture_is_a_sentence(shown: Path) -> None:
    (shown / "one.jpg").write_bytes(b"\xff\xd8 no picture \xff\xd9")
    with pytest.raises(picamera.PiCameraRuntimeError, match="cannot be converted"):
        picamera.PiCamera().capture(io.BytesIO(), "jpeg")


def test_without_pillow_a_conversion_says_what_to_install(shown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(picamera.PiCameraError, match="install the package python3-pil"):
        picamera.PiCamera().capture(io.BytesIO(), "png")


# --- what scripts of 2018 do besides


def test_settings_of_scripts_are_accepted_and_remembered(shown: Path) -> None:
    camera = picamera.PiCamera(resolution=(64, 64), led_pin=None, framerate=(1, 6))
    camera.brightness = 60
    camera.iso = 800
    camera.awb_mode = "off"
    camera.awb_gains = (1.5, 1.2)
    camera.annotate_text = "Hello"
    camera.led = False
    camera.start_preview(fullscreen=False)
    camera.stop_preview()
    assert (camera.brightness, camera.iso, camera.awb_gains, camera.contrast) == (60, 800, (1.5, 1.2), 0)


@pytest.mark.parametrize("name", ["brightnes", "start_recording", "frame"])
def test_what_there_is_not_is_named_with_what_there_is(shown: Path, name: str) -> None:
    camera = picamera.PiCamera()
    with pytest.raises(AttributeError, match=rf"no {name}: .*capture_continuous.*brightness.*resolution"):
        setattr(camera, name, 1)
    with pytest.raises(AttributeError, match=rf"no {name}: "):
        getattr(camera, name)
    with pytest.raises(AttributeError, match=rf"no {name}: "):
        picamera.PiCamera(0, resolution=None, **{name: 1})


def test_a_rotation_that_is_none_is_refused(shown: Path) -> None:
    with pytest.raises(picamera.PiCameraValueError, match="rotation must be 0, 90, 180 or 270"):
        picamera.PiCamera().rotation = 45


def test_pictures_are_taken_on_and_on(shown: Path, tmp_path: Path) -> None:
    camera = picamera.PiCamera()
    taken = []
    for name in camera.capture_continuous(str(tmp_path / "p{counter:03d}-{timestamp:%Y}.jpg"), use_video_port=True):
        taken.append(Path(name).name[:4])
        assert Path(name).is_file()
        if len(taken) == 3:
            break
    assert taken == ["p001", "p002", "p003"]
    raw = picamera.array.PiRGBArray(camera)
    for number, frame in enumerate(camera.capture_continuous(raw, format="bgr")):
        assert frame.array.shape == (240, 320, 3)
        raw.truncate(0)
        if number == 1:
            break


def test_exceptions_are_caught_by_the_types_that_scripts_name() -> None:
    exc = picamera.exc
    assert issubclass(exc.PiCameraClosed, exc.PiCameraRuntimeError | RuntimeError)
    assert issubclass(exc.PiCameraValueError, ValueError)
    assert issubclass(exc.PiCameraDeprecated, DeprecationWarning)
    for name in ("PiCameraRuntimeError", "PiCameraValueError", "PiCameraMMALError", "PiCameraIOError"):
        assert issubclass(getattr(exc, name), exc.PiCameraError)


# --- the size in a JPEG's header


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": b"Exif\0\0" + bytes(200)}, {"comment": b"c"}])
def test_the_size_is_read_from_the_header(options: dict[str, Any]) -> None:
    encoded = io.BytesIO()
    quarters((123, 45)).save(encoded, "JPEG", **options)
    assert pictures.jpeg_size(encoded.getvalue()) == (123, 45)


def test_a_header_that_says_nothing_is_no_size() -> None:
    whole = jpeg(quarters((16, 16)))
    end = whole.index(b"\xff\xc0")
    for length in range(end + 8):
        assert pictures.jpeg_size(whole[:length]) is None
