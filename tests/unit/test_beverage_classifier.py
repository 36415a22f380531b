"""The Lambda: what it answers, and that no failure whatsoever loses a picture."""

from __future__ import annotations

import json
import math
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import beverage_classifier
import pi_camera
import pytest
from beverage_classifier import ClassifierError, captures, handler
from beverage_classifier.settings import Settings, from_environment
from hypothesis import given
from hypothesis import strategies as st

JPEG = b"\xff\xd8 a picture \xff\xd9"
NOW = 1_700_000_000_123


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


class Device:
    """What surrounds the Lambda: a camera, the two SDKs and the field data; every part can be broken."""

    said: ClassVar[dict[str, str]] = {}

    def __init__(self, field_data: Path) -> None:
        self.field_data = field_data
        self.reply = b"[0.01,0.02,0.03,0.7,0.24]"
        self.published: list[dict[str, Any]] = []
        self.requests: list[dict[str, Any]] = []
        self.opened: list[str] = []
        self.closed = 0
        self.broken: dict[str, Exception] = {}

    def note(self, part: str) -> None:
        if part in self.broken:
            raise self.broken[part]

    def names(self) -> list[str]:
        return names(self.field_data)

    # the camera
    def open_camera(self) -> Device:
        self.note("open")
        self.opened.append("camera")
        return self

    def capture_jpeg(self) -> bytes:
        self.note("capture")
        return JPEG

    def close(self) -> None:
        self.closed += 1
        self.note("close")

    # the SDKs
    def client(self, name: str) -> Device:
        self.note(name)
        self.opened.append(name)
        return self

    def invoke_inference_service(self, **request: Any) -> dict[str, Any]:
        [self.waiting] = [name for name in self.names() if "_" not in name]
        self.requests.append(request)
        self.note("inference")
        return {"ContentType": "text/plain", "Body": BytesIO(self.reply)}

    def publish(self, **message: Any) -> None:
        assert self.waiting in self.names(), "the capture must outlive the publishing of its answer"
        self.note("publish")
        self.published.append(message)
        Device.said = json.loads(message["payload"])


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Device:
    field_data = tmp_path / "raw_field_data"
    field_data.mkdir()
    fake = Device(field_data)
    monkeypatch.setenv("MY_FUNCTION_ARN", "arn:aws:lambda:::function:beverage_classifier:1")
    monkeypatch.setitem(sys.modules, "greengrasssdk", SimpleNamespace(client=fake.client))
    monkeypatch.setitem(sys.modules, "greengrass_machine_learning_sdk", SimpleNamespace(client=fake.client))
    monkeypatch.setattr(pi_camera, "open_camera", fake.open_camera)
    monkeypatch.setattr(time, "time_ns", lambda: NOW * 1_000_000 + 999_999)
    monkeypatch.setattr(handler, "_classifier", handler.Classifier(Settings(field_data=field_data)))
    return fake


