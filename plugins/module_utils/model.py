# SPDX-License-Identifier: Apache-2.0
"""The artifact that the connector loads: a folder with model.onnx and, about it, model.json.

    {"labels": [...], "sha256": "...", "width": W, "height": H, "softmax": "...", "source": "...", "inputs": "..."}

`labels` are in the order of the outputs, `sha256` is model.onnx's and is verified at each load on the device, `softmax`
says whether it was of the model or added at conversion, `source` is text for people, and `inputs` is a hash of what
the artifact was made from, so that it is made once.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.edge.pi_fleet.plugins.module_utils.model_source import ModelError, Onnx, SageMaker
from ansible_collections.edge.pi_fleet.plugins.module_utils.mxnet_params import read_params
from ansible_collections.edge.pi_fleet.plugins.module_utils.mxnet_symbol import convert, read_shape, read_symbol
from ansible_collections.edge.pi_fleet.plugins.module_utils.onnx_graph import Network, examine, origin, read_onnx
from ansible_collections.edge.pi_fleet.plugins.module_utils.prepared_model import DESCRIPTION, MODEL

# Counts the ways in which this code has converted: artifacts made in another way are made again.
CONVERSION = 1


@dataclass(frozen=True)
class Artifact:
    """What goes to devices: a network, its labels, where it is from, and the hash of what it was made from."""

    network: Network
    labels: tuple[str, ...]
    source: str
    inputs: str

    @property
    def sha256(self) -> str:
        """Hash of model.onnx."""
        return hashlib.sha256(self.network.data).hexdigest()

    @property
    def text(self) -> str:
        """What model.json holds."""
        description = {
            "labels": self.labels,
            "sha256": self.sha256,
            "width": self.network.width,
            "height": self.network.height,
            "softmax": "added at conversion" if self.network.softmax_added else "of the model",
            "source": self.source,
            "inputs": self.inputs,
        }
        return json.dumps(description, indent=2, ensure_ascii=False) + "\n"

    def write(self, folder: Path) -> None:
        """Write both files, each in one step; the folder is made if it is not there."""
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            _replace(folder / MODEL, self.network.data)
            _replace(folder / DESCRIPTION, self.text.encode())


def source_of(given: SageMaker | Onnx) -> str:
    """Return where a model is from, as far as it says so: in words, or the name of its file or folder."""
    told = origin(given) if isinstance(given, Onnx) else ""
    return told or Path(given.name).name


def inputs_hash(digest: str, labels: Sequence[str], source: str) -> str:
    """Return the hash of all that decides what an artifact is; `digest` is that of the model given."""
    return hashlib.sha256(json.dumps([CONVERSION, digest, list(labels), source]).encode()).hexdigest()


def make_artifact(given: SageMaker | Onnx, labels: Sequence[str], source: str) -> Artifact:
    """Convert a model; raise ModelError where it cannot go to a device or the labels are not those of its outputs."""
    network = _converted(given) if isinstance(given, SageMaker) else read_onnx(given)
    return label(network, labels, source, inputs_hash(given.digest, labels, source))


def label(network: Network, labels: Sequence[str], source: str, inputs: str) -> Artifact:
    """Name the outputs of a network; raise ModelError where there are more or fewer, or a name serves twice."""
    if len(labels) != network.classes:
        raise ModelError(
            f"The model has {network.classes} outputs and {len(labels)} labels were given:"
            " give one for each class, in the order of the training."
        )
    if not all(name.strip() for name in labels) or len(set(labels)) != len(labels):
        raise ModelError(
            f"The labels {', '.join(map(repr, labels))} are not all different and not empty: correct them."
        )
    return Artifact(network, tuple(labels), source, inputs)


def text_found(folder: Path) -> str:
    """Return the model.json of a folder; empty where there is none."""
    try:
        return (folder / DESCRIPTION).read_text()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""


def find_artifact(folder: Path, labels: Sequence[str], source: str, inputs: str) -> Artifact | None:
    """Return the artifact of these inputs if it stands in the folder, whole and unchanged."""
    text = text_found(folder)
    if inputs not in text or not (folder / MODEL).is_file():
        return None
    given = Onnx(str(folder / MODEL), (folder / MODEL).read_bytes())
    try:
        found = label(read_onnx(given), labels, source, inputs)
    except ModelError:
        return None
    # What was read is written as it was read only if nothing had to be mended.
    return found if found.text == text and found.network.data == given.data else None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # Several devices may ask for one model at the same time.
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
        os.fsync(handle)
    finally:
        os.close(handle)


def _converted(given: SageMaker) -> Network:
    height, width = read_shape(given.shapes, f"{given.name}: model-shapes.json")
    nodes = read_symbol(given.symbol, f"{given.name}: image-classification-symbol.json")
    params = read_params(given.params, given.params_name)
    return examine(convert(nodes, params, height, width, given.name), given.name)


def _replace(path: Path, data: bytes) -> None:
    incoming = path.with_name(f".{path.name}.incoming")
    with incoming.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    incoming.chmod(0o644)
    incoming.replace(path)
