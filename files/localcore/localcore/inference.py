"""Models: one adapter, and whichever of two runtimes the device has from Debian.

A model is a directory with `model.onnx` (1 x 3 x height x width values from 0 to 255 in, probabilities out) and
`model.json`: `labels` in the order of the outputs, `width` and `height` of the input in pixels, the `sha256` of
model.onnx, and `source`, where it comes from. onnxruntime is preferred, because on 32-bit ARM Debian builds it
with NEON, and OpenCV without.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from localcore.errors import LocalCoreError

Array = npt.NDArray[np.float32]
# How far rounding may leave the probabilities from adding up to 1.
TOLERANCE = 1e-3
LARGEST_SIDE = 4096
STDERR = 2
NOISE = b"Schema error: Trying to register schema"


@dataclass(frozen=True)
class Description:
    """What model.json says."""

    labels: tuple[str, ...]
    width: int
    height: int
    sha256: str
    source: str


class Model:
    """A model in memory that has answered once."""

    def __init__(self, directory: Path) -> None:
        """Load and warm up the model in `directory`; raise LocalCoreError if it cannot be used."""
        self.directory = directory
        self.description = describe(directory)
        self.backend, self._infer = _load(directory / "model.onnx", self.description)
        # The first inference allocates and compiles what later ones use; nobody should wait for that.
        self.infer(np.full((1, 3, self.description.height, self.description.width), 127.5, np.float32))

    def infer(self, pixels: Array) -> list[float]:
        """Return a probability for each label; `pixels` is 1 x 3 x height x width, from 0 to 255."""
        try:
            output = np.asarray(self._infer(pixels), np.float32).ravel()
        except Exception as error:  # each runtime has exceptions of its own
            raise LocalCoreError(
                f"The model in {self.directory} cannot infer ({_reason(error)}); convert it anew for fixed inputs of "
                f"1 x 3 x {self.description.height} x {self.description.width}."
            ) from error
        labels = len(self.description.labels)
        if output.size != labels:
            raise LocalCoreError(
                f"The model in {self.directory} gave {output.size} values for {labels} labels; convert it anew with "
                "the labels that it was trained with."
            )
        total = float(output.sum(dtype=np.float64))
        # Written so that what is not a number is refused too.
        if not (np.all(output >= 0) and abs(total - 1) <= TOLERANCE):
            raise LocalCoreError(
                f"The model in {self.directory} gave no probabilities (their sum is {total:g}); convert it anew, with "
                "a softmax at its end."
            )
        return [float(probability) for probability in output]


def describe(directory: Path) -> Description:
    """Read model.json and check model.onnx against its checksum; raise LocalCoreError if either does not fit."""
    path = directory / "model.json"
    try:
        description = _parse(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise LocalCoreError(f"The model's description {path} cannot be used ({reason}); drop it again.") from error
    model = directory / "model.onnx"
    try:
        with model.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise LocalCoreError(f"The model {model} cannot be read ({error.strerror}); drop it again.") from error
    if found != description.sha256:
        raise LocalCoreError(
            f"The model {model} has the sha256 {found} where {path} says {description.sha256}; drop it again."
        )
    return description


def _parse(data: object) -> Description:
    """Return the description in `data`; ValueError says what is wrong with it."""
    if not isinstance(data, dict):
        raise ValueError("it is no object")
    labels = data.get("labels")
    if not (isinstance(labels, list) and labels and all(isinstance(label, str) for label in labels)):
        raise ValueError("labels must be a list of names")
    return Description(
        tuple(labels), _side(data, "width"), _side(data, "height"), _string(data, "sha256"), _string(data, "source")
    )


def _side(data: Mapping[str, object], name: str) -> int:
    value = data.get(name)
    # A number, but not true, which Python takes for one.
    if not (isinstance(value, int) and value is not True and 1 <= value <= LARGEST_SIDE):
        raise ValueError(f"{name} must be a number of pixels to {LARGEST_SIDE}, not {value!r}")
    return value


def _string(data: Mapping[str, object], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, not {value!r}")
    return value


def _load(model: Path, description: Description) -> tuple[str, Callable[[Array], Any]]:
    """Return the name of the first runtime that can be imported, and what infers with it."""
    reasons = []
    for name, load in (("onnxruntime", _load_onnxruntime), ("cv2", _load_opencv)):
        try:
            runtime = importlib.import_module(name)
        except Exception as error:  # a numpy that does not fit is no ImportError
            reasons.append(f"{name}: {_reason(error)}")
            continue
        try:
            return name, load(runtime, model, description)
        except LocalCoreError:
            raise
        except Exception as error:  # each runtime has exceptions of its own
            raise LocalCoreError(
                f"{name} cannot load the model {model} ({_reason(error)}); convert it anew."
            ) from error
    raise LocalCoreError(
        f"No runtime for models can be imported ({'; '.join(reasons)}); install python3-onnxruntime or python3-opencv."
    )


def _load_onnxruntime(runtime: Any, model: Path, description: Description) -> Callable[[Array], Any]:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    # It keeps memory for the next inference: 37 MiB with ResNet-18, 58 with ResNet-50, and is no faster for it.
    options.enable_cpu_mem_arena = False
    # Its threads would go on turning after each inference, and take the processor from what carries the answer.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with _without_noise():
        session = runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    inputs, wanted = session.get_inputs(), [1, 3, description.height, description.width]
    if [node.shape for node in inputs] != [wanted] or len(session.get_outputs()) != 1:
        raise LocalCoreError(
            f"The model {model} takes {[node.shape for node in inputs]} where one input of {wanted} and one output are "
            "wanted; convert it anew."
        )
    name = inputs[0].name
    return lambda pixels: session.run(None, {name: pixels})[0]


@contextmanager
def _without_noise() -> Iterator[None]:
    """Keep 567 lines a start out of the journal: Trixie's onnxruntime says of each schema that it has it already."""
    sys.stderr.flush()
    stderr = os.dup(STDERR)
    with os.fdopen(os.memfd_create("stderr"), "rb") as written:
        os.dup2(written.fileno(), STDERR)
        try:
            yield
        finally:
            os.dup2(stderr, STDERR)
            os.close(stderr)
            written.seek(0)
            for line in written:
                if line.strip() and not line.startswith(NOISE):
                    os.write(STDERR, line)


def _load_opencv(runtime: Any, model: Path, description: Description) -> Callable[[Array], Any]:
    runtime.setNumThreads(len(os.sched_getaffinity(0)))
    net = runtime.dnn.readNetFromONNX(str(model))

    def infer(pixels: Array) -> Any:
        net.setInput(pixels)
        return net.forward()

    return infer


def _reason(error: Exception) -> str:
    # Both runtimes write several lines.
    return " ".join(str(error).split()) or type(error).__name__
