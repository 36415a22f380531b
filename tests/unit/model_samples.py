"""Small artifacts in SageMaker's shape, to convert, to run and to break."""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ansible_collections.edge.pi_fleet.plugins.module_utils.model_source import SageMaker

from tools import sagemaker_sample as sample

Rows = npt.NDArray[np.float32]

LABELS = ["cup", "can", "clutter"]
SIDE = 12
TINY = sample.build((1, 1), (4, 4, 8), bottleneck=False, large=False, classes=len(LABELS))
WEIGHTS = sample.weights(TINY, seed=1)
MEMBERS = sample.members(TINY, WEIGHTS, SIDE)
SYMBOL, PARAMS, SHAPES = MEMBERS


def sagemaker(symbol: bytes | None = None, params: bytes | None = None, shapes: bytes | None = None) -> SageMaker:
    """The tiny artifact, parts of it replaced."""
    return SageMaker(
        name="model.tar.gz",
        params_name=f"model.tar.gz: {PARAMS}",
        symbol=MEMBERS[SYMBOL] if symbol is None else symbol,
        params=MEMBERS[PARAMS] if params is None else params,
        shapes=MEMBERS[SHAPES] if shapes is None else shapes,
    )


def tar(members: Iterable[tuple[tarfile.TarInfo | str, bytes]], mode: Literal["w:gz", "w"] = "w:gz") -> bytes:
    """An archive of members by name or header."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        for member, data in members:
            header = tarfile.TarInfo(member) if isinstance(member, str) else member
            header.size = len(data) if isinstance(member, str) else header.size
            archive.addfile(header, io.BytesIO(data))
    return packed.getvalue()


def pictures(side: int, count: int = 3) -> Rows:
    """Random pictures, the same each time."""
    return np.random.default_rng(0).uniform(0, 255, (count, 3, side, side)).astype(np.float32)


def softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Probabilities of rows of logits."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    shares: npt.NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return shares


def by_onnxruntime(model: bytes, given: Rows) -> Rows:
    """What onnxruntime computes, picture by picture."""
    session = onnxruntime.InferenceSession(model)
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: picture[None]})[0] for picture in given])


def by_opencv(model: bytes, given: Rows) -> Rows:
    """What OpenCV computes, picture by picture."""
    network, rows = cv2.dnn.readNetFromONNX(np.frombuffer(model, np.uint8)), []
    for picture in given:
        network.setInput(picture[None])
        rows.append(np.array(network.forward()[0], np.float32))
    return np.stack(rows)