@pytest.fixture
def configure(device: Device, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def apply(**changes: Any) -> None:
        changed = replace(Settings(field_data=device.field_data), **changes)
        monkeypatch.setattr(handler, "_classifier", handler.Classifier(changed))

    return apply


def ask(event: object = None) -> dict[str, str]:
    """Give the handler an event, and return what it published."""
    assert beverage_classifier.function_handler(event, None) is None  # type: ignore[func-returns-value]
    return Device.said


@pytest.mark.parametrize("event", [{"keep": False}, b'{"keep": false}'])
def test_a_question_may_leave_no_picture_behind(device: Device, event: object) -> None:
    device.reply = b"[0.96,0.01,0.01,0.01,0.01]"
    assert ask(event)["message"].startswith("Classified image as beer-mug")
    assert device.names() == []


OTHERS: list[object] = [
    None,
    {},
    {"keep": True},
    {"keep": 0},
    [],
    b"",
    b"hello",
    b"{",
    b'{"keep": true}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("event", OTHERS, ids=lambda event: repr(event)[:20])
def test_any_other_message_leaves_the_picture_to_the_rule(device: Device, event: object) -> None:
    device.reply = b"[0.96,0.01,0.01,0.01,0.01]"
    ask(event)
    assert device.names() == [f"{NOW}_beer-mug_0.96.jpg"]


def test_a_picture_whose_handling_fails_stays_whatever_the_message_says(device: Device) -> None:
    device.broken["inference"] = RuntimeError("gone")
    with pytest.raises(RuntimeError, match="gone"):
        ask({"keep": False})
    assert device.names() == [f"{NOW}.jpg"]


# --- an answered event


def test_the_answer_is_published_and_returned(device: Device) -> None:
    answer = {"message": "Classified image as soda-can with a confidence of 0.7"}
    assert ask() == answer
    [message] = device.published
    assert message["topic"] == "/response/prediction/beverage_container"
    assert message["payload"] == json.dumps(answer)


def test_the_picture_goes_to_the_inference_service(device: Device) -> None:
    ask()
    assert device.requests == [
        {
            "AlgoType": "image-classification",
            "ServiceName": "beverage-classifier",
            "ContentType": "image/jpeg",
            "Body": JPEG,
        }
    ]


@pytest.mark.parametrize("event", [None, {}, {"picture": "yes"}, b"\x00", "text", [1]])
def test_what_the_event_says_does_not_matter(device: Device, event: object) -> None:
    assert "soda-can" in ask(event)["message"]


@pytest.mark.parametrize(
    ("index", "category"),
    [(0, "beer-mug"), (1, "clutter"), (2, "coffee-mug"), (3, "soda-can"), (4, "wine-bottle")],
)
def test_categories_have_the_articles_order(device: Device, index: int, category: str) -> None:
    confidences = [0.05] * 5
    confidences[index] = 0.8
    device.reply = json.dumps(confidences).encode()
    assert ask()["message"] == f"Classified image as {category} with a confidence of 0.8"


def test_of_equals_the_first_category_wins(device: Device) -> None:
    device.reply = b"[0.1,0.35,0.1,0.35,0.1]"
    assert "clutter" in ask()["message"]


def test_settings_reach_the_clients(device: Device, configure: Callable[..., None]) -> None:
    configure(response_topic="/other", service_name="other-service", categories=("a", "b"))
    device.reply = b"[0.2,0.8]"
    assert ask()["message"] == "Classified image as b with a confidence of 0.8"
    assert device.published[0]["topic"] == "/other"
    assert device.requests[0]["ServiceName"] == "other-service"


def test_nothing_is_opened_before_the_first_event_and_then_kept(device: Device) -> None:
    assert device.opened == []
    ask()
    ask()
    assert sorted(device.opened) == ["camera", "inference", "iot-data"]
    assert device.closed == 0


# --- retention


@pytest.mark.parametrize(
    ("confidence", "kept"),
    [
        ("0.0", True),
        (repr(math.nextafter(0.6, 0)), True),
        ("0.6", False),
        ("0.75", False),
        ("0.9", False),
        (repr(math.nextafter(0.9, 1)), True),
        ("1", True),
    ],
)
def test_only_what_is_below_or_above_is_kept(device: Device, confidence: str, kept: bool) -> None:
    device.reply = f"[-1,-1,-1,{confidence},-1]".encode()
    ask()
    assert device.names() == ([f"{NOW}_soda-can_{float(confidence)}.jpg"] if kept else [])
    if kept:
        assert (device.field_data / device.names()[0]).read_bytes() == JPEG


def test_the_bounds_come_from_the_settings(device: Device, configure: Callable[..., None]) -> None:
    configure(keep_below=0.0, keep_above=0.7)
    ask()
    assert device.names() == []
    configure(keep_below=0.0, keep_above=0.69)
    ask()
    assert device.names() == [f"{NOW}_soda-can_0.7.jpg"]


def test_two_kept_events_in_one_millisecond_are_two_pictures(device: Device) -> None:
    device.reply = b"[0.5,0.1,0.1,0.1,0.1]"
    ask()
    ask()
    assert device.names() == [f"{NOW}_beer-mug_0.5.jpg", f"{NOW + 1}_beer-mug_0.5.jpg"]


def test_two_failed_events_in_one_millisecond_are_two_pictures(device: Device) -> None:
    (device.field_data / f"{NOW}.jpg").write_bytes(b"former")
    directory = device.field_data
    assert captures.save(directory, JPEG).path.name == f"{NOW + 1}.jpg"
    assert captures.save(directory, JPEG).path.name == f"{NOW + 2}.jpg"
    assert (directory / f"{NOW}.jpg").read_bytes() == b"former"


# --- failures


@pytest.mark.parametrize("part", ["inference", "iot-data", "publish"])
def test_a_failure_leaves_the_capture_and_goes_up(device: Device, part: str) -> None:
    device.broken[part] = RuntimeError(f"{part} broke")
    with pytest.raises(RuntimeError, match=f"{part} broke"):
        ask()
    assert device.names() == [f"{NOW}.jpg"]
    assert (device.field_data / f"{NOW}.jpg").read_bytes() == JPEG
    assert device.published == []


def test_a_missing_sdk_leaves_the_capture(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "greengrass_machine_learning_sdk", None)
    with pytest.raises(ImportError):
        ask()
    assert device.names() == [f"{NOW}.jpg"]


@pytest.mark.parametrize("value", [None, ""])
def test_outside_a_core_nothing_is_thrown_away(
    device: Device, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is None:
        monkeypatch.delenv("MY_FUNCTION_ARN")
    else:
        monkeypatch.setenv("MY_FUNCTION_ARN", value)
    with pytest.raises(ClassifierError, match="MY_FUNCTION_ARN is not set"):
        ask()
    assert device.names() == [f"{NOW}.jpg"]


def test_a_client_that_could_not_be_made_is_tried_again(device: Device) -> None:
    device.reply = b"[0,0,0,0.7,0]"
    device.broken["inference"] = RuntimeError("not yet")
    with pytest.raises(RuntimeError):
        ask()
    device.broken.clear()
    (device.field_data / f"{NOW}.jpg").unlink()
    assert "soda-can" in ask()["message"]


@pytest.mark.parametrize("reply", [b"", b"null", b"[0.1,0.2]", b"[0.1,0.2,0.3,0.4,NaN]", b"no list"])
def test_a_reply_that_cannot_be_used_leaves_the_capture(device: Device, reply: bytes) -> None:
    device.reply = reply
    with pytest.raises(ClassifierError):
        ask()
    assert device.names() == [f"{NOW}.jpg"]
    assert device.published == []


@pytest.mark.parametrize("confidence", ["0.95", "0.7"])
def test_a_capture_that_cannot_be_put_away_stays(
    device: Device, monkeypatch: pytest.MonkeyPatch, confidence: str
) -> None:
    device.reply = f"[0,0,0,{confidence},0]".encode()

    def full(*_arguments: object, **_keywords: object) -> None:
        raise OSError(30, "Read-only file system")

    def publish(**_message: Any) -> None:
        monkeypatch.setattr(Path, "hardlink_to", full)
        monkeypatch.setattr(Path, "unlink", full)

    monkeypatch.setattr(device, "publish", publish)
    with pytest.raises(ClassifierError, match=rf"{NOW}\.jpg cannot be .*Read-only file system"):
        ask()
    assert device.names() == [f"{NOW}.jpg"]


def test_a_rename_that_breaks_off_leaves_the_picture(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = captures.save(device.field_data, JPEG)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(ClassifierError, match="Operation not permitted"):
        capture.keep("clutter", 0.5)
    assert {(device.field_data / name).read_bytes() for name in device.names()} == {JPEG}


def test_missing_field_data_is_one_sentence(device: Device, configure: Callable[..., None]) -> None:
    configure(field_data=device.field_data / "absent")
    with pytest.raises(ClassifierError, match=r"absent \(No such file or directory\); check that") as refusal:
        ask()
    assert isinstance(refusal.value.__cause__, FileNotFoundError)
    assert device.requests == []


def test_a_camera_that_fails_is_closed_and_opened_afresh(device: Device) -> None:
    ask()
    device.broken["capture"] = pi_camera.CameraError("The camera gave no picture.")
    with pytest.raises(pi_camera.CameraError, match="gave no picture"):
        ask()
    assert device.closed == 1
    assert device.names() == []
    device.broken.clear()
    ask()
    assert device.opened.count("camera") == 2
    assert device.closed == 1


def test_a_camera_that_does_not_even_close_is_opened_afresh(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    device.broken["capture"] = pi_camera.CameraError("The camera gave no picture.")
    device.broken["close"] = pi_camera.CameraError("The camera cannot be closed.")
    with pytest.raises(pi_camera.CameraError, match="gave no picture"):
        ask()
    assert "cannot be closed" in caplog.text
    device.broken.clear()
    ask()
    assert device.opened.count("camera") == 2


def test_a_camera_that_does_not_open_is_tried_again(device: Device) -> None:
    device.broken["open"] = pi_camera.CameraError("No camera was found.")
    with pytest.raises(pi_camera.CameraError, match="No camera"):
        ask()
    device.broken.clear()
    assert "soda-can" in ask()["message"]


# --- captures


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    former = os.umask(umask)
    try:
        path = captures.save(tmp_path, JPEG).path
    finally:
        os.umask(former)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_the_group_comes_from_the_directory(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a directory away")
    os.chown(tmp_path, 0, 4242)
    tmp_path.chmod(0o2770)
    assert captures.save(tmp_path, JPEG).path.stat().st_gid == 4242


def test_a_capture_has_its_name_only_when_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append("directory" if target.is_dir() else "file")
        if target.is_file():
            assert target.name.startswith(".") and not target.name.endswith(".jpg")
            assert target.read_bytes() == JPEG
            assert names(tmp_path) == [target.name]
        else:
            assert not any(name.startswith(".") for name in names(tmp_path))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    capture = captures.save(tmp_path, JPEG)
    assert synced == ["file", "directory"]
    capture.keep("clutter", 0.5)
    assert synced == ["file", "directory", "directory"]


@pytest.mark.parametrize("broken", ["fsync", "fchmod"])
def test_a_capture_that_cannot_be_written_leaves_no_remains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, broken, full)
    with pytest.raises(ClassifierError, match=r"No space left on device\); check that .* has room"):
        captures.save(tmp_path, JPEG)
    assert names(tmp_path) == []


def test_a_directory_without_hard_links_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with pytest.raises(ClassifierError, match="Operation not permitted"):
        captures.save(tmp_path, JPEG)
    assert names(tmp_path) == []


def test_a_capture_that_somebody_collected_is_no_error(tmp_path: Path) -> None:
    capture = captures.save(tmp_path, JPEG)
    capture.path.unlink()
    capture.discard()


PUT_AWAY = st.tuples(
    st.integers(0, 3),
    st.sampled_from(["stay", "keep", "discard"]),
    st.sampled_from(Settings().categories),
    st.sampled_from([0.5, 0.95, 1e-05]),
)


@given(events=st.lists(PUT_AWAY, max_size=30))
def test_names_never_collide(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[int, str, str, float]]
) -> None:
    """Whatever the clock says, even backwards: every capture that was not discarded is there, unharmed."""
    directory = tmp_path_factory.mktemp("field_data")
    expected = {}
    with pytest.MonkeyPatch.context() as clock:
        for number, (millis, fate, category, confidence) in enumerate(events):
            clock.setattr(time, "time_ns", lambda now=millis: now * 1_000_000)
            capture = captures.save(directory, b"%d" % number)
            if fate == "stay":
                expected[capture.path] = number
            elif fate == "keep":
                kept = capture.keep(category, confidence)
                assert re.fullmatch(rf"\d+_{category}_{confidence}\.jpg", kept.name)
                expected[kept] = number
            else:
                capture.discard()
    assert {path: int(path.read_bytes()) for path in directory.iterdir()} == expected


# --- the reply


@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9)))
def test_every_list_of_finite_numbers_is_read(values: list[float]) -> None:
    assert handler.parse_confidences(json.dumps(values).encode(), len(values)) == values


@given(values=st.lists(st.floats(0, 1), max_size=9), categories=st.integers(1, 9))
def test_a_wrong_number_of_confidences_names_both_counts(values: list[float], categories: int) -> None:
    body = json.dumps(values).encode()
    if len(values) == categories:
        assert handler.parse_confidences(body, categories) == values
        return
    with pytest.raises(ClassifierError, match=f"gave {len(values)} confidences for {categories} categories"):
        handler.parse_confidences(body, categories)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"0.5",
        b"{}",
        b'"[0.5]"',
        b"[0.5",
        b"[0.5]]",
        b"[0.5,]",
        b'["0.5"]',
        b"[true]",
        b"[null]",
        b"[[0.5]]",
        b"[NaN]",
        b"[Infinity]",
        b"[-Infinity]",
        b"[1e999]",
        b"[1" + b"0" * 400 + b"]",
        b"[1" + b"0" * 5000 + b"]",
        b"[" * 100_000,
        b"[0.5\xff]",
        b"[1_0]",
    ],
)
def test_anything_but_a_list_of_finite_numbers_is_refused(body: bytes) -> None:
    with pytest.raises(ClassifierError, match=r"reply .* cannot be used") as refusal:
        handler.parse_confidences(body, 1)
    assert len(str(refusal.value)) < 500


