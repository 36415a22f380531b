"""MXNet's side of the proof, run in the environment of requirements.txt, where the project's own packages are not.

usage: mxnet_side.py make KIND SIDE FOLDER    an artifact as SageMaker's algorithm saves it, pictures, and the logits
       mxnet_side.py load FOLDER              the logits of an artifact and of pictures that are there
       mxnet_side.py opencv MODEL FOLDER      what OpenCV 4.6 makes of model.onnx and of these pictures

KIND is a depth, or `odd` for a network of all that is converted and that no ResNet has. FOLDER gets or has
pictures.npy, and gets logits.npy, or opencv.npy.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

PREFIX, EPOCH, CLASSES = "image-classification", 6, 5
UNITS = {
    "18": (2, 2, 2, 2),
    "34": (3, 4, 6, 3),
    "50": (3, 4, 6, 3),
    "101": (3, 4, 23, 3),
    "152": (3, 8, 36, 3),
}


def unit(mx: Any, data: Any, width: int, stride: int, same: bool, name: str, bottleneck: bool, momentum: float) -> Any:
    """A residual unit, written after MXNet's example/image-classification/symbols/resnet.py."""
    inner = width // 4 if bottleneck else width
    convolutions = (
        [(inner, 1, 1), (inner, 3, stride), (width, 1, 1)] if bottleneck else [(inner, 3, stride), (inner, 3, 1)]
    )
    body, first = data, None
    for number, (filters, side, step) in enumerate(convolutions, start=1):
        norm = mx.sym.BatchNorm(body, fix_gamma=False, eps=2e-5, momentum=momentum, name=f"{name}_bn{number}")
        body = mx.sym.Activation(norm, act_type="relu", name=f"{name}_relu{number}")
        first = body if first is None else first
        body = mx.sym.Convolution(
            body,
            num_filter=filters,
            kernel=(side, side),
            stride=(step, step),
            pad=(side // 2, side // 2),
            no_bias=True,
            workspace=256,
            name=f"{name}_conv{number}",
        )
    if same:
        return body + data
    shortcut = mx.sym.Convolution(
        first, num_filter=width, kernel=(1, 1), stride=(stride, stride), no_bias=True, workspace=256, name=f"{name}_sc"
    )
    return body + shortcut


def resnet(mx: Any, depth: str, side: int, momentum: float) -> Any:
    """The ResNet of a depth, after the same file."""
    bottleneck = side > 28 and int(depth) >= 50
    units: tuple[int, ...] = UNITS[depth] if side > 28 else ((int(depth) - 2) // 6,) * 3
    filters: tuple[int, ...] = (64, 256, 512, 1024, 2048) if bottleneck else (64, 64, 128, 256, 512)
    filters = filters if side > 28 else (16, 16, 32, 64)
    data = mx.sym.identity(data=mx.sym.Variable(name="data"), name="id")
    body = mx.sym.BatchNorm(data, fix_gamma=True, eps=2e-5, momentum=momentum, name="bn_data")
    if side <= 32:
        body = mx.sym.Convolution(
            body, num_filter=filters[0], kernel=(3, 3), stride=(1, 1), pad=(1, 1), no_bias=True, name="conv0"
        )
    else:
        body = mx.sym.Convolution(
            body, num_filter=filters[0], kernel=(7, 7), stride=(2, 2), pad=(3, 3), no_bias=True, name="conv0"
        )
        body = mx.sym.BatchNorm(body, fix_gamma=False, eps=2e-5, momentum=momentum, name="bn0")
        body = mx.sym.Activation(body, act_type="relu", name="relu0")
        body = mx.sym.Pooling(body, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max")
    for stage, (count, width) in enumerate(zip(units, filters[1:], strict=True), start=1):
        for number in range(1, count + 1):
            stride = 2 if number == 1 and stage > 1 else 1
            body = unit(mx, body, width, stride, number > 1, f"stage{stage}_unit{number}", bottleneck, momentum)
    body = mx.sym.BatchNorm(body, fix_gamma=False, eps=2e-5, momentum=momentum, name="bn1")
    body = mx.sym.Activation(body, act_type="relu", name="relu1")
    body = mx.sym.Pooling(body, global_pool=True, kernel=(7, 7), pool_type="avg", name="pool1")
    body = mx.sym.FullyConnected(mx.sym.Flatten(body), num_hidden=CLASSES, name="fc1")
    return mx.sym.SoftmaxOutput(body, name="softmax")


def odd(mx: Any, momentum: float) -> Any:
    """All that is converted and that no ResNet has: other kernels, groups, holes, poolings, biases, orders."""
    body = mx.sym.BatchNorm(mx.sym.Variable("data"), momentum=momentum, name="by_default")
    body = mx.sym.Convolution(body, kernel=(3, 5), pad=(2, 1), stride=(1, 2), num_filter=8, name="oblong")
    body = mx.sym.BatchNorm(body, fix_gamma=False, use_global_stats=True, momentum=momentum, name="fixed")
    body = mx.sym.Pooling(body, kernel=(3, 2), stride=(2, 2), pool_type="max", pooling_convention="full")
    body = mx.sym.Convolution(body, kernel=(3, 3), dilate=(2, 1), num_group=4, num_filter=12, name="holes")
    body = mx.sym.Dropout(mx.sym.Activation(body, act_type="relu"), p=0.3)
    body = mx.sym.Pooling(body, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="avg")
    body = mx.sym.Pooling(body, kernel=(2, 2), pad=(1, 0), pool_type="avg", count_include_pad=False)
    body = body + mx.sym.Pooling(body, kernel=(3, 3), pad=(1, 1), pool_type="max")
    one = mx.sym.FullyConnected(body, num_hidden=7, no_bias=True, name="unbiased")
    other = mx.sym.FullyConnected(mx.sym.Pooling(body, global_pool=True, pool_type="max", kernel=(1, 1)), num_hidden=7)
    body = mx.sym.FullyConnected(mx.sym.identity(one + other), num_hidden=CLASSES, name="fc1")
    return mx.sym.softmax(body, name="softmax")


def network(mx: Any, kind: str, side: int, momentum: float) -> Any:
    """The network of a kind, its automatic names counted from 0."""
    with mx.name.NameManager():
        return odd(mx, momentum) if kind == "odd" else resnet(mx, kind, side, momentum)


def bind(mx: Any, symbol: Any, shape: tuple[int, ...], arguments: Any, states: Any, grad_req: str = "null") -> Any:
    """Return an executor of a network with these weights."""
    extra = {"softmax_label": (shape[0],)} if "softmax_label" in symbol.list_arguments() else {}
    executor = symbol.simple_bind(ctx=mx.cpu(), data=shape, grad_req=grad_req, **extra)
    executor.copy_params_from(arguments, states, allow_extra_params=True)
    return executor


def make(kind: str, side: int, folder: Path) -> None:
    """Write an artifact of random weights, whose statistics are those of random pictures."""
    import mxnet as mx

    np.random.seed(side)
    mx.random.seed(side)
    # Statistics are taken over at once by a twin of the network without momentum.
    twin, symbol = network(mx, kind, side, 0.0), network(mx, kind, side, 0.9)
    shape = (4, 3, side, side if kind != "odd" else side + 16)
    # Patches of colours: noise alone looks the same everywhere, and what little differs would be blown up.
    patches = np.random.uniform(0, 255, (shape[0], 3, 4, 4)).repeat(-(-shape[2] // 4), 2).repeat(-(-shape[3] // 4), 3)
    pictures = patches[:, :, : shape[2], : shape[3]].astype(np.float32)
    given = {"softmax_label": shape[:1]} if kind != "odd" else {}
    sizes, _, more = twin.infer_shape(data=shape, **given)
    arguments = {}
    for name, size in zip(twin.list_arguments(), sizes, strict=True):
        if name in ("data", "softmax_label"):
            continue
        spread = 0.3 if len(size) == 1 else (6 / np.prod(size[1:])) ** 0.5
        # As training leaves units: each adds a little. Else rounding grows with the depth, and at 152 the logits that
        # MXNet computes in 32 bits are 6e-5 off its own in 64.
        spread *= 0.3 if name.endswith(("_conv2_weight", "_conv3_weight")) else 1
        middle = 1 if name.endswith("gamma") else 0
        arguments[name] = mx.nd.array(middle + np.random.uniform(-spread, spread, size), dtype=np.float32)
    states = {name: mx.nd.ones(size) for name, size in zip(twin.list_auxiliary_states(), more, strict=True)}
    executor = bind(mx, twin, shape, arguments, states, grad_req="write")
    executor.forward(is_train=True, data=mx.nd.array(pictures))
    # It is on the way back that MXNet keeps them.
    executor.backward([mx.nd.ones(executor.outputs[0].shape)])
    mx.nd.waitall()
    states = {name: array.copy() for name, array in executor.aux_dict.items()}
    mx.model.save_checkpoint(str(folder / PREFIX), EPOCH, symbol, arguments, states)
    shapes = [{"name": "data", "shape": [128, *shape[1:]]}]
    (folder / "model-shapes.json").write_text(json.dumps(shapes))
    np.save(folder / "pictures.npy", pictures)


def load(folder: Path) -> None:
    """Write the logits that MXNet computes from an artifact, as its own loader reads it."""
    import mxnet as mx

    symbol, arguments, states = mx.model.load_checkpoint(str(folder / PREFIX), EPOCH)
    logits = symbol.get_internals()["fc1_output"]
    pictures = np.load(folder / "pictures.npy")
    executor = bind(mx, logits, (1, *pictures.shape[1:]), arguments, states)
    rows = []
    for picture in pictures:
        executor.forward(is_train=False, data=mx.nd.array(picture[None]))
        rows.append(executor.outputs[0].asnumpy()[0])
    np.save(folder / "logits.npy", np.stack(rows))


def opencv(model: Path, folder: Path) -> None:
    """Write what OpenCV makes of a model."""
    import cv2

    assert cv2.__version__.startswith("4.6."), cv2.__version__
    network, rows = cv2.dnn.readNetFromONNX(str(model)), []
    for picture in np.load(folder / "pictures.npy"):
        network.setInput(picture[None])
        rows.append(network.forward().copy()[0])
    np.save(folder / "opencv.npy", np.stack(rows))


def main(arguments: list[str]) -> None:
    """Do what is asked."""
    if arguments[0] == "make":
        make(arguments[1], int(arguments[2]), Path(arguments[3]))
        load(Path(arguments[3]))
    elif arguments[0] == "load":
        load(Path(arguments[1]))
    else:
        opencv(Path(arguments[1]), Path(arguments[2]))


if __name__ == "__main__":
    main(sys.argv[1:])
