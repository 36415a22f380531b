"""The connector: V1's requests and replies, each error followed by a good answer, and the whole program."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE

import numpy as np
import onnx_models
import pytest
from fake_core import SECONDS, TOKEN, Core
from greengrass_ipc_python_sdk.ipc_client import WorkItem
from localcore import connector, images
from localcore.errors import LocalCoreError
from localcore.work_loop import Handle
from PIL import Image

FILES = Path(__file__).resolve().parents[3] / "files"
PHOTO = (FILES / "photos" / "rocket.jpg").read_bytes()
COFFEE = (FILES / "photos" / "coffee.png").read_bytes()
ARN = "arn:aws:lambda:eu-central-1:aws:function:GG-ML-INF-image-classification-beverage-classifier"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnx_models.drop(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def handle(model: Path) -> Handle:
    return connector.load(model)


def encoded(context: object) -> str:
    return base64.b64encode(json.dumps(context).encode()).decode()


def request(payload: bytes = PHOTO, **custom: object) -> WorkItem:
    return WorkItem("1", payload, encoded({"custom": {key.replace("_", "-"): value for key, value in custom.items()}}))


def probabilities(reply: bytes) -> list[float]:
    """Check the form of a reply and return what is in it."""
    answer = json.loads(reply)
    assert answer.keys() == {"Body", "ContentType"} and answer["ContentType"] == "application/json"
    assert answer["Body"].startswith("[") and " " not in answer["Body"]
    numbers: list[float] = json.loads(answer["Body"])
    return numbers


# --- replies


def test_the_reply_is_v1s_with_each_number_as_the_model_gave_it(handle: Handle) -> None:
    pixels = images.to_input(PHOTO, None, onnx_models.SIDE, onnx_models.SIDE)
    numbers = probabilities(handle(request(Content_Type="image/jpeg")))
    assert np.abs(np.array(numbers) - onnx_models.expected(pixels)).max() < 1e-5
    assert [np.float32(number) == number for number in numbers] == [True] * 5


@pytest.mark.parametrize("context", ["", encoded({}), encoded({"custom": {}}), encoded({"client": {"app": "1"}})])
def test_a_context_is_not_needed(handle: Handle, context: str) -> None:
    assert probabilities(handle(WorkItem("1", COFFEE, context))) == probabilities(handle(request(COFFEE)))


@pytest.mark.parametrize(
    "accept",
    [None, "*/*", "application/json", "Application/JSON; charset=utf-8", "text/plain", "text/*", "text/csv",
     "application/*", "image/webp, text/html;q=0.8"],
)  # fmt: skip
def test_what_json_satisfies_is_accepted(handle: Handle, accept: str | None) -> None:
    assert len(probabilities(handle(request(Accept=accept)))) == 5


def test_pictures_differ(handle: Handle) -> None:
    assert probabilities(handle(request(PHOTO))) != probabilities(handle(request(COFFEE)))


@pytest.mark.parametrize(("grey", "told"), [(0, True), (9, True), (10, False), (255, False)])
def test_a_black_picture_is_answered_and_told(
    handle: Handle, caplog: pytest.LogCaptureFixture, grey: int, told: bool
) -> None:
    probabilities(handle(request(drawn("PNG", grey=grey))))
    assert [record.message.partition(":")[0] for record in caplog.records] == ["The picture is all black"] * told


# --- errors


def drawn(kind: str, width: int = 8, grey: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, 1), (grey,) * 3).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("work", "said"),
    [
        pytest.param(request(b""), "is no JPEG or PNG", id="nothing"),
        pytest.param(request(b'{"a": 1}'), "is no JPEG or PNG", id="text"),
        pytest.param(request(drawn("BMP")), "is no JPEG or PNG", id="another kind of picture"),
        pytest.param(request(drawn("BMP"), Content_Type="image/bmp"), "'image/bmp' is not served", id="that says so"),
        pytest.param(request(PHOTO, Content_Type="image/png"), "Content-Type says image/png", id="contradiction"),
        pytest.param(request(PHOTO[:-2000]), "cannot be decoded as image/jpeg", id="truncated JPEG"),
        pytest.param(request(COFFEE[:-2000]), "cannot be decoded as image/png", id="truncated PNG"),
        pytest.param(request(drawn("PNG", 40_000)), "has 40000 x 1 pixels", id="too big"),
        pytest.param(request(Accept="image/png"), "Accept is 'image/png' where application/json", id="Accept"),
        pytest.param(request(Accept=""), "Accept is ''", id="empty Accept"),
        pytest.param(request(Accept=["*/*"]), r"Accept in the client context is ['*/*']", id="Accept that is a list"),
        pytest.param(request(Content_Type=5), "Content-Type in the client context is 5", id="type that is a number"),
        pytest.param(WorkItem("1", PHOTO, "%%%"), "client context is no JSON in base64", id="context, no base64"),
        pytest.param(WorkItem("1", PHOTO, encoded([1])), "client context is no JSON object", id="context, a list"),
        pytest.param(WorkItem("1", PHOTO, encoded({"custom": "a"})), "custom part", id="custom part, a text"),
    ],
)
def test_each_error_is_one_sentence_and_the_next_request_is_answered(handle: Handle, work: WorkItem, said: str) -> None:
    with pytest.raises(LocalCoreError) as refused:
        handle(work)
    sentence = str(refused.value)
    assert said in sentence and sentence.endswith(".") and "\n" not in sentence
    assert len(probabilities(handle(request()))) == 5


# --- what the unit says

ENVIRONMENT = {"MY_FUNCTION_ARN": ARN, "CONNECTOR_MODEL": "/opt/model", "CONNECTOR_TIMEOUT": "10"}


def test_the_settings_come_from_the_environment() -> None:
    assert connector.from_environment(ENVIRONMENT) == connector.Settings(ARN, Path("/opt/model"), 10.0)


@pytest.mark.parametrize("name", sorted(ENVIRONMENT))
def test_a_missing_setting_is_named(name: str) -> None:
    with pytest.raises(LocalCoreError, match=f"{name} is not set"):
        connector.from_environment({**ENVIRONMENT, name: ""})


@pytest.mark.parametrize("value", ["soon", "0", "-1", "inf", "nan"])
def test_a_time_that_cannot_be_meant_is_refused(value: str) -> None:
    with pytest.raises(LocalCoreError, match=f"CONNECTOR_TIMEOUT must be a number of seconds, unlike '{value}'"):
        connector.from_environment({**ENVIRONMENT, "CONNECTOR_TIMEOUT": value})


# --- the program


@pytest.fixture
def core() -> Iterator[Core]:
    fake = Core()
    fake.start()
    yield fake
    fake.close()


@contextmanager
def program(core: Core, model: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the connector as its unit does."""
    environment = {
        **ENVIRONMENT,
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(FILES / "localcore"),
        "GG_DAEMON_PORT": str(core.port),
        "CONNECTOR_MODEL": str(model),
    }
    argv = [sys.executable, "-m", "localcore.connector"]
    with subprocess.Popen(argv, env=environment, text=True, stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(f"{TOKEN}\n")
            process.stdin.close()
            process.stdin = None
            yield process
        finally:
            process.kill()


def test_the_program_serves_refuses_and_serves_again_until_it_is_ended(core: Core, model: Path) -> None:
    context = {"custom": {"Accept": "text/plain"}}
    given = [core.give(payload, context) for payload in (PHOTO, PHOTO[:5000], COFFEE)]
    with program(core, model) as process:
        assert core.initialised.get(timeout=SECONDS)["Success"] is True
        good, refused, again = (core.answer() for _ in given)
        process.terminate()
        _, errors = process.communicate(timeout=SECONDS)
    assert [answer[0] for answer in (good, refused, again)] == given
    assert [answer[2] for answer in (good, refused, again)] == ["", "Handled", ""]
    assert len(probabilities(good[1])) == len(probabilities(again[1])) == 5
    assert "cannot be decoded as image/jpeg" in json.loads(refused[1])["errorMessage"]
    assert process.returncode == 0
    assert "Serving the model made for a test" in errors and "Traceback" not in errors and TOKEN not in errors


def test_a_model_that_cannot_be_loaded_is_reported_and_ends_the_program(core: Core, tmp_path: Path) -> None:
    onnx_models.drop(tmp_path, b"no model")
    with program(core, tmp_path) as process:
        result = core.initialised.get(timeout=SECONDS)
        _, errors = process.communicate(timeout=SECONDS)
    assert result["Success"] is False
    assert "cannot load the model" in result["Response"] and result["Response"].endswith("convert it anew.")
    assert process.returncode == 1
    assert result["Response"] in errors and "Traceback" not in errors


def test_without_its_settings_the_program_says_one_sentence() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "localcore.connector"],
        env={"PYTHONPATH": str(FILES / "localcore")},
        input=TOKEN,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr == "MY_FUNCTION_ARN is not set; start this program by its systemd unit.\n"
