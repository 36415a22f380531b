"""Models: the same answers from both runtimes, and a sentence for each that cannot be used."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
from localcore import images, inference
from localcore.errors import LocalCoreError

PHOTOS = Path(__file__).resolve().parents[3] / "files" / "photos"
BACKENDS = ("onnxruntime", "cv2")


def only(monkeypatch: pytest.MonkeyPatch, backend: str | None) -> None:
    """Leave one runtime to be imported, or none."""
    for name in BACKENDS:
        if name != backend:
            monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    only(monkeypatch, name)
    return name


def pictures(side: int = onnx_models.SIDE) -> list[Any]:
    """Return photos, noise and flat colours."""
    photos = [images.to_input(path.read_bytes(), None, side, side) for path in sorted(PHOTOS.glob("*.[jp][pn]g"))]
    noise = [np.random.default_rng(seed).uniform(0, 255, (1, 3, side, side)).astype(np.float32) for seed in range(4)]
    flat = [np.full((1, 3, side, side), value, np.float32) for value in (0, 118, 255)]
    assert len(photos) >= 2
    return [*photos, *noise, *flat]


def refusal(directory: Path) -> str:
    """Return the one sentence with which a model is refused."""
    with pytest.raises(LocalCoreError) as refused:
        inference.Model(directory)
    sentence = str(refused.value)
    assert sentence.endswith(".") and "\n" not in sentence and str(directory) in sentence
    return sentence


# --- answers


def test_both_runtimes_say_what_arithmetic_says(backend: str, tmp_path: Path) -> None:
    model = inference.Model(onnx_models.drop(tmp_path))
    assert model.backend == backend
    spread = set()
    for pixels in pictures():
        probabilities = model.infer(pixels)
        assert np.abs(np.array(probabilities) - onnx_models.expected(pixels)).max() < 1e-5
        spread.add(int(np.argmax(probabilities)))
    assert len(spread) > 1, "a model that always says the same would prove nothing"


def test_an_answer_does_not_depend_on_the_one_before(backend: str, tmp_path: Path) -> None:
    model = inference.Model(onnx_models.drop(tmp_path))
    first, second = pictures()[:2]
    once = model.infer(first)
    model.infer(second)
    assert model.infer(first) == once


def test_probabilities_are_plain_numbers_in_the_order_of_the_labels(backend: str, tmp_path: Path) -> None:
    model = inference.Model(onnx_models.drop(tmp_path))
    probabilities = model.infer(pictures()[0])
    assert [type(each) for each in probabilities] == [float] * 5
    assert model.description.labels == tuple(onnx_models.LABELS)
    assert [np.float32(each) == each for each in probabilities] == [True] * 5


def test_a_model_need_not_be_square(backend: str, tmp_path: Path) -> None:
    model = inference.Model(onnx_models.drop(tmp_path, onnx_models.network(height=48), height=48))
    assert len(model.infer(np.zeros((1, 3, 48, 32), np.float32))) == 5


def test_onnxruntime_is_preferred(tmp_path: Path) -> None:
    assert inference.Model(onnx_models.drop(tmp_path)).backend == "onnxruntime"


def test_a_runtime_that_breaks_at_its_import_is_left_aside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    directory = tmp_path / "modules"
    directory.mkdir()
    (directory / "onnxruntime.py").write_text("raise RuntimeError('built for another numpy')")
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.syspath_prepend(directory)
    assert inference.Model(onnx_models.drop(tmp_path / "model")).backend == "cv2"


def test_without_a_runtime_a_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    only(monkeypatch, None)
    with pytest.raises(LocalCoreError, match=r"onnxruntime: .*cv2: .*install python3-onnxruntime or python3-opencv\."):
        inference.Model(onnx_models.drop(tmp_path))


def test_what_a_runtime_writes_is_passed_on_but_for_the_known_noise(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession

    def noisy(*arguments: Any, **options: Any) -> Any:
        for line in ("Schema error: Trying to register schema with name Abs", "", "an advice", "Schema error: another"):
            os.write(2, f"{line}\n".encode())
        return session(*arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", noisy)
    inference.Model(onnx_models.drop(tmp_path))
    assert capfd.readouterr().err == "an advice\nSchema error: another\n"
    os.write(2, b"later\n")
    onnx_models.drop(tmp_path, b"no model")
    assert refusal(tmp_path)
    assert capfd.readouterr().err == "later\nan advice\nSchema error: another\n"


# --- models that cannot be used


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": None}, "labels must be a list of names"),
        ({"labels": []}, "labels must be a list of names"),
        ({"labels": "beer-mug"}, "labels must be a list of names"),
        ({"labels": ["beer-mug", 2]}, "labels must be a list of names"),
        ({"width": None}, "width must be a number of pixels to 4096, not None"),
        ({"width": "224"}, "not '224'"),
        ({"width": True}, "not True"),
        ({"height": 0}, "height must be a number of pixels to 4096, not 0"),
        ({"height": 4097}, "not 4097"),
        ({"height": 32.0}, "not 32.0"),
        ({"source": None}, "source must be a string"),
        ({"sha256": 7}, "sha256 must be a string, not 7"),
    ],
)
def test_a_description_off_its_form_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    assert said in refusal(onnx_models.drop(tmp_path, **change))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_a_description_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    onnx_models.drop(tmp_path)
    (tmp_path / "model.json").write_bytes(content)
    assert "model.json cannot be used" in refusal(tmp_path)


@pytest.mark.parametrize("missing", ["model.json", "model.onnx"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    onnx_models.drop(tmp_path)
    (tmp_path / missing).unlink()
    assert re.search(rf"{missing} (cannot be (used|read))", refusal(tmp_path))


def test_a_model_that_changed_since_it_was_dropped_is_refused(tmp_path: Path) -> None:
    onnx_models.drop(tmp_path)
    model = tmp_path / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    found = hashlib.sha256(model.read_bytes()).hexdigest()
    assert f"has the sha256 {found} where" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content", [b"no model", onnx_models.network()[:700], b"\0" * 64], ids=["text", "truncated", "zeros"]
)
def test_what_is_no_onnx_is_refused(backend: str, tmp_path: Path, content: bytes) -> None:
    assert "convert it anew" in refusal(onnx_models.drop(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (onnx_models.network(4), "gave 4 values for 5 labels"),
        (onnx_models.network(softmax=False), "gave no probabilities (their sum is "),
        (onnx_models.network(offset=float("nan")), "gave no probabilities (their sum is "),
        (onnx_models.network(channels=1), "1 x 3 x 32 x 32|wanted"),
    ],
    ids=["labels", "no softmax", "no number", "grey"],
)
def test_a_model_that_cannot_classify_is_refused_at_its_start(
    backend: str, tmp_path: Path, content: bytes, said: str
) -> None:
    sentence = refusal(onnx_models.drop(tmp_path, content))
    assert any(each in sentence for each in said.split("|"))


def test_onnxruntime_refuses_a_size_other_than_the_described_one(tmp_path: Path) -> None:
    said = refusal(onnx_models.drop(tmp_path, width=224))
    assert "takes [[1, 3, 32, 32]] where one input of [1, 3, 32, 224] and one output are wanted" in said


def test_an_input_of_another_size_is_an_error_and_the_next_is_answered(tmp_path: Path) -> None:
    model = inference.Model(onnx_models.drop(tmp_path))
    with pytest.raises(LocalCoreError, match="cannot infer"):
        model.infer(np.zeros((1, 3, 8, 8), np.float32))
    assert len(model.infer(pictures()[0])) == 5