@given(body=st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_no_reply_raises_anything_else(body: bytes) -> None:
    try:
        confidences = handler.parse_confidences(body, 1)
    except ClassifierError:
        return
    assert len(confidences) == 1 and math.isfinite(confidences[0])


# --- settings


def test_the_defaults_are_the_articles() -> None:
    assert from_environment({}) == Settings(
        response_topic="/response/prediction/beverage_container",
        categories=("beer-mug", "clutter", "coffee-mug", "soda-can", "wine-bottle"),
        service_name="beverage-classifier",
        field_data=Path("/raw_field_data"),
        keep_below=0.6,
        keep_above=0.9,
    )


def test_every_variable_is_read() -> None:
    environment = {
        "RESPONSE_TOPIC": "/plant/7/answer",
        "CATEGORIES": "glass, soda_can,010.mug",
        "SERVICE_NAME": "bottles",
        "FIELD_DATA": "/srv/pictures",
        "KEEP_BELOW": "0.25",
        "KEEP_ABOVE": "1",
    }
    assert from_environment(environment) == Settings(
        "/plant/7/answer", ("glass", "soda_can", "010.mug"), "bottles", Path("/srv/pictures"), 0.25, 1.0
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RESPONSE_TOPIC", ""),
        ("RESPONSE_TOPIC", "/response/#"),
        ("RESPONSE_TOPIC", "/response/+/x"),
        ("CATEGORIES", ""),
        ("CATEGORIES", "mug,,can"),
        ("CATEGORIES", "mug,can,mug"),
        ("CATEGORIES", "../mug"),
        ("CATEGORIES", "mug\ncan"),
        ("SERVICE_NAME", ""),
        ("SERVICE_NAME", "x"),
        ("SERVICE_NAME", "beverage_classifier"),
        ("FIELD_DATA", ""),
        ("FIELD_DATA", "pictures"),
        ("KEEP_BELOW", ""),
        ("KEEP_BELOW", "much"),
        ("KEEP_BELOW", "nan"),
        ("KEEP_BELOW", "-0.1"),
        ("KEEP_ABOVE", "1.1"),
        ("KEEP_ABOVE", "inf"),
    ],
)
def test_a_bad_value_is_one_sentence_that_names_it(name: str, value: str) -> None:
    with pytest.raises(ClassifierError, match=f"^{name} must .*correct") as refusal:
        from_environment({name: value})
    assert "\n" not in str(refusal.value)


def test_a_bad_value_stops_the_lambda_when_it_starts() -> None:
    environment = {**os.environ, "KEEP_BELOW": "much", "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", "import beverage_classifier"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    assert "KEEP_BELOW must be a number from 0 to 1, unlike 'much'" in result.stderr
