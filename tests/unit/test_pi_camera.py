"""pi_camera: every source, what auto prefers, and one sentence for whatever goes wrong."""

from __future__ import annotations

import fcntl
import io
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pi_camera
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pi_camera import CameraConfig, CameraError, load_config, open_camera
from PIL import Image, PngImagePlugin

JPEG = b"\xff\xd8 a picture \xff\xd9"


@pytest.fixture(autouse=True)
def bare_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A device without camera, without configuration, and where neither cv2 nor picamera2 is installed."""
    devices = tmp_path / "dev"
    devices.mkdir()
    monkeypatch.setattr(pi_camera, "DEVICES", devices)
    monkeypatch.setattr(pi_camera, "CONFIG_PATH", tmp_path / "none.json")
    monkeypatch.delenv("PI_CAMERA_CONFIG", raising=False)
    for module in ("cv2", "picamera2"):
        monkeypatch.setitem(sys.modules, module, None)
    return devices


# --- configuration


def write_config(path: Path, settings: object) -> Path:
    path.write_text(json.dumps(settings))
    return path


def test_a_missing_file_means_the_defaults(tmp_path: Path) -> None:
    assert load_config() == CameraConfig()
    assert load_config(tmp_path / "absent.json") == CameraConfig("auto", None, None, 400, 400)


def test_every_key_is_read(tmp_path: Path) -> None:
    settings = {"source": "directory", "directory": "/pictures", "device": None, "width": 640, "height": 480}
    path = write_config(tmp_path / "camera.json", settings)
    assert load_config(path) == CameraConfig("directory", Path("/pictures"), None, 640, 480)


def test_the_environment_names_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PI_CAMERA_CONFIG", str(write_config(tmp_path / "mine.json", {"device": "/dev/video7"})))
    assert load_config().device == "/dev/video7"


def test_without_the_variable_the_usual_file_is_read(tmp_path: Path) -> None:
    write_config(tmp_path / "none.json", {"width": 320})
    assert load_config().width == 320


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "Expecting property name"),
        ("[]", "one JSON object"),
        ("\xff", "codec"),
        ("[" * 100_000, "recursion"),
        ('{"sauce": "auto"}', "sauce is not known; the keys are source, directory, device, width, height"),
        ('{"source": "webcam"}', "auto, picamera2, v4l2, directory, not 'webcam'"),
        ('{"source": null}', "not None"),
        ('{"source": "directory"}', "directory must name the pictures"),
        ('{"directory": 7}', "directory must be a path"),
        ('{"device": "video0"}', "such as /dev/video0"),
        ('{"device": 0}', "such as /dev/video0"),
        ('{"width": "400"}', "width must be a number of pixels"),
        ('{"width": true}', "width must be a number of pixels"),
        ('{"width": 400.0}', "width must be a number of pixels"),
        ('{"height": 0}', "height must be a number of pixels"),
        ('{"height": 65536}', "height must be a number of pixels"),
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "camera.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(CameraError) as refusal:
        load_config(path)
    assert str(path) in str(refusal.value)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_an_unreadable_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match="Is a directory") as refusal:
        load_config(tmp_path)
    assert isinstance(refusal.value.__cause__, IsADirectoryError)


# --- directory


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    directory = tmp_path / "pictures"
    directory.mkdir()
    return directory


def jpeg(name: str) -> bytes:
    return b"\xff\xd8" + name.encode() + b"\xff\xd9"


def replay(directory: Path) -> pi_camera.Camera:
    return open_camera(CameraConfig(source="directory", directory=directory))


def test_pictures_come_in_the_order_of_their_names_again_and_again(pictures: Path) -> None:
    for name in ("b.jpeg", "c.JPG", "a.jpg"):
        (pictures / name).write_bytes(jpeg(name))
    (pictures / "notes.txt").write_text("no picture")
    (pictures / ".hidden.jpg").write_bytes(jpeg("half written"))
    (pictures / "folder.jpg").mkdir()
    with replay(pictures) as camera:
        assert camera.source == "directory"
        seen = [camera.capture_jpeg() for _ in range(4)]
    assert seen == [jpeg("a.jpg"), jpeg("b.jpeg"), jpeg("c.JPG"), jpeg("a.jpg")]


def test_pictures_may_come_and_go(pictures: Path) -> None:
    for name in ("a.jpg", "c.jpg"):
        (pictures / name).write_bytes(jpeg(name))
    camera = replay(pictures)
    assert camera.capture_jpeg() == jpeg("a.jpg")
    (pictures / "a.jpg").unlink()
    (pictures / "b.jpg").write_bytes(jpeg("b.jpg"))
    assert [camera.capture_jpeg() for _ in range(3)] == [jpeg("b.jpg"), jpeg("c.jpg"), jpeg("b.jpg")]


def test_a_directory_without_pictures_is_named(pictures: Path) -> None:
    with pytest.raises(CameraError, match=f"{pictures} holds no picture .* put one there"):
        replay(pictures).capture_jpeg()


def test_a_vanished_directory_is_named(pictures: Path) -> None:
    (pictures / "a.jpg").write_bytes(JPEG)
    camera = replay(pictures)
    camera.capture_jpeg()
    (pictures / "a.jpg").unlink()
    pictures.rmdir()
    with pytest.raises(CameraError, match=f"{pictures} cannot be listed .*No such file.* create the directory"):
        camera.capture_jpeg()


def test_an_unreadable_picture_is_named(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pictures / "a.jpg").write_bytes(JPEG)
    (pictures / "b.jpg").write_bytes(jpeg("b"))

    def refuse(path: Path) -> bytes:
        raise OSError(5, "Input/output error")

    camera = replay(pictures)
    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_bytes", refuse)
        with pytest.raises(CameraError, match=r"a\.jpg cannot be read \(Input/output error\)"):
            camera.capture_jpeg()
    assert camera.capture_jpeg() == jpeg("b"), "one bad picture must not block those after it"


@pytest.mark.parametrize("content", [b"", b"\xff\xd8 torn", b"torn \xff\xd9", b"GIF89a"])
def test_an_incomplete_jpeg_is_named(pictures: Path, content: bytes) -> None:
    (pictures / "torn.jpg").write_bytes(content)
    with pytest.raises(CameraError, match=rf"torn\.jpg.* gave {len(content)} bytes that are no complete JPEG"):
        replay(pictures).capture_jpeg()


def encode(picture: Image.Image, form: str, **settings: Any) -> bytes:
    content = io.BytesIO()
    picture.save(content, form, **settings)
    return content.getvalue()


GRADIENT = Image.merge("RGB", [Image.linear_gradient("L").rotate(90 * turn) for turn in range(3)])
BOMB = PngImagePlugin.PngInfo()
BOMB.add_text("comment", "x" * 2_000_000, zip=True)


def test_a_png_is_encoded_anew(pictures: Path) -> None:
    (pictures / "a.PNG").write_bytes(encode(GRADIENT, "PNG"))
    (pictures / "b.jpg").write_bytes(jpeg("b.jpg"))
    camera = replay(pictures)
    assert camera.capture_jpeg() == encode(GRADIENT, "JPEG", quality=95)
    assert camera.capture_jpeg() == jpeg("b.jpg")


@pytest.mark.parametrize(
    ("mode", "colour", "settings", "seen"),
    [
        ("RGBA", (200, 100, 50, 0), {}, (200, 100, 50)),
        ("RGB", (200, 100, 50), {"transparency": (200, 100, 50)}, (200, 100, 50)),
        ("LA", (90, 0), {}, (90, 90, 90)),
        ("L", 90, {"transparency": 90}, (90, 90, 90)),
        ("1", 1, {}, (255, 255, 255)),
        # 9 is the tenth entry of the palette below.
        ("P", 9, {"transparency": bytes(range(10))}, (9, 109, 209)),
        ("I;16", 90 * 256 + 255, {}, (90, 90, 90)),
    ],
)
def test_every_kind_of_png_keeps_its_colours(
    pictures: Path, mode: str, colour: Any, settings: dict[str, Any], seen: tuple[int, ...]
) -> None:
    picture = Image.new(mode, (16, 16), colour)
    if mode == "P":
        picture.putpalette([level for entry in range(10) for level in (entry, entry + 100, entry + 200)])
    (pictures / "a.png").write_bytes(encode(picture, "PNG", **settings))
    frame = Image.open(io.BytesIO(replay(pictures).capture_jpeg()))
    assert (frame.format, frame.mode, frame.size) == ("JPEG", "RGB", (16, 16))
    found = frame.getpixel((8, 8))
    assert isinstance(found, tuple)
    assert all(abs(one - other) <= 2 for one, other in zip(found, seen, strict=True)), found


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"not a picture", "cannot identify"),
        (b"", "cannot identify"),
        (encode(GRADIENT, "JPEG"), "cannot identify"),
        (encode(GRADIENT, "PNG")[:-100], "truncated"),
        (encode(GRADIENT, "PNG")[:40], r".+"),
        (encode(GRADIENT, "PNG").replace(b"IDAT", b"\0\0\0\0"), r".+"),
        (encode(GRADIENT, "PNG", pnginfo=BOMB), "too large"),
        (encode(Image.new("1", (65_536, 1)), "PNG"), r".+"),
    ],
)
def test_a_broken_png_is_named(pictures: Path, content: bytes, said: str) -> None:
    (pictures / "a.png").write_bytes(content)
    (pictures / "b.jpg").write_bytes(jpeg("b.jpg"))
    camera = replay(pictures)
    with pytest.raises(CameraError, match=rf"a\.png cannot be read as a PNG picture \(.*{said}.*\); re") as refusal:
        camera.capture_jpeg()
    assert "\n" not in str(refusal.value)
    assert camera.capture_jpeg() == jpeg("b.jpg"), "one bad picture must not block those after it"


def test_a_png_without_pillow_says_what_to_install(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    (pictures / "a.png").write_bytes(encode(GRADIENT, "PNG"))
    (pictures / "b.jpg").write_bytes(jpeg("b.jpg"))
    camera = replay(pictures)
    with pytest.raises(CameraError, match=r"^Pillow is not usable \(.+\); install the package python3-pil\.$"):
        camera.capture_jpeg()
    assert camera.capture_jpeg() == jpeg("b.jpg"), "JPEG pictures do without Pillow"


@given(names=st.sets(st.text("abcxyz019", min_size=1, max_size=6), min_size=1, max_size=8))
def test_one_round_shows_every_picture_once(tmp_path_factory: pytest.TempPathFactory, names: set[str]) -> None:
    directory = tmp_path_factory.mktemp("pictures")
    for name in names:
        (directory / f"{name}.jpg").write_bytes(jpeg(f"{name}.jpg"))
    camera = replay(directory)
    assert [camera.capture_jpeg() for _ in names] == [jpeg(name) for name in sorted(f"{n}.jpg" for n in names)]


# --- V4L2


class Frame:
    """As much of a numpy picture as pi_camera touches: shape, size and cutting."""

    def __init__(self, width: int, height: int, label: str = "scene") -> None:
        self.shape = (height, width, 3)
        self.size = width * height * 3
        self.label = label

    def __getitem__(self, cut: tuple[slice, slice]) -> Frame:
        rows, columns = cut
        height = len(range(*rows.indices(self.shape[0])))
        width = len(range(*columns.indices(self.shape[1])))
        return Frame(width, height, f"{self.label} cut {columns.start},{rows.start} {width}x{height}")


class FakeCv2:
    """OpenCV with one camera that numbers its frames."""

    CAP_V4L2 = 200
    IMWRITE_JPEG_QUALITY = 1

    def __init__(self) -> None:
        self.openable = self.readable = self.encodes = True
        self.shape = (640, 480)
        self.opened: list[str] = []
        self.released = 0
        self.frames = 0
        self.hanging = False
        self.quality = 0
        self.failure: Exception | None = None

    def VideoCapture(self, device: str, backend: int) -> FakeCv2:  # noqa: N802 - OpenCV's name
        assert backend == self.CAP_V4L2
        self.opened.append(device)
        return self

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return self.openable

    def grab(self) -> bool:
        self.frames += 1
        return not self.hanging

    def read(self) -> tuple[bool, Frame | None]:
        if self.failure:
            raise self.failure
        self.frames += 1
        return (True, Frame(*self.shape, f"frame {self.frames}")) if self.readable else (False, None)

    def release(self) -> None:
        self.released += 1

    def resize(self, frame: Frame, size: tuple[int, int]) -> Frame:
        return Frame(*size, f"{frame.label} scaled {size[0]}x{size[1]}")

    def imencode(self, suffix: str, frame: Frame, parameters: list[int]) -> tuple[bool, Any]:
        assert suffix == ".jpg" and parameters[0] == self.IMWRITE_JPEG_QUALITY
        self.quality = parameters[1]
        content = b"\xff\xd8 " + frame.label.encode() + b"\xff\xd9"
        return self.encodes, SimpleNamespace(tobytes=lambda: content)


@pytest.fixture
def cv2(monkeypatch: pytest.MonkeyPatch) -> FakeCv2:
    fake = FakeCv2()
    monkeypatch.setitem(sys.modules, "cv2", fake)
    return fake


AddNode = Callable[..., Path]


@pytest.fixture
def add_node(monkeypatch: pytest.MonkeyPatch, bare_device: Path) -> AddNode:
    """Adds a video device whose driver answers VIDIOC_QUERYCAP."""
    answers: dict[str, bytes] = {}

    def ioctl(descriptor: int, request: int, argument: bytes) -> bytes:
        assert request == 0x80685600 and len(argument) == 104
        return answers[str(Path(f"/proc/self/fd/{descriptor}").readlink())]

    def add(number: int, driver: str = "uvcvideo", of_node: int = 0x04200001, of_hardware: int = 0x84A00001) -> Path:
        node = bare_device / f"video{number}"
        node.touch()
        answers[str(node)] = struct.pack(
            "16s32s32sIII12x", driver.encode(), b"card", b"bus", 0x060000, of_hardware, of_node
        )
        return node

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    return add


def v4l2(**settings: Any) -> pi_camera.Camera:
    return open_camera(CameraConfig(source="v4l2", **settings))


def test_a_named_device_is_used_as_it_is(cv2: FakeCv2) -> None:
    with v4l2(device="/dev/v4l/by-id/usb-camera") as camera:
        camera.capture_jpeg()
        assert camera.source == "v4l2"
        assert cv2.opened == ["/dev/v4l/by-id/usb-camera"]
        assert cv2.released == 0
    assert cv2.released == 1


def test_frames_are_encoded_as_well_as_replayed_pictures(cv2: FakeCv2) -> None:
    v4l2(device="/dev/video0").capture_jpeg()
    assert cv2.quality == 95


def test_the_first_camera_in_the_order_of_numbers_is_used(cv2: FakeCv2, add_node: AddNode) -> None:
    add_node(10)
    second = add_node(2)
    v4l2()
    assert cv2.opened == [str(second)]


@pytest.mark.parametrize("driver", ["bcm2835-codec", "bcm2835-isp", "pispbe", "rpi-hevc-dec", "rp1-cfe", "unicam"])
def test_codecs_and_image_processors_are_no_cameras(cv2: FakeCv2, add_node: AddNode, driver: str) -> None:
    add_node(0, driver)
    camera = add_node(1)
    v4l2()
    assert cv2.opened == [str(camera)]


def test_a_node_that_only_gives_metadata_is_no_camera(cv2: FakeCv2, add_node: AddNode) -> None:
    add_node(0, of_node=0x04A00000)
    camera = add_node(1)
    v4l2()
    assert cv2.opened == [str(camera)]


def test_a_driver_without_device_caps_is_judged_by_its_capabilities(cv2: FakeCv2, add_node: AddNode) -> None:
    camera = add_node(0, of_hardware=0x04000001, of_node=0)
    v4l2()
    assert cv2.opened == [str(camera)]


def test_what_is_no_video_device_is_passed_over(cv2: FakeCv2, add_node: AddNode, bare_device: Path) -> None:
    (bare_device / "video-notes").touch()
    camera = add_node(3)
    v4l2()
    assert cv2.opened == [str(camera)]


def test_a_node_that_cannot_be_opened_is_named(cv2: FakeCv2, bare_device: Path) -> None:
    (bare_device / "video0").mkdir()
    with pytest.raises(CameraError, match=r"video0 cannot be opened \(Is a directory\)"):
        v4l2()


def test_a_camera_that_hangs_is_waited_for_once(cv2: FakeCv2) -> None:
    camera = v4l2(device="/dev/video0")
    cv2.hanging = True
    with pytest.raises(CameraError, match=r"^The camera /dev/video0 gave no frame in 5 s; plug it in again\.$"):
        camera.capture_jpeg()
    assert cv2.frames == 1


def test_stale_frames_are_dropped_before_every_picture(cv2: FakeCv2) -> None:
    camera = v4l2(device="/dev/video0", width=640, height=480)
    pictures = [camera.capture_jpeg(), camera.capture_jpeg()]
    dropped = pi_camera.STALE_FRAMES
    assert dropped > 4, "OpenCV's four buffers may all be old"
    assert [picture.split(b" ")[2] for picture in pictures] == [
        b"%d" % (dropped + 1),
        b"%d" % (2 * dropped + 2),
    ]


@pytest.mark.parametrize(
    ("shape", "size", "cut"),
    [
        ((640, 480), (400, 400), "80,0 480x480"),
        ((480, 640), (400, 400), "0,80 480x480"),
        ((640, 480), (320, 240), "0,0 640x480"),
        ((1920, 1080), (400, 300), "240,0 1440x1080"),
    ],
)
def test_the_middle_is_cut_and_scaled_undistorted(
    cv2: FakeCv2, shape: tuple[int, int], size: tuple[int, int], cut: str
) -> None:
    cv2.shape = shape
    picture = v4l2(device="/dev/video0", width=size[0], height=size[1]).capture_jpeg()
    assert f"cut {cut} scaled {size[0]}x{size[1]}".encode() in picture


@given(sizes=st.tuples(*[st.integers(1, 4000)] * 4))
def test_a_cut_is_never_empty_nor_outside(sizes: tuple[int, int, int, int]) -> None:
    width, height, wanted_width, wanted_height = sizes
    cut = pi_camera._crop(Frame(width, height), (wanted_width, wanted_height))
    assert 1 <= cut.shape[1] <= width
    assert 1 <= cut.shape[0] <= height
    assert cut.shape[1] == width or cut.shape[0] == height


def test_a_device_that_does_not_open_is_named_and_released(cv2: FakeCv2) -> None:
    cv2.openable = False
    with pytest.raises(CameraError, match=r"/dev/video3 cannot be opened; .*group video"):
        v4l2(device="/dev/video3")
    assert cv2.released == 1


def test_an_undelivered_frame_is_refused(cv2: FakeCv2) -> None:
    cv2.readable = False
    with pytest.raises(CameraError, match="/dev/video0 gave an empty frame"):
        v4l2(device="/dev/video0").capture_jpeg()


def test_a_frame_without_pixels_is_refused(cv2: FakeCv2) -> None:
    cv2.shape = (0, 0)
    with pytest.raises(CameraError, match="/dev/video0 gave an empty frame"):
        v4l2(device="/dev/video0").capture_jpeg()


def test_a_frame_that_cannot_be_encoded_is_refused(cv2: FakeCv2) -> None:
    cv2.encodes = False
    with pytest.raises(CameraError, match="cannot encode"):
        v4l2(device="/dev/video0").capture_jpeg()


def test_an_unforeseen_failure_becomes_one_sentence(cv2: FakeCv2) -> None:
    cv2.failure = RuntimeError("OpenCV\n  assertion failed")
    with pytest.raises(CameraError, match=r"/dev/video0\) gave no picture \(OpenCV assertion failed\)") as refusal:
        v4l2(device="/dev/video0").capture_jpeg()
    assert refusal.value.__cause__ is cv2.failure


def test_without_opencv_the_sentence_says_what_to_install() -> None:
    with pytest.raises(CameraError, match="python3-opencv") as refusal:
        v4l2(device="/dev/video0")
    assert isinstance(refusal.value.__cause__, ImportError)


# --- Picamera2


class FakePicamera2:
    """The class Picamera2, with the cameras in `cameras`."""

    cameras: list[dict[str, Any]]
    calls: list[tuple[Any, ...]]
    failure: Exception | None
    failing: str

    def __init__(self, number: int) -> None:
        self._note("open", number)

    @classmethod
    def _note(cls, *call: Any) -> None:
        cls.calls.append(call)
        if cls.failing == call[0] and cls.failure:
            raise cls.failure

    @classmethod
    def global_camera_info(cls) -> list[dict[str, Any]]:
        return cls.cameras

    def create_still_configuration(self, **settings: Any) -> dict[str, Any]:
        return settings

    def configure(self, settings: dict[str, Any]) -> None:
        self._note("configure", settings)

    def start(self) -> None:
        self._note("start")

    def capture_file(self, file: Any, format: str, wait: float) -> None:
        self._note("capture", format, wait)
        file.write(JPEG)

    def close(self) -> None:
        self._note("close")


@pytest.fixture
def picamera2(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakePicamera2]]:
    FakePicamera2.cameras = [{"Id": "/base/soc/i2c0mux/i2c@1/imx219@10", "Model": "imx219", "Num": 0}]
    FakePicamera2.calls = []
    FakePicamera2.failing, FakePicamera2.failure = "", None
    monkeypatch.setitem(sys.modules, "picamera2", SimpleNamespace(Picamera2=FakePicamera2))
    yield FakePicamera2


def test_picamera2_gives_fresh_stills_of_the_size_asked_for(picamera2: type[FakePicamera2]) -> None:
    with open_camera(CameraConfig(source="picamera2", width=320, height=240)) as camera:
        assert camera.source == "picamera2"
        assert camera.capture_jpeg() == JPEG
        assert camera.capture_jpeg() == JPEG
    assert picamera2.calls == [
        ("open", 0),
        ("configure", {"main": {"size": (320, 240)}, "queue": False}),
        ("start",),
        ("capture", "jpeg", pi_camera.CAPTURE_SECONDS),
        ("capture", "jpeg", pi_camera.CAPTURE_SECONDS),
        ("close",),
    ]


def test_auto_prefers_picamera2(picamera2: type[FakePicamera2], cv2: FakeCv2, add_node: AddNode) -> None:
    add_node(0)
    assert open_camera().source == "picamera2"
    assert cv2.opened == []


def test_auto_leaves_usb_cameras_to_v4l2(picamera2: type[FakePicamera2], cv2: FakeCv2, add_node: AddNode) -> None:
    picamera2.cameras = [{"Id": "/base/scb/pcie@7d500000/pci@0,0/usb@0,0-1.1:1.0-046d:0825", "Num": 0}]
    add_node(0)
    assert open_camera().source == "v4l2"
    with pytest.raises(CameraError, match="sees no camera at the ribbon connector"):
        open_camera(CameraConfig(source="picamera2"))


def test_the_first_camera_at_the_ribbon_connector_is_used(picamera2: type[FakePicamera2]) -> None:
    picamera2.cameras = [{"Id": "/base/usb@1"}, {"Id": "/base/i2c@1/imx219@10"}]
    open_camera()
    assert picamera2.calls[0] == ("open", 1)


def test_auto_falls_back_when_picamera2_sees_nothing(
    picamera2: type[FakePicamera2], cv2: FakeCv2, add_node: AddNode
) -> None:
    picamera2.cameras = []
    add_node(0)
    assert open_camera().source == "v4l2"


def test_auto_falls_back_when_picamera2_breaks_on_import(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cv2: FakeCv2, add_node: AddNode
) -> None:
    (tmp_path / "picamera2.py").write_text("raise ValueError('numpy.dtype size changed')")
    monkeypatch.delitem(sys.modules, "picamera2")
    monkeypatch.syspath_prepend(str(tmp_path))
    add_node(0)
    assert open_camera().source == "v4l2"


def test_auto_without_any_camera_says_what_was_looked_for(bare_device: Path) -> None:
    with pytest.raises(CameraError) as refusal:
        open_camera()
    sentence = str(refusal.value)
    assert "picamera2 is not usable" in sentence
    assert f"none of the 0 devices {bare_device}/video* is a camera" in sentence
    assert "set camera_source" in sentence


def test_picamera2_that_does_not_open_is_one_sentence(picamera2: type[FakePicamera2]) -> None:
    picamera2.failing, picamera2.failure = "open", RuntimeError("Camera __init__ sequence did not complete.")
    with pytest.raises(CameraError, match=r"did not complete.*no other program uses it") as refusal:
        open_camera()
    assert refusal.value.__cause__ is picamera2.failure


@pytest.mark.parametrize("step", ["configure", "start"])
def test_picamera2_that_does_not_start_is_closed(picamera2: type[FakePicamera2], step: str) -> None:
    picamera2.failing, picamera2.failure = step, RuntimeError("busy")
    with pytest.raises(CameraError, match="busy"):
        open_camera()
    assert picamera2.calls[-1] == ("close",)


def test_picamera2_that_times_out_is_one_sentence(picamera2: type[FakePicamera2]) -> None:
    picamera2.failing, picamera2.failure = "capture", TimeoutError()
    with pytest.raises(CameraError, match=r"picamera2 camera \(number 0\) gave no picture \(TimeoutError\)"):
        open_camera().capture_jpeg()


def test_a_camera_that_does_not_close_is_one_sentence(picamera2: type[FakePicamera2]) -> None:
    picamera2.failing, picamera2.failure = "close", RuntimeError("stuck")
    with pytest.raises(CameraError, match=r"cannot be closed \(stuck\); restart"):
        open_camera().close()


# --- the program


def run(*arguments: object, config: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the module as a device does: as a program of its own."""
    environment = {**os.environ, "PI_CAMERA_CONFIG": str(config)} if config else None
    command = [sys.executable, pi_camera.__file__, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture
def config(tmp_path: Path, pictures: Path) -> Path:
    (pictures / "a.jpg").write_bytes(JPEG)
    return write_config(tmp_path / "camera.json", {"source": "directory", "directory": str(pictures)})


def test_the_program_writes_the_picture_and_reports(config: Path, tmp_path: Path) -> None:
    output = tmp_path / "frame.jpg"
    output.write_bytes(b"former")
    reader = output.open("rb")
    before = set(tmp_path.iterdir())
    result = run("--config", config, "--output", output)
    assert (result.returncode, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert report.keys() == {"source", "bytes", "milliseconds"}
    assert (report["source"], report["bytes"]) == ("directory", len(JPEG))
    assert type(report["milliseconds"]) is int
    assert output.read_bytes() == JPEG
    with reader:
        assert reader.read() == b"former", "the file must be replaced, not written over"
    assert set(tmp_path.iterdir()) == before, "no temporary file may stay"


def test_the_program_takes_the_environments_configuration(config: Path) -> None:
    result = run(config=config)
    assert json.loads(result.stdout)["source"] == "directory"


def test_the_program_says_one_sentence_when_it_fails(config: Path, pictures: Path, tmp_path: Path) -> None:
    (pictures / "a.jpg").write_bytes(b"torn")
    output = tmp_path / "frame.jpg"
    result = run("--config", config, "--output", output)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert "no complete JPEG" in result.stderr
    assert not output.exists()


@pytest.mark.parametrize("output", ["absent/frame.jpg", "camera.json/frame.jpg"])
def test_an_output_that_cannot_be_written_is_one_sentence(config: Path, tmp_path: Path, output: str) -> None:
    result = run("--config", config, "--output", tmp_path / output)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert f"cannot be written to {tmp_path / output}" in result.stderr


def test_a_picture_has_its_name_only_when_it_is_on_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, synced, sync = tmp_path / "frame.jpg", [], os.fsync
    output.write_bytes(b"former")

    def note(descriptor: int) -> None:
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((target.name.startswith("."), target.is_dir(), output.read_bytes()))
        assert target.is_dir() or target.read_bytes() == JPEG
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    pi_camera.write_whole(output, JPEG)
    assert synced == [(True, False, b"former"), (False, True, JPEG)]


def test_a_picture_keeps_mode_and_link_of_the_file_that_it_replaces(tmp_path: Path) -> None:
    output, link = tmp_path / "frame.jpg", tmp_path / "link.jpg"
    output.touch(mode=0o600)
    link.symlink_to(output)
    pi_camera.write_whole(link, JPEG)
    assert link.is_symlink() and output.read_bytes() == JPEG and output.stat().st_mode & 0o777 == 0o600


def test_what_is_no_file_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with os.fdopen(os.open(pipe, os.O_RDWR | os.O_NONBLOCK), "rb", buffering=0) as reader:
        pi_camera.write_whole(pipe, JPEG)
        assert reader.read(len(JPEG)) == JPEG
    assert pipe.is_fifo()


def test_a_picture_that_does_not_fit_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        pi_camera.write_whole(tmp_path / "frame.jpg", JPEG)
    assert not list(tmp_path.glob("*frame*"))


def test_a_failed_replacement_leaves_no_temporary_file(config: Path, tmp_path: Path) -> None:
    output = tmp_path / "folder"
    output.mkdir()
    before = set(tmp_path.iterdir())
    assert run("--config", config, "--output", output).returncode == 1
    assert set(tmp_path.iterdir()) == before
