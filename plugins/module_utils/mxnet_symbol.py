# SPDX-License-Identifier: Apache-2.0
"""MXNet's graph of an image classification network, turned into ONNX without MXNet.

SageMaker's algorithm trains the ResNets of MXNet's example/image-classification/symbols/resnet.py; what these are made
of is converted, an operator or an attribute that is not known is refused by its name. The graph is JSON: `nodes`
(`op`, `name`, `attrs` as text, `inputs` as [node, output, version]) in an order in which inputs come first, and
`heads`, the outputs. Weights are nodes with the op `null`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import onnx
from ansible_collections.edge.pi_fleet.plugins.module_utils.model_source import ModelError
from ansible_collections.edge.pi_fleet.plugins.module_utils.mxnet_params import Array
from ansible_collections.edge.pi_fleet.plugins.module_utils.onnx_graph import INPUT, LARGEST_SIDE, OUTPUT, assemble

Shape = tuple[int, ...]

# Attributes that every node may have and that say how to train or where to compute.
EVERYWHERE = {"ctx_group", "lr_mult", "wd_mult", "force_mirroring", "mirror_stage"}

# No layer of a ResNet is near to it; what is above would only fill a device's memory.
LARGEST_KERNEL = 64


@dataclass(frozen=True)
class Node:
    """One node of the graph."""

    op: str
    name: str
    attributes: Mapping[str, str]
    inputs: tuple[int, ...]


def read_symbol(data: bytes, name: str) -> list[Node]:
    """Return the nodes that the graph's one output is computed from, the output's last.

    Raises ModelError where the file is no graph of MXNet's, or one with several outputs.
    """
    try:
        graph = json.loads(data)
        nodes = [_node(index, entry) for index, entry in enumerate(graph["nodes"])]
        (head,) = [_first_output(entry) for entry in graph["heads"]]
        if head >= len(nodes):
            raise ValueError(f"its output is node {head} of {len(nodes)}")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        why = str(error) or type(error).__name__
        raise ModelError(f"{name} is no graph of MXNet's with one output ({why}): fetch it again.") from error
    return nodes[: head + 1]


def read_shape(data: bytes, name: str) -> tuple[int, int]:
    """Return height and width from model-shapes.json, such as `[{"name": "data", "shape": [128, 3, 224, 224]}]`."""
    try:
        (shape,) = [entry["shape"] for entry in json.loads(data) if entry["name"] == INPUT]
        _, channels, height, width = shape
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise ModelError(
            f"{name} names no one shape [N, 3, height, width] of the input {INPUT}: pack it again."
        ) from error
    sides = isinstance(height, int) and isinstance(width, int) and min(height, width) >= 1
    if channels != 3 or not sides or max(height, width) > LARGEST_SIDE:
        raise ModelError(
            f"{name} gives the input the shape {shape}: 3 colours and sides up to {LARGEST_SIDE} are served."
        )
    return height, width


def convert(nodes: list[Node], params: Mapping[str, Array], height: int, width: int, name: str) -> onnx.ModelProto:
    """Return the ONNX model of a graph and its weights; raise ModelError for what cannot be converted."""
    conversion = _Conversion(nodes, params, (3, height, width), name)
    conversion.run()
    return assemble(conversion.made, conversion.weights, height, width, conversion.classes)


def _node(index: int, entry: dict[str, Any]) -> Node:
    attributes = entry.get("attrs", entry.get("attr", {}))
    inputs = tuple(_first_output(given) for given in entry["inputs"])
    if any(given >= index for given in inputs):
        raise ValueError(f"node {index} comes before its inputs")
    node = Node(entry["op"], entry["name"], dict(attributes), inputs)
    if not all(isinstance(text, str) for text in (node.op, node.name, *node.attributes, *node.attributes.values())):
        raise TypeError(f"node {index} has a part that is no text")
    if not node.name or not node.name.isprintable():
        raise ValueError(f"node {index} has the name {node.name!r}")
    return node


def _first_output(entry: list[int]) -> int:
    index, output = entry[:2]
    if type(index) is not int or index < 0 or output != 0:
        raise ValueError(f"{entry} is no first output of a node")
    return index


@dataclass(frozen=True)
class _Value:
    """What a node makes: the name of the ONNX tensor, and its shape without the batch."""

    tensor: str
    shape: Shape


class _Attributes:
    """The attributes of one node; what nobody asked for by the end is not known."""

    def __init__(self, node: Node, refuse: Callable[[str], NoReturn]) -> None:
        self._refuse = refuse
        self._left = {
            name: value
            for name, value in node.attributes.items()
            if name not in EVERYWHERE and not (name.startswith("__") and name.endswith("__"))
        }

    def text(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        value = self._left.pop(name, default)
        if value not in allowed:
            self._refuse(f"has {name} {value!r}, and only {', '.join(allowed)} can be converted")
        return value

    def flag(self, name: str, default: bool) -> bool:
        return self.text(name, str(default), ("True", "False", "1", "0")) in ("True", "1")

    def number(self, name: str) -> int:
        return self.numbers(name, None, 1)[0]

    def numbers(self, name: str, default: Shape | None, count: int) -> Shape:
        if name not in self._left and default is not None:
            return default
        value = self._left.pop(name, "nothing")
        # Python 2 wrote its long numbers with an L.
        if not re.fullmatch(r"[(\[]?\s*\d{1,9}L?\s*(,\s*\d{1,9}L?\s*)*,?\s*[)\]]?", value):
            # MXNet's way to say that the default holds.
            if value in ("()", "[]", "None") and default is not None:
                return default
            self._refuse(f"has {name} {value!r}, which is no row of numbers")
        found = tuple(int(digits) for digits in re.findall(r"\d+", value))
        if len(found) != count:
            self._refuse(f"has {name} {value!r}, and {count} numbers are wanted")
        return found

    def real(self, name: str, default: float) -> float:
        value = self._left.pop(name, str(default))
        try:
            found = float(value)
        except ValueError:
            found = math.nan
        if not 0 <= found < 1:
            self._refuse(f"has {name} {value!r}, and a number from 0 to 1 is wanted")
        return found

    def ignore(self, *names: str) -> None:
        """Let pass what changes the training, the speed or the memory, and no answer."""
        for name in names:
            self._left.pop(name, None)

    def done(self) -> None:
        for name, value in self._left.items():
            self._refuse(f"has {name} {value!r}, which is not known")


class _Conversion:
    def __init__(self, nodes: list[Node], params: Mapping[str, Array], shape: Shape, name: str) -> None:
        self.nodes, self.params, self.name = nodes, params, name
        self.data = _Value(INPUT, shape)
        self.values: dict[int, _Value] = {}
        self.made: list[onnx.NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.tensors = {INPUT, OUTPUT}
        self.classes = 0
        self.node = nodes[-1]

    def run(self) -> None:
        if self.node.op not in ("SoftmaxOutput", "softmax"):
            self.refuse("is the last one, and probabilities are wanted: end the network in softmax")
        for index in self.needed():
            self.node = self.nodes[index]
            if self.node.op == "null":
                continue
            if self.node.op not in OPERATORS:
                self.refuse("is of an operator that is not converted")
            attributes = _Attributes(self.node, self.refuse)
            value = OPERATORS[self.node.op](self, attributes)
            attributes.done()
            self.values[index] = value
        self.rename_output()

    def needed(self) -> Iterator[int]:
        """Yield the nodes that the last one is computed from, in order: what only training needs is left out."""
        wanted = {len(self.nodes) - 1}
        for index in reversed(range(len(self.nodes))):
            if index in wanted:
                wanted.update(self.nodes[index].inputs)
        yield from sorted(wanted)

    def rename_output(self) -> None:
        last = self.values[len(self.nodes) - 1]
        (self.classes,) = last.shape
        self.made[-1].output[0] = OUTPUT

    def refuse(self, why: str) -> NoReturn:
        raise ModelError(f"{self.name}: the layer {self.node.name!r} ({self.node.op}) {why}.")

    # What the handlers of operators are made of.

    def input(self, place: int = 0) -> _Value:
        if place >= len(self.node.inputs):
            self.refuse(f"has {len(self.node.inputs)} inputs, which are too few")
        index = self.node.inputs[place]
        given = self.nodes[index]
        if given.op != "null":
            return self.values[index]
        if given.name != INPUT:
            self.refuse(f"takes {given.name!r}, and {INPUT!r} is the input that is served")
        return self.data

    def picture(self) -> _Value:
        value = self.input()
        if len(value.shape) != 3:
            self.refuse(f"takes {value.shape}, and (channels, height, width) is wanted")
        return value

    def weight(self, place: int, shape: Shape) -> str:
        if place >= len(self.node.inputs):
            self.refuse(f"has {len(self.node.inputs)} inputs, which are too few")
        given = self.nodes[self.node.inputs[place]]
        name = given.name
        if given.op != "null":
            self.refuse(f"computes its weights by {name!r}, and only stored ones are converted")
        if name not in self.params:
            self.refuse(f"wants the weights {name!r}, which are not in the .params file")
        if self.params[name].shape != shape:
            self.refuse(f"wants weights of the shape {shape}, and {name!r} has {self.params[name].shape}")
        return self.constant(name, self.params[name])

    def constant(self, name: str, array: Array) -> str:
        if name in self.tensors and name not in self.weights:
            self.refuse(f"has the name {name!r} in it, which is there already")
        self.tensors.add(name)
        self.weights[name] = array
        return name

    def emit(self, operator: str, inputs: list[str], shape: Shape, suffix: str = "", **attributes: Any) -> _Value:
        name = self.node.name + suffix
        if name in self.tensors:
            self.refuse(f"has the name {name!r}, which is there already")
        self.tensors.add(name)
        self.made.append(onnx.helper.make_node(operator, inputs, [name], name=name, **attributes))
        return _Value(name, shape)

    def windows(
        self, kernel: Shape, stride: Shape, pad: Shape, shape: Shape, full: bool = False
    ) -> tuple[Shape, Shape]:
        """Return how many windows fit in height and width, and what is to be padded below and to the right for that."""
        if not all(1 <= side <= LARGEST_KERNEL for side in (*kernel, *stride)) or max(pad) > LARGEST_KERNEL:
            self.refuse(f"has a kernel of {kernel}, a stride of {stride} and a pad of {pad}, which no ResNet has")
        counts, ends = [], []
        for size, side, step, border in zip(shape, kernel, stride, pad, strict=True):
            room = size + 2 * border - side
            if room < 0:
                self.refuse(f"has a kernel of {kernel}, larger than what it is laid on: {shape}")
            count = (-(-room // step) if full else room // step) + 1
            counts.append(count)
            ends.append(border + max(0, (count - 1) * step - room))
        return tuple(counts), tuple(ends)

    # Operators, by the names that MXNet gives them.

    def convolution(self, attributes: _Attributes) -> _Value:
        value = self.picture()
        filters, groups = attributes.number("num_filter"), attributes.numbers("num_group", (1,), 1)[0]
        kernel, pad = attributes.numbers("kernel", None, 2), attributes.numbers("pad", (0, 0), 2)
        stride, dilate = attributes.numbers("stride", (1, 1), 2), attributes.numbers("dilate", (1, 1), 2)
        attributes.text("layout", "None", ("None", "NCHW"))
        attributes.ignore("workspace", "cudnn_tune", "cudnn_off")
        channels = value.shape[0]
        if groups < 1 or channels % groups or filters % groups:
            self.refuse(f"has {groups} groups, {channels} channels and {filters} filters, which do not go together")
        inputs = [value.tensor, self.weight(1, (filters, channels // groups, *kernel))]
        if not attributes.flag("no_bias", False):
            inputs.append(self.weight(2, (filters,)))
        if min(dilate) < 1 or max(dilate) > LARGEST_KERNEL:
            self.refuse(f"has a dilate of {dilate}, which no ResNet has")
        covered = tuple((side - 1) * step + 1 for side, step in zip(kernel, dilate, strict=True))
        counts, _ = self.windows(covered, stride, pad, value.shape[1:])
        return self.emit(
            *("Conv", inputs, (filters, *counts)),
            kernel_shape=kernel,
            strides=stride,
            pads=(*pad, *pad),
            dilations=dilate,
            group=groups,
        )

    def batch_norm(self, attributes: _Attributes) -> _Value:
        value = self.input()
        channels = value.shape[:1]
        epsilon, fixed = attributes.real("eps", 1e-3), attributes.flag("fix_gamma", True)
        attributes.text("axis", "1", ("1",))
        attributes.text("output_mean_var", "False", ("False", "0"))
        # Inference always takes the statistics of the training.
        attributes.ignore("momentum", "use_global_stats", "cudnn_off")
        if fixed:
            # The file's gamma is what it was before the first epoch, and MXNet computes with ones.
            gamma = self.constant(f"{self.node.name}_fixed_gamma", np.ones(channels, np.float32))
        else:
            gamma = self.weight(1, channels)
        beta, mean, variance = (self.weight(place, channels) for place in (2, 3, 4))
        if self.weights[variance].min() < 0:
            self.refuse(f"has a negative variance in {variance!r}")
        return self.emit(
            "BatchNormalization", [value.tensor, gamma, beta, mean, variance], value.shape, epsilon=epsilon
        )

    def activation(self, attributes: _Attributes) -> _Value:
        value = self.input()
        attributes.text("act_type", "none", ("relu",))
        return self.emit("Relu", [value.tensor], value.shape)

    def pooling(self, attributes: _Attributes) -> _Value:
        value = self.picture()
        largest = attributes.text("pool_type", "max", ("max", "avg")) == "max"
        attributes.text("layout", "None", ("None", "NCHW"))
        attributes.ignore("cudnn_off")
        full = attributes.text("pooling_convention", "valid", ("valid", "full")) == "full"
        count_pad = attributes.flag("count_include_pad", True)
        if attributes.flag("global_pool", False):
            attributes.ignore("kernel", "stride", "pad")
            operator = "GlobalMaxPool" if largest else "GlobalAveragePool"
            return self.emit(operator, [value.tensor], (value.shape[0], 1, 1))
        kernel, pad = attributes.numbers("kernel", None, 2), attributes.numbers("pad", (0, 0), 2)
        stride = attributes.numbers("stride", (1, 1), 2)
        counts, ends = self.windows(kernel, stride, pad, value.shape[1:], full)
        shape = (value.shape[0], *counts)
        if any(border >= side for border, side in zip((*pad, *ends), (*kernel, *kernel), strict=True)):
            self.refuse(f"pads {pad} for a kernel of {kernel}, so that windows see nothing")
        given: dict[str, Any] = {"kernel_shape": kernel, "strides": stride, "pads": (*pad, *ends)}
        if largest:
            return self.emit("MaxPool", [value.tensor], shape, **given)
        if ends != pad:
            self.refuse(
                "averages windows that leave the picture (pooling_convention full), which ONNX counts otherwise"
            )
        if count_pad and max(pad) > 0:
            # OpenCV passes over ONNX's count_include_pad, so the border is made a part of the picture.
            border = (0, 0, *pad, 0, 0, *pad)
            value = self.emit("Pad", [value.tensor], value.shape, "_padded", pads=border, mode="constant", value=0.0)
            given["pads"] = (0, 0, 0, 0)
        return self.emit("AveragePool", [value.tensor], shape, **given)

    def add(self, attributes: _Attributes) -> _Value:
        one, other = self.input(0), self.input(1)
        if one.shape != other.shape:
            self.refuse(f"adds {one.shape} and {other.shape}")
        return self.emit("Add", [one.tensor, other.tensor], one.shape)

    def flatten(self, attributes: _Attributes) -> _Value:
        value = self.input()
        return self.emit("Flatten", [value.tensor], (math.prod(value.shape),), axis=1)

    def fully_connected(self, attributes: _Attributes) -> _Value:
        value = self.input()
        hidden, flat = attributes.number("num_hidden"), attributes.flag("flatten", True)
        if len(value.shape) != 1:
            if not flat:
                self.refuse(f"takes {value.shape} without flattening it")
            value = self.emit("Flatten", [value.tensor], (math.prod(value.shape),), "_flattened", axis=1)
        weight = self.weight(1, (hidden, *value.shape))
        if attributes.flag("no_bias", False):
            # Gemm's third input is optional only from opset 11 on.
            bias = self.constant(f"{self.node.name}_no_bias", np.zeros((hidden,), np.float32))
        else:
            bias = self.weight(2, (hidden,))
        return self.emit("Gemm", [value.tensor, weight, bias], (hidden,), transB=1)

    def softmax_output(self, attributes: _Attributes) -> _Value:
        # How errors are counted and sent back, which is training's.
        attributes.ignore("grad_scale", "ignore_label", "multi_output", "use_ignore", "preserve_shape")
        attributes.ignore("normalization", "out_grad", "smooth_alpha")
        return self.softmax_of(self.input())

    def softmax(self, attributes: _Attributes) -> _Value:
        attributes.text("axis", "-1", ("-1", "1"))
        attributes.text("temperature", "None", ("None", "1.0", "1"))
        attributes.text("dtype", "None", ("None", "float32"))
        attributes.text("use_length", "False", ("False", "0"))
        return self.softmax_of(self.input())

    def softmax_of(self, value: _Value) -> _Value:
        if len(value.shape) != 1:
            self.refuse(f"takes {value.shape}, and a row of numbers is wanted")
        return self.emit("Softmax", [value.tensor], value.shape, axis=1)

    def same(self, attributes: _Attributes) -> _Value:
        return self.input()

    def dropout(self, attributes: _Attributes) -> _Value:
        attributes.text("mode", "training", ("training",))
        attributes.ignore("p", "axes", "cudnn_off")
        return self.input()

    def cast(self, attributes: _Attributes) -> _Value:
        # Of a training in 16 bits; devices compute in 32.
        attributes.text("dtype", "none", ("float16", "float32"))
        return self.input()


OPERATORS: dict[str, Callable[[_Conversion, _Attributes], _Value]] = {
    "Convolution": _Conversion.convolution,
    "BatchNorm": _Conversion.batch_norm,
    "Activation": _Conversion.activation,
    "Pooling": _Conversion.pooling,
    "elemwise_add": _Conversion.add,
    "_Plus": _Conversion.add,
    "_plus": _Conversion.add,
    "Flatten": _Conversion.flatten,
    "FullyConnected": _Conversion.fully_connected,
    "SoftmaxOutput": _Conversion.softmax_output,
    "softmax": _Conversion.softmax,
    "_copy": _Conversion.same,
    "identity": _Conversion.same,
    "Dropout": _Conversion.dropout,
    "Cast": _Conversion.cast,
}
