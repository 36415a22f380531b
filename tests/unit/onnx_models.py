"""Small models, as the control node would drop them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

LABELS = ["beer-mug", "clutter", "coffee-mug", "soda-can", "wine-bottle"]
SIDE = 32


def network(
    outputs: int = len(LABELS), *, height: int = SIDE, softmax: bool = True, channels: int = 3, offset: float = 0.0
) -> bytes:
    """Return an ONNX file with what a ResNet is made of, and weights out of a hat; `offset` is added to each logit."""
    random = np.random.default_rng(3)
    weights = {
        "mean": np.full(channels, 118, np.float32),
        "variance": np.full(channels, 3600, np.float32),
        "scale": np.ones(channels, np.float32),
        "bias": np.zeros(channels, np.float32),
        "kernel": random.normal(0, 0.4, (8, channels, 3, 3)).astype(np.float32),
        "dense": random.normal(0, 2, (outputs, 8)).astype(np.float32),
        "offset": np.full(outputs, offset, np.float32),
    }
    nodes = [
        helper.make_node("BatchNormalization", ["data", "scale", "bias", "mean", "variance"], ["normal"], epsilon=2e-5),
        helper.make_node("Conv", ["normal", "kernel"], ["edges"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["edges"], ["seen"]),
        helper.make_node("GlobalAveragePool", ["seen"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "dense", "offset"], ["logits"], transB=1),
        *([helper.make_node("Softmax", ["logits"], ["prob"], axis=1)] if softmax else []),
    ]
    graph = helper.make_graph(
        nodes,
        "beverages",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, channels, height, SIDE])],
        [helper.make_tensor_value_info("prob" if softmax else "logits", TensorProto.FLOAT, [1, outputs])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 10)], ir_version=5)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def drop(directory: Path, content: bytes | None = None, **changes: Any) -> Path:
    """Write a model and its description, changed by `changes` (None leaves a key out), and return the directory."""
    content = network() if content is None else content
    description = {
        "labels": LABELS,
        "width": SIDE,
        "height": SIDE,
        "sha256": hashlib.sha256(content).hexdigest(),
        "source": "made for a test",
        **changes,
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.onnx").write_bytes(content)
    written = {key: value for key, value in description.items() if value is not None}
    (directory / "model.json").write_text(json.dumps(written), encoding="utf-8")
    return directory


def expected(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return what `network()` says of `pixels` (1 x 3 x SIDE x SIDE), reckoned without a runtime."""
    model = onnx.load_from_string(network())
    weights = {each.name: numpy_helper.to_array(each).astype(np.float64) for each in model.graph.initializer}
    normal = (pixels[0].astype(np.float64) - 118) / np.sqrt(3600 + 2e-5)
    padded = np.pad(normal, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (padded.shape[0], 3, 3))[0]
    seen = np.maximum(np.einsum("hwcij,ocij->ohw", windows, weights["kernel"]), 0)
    powers = np.exp(weights["dense"] @ seen.mean(axis=(1, 2)))
    likelihoods: npt.NDArray[np.float64] = powers / powers.sum()
    return likelihoods
