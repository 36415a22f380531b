#!/usr/bin/env python3
"""Write a model.tar.gz as SageMaker's image classification writes it, without SageMaker and without MXNet.

usage: sagemaker_sample.py FILE

A ResNet-18 of five classes, 3 x 224 x 224, "after epoch 6", as the article trains it. It shows that the article's way
works, from SageMaker's artifact to a device's answer, and not that it classifies well: its weights are random numbers
of a fixed seed, scaled by what a few made-up pictures give, so that different pictures are answered differently.
The same bytes come out each time; a FILE that is there already is left as it is.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import struct
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Batch = npt.NDArray[np.float64]

LABELS = ("beer-mug", "clutter", "coffee-mug", "soda-can", "wine-bottle")
SIDE, SEED, EPOCH, BATCH = 224, 20181219, 6, 128

# Units a stage, filters a stage (the stem's first), and whether units are bottlenecks, by depth.
LARGE: dict[int, tuple[tuple[int, ...], tuple[int, ...], bool]] = {
    18: ((2, 2, 2, 2), (64, 64, 128, 256, 512), False),
    34: ((3, 4, 6, 3), (64, 64, 128, 256, 512), False),
    50: ((3, 4, 6, 3), (64, 256, 512, 1024, 2048), True),
    101: ((3, 4, 23, 3), (64, 256, 512, 1024, 2048), True),
    152: ((3, 8, 36, 3), (64, 256, 512, 1024, 2048), True),
}


@dataclass
class Network:
    """A graph as MXNet's JSON has it, and the shapes of its weights by `arg:NAME` and `aux:NAME`."""

    nodes: list[dict[str, Any]] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def add(self, op: str, name: str, inputs: Sequence[int] = (), **attributes: object) -> int:
        """Add a node and return its number."""
        node: dict[str, Any] = {"op": op, "name": name}
        if attributes:
            node["attrs"] = {key: str(value) for key, value in attributes.items()}
        node["inputs"] = [[given, 0, int("_moving_" in self.nodes[given]["name"])] for given in inputs]
        self.nodes.append(node)
        return len(self.nodes) - 1

    def weight(self, name: str, *shape: int, kind: str = "arg") -> int:
        """Add weights and return their number."""
        self.shapes[f"{kind}:{name}"] = shape
        return self.add("null", name)

    def convolution(self, name: str, data: int, channels: tuple[int, int], side: int, stride: int) -> int:
        """Add a convolution that keeps the size, but for its stride, and has no bias."""
        weight = self.weight(f"{name}_weight", channels[1], channels[0], side, side)
        return self.add(
            *("Convolution", name, (data, weight)),
            kernel=(side, side),
            no_bias=True,
            num_filter=channels[1],
            pad=(side // 2, side // 2),
            stride=(stride, stride),
            workspace=256,
        )

    def normalised(self, name: str, data: int, channels: int, fix_gamma: bool = False) -> int:
        """Add a batch normalisation."""
        weights = [self.weight(f"{name}_{part}", channels) for part in ("gamma", "beta")]
        weights += [self.weight(f"{name}_moving_{part}", channels, kind="aux") for part in ("mean", "var")]
        return self.add("BatchNorm", name, (data, *weights), eps=2e-05, fix_gamma=fix_gamma, momentum=0.9)

    def rectified(self, name: str, data: int) -> int:
        """Add a ReLU."""
        return self.add("Activation", name, (data,), act_type="relu")

    def unit(self, name: str, data: int, channels: tuple[int, int], stride: int, bottleneck: bool, same: bool) -> int:
        """Add a residual unit: normalisation and ReLU before each convolution."""
        inner = channels[1] // 4 if bottleneck else channels[1]
        steps = [(inner, 1, 1), (inner, 3, stride), (channels[1], 1, 1)] if bottleneck else []
        steps = steps or [(inner, 3, stride), (inner, 3, 1)]
        result, width, first = data, channels[0], data
        for number, (filters, side, step) in enumerate(steps, start=1):
            result = self.normalised(f"{name}_bn{number}", result, width)
            result = self.rectified(f"{name}_relu{number}", result)
            first = result if number == 1 else first
            result = self.convolution(f"{name}_conv{number}", result, (width, filters), side, step)
            width = filters
        shortcut = data if same else self.convolution(f"{name}_sc", first, channels, 1, stride)
        return self.add(
            "elemwise_add", f"_plus{sum(node['op'] == 'elemwise_add' for node in self.nodes)}", (result, shortcut)
        )

    def symbol(self) -> bytes:
        """Return the graph as MXNet saves it."""
        starts = [0]
        for node in self.nodes:
            starts.append(starts[-1] + (3 if node["op"] == "BatchNorm" else 1))
        graph = {
            "nodes": self.nodes,
            "arg_nodes": [index for index, node in enumerate(self.nodes) if node["op"] == "null"],
            "node_row_ptr": starts,
            "heads": [[len(self.nodes) - 1, 0, 0]],
            "attrs": {"mxnet_version": ["int", 10400]},
        }
        return json.dumps(graph, indent=2).encode()


def resnet(depth: int, side: int, classes: int) -> Network:
    """Return the ResNet that SageMaker trains for a depth and pictures of side x side: small ones get a small one."""
    if side <= 28:
        return build(((depth - 2) // 6,) * 3, (16, 16, 32, 64), False, False, classes)
    units, filters, bottleneck = LARGE[depth]
    return build(units, filters, bottleneck, side > 32, classes)


def build(units: Sequence[int], filters: Sequence[int], bottleneck: bool, large: bool, classes: int) -> Network:
    """Return a ResNet of any size; a large one begins by making the picture four times smaller."""
    net = Network()
    body = net.add("null", "data")
    body = net.add("_copy", "id", (body,))
    body = net.normalised("bn_data", body, 3, fix_gamma=True)
    if large:
        body = net.convolution("conv0", body, (3, filters[0]), 7, 2)
        body = net.rectified("relu0", net.normalised("bn0", body, filters[0]))
        body = net.add("Pooling", "pooling0", (body,), kernel=(3, 3), pad=(1, 1), pool_type="max", stride=(2, 2))
    else:
        body = net.convolution("conv0", body, (3, filters[0]), 3, 1)
    for stage, (count, width) in enumerate(zip(units, filters[1:], strict=True), start=1):
        for unit in range(1, count + 1):
            channels = (width if unit > 1 else filters[stage - 1], width)
            stride = 2 if unit == 1 and stage > 1 else 1
            body = net.unit(f"stage{stage}_unit{unit}", body, channels, stride, bottleneck, same=unit > 1)
    body = net.rectified("relu1", net.normalised("bn1", body, filters[-1]))
    body = net.add("Pooling", "pool1", (body,), global_pool=True, kernel=(7, 7), pool_type="avg")
    body = net.add("Flatten", "flatten0", (body,))
    weights = (net.weight("fc1_weight", classes, filters[-1]), net.weight("fc1_bias", classes))
    body = net.add("FullyConnected", "fc1", (body, *weights), num_hidden=classes)
    net.add("SoftmaxOutput", "softmax", (body, net.add("null", "softmax_label")))
    return net


def weights(net: Network, seed: int) -> dict[str, Array]:
    """Return weights by `arg:NAME` and `aux:NAME`: random, then scaled by what made-up pictures give on their way."""
    # This generator's numbers are the same in every version of numpy, and uniform ones on every machine.
    random = np.random.RandomState(seed)
    found: dict[str, Array] = {}
    for name, shape in net.shapes.items():
        spread = 0.2 if name.endswith(("gamma", "beta")) else (6 / math.prod(shape[1:])) ** 0.5
        numbers = random.uniform(-spread, spread, shape) + float(name.endswith("gamma"))
        found[name] = numbers.astype(np.float32)
    # Patches of a colour of the picture's own, lighter and darker.
    coarse: Batch = random.uniform(0, 255, (16, 3, 1, 1)) * random.uniform(0, 1, (16, 1, 4, 4))
    forward(net, found, coarse.repeat(16, 2).repeat(16, 3), calibrate=True)
    return found


def forward(net: Network, found: dict[str, Array], pictures: Batch, calibrate: bool = False) -> Batch:
    """Return the numbers before the softmax, computed by numpy alone.

    With `calibrate` each normalisation's statistics, and the last layer's scale and bias, are first set by what
    arrives there.
    """
    values: list[Batch] = []
    for node in net.nodes:
        op, name, attributes = node["op"], node["name"], node.get("attrs", {})
        given = [values[index] for index, _, _ in node["inputs"]]
        if op == "null":
            weight = found.get(f"arg:{name}", found.get(f"aux:{name}"))
            values.append(pictures if weight is None else weight.astype(np.float64))
        elif op == "Convolution":
            stride, pad = (int(attributes[key].strip("()").split(",")[0]) for key in ("stride", "pad"))
            values.append(convolved(given[0], given[1], stride, pad))
        elif op == "BatchNorm":
            if calibrate:
                found[f"aux:{name}_moving_mean"] = rounded(given[0].mean((0, 2, 3)))
                found[f"aux:{name}_moving_var"] = rounded(given[0].var((0, 2, 3)))
                given[3:] = (found[f"aux:{name}_moving_{part}"].astype(np.float64) for part in ("mean", "var"))
            scale = (1 if attributes["fix_gamma"] == "True" else given[1]) / np.sqrt(given[4] + 2e-5)
            values.append(given[0] * scale[:, None, None] + (given[2] - given[3] * scale)[:, None, None])
        elif op == "Activation":
            values.append(np.maximum(given[0], 0))
        elif op == "Pooling":
            values.append(given[0].mean((2, 3)) if "global_pool" in attributes else pooled(given[0]))
        elif op == "elemwise_add":
            values.append(given[0] + given[1])
        elif op == "FullyConnected":
            if calibrate:
                found[f"arg:{name}_weight"] = rounded(given[1] / (given[0] @ given[1].T).std(0)[:, None])
                given[1] = found[f"arg:{name}_weight"].astype(np.float64)
                found[f"arg:{name}_bias"] = rounded(-(given[0] @ given[1].T).mean(0))
                given[2] = found[f"arg:{name}_bias"].astype(np.float64)
            values.append(given[0] @ given[1].T + given[2])
        else:
            values.append(given[0])
    return values[-1]


def rounded(numbers: Batch) -> Array:
    """Return numbers as 16 bits have them, which hides that machines differ in the last of 64."""
    return numbers.astype(np.float16).astype(np.float32)


def shifted(pictures: Batch, side: int, stride: int) -> Iterator[tuple[int, int, Batch]]:
    """Yield, for each place in a window of side x side, what all windows have there."""
    height, width = (size - side + 1 for size in pictures.shape[2:])
    for row in range(side):
        for column in range(side):
            yield row, column, pictures[:, :, row : row + height : stride, column : column + width : stride]


def convolved(pictures: Batch, filters: Batch, stride: int, pad: int) -> Batch:
    """Return a convolution without bias."""
    padded = np.pad(pictures, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    total: Batch = np.zeros(())
    for row, column, seen in shifted(padded, filters.shape[2], stride):
        total = total + np.tensordot(filters[:, :, row, column], seen, (1, 1))
    return total.swapaxes(0, 1)


def pooled(pictures: Batch) -> Batch:
    """Return the largest of each window of 3 x 3, in steps of 2."""
    padded = np.pad(pictures, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    largest: Batch = np.maximum.reduce([seen for _, _, seen in shifted(padded, 3, 2)])
    return largest


def params(found: dict[str, Array]) -> bytes:
    """Return weights as MXNet saves them; the format is told in plugins/module_utils/mxnet_params.py."""
    parts = [struct.pack("<QQQ", 0x112, 0, len(found))]
    for array in found.values():
        shape = struct.pack(f"<{array.ndim}q", *array.shape)
        parts += [struct.pack("<IiI", 0xF993FAC9, 0, array.ndim), shape, struct.pack("<iii", 1, 0, 0), array.tobytes()]
    parts.append(struct.pack("<Q", len(found)))
    parts += [struct.pack("<Q", len(name)) + name.encode() for name in found]
    return b"".join(parts)


def archive(members: dict[str, bytes]) -> bytes:
    """Return a tar.gz whose bytes depend on nothing but its members."""
    packed = io.BytesIO()
    # Random numbers do not get smaller by trying harder.
    with (
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=packed, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as tar,
    ):
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def members(net: Network, found: dict[str, Array], side: int) -> dict[str, bytes]:
    """Return the files of SageMaker's artifact, by name."""
    shapes = [{"name": "data", "shape": [BATCH, 3, side, side]}]
    return {
        "image-classification-symbol.json": net.symbol(),
        f"image-classification-{EPOCH:04d}.params": params(found),
        "model-shapes.json": json.dumps(shapes).encode(),
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(arguments: list[str]) -> int:
    """Write the sample and say where it is."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    target = Path(arguments[0])
    # What is written follows from this file alone; beside the sample stand the hashes of both.
    stamp = target.with_name(f".{target.name}.sha256")
    ours = _sha256(Path(__file__))
    if not (target.is_file() and stamp.is_file() and stamp.read_text() == f"{ours} {_sha256(target)}\n"):
        net = resnet(18, SIDE, len(LABELS))
        target.parent.mkdir(parents=True, exist_ok=True)
        incoming = target.with_name(f".{target.name}.incoming")
        incoming.write_bytes(archive(members(net, weights(net, SEED), SIDE)))
        incoming.replace(target)
        stamp.write_text(f"{ours} {_sha256(target)}\n")
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
