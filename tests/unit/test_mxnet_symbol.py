"""MXNet's graphs in ONNX: the same numbers, and what is not known refused by its name."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from ansible_collections.edge.pi_fleet.plugins.module_utils.model import make_artifact
from ansible_collections.edge.pi_fleet.plugins.module_utils.model_source import ModelError
from ansible_collections.edge.pi_fleet.plugins.module_utils.mxnet_symbol import read_shape, read_symbol
from hypothesis import given, settings
from hypothesis import strategies as st
from model_samples import LABELS, MEMBERS, SHAPES, SIDE, SYMBOL, WEIGHTS, by_onnxruntime, by_opencv, pictures, sagemaker
from model_samples import softmax as shares

from tools import sagemaker_sample as sample

Graph = dict[str, Any]


def converted(symbol: bytes | None = None, params: bytes | None = None, shapes: bytes | None = None) -> bytes:
    return make_artifact(sagemaker(symbol, params, shapes), LABELS, "a test").network.data


def node(graph: Graph, name: str) -> dict[str, Any]:
    found: dict[str, Any] = graph["nodes"][number(graph, name)]
    return found


def number(graph: Graph, name: str) -> int:
    (found,) = (index for index, node in enumerate(graph["nodes"]) if node["name"] == name)
    return found


def changed(change: Callable[[Graph], object]) -> bytes:
    graph = json.loads(MEMBERS[SYMBOL])
    change(graph)
    return json.dumps(graph).encode()


def refusal(symbol: bytes | None = None, params: bytes | None = None, shapes: bytes | None = None) -> str:
    with pytest.raises(ModelError) as refused:
        converted(symbol, params, shapes)
    text = str(refused.value)
    assert text.startswith("model.tar.gz: ")
    assert text.endswith(".")
    assert "\n" not in text
    return text


NETWORKS = {
    "small": (sample.resnet(8, 28, 3), 28),
    "with a stem": (sample.build((1, 2, 1), (4, 8, 12, 16), bottleneck=False, large=True, classes=3), 50),
    "bottlenecks": (sample.build((2, 1), (8, 16, 32), bottleneck=True, large=True, classes=3), 41),
}


@pytest.mark.parametrize("kind", list(NETWORKS))
def test_both_runtimes_compute_what_the_graph_says(kind: str) -> None:
    net, side = NETWORKS[kind]
    weights = sample.weights(net, seed=2)
    members = sample.members(net, weights, side)
    model = converted(*members.values())
    given_pictures = pictures(side)
    wanted = shares(sample.forward(net, weights, given_pictures.astype(np.float64)))
    # A network that answers all pictures alike would prove nothing.
    assert np.ptp(wanted, axis=0).max() > 1e-3
    np.testing.assert_allclose(by_onnxruntime(model, given_pictures), wanted, atol=1e-5)
    np.testing.assert_allclose(by_opencv(model, given_pictures), wanted, atol=1e-5)


def test_what_goes_to_devices_is_old_fixed_and_pruned() -> None:
    model = onnx.load_model_from_string(converted())
    assert model.ir_version == 5
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 10)]
    (given_input,), (output,) = model.graph.input, model.graph.output
    assert [size.dim_value for size in given_input.type.tensor_type.shape.dim] == [1, 3, SIDE, SIDE]
    assert [size.dim_value for size in output.type.tensor_type.shape.dim] == [1, 3]
    assert model.graph.node[-1].op_type == "Softmax"
    assert "Identity" not in {made.op_type for made in model.graph.node}
    used = {name for made in model.graph.node for name in made.input}
    names = {tensor.name for tensor in model.graph.initializer}
    assert names <= used
    # MXNet computes with ones where gamma is fixed, whatever the file holds.
    assert "bn_data_gamma" not in names


def test_what_does_not_change_answers_may_be_there() -> None:
    def change(graph: Graph) -> None:
        for entry in graph["nodes"]:
            if "attrs" in entry:
                entry["attr"] = entry.pop("attrs")
        node(graph, "conv0")["attr"].update(
            cudnn_tune="limited_workspace", cudnn_off="False", layout="None", __lr_mult__="0.1", stride="(1L, 1L)"
        )
        node(graph, "relu1")["attr"]["ctx_group"] = "dev1"
        node(graph, "softmax")["attr"] = {"normalization": "batch", "grad_scale": "1"}
        node(graph, "flatten0").update(op="Dropout", attr={"p": "0.5"})
        node(graph, "id").update(op="Cast", attr={"dtype": "float16"})

    assert by_onnxruntime(converted(changed(change)), pictures(SIDE)) == pytest.approx(
        by_onnxruntime(converted(), pictures(SIDE)), abs=1e-6
    )


def test_what_comes_after_the_output_is_left_out() -> None:
    def change(graph: Graph) -> None:
        graph["nodes"].append({"op": "MakeLoss", "name": "loss", "inputs": [[0, 0, 0]]})

    assert converted(changed(change)) == converted()


def attrs(name: str, **values: str) -> Callable[[Graph], object]:
    return lambda graph: node(graph, name).setdefault("attrs", {}).update(values)


def becomes(name: str, op: str, **values: str) -> Callable[[Graph], object]:
    return lambda graph: node(graph, name).update(op=op, attrs=values)


def without(name: str, attribute: str) -> Callable[[Graph], object]:
    return lambda graph: node(graph, name)["attrs"].pop(attribute)


def inputs(name: str, *names: str) -> Callable[[Graph], object]:
    return lambda graph: node(graph, name).update(inputs=[[number(graph, given), 0, 0] for given in names])


LAYERS = [
    (becomes("id", "Concat", dim="1"), "layer 'id' (Concat) is of an operator"),
    (becomes("id", "Dropout", mode="always"), "layer 'id' (Dropout) has mode 'always'"),
    (becomes("id", "Cast", dtype="int8"), "has dtype 'int8'"),
    (becomes("softmax", "softmax", axis="0"), "has axis '0'"),
    (becomes("softmax", "softmax", temperature="2"), "has temperature '2'"),
    (becomes("softmax", "LogisticRegressionOutput"), "end the network in softmax"),
    (attrs("conv0", layout="NHWC"), "layer 'conv0' (Convolution) has layout 'NHWC'"),
    (attrs("conv0", kernel="(3, 3, 3)"), "has kernel '(3, 3, 3)', and 2 numbers are wanted"),
    (attrs("conv0", kernel="(3, x)"), "has kernel '(3, x)', which is no row of numbers"),
    (attrs("conv0", kernel="(5, 5)"), "wants weights of the shape (4, 3, 5, 5), and 'conv0_weight' has (4, 3, 3, 3)"),
    (attrs("conv0", num_filter="8"), "wants weights of the shape (8, 3, 3, 3)"),
    (attrs("conv0", num_group="2"), "has 2 groups, 3 channels and 4 filters"),
    (attrs("conv0", stride="(0, 1)"), "which no ResNet has"),
    (attrs("conv0", pad="(999999999, 1)"), "which no ResNet has"),
    (attrs("conv0", dilate="(0, 1)"), "dilate of (0, 1)"),
    (attrs("conv0", dilate="(9, 9)"), "larger than what it is laid on"),
    (attrs("conv0", no_bias="False"), "has 2 inputs, which are too few"),
    (attrs("conv0", quantised="yes"), "has quantised 'yes', which is not known"),
    (without("conv0", "kernel"), "has kernel 'nothing'"),
    (without("conv0", "num_filter"), "has num_filter 'nothing'"),
    (attrs("bn1", axis="3"), "layer 'bn1' (BatchNorm) has axis '3'"),
    (attrs("bn1", eps="nan"), "has eps 'nan'"),
    (attrs("bn1", eps="little"), "has eps 'little'"),
    (attrs("bn1", fix_gamma="maybe"), "has fix_gamma 'maybe'"),
    (attrs("bn1", output_mean_var="True"), "has output_mean_var 'True'"),
    (attrs("relu1", act_type="tanh"), "layer 'relu1' (Activation) has act_type 'tanh'"),
    (attrs("pool1", pool_type="lp"), "layer 'pool1' (Pooling) has pool_type 'lp'"),
    (attrs("pool1", pooling_convention="same"), "has pooling_convention 'same'"),
    (attrs("pool1", global_pool="False", pad="(7, 7)"), "windows see nothing"),
    (
        attrs("pool1", global_pool="False", kernel="(3, 3)", stride="(2, 2)", pooling_convention="full"),
        "averages windows that leave the picture",
    ),
    (attrs("fc1", num_hidden="4"), "layer 'fc1' (FullyConnected) wants weights of the shape (4, 8)"),
    (lambda graph: node(graph, "fc1_weight").update(name="lost"), "wants the weights 'lost', which are not in the"),
    (inputs("_plus1", "id", "conv0"), "adds (3, 12, 12) and (4, 12, 12)"),
    (inputs("_plus1", "conv0"), "has 1 inputs, which are too few"),
    (lambda graph: node(graph, "data").update(name="image"), "takes 'image', and 'data' is the input"),
    (inputs("fc1", "flatten0", "flatten0", "fc1_bias"), "only stored ones are converted"),
    (lambda graph: node(graph, "relu1").update(name="conv0"), "has the name 'conv0', which is there already"),
    (lambda graph: node(graph, "relu1").update(name="fc1_bias"), "has the name 'fc1_bias' in it"),
]


@pytest.mark.parametrize(("change", "words"), LAYERS, ids=[words for _, words in LAYERS])
def test_a_layer_that_is_not_known_is_named(change: Callable[[Graph], object], words: str) -> None:
    assert words in refusal(changed(change))


GRAPHS: list[tuple[Callable[[Graph], object], str]] = [
    (lambda graph: graph.pop("nodes"), "'nodes'"),
    (lambda graph: graph.update(nodes={"a": 1}), "no attribute"),
    (lambda graph: graph.update(heads=[]), "not enough values"),
    (lambda graph: graph["heads"].append([0, 0, 0]), "too many values"),
    (lambda graph: graph.update(heads=[[10**6, 0, 0]]), "its output is node 1000000 of"),
    (lambda graph: graph.update(heads=[[-1, 0, 0]]), "no first output"),
    (lambda graph: graph.update(heads=[[1, 1, 0]]), "no first output"),
    (lambda graph: graph["nodes"][5].update(inputs=[[50, 0, 0]]), "node 5 comes before its inputs"),
    (lambda graph: graph["nodes"][5].update(inputs=[[True, 0, 0]]), "no first output"),
    (lambda graph: graph["nodes"][5].update(op=7), "node 5 has a part that is no text"),
    (lambda graph: graph["nodes"][5].update(attrs={"eps": 1}), "node 5 has a part that is no text"),
    (lambda graph: graph["nodes"][5].update(name=""), "node 5 has the name ''"),
    (lambda graph: graph["nodes"][5].update(name="\ud800"), "node 5 has the name '\\ud800'"),
]


@pytest.mark.parametrize(("change", "words"), GRAPHS, ids=[words for _, words in GRAPHS])
def test_what_is_no_graph_is_one_sentence(change: Callable[[Graph], object], words: str) -> None:
    text = refusal(changed(change))
    assert text.startswith("model.tar.gz: image-classification-symbol.json is no graph of MXNet's with one output (")
    assert words in text


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"[" * 100_000, b"[]", b"null", b'{"nodes": 1' + b"0" * 9999])
def test_what_is_no_json_is_one_sentence(data: bytes) -> None:
    assert "is no graph of MXNet's" in refusal(data)
    assert "names no one shape" in refusal(shapes=data)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ([1, 3, 224], "names no one shape"),
        ([1, 1, 224, 224], "gives the input the shape [1, 1, 224, 224]"),
        ([1, 3, 0, 224], "sides up to 1024"),
        ([1, 3, 224, 10**12], "sides up to 1024"),
        ([1, 3, 224.0, 224], "sides up to 1024"),
        (5, "names no one shape"),
    ],
)
def test_shapes_that_are_not_served_are_named(shape: object, words: str) -> None:
    assert words in refusal(shapes=json.dumps([{"name": "data", "shape": shape}]).encode())


def test_height_comes_before_width() -> None:
    assert read_shape(b'[{"name": "label", "shape": [1]}, {"name": "data", "shape": [9, 3, 20, 30]}]', "x") == (20, 30)
    artifact = make_artifact(sagemaker(shapes=b'[{"name": "data", "shape": [9, 3, 20, 30]}]'), LABELS, "a test")
    assert (artifact.network.height, artifact.network.width) == (20, 30)


def params(**arrays: npt.NDArray[np.float32]) -> bytes:
    return sample.params({**WEIGHTS, **{name.replace("__", ":", 1): array for name, array in arrays.items()}})


def test_a_variance_below_zero_is_refused() -> None:
    text = refusal(params=params(aux__bn1_moving_var=-np.ones(8, np.float32)))
    assert "layer 'bn1' (BatchNorm) has a negative variance in 'bn1_moving_var'" in text


JUNK: st.SearchStrategy[object] = (
    st.none() | st.integers() | st.text(max_size=4) | st.builds(list) | st.builds(dict) | st.floats()
)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_graph_changed_anywhere_is_converted_or_refused(data: st.DataObject) -> None:
    graph: Any = copy.deepcopy(json.loads(MEMBERS[SYMBOL]))
    for _ in range(data.draw(st.integers(1, 3))):
        place = graph
        while True:
            keys = sorted(place) if isinstance(place, dict) else range(len(place))
            key = data.draw(st.sampled_from(list(keys)))
            if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
                break
            place = place[key]
        place[key] = data.draw(JUNK | st.sampled_from(["(2, 2)", "True", "softmax", "null", "data", "0"]))
        if not isinstance(graph.get("nodes"), list):
            break
    try:
        converted(json.dumps(graph).encode())
    except ModelError as error:
        assert "\n" not in str(error)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, len(MEMBERS[SYMBOL]) - 1), st.binary(max_size=3), st.booleans())
def test_text_changed_anywhere_is_read_or_refused(place: int, replacement: bytes, cut: bool) -> None:
    text = MEMBERS[SYMBOL]
    broken = text[:place] + replacement + (b"" if cut else text[place + len(replacement) :])
    try:
        if read_symbol(broken, "x") != read_symbol(text, "x"):
            converted(broken)
    except ModelError as error:
        assert "\n" not in str(error)
    shapes = MEMBERS[SHAPES]
    place %= len(shapes)
    try:
        read_shape(shapes[:place] + replacement + shapes[place + 1 :], "x")
    except ModelError as error:
        assert "\n" not in str(error)
