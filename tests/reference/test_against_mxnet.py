"""What the module converts computes what MXNet 1.9.1 computes from the same artifact.

MXNET_PYTHON names the Python of the environment of requirements.txt; `mxnet_side.py` runs in it. Compared are the
numbers before the softmax, in onnxruntime, in this environment's OpenCV and in Bookworm's, to 1e-4 of the largest.
"""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from ansible_collections.edge.pi_fleet.plugins.module_utils.model import make_artifact
from ansible_collections.edge.pi_fleet.plugins.module_utils.model_source import read_source

from tools import sagemaker_sample

Rows = npt.NDArray[np.float32]

SIDE = Path(__file__).parent / "mxnet_side.py"
KINDS = [(depth, 224) for depth in ("18", "34", "50", "101", "152")]
KINDS += [(depth, 28) for depth in ("20", "56", "110")]
KINDS += [("odd", 33)]

LABELS = sagemaker_sample.LABELS


def mxnet(*arguments: object) -> None:
    python = os.environ.get("MXNET_PYTHON")
    assert python, "MXNET_PYTHON names no Python: run 'make reference'"
    subprocess.run([python, str(SIDE), *map(str, arguments)], check=True, capture_output=True)


def by_onnxruntime(model: Path, pictures: Rows) -> Rows:
    session = onnxruntime.InferenceSession(model)
    return np.concatenate([session.run(None, {"data": picture[None]})[0] for picture in pictures])


def by_opencv(model: Path, pictures: Rows) -> Rows:
    network, rows = cv2.dnn.readNetFromONNX(str(model)), []
    for picture in pictures:
        network.setInput(picture[None])
        rows.append(np.array(network.forward()[0], np.float32))
    return np.stack(rows)


def compare(folder: Path, source: Path, record_property: Callable[[str, object], None]) -> None:
    artifact = make_artifact(read_source(source), LABELS, "the reference")
    model = onnx.load_model_from_string(artifact.network.data)
    softmax = model.graph.node.pop()
    assert softmax.op_type == "Softmax"
    model.graph.output[0].name = softmax.input[0]
    logits = folder / "logits.onnx"
    onnx.save_model(model, logits)
    pictures, wanted = np.load(folder / "pictures.npy"), np.load(folder / "logits.npy")
    mxnet("opencv", logits, folder)
    found = {
        "onnxruntime": by_onnxruntime(logits, pictures),
        f"OpenCV {cv2.__version__}": by_opencv(logits, pictures),
        "OpenCV 4.6": np.load(folder / "opencv.npy"),
    }
    scale = np.abs(wanted).max()
    # A network that answers all pictures alike would prove nothing.
    assert np.ptp(wanted, axis=0).max() > 0.01 * scale
    print(f"\n{folder.name}: logits up to {scale:.3f}")
    for runtime, rows in found.items():
        assert rows.shape == wanted.shape
        difference = np.abs(rows - wanted).max() / scale
        print(f"  {runtime:20} differs from MXNet by {difference:.1e} of the largest")
        record_property(runtime, difference)
        assert difference < 1e-4


@pytest.mark.parametrize(("kind", "side"), KINDS)
def test_what_mxnet_saves(kind: str, side: int, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    folder = tmp_path / f"mxnet-{kind}-{side}"
    folder.mkdir()
    mxnet("make", kind, side, folder)
    compare(folder, folder, record_property)


def test_the_sample_is_read_by_mxnet_as_by_us(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    folder = tmp_path / "sample"
    archive = folder / "model.tar.gz"
    assert sagemaker_sample.main([str(archive)]) == 0
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    np.save(folder / "pictures.npy", np.random.default_rng(1).uniform(0, 255, (4, 3, 224, 224)).astype(np.float32))
    mxnet("load", folder)
    compare(folder, archive, record_property)
