# SPDX-License-Identifier: Apache-2.0
"""The network that goes to a device, in ONNX as old as the runtimes there.

Bookworm's OpenCV 4.6 reads opset 10 and the IR version that belongs to it, 5; Trixie's onnxruntime reads both. One
input of 1 x 3 x height x width (red, green, blue; 0 to 255), one output of 1 x classes, probabilities.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import onnx
from ansible_collections.edge.pi_fleet.plugins.module_utils.model_source import ModelError, Onnx
from google.protobuf.message import DecodeError

OPSET, IR_VERSION = 10, 5
INPUT, OUTPUT = "data", "probabilities"

# Marks networks whose output is known to be probabilities, and the node that was added to make them so.
PRODUCER = "pi-fleet"
ADDED_SOFTMAX = "pi-fleet-softmax"

LARGEST_SIDE = 1024

# The verdict of the check, and the seconds that it may take: the largest ResNet takes two.
ACCEPTED, LONGEST_CHECK = b"+", 120


@dataclass(frozen=True)
class Network:
    """A network that was checked: its bytes and what it takes and gives."""

    data: bytes
    width: int
    height: int
    classes: int
    softmax_added: bool


def assemble(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, npt.NDArray[np.float32]],
    height: int,
    width: int,
    classes: int,
) -> onnx.ModelProto:
    """Return the model of nodes that lead from INPUT to OUTPUT, probabilities, and of their weights."""
    graph = onnx.helper.make_graph(
        list(nodes),
        PRODUCER,
        [onnx.helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, [1, 3, height, width])],
        [onnx.helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, [1, classes])],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in weights.items()],
    )
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    return onnx.helper.make_model(graph, producer_name=PRODUCER, opset_imports=opsets, ir_version=IR_VERSION)


def origin(source: Onnx) -> str:
    """Return where a network of this project's says that it is from; nothing for other files."""
    try:
        model = onnx.load_model_from_string(source.data)
    except (DecodeError, ValueError):
        return ""
    return str(model.doc_string) if model.producer_name == PRODUCER else ""


def read_onnx(source: Onnx) -> Network:
    """Check a user's ONNX file and make it what devices take: one picture at a time, softmax at the end."""
    try:
        model = onnx.load_model_from_string(source.data)
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{source.name} cannot be read as ONNX ({_line(error)}): export it again.") from error
    _refuse_unreadable(model, source.name)
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise ModelError(
            f"{source.name} has {len(inputs)} inputs and {len(graph.output)} outputs:"
            " one picture in and one row of probabilities out is what devices serve."
        )
    del graph.input[:]
    graph.input.extend(inputs)
    # Shapes in between are found anew, for one picture.
    del graph.value_info[:]
    for value in (graph.input[0], graph.output[0]):
        dimensions = value.type.tensor_type.shape.dim
        if dimensions:
            dimensions[0].Clear()
            dimensions[0].dim_value = 1
    model.ir_version = IR_VERSION
    if model.producer_name != PRODUCER:
        _end_in_softmax(graph, source.name)
    return examine(model, source.name)


def examine(model: onnx.ModelProto, name: str) -> Network:
    """Return a model's bytes and shapes; raise ModelError where it is not what devices take."""
    given = _shape(model.graph.input[0])
    if len(given) != 4 or given[:2] != [1, 3] or not all(1 <= side <= LARGEST_SIDE for side in given[2:]):
        raise ModelError(
            f"{name} takes {given or 'other numbers than float'}, and devices give float numbers of"
            f" [1, 3, height, width] with sides up to {LARGEST_SIDE}: export it so."
        )
    output = _check(model, name)
    made = _shape(output)
    if len(made) != 2 or made[0] != 1 or made[1] < 1:
        raise ModelError(
            f"{name} makes {made or 'other numbers than float'}, and float numbers of [1, classes] are wanted:"
            " export it so."
        )
    # OpenCV reads no output without a shape.
    model.graph.output[0].CopyFrom(output)
    return Network(
        data=model.SerializeToString(deterministic=True),
        width=given[3],
        height=given[2],
        classes=made[1],
        softmax_added=any(node.name == ADDED_SOFTMAX for node in model.graph.node),
    )


def _check(model: onnx.ModelProto, name: str) -> onnx.ValueInfoProto:
    """Return the output of a model that ONNX's checker accepts, with the shape that it finds.

    The checker is C++ and divides by what a file says, such as a stride of 0: a process of its own dies of it instead.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of the threads of numpy's BLAS, which the child does not use.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(reader)
        _answer(model, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        verdict, answer = stream.read(1), stream.read()
    _, status = os.waitpid(child, 0)
    if status != 0:
        died = signal.strsignal(-os.waitstatus_to_exitcode(status))
        raise ModelError(f"{name} is no valid network (ONNX's checker died of it: {died}): export it again.")
    if verdict != ACCEPTED:
        raise ModelError(f"{name} is no valid network ({answer.decode()}): export it again.")
    output = onnx.ValueInfoProto()
    output.ParseFromString(answer)
    return output


def _answer(model: onnx.ModelProto, writer: int) -> NoReturn:
    """Write the verdict, in the child, and end it without what its parent does at its end."""
    signal.alarm(LONGEST_CHECK)
    # The parent tells if it dies: no core, no trace.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.disable()
    try:
        onnx.checker.check_model(model)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        answer = ACCEPTED + inferred.graph.output[0].SerializeToString()
    except Exception as error:  # what C++ throws is of many kinds, and the parent tells it
        answer = b"-" + _line(error).encode(errors="replace")
    with os.fdopen(writer, "wb") as stream:
        stream.write(answer)
    os._exit(0)


def _refuse_unreadable(model: onnx.ModelProto, name: str) -> None:
    """Refuse what runtimes on devices cannot read, or read wrongly."""
    for opset in model.opset_import:
        if opset.domain not in ("", "ai.onnx"):
            raise ModelError(f"{name} uses operators of {opset.domain}, which runtimes on devices do not have.")
        if opset.version > OPSET:
            raise ModelError(
                f"{name} is of opset {opset.version}, and Bookworm's OpenCV reads up to {OPSET}:"
                f" export it again with opset {OPSET}."
            )
    constants = [attribute.t for node in model.graph.node for attribute in node.attribute]
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in (*model.graph.initializer, *constants)):
        raise ModelError(f"{name} keeps its weights in other files: export it with all weights inside.")
    for node in model.graph.node:
        counted = any(attribute.name == "count_include_pad" and attribute.i for attribute in node.attribute)
        if node.op_type == "AveragePool" and counted:
            raise ModelError(
                f"{name} has count_include_pad in the layer {node.name or node.output[0]!r}, which OpenCV passes over:"
                " pad in a layer of its own."
            )


def _end_in_softmax(graph: onnx.GraphProto, name: str) -> None:
    output = graph.output[0]
    last = [node for node in graph.node if output.name in node.output]
    if len(last) != 1:
        raise ModelError(f"{name} does not compute its output {output.name!r} in one node: export it again.")
    if last[0].op_type == "Softmax":
        return
    if last[0].op_type in ("Sigmoid", "LogSoftmax"):
        raise ModelError(
            f"{name} ends in {last[0].op_type}, and probabilities of classes are wanted: end it in Softmax."
        )
    logits = output.name
    output.name = f"{logits}-{ADDED_SOFTMAX}"
    graph.node.append(onnx.helper.make_node("Softmax", [logits], [output.name], name=ADDED_SOFTMAX, axis=1))


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    """Return a tensor's dimensions, 0 where one is not known; none at all where it is not float."""
    tensor = value.type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        return []
    return [dimension.dim_value for dimension in tensor.shape.dim]


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
