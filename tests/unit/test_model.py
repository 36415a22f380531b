"""Models on their way to the artifact: what is given, what is made of it, and the module that does so once."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
import tarfile
import threading
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.edge.pi_fleet.plugins.module_utils import model as artifacts
from ansible_collections.edge.pi_fleet.plugins.module_utils import model_source
from ansible_collections.edge.pi_fleet.plugins.module_utils.model_source import ModelError, Onnx, SageMaker, read_source
from ansible_collections.edge.pi_fleet.plugins.module_utils.onnx_graph import PRODUCER
from ansible_collections.edge.pi_fleet.plugins.modules import model as module
from hypothesis import given, settings
from hypothesis import strategies as st
from model_samples import (
    LABELS,
    MEMBERS,
    PARAMS,
    SHAPES,
    SIDE,
    SYMBOL,
    TINY,
    by_onnxruntime,
    by_opencv,
    sagemaker,
    softmax,
    tar,
)
from onnx import TensorProto, helper

from tools import sagemaker_sample as sample

Run = Callable[..., dict[str, Any]]

ROOT = Path(__file__).resolve().parents[2]


def packed(folder: Path, members: Iterable[tuple[tarfile.TarInfo | str, bytes]], name: str = "model.tar.gz") -> Path:
    path = folder / name
    path.write_bytes(tar(members))
    return path


def unpacked(folder: Path, members: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, data in members.items():
        (folder / name).write_bytes(data)
    return folder


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as refused:
        read_source(path)
    text = str(refused.value)
    assert text.startswith(str(path))
    assert text.endswith(".")
    assert "\n" not in text
    return text


# What is given.


def test_an_archive_and_its_folder_are_one_model(tmp_path: Path) -> None:
    folder = read_source(unpacked(tmp_path / "model", MEMBERS))
    archive = read_source(packed(tmp_path, MEMBERS.items()))
    plain = tmp_path / "model.tar"
    plain.write_bytes(tar(reversed(MEMBERS.items()), "w"))
    below = read_source(packed(tmp_path, [(f"./model/{name}", data) for name, data in MEMBERS.items()], "below.tar.gz"))
    assert isinstance(archive, SageMaker)
    assert (archive.symbol, archive.params, archive.shapes) == tuple(MEMBERS.values())
    assert archive.params_name == f"{tmp_path}/model.tar.gz: {PARAMS}"
    assert {folder.digest, read_source(plain).digest, below.digest} == {archive.digest}


def test_the_newest_weights_are_taken(tmp_path: Path) -> None:
    older = {**MEMBERS, "image-classification-0002.params": b"old", "image-classification-0005.params": b"older"}
    newer = {**older, "image-classification-0010.params": b"new"}
    for number, members in enumerate((older, dict(reversed(older.items())))):
        found = read_source(packed(tmp_path, members.items(), f"{number}.tar.gz"))
        assert isinstance(found, SageMaker)
        assert found.params == MEMBERS[PARAMS]
    found = read_source(unpacked(tmp_path / "model", newer))
    assert isinstance(found, SageMaker)
    assert found.params == b"new"


def test_what_else_is_packed_does_not_matter(tmp_path: Path) -> None:
    folder = tarfile.TarInfo(".")
    folder.type = tarfile.DIRTYPE
    others: list[tuple[tarfile.TarInfo | str, bytes]] = [(folder, b""), (f"._{SYMBOL}", b"Mac OS X"), ("readme", b"")]
    found = read_source(packed(tmp_path, [*others, *MEMBERS.items()]))
    assert found.digest == sagemaker().digest


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header, b""


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([], f"lacks {SYMBOL}, {SHAPES}, image-classification-NNNN.params"),
        ([(SYMBOL, b"{}"), (SHAPES, b"[]")], "lacks image-classification-NNNN.params"),
        ([*MEMBERS.items(), (SYMBOL, b"{}")], f"holds {SYMBOL} twice"),
        ([*MEMBERS.items(), (f"other/{SHAPES}", b"[]")], f"holds {SHAPES} twice"),
        ([(f"../{SYMBOL}", b"{}")], f"holds '../{SYMBOL}', which leads out of it"),
        ([("/etc/passwd", b"")], "holds '/etc/passwd', which leads out of it"),
        ([special(SYMBOL, tarfile.SYMTYPE, "/etc/passwd")], f"holds '{SYMBOL}', which is no regular file"),
        ([special("link", tarfile.LNKTYPE, SYMBOL)], "holds 'link', which is no regular file"),
        ([special("null", tarfile.CHRTYPE)], "holds 'null', which is no regular file"),
        ([special("pipe", tarfile.FIFOTYPE)], "holds 'pipe', which is no regular file"),
    ],
)
def test_an_archive_that_is_no_artifact_is_named(
    members: list[tuple[tarfile.TarInfo | str, bytes]], words: str, tmp_path: Path
) -> None:
    assert words in refusal(packed(tmp_path, members))


@pytest.mark.parametrize(("name", "size"), [(PARAMS, 2**30 + 1), (SYMBOL, 2**24 + 1)])
def test_a_member_that_claims_too_much_is_not_read(name: str, size: int, tmp_path: Path) -> None:
    path = tmp_path / "model.tar.gz"
    header = tarfile.TarInfo(name)
    header.size = size
    path.write_bytes(gzip.compress(header.tobuf()))
    assert f"{name} is larger than {size // 2**20} MiB" in refusal(path)


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_source, "LARGEST_ARCHIVE", 2**22)
    path = packed(tmp_path, [("zeros", bytes(2**23)), *MEMBERS.items()])
    assert path.stat().st_size < 2**16
    tracemalloc.start()
    assert "unpacks to more than" in refusal(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize("name", ["model.tar.gz", "model.onnx", "model"])
def test_what_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    assert "is not there: name a model.tar.gz, an unpacked folder or an ONNX file" in refusal(tmp_path / name)


@pytest.mark.parametrize("data", [b"", b"\x1f\x8b", b"some text", b"\x1f\x8b\x08\x00" + bytes(2000), bytes(10240)])
def test_what_is_no_archive_is_named(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.tar.gz"
    path.write_bytes(data)
    refusal(path)


def test_a_chain_of_headers_is_named(tmp_path: Path) -> None:
    header = tarfile.TarInfo("long")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2
    path = tmp_path / "model.tar"
    path.write_bytes((header.tobuf(tarfile.GNU_FORMAT) + b"a\0".ljust(512, b"\0")) * 3000)
    assert "cannot be read" in refusal(path)


def test_a_flipped_bit_is_noticed_by_the_checksum_at_the_end(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(tar(MEMBERS.items(), "w"), compresslevel=0))
    place = data.index(MEMBERS[PARAMS][2000:2040])
    data[place] ^= 1
    path = tmp_path / "model.tar.gz"
    path.write_bytes(data)
    assert "cannot be read (CRC check failed" in refusal(path)


ARCHIVES = {"model.tar": tar(MEMBERS.items(), "w"), "model.tar.gz": tar(MEMBERS.items())}


@settings(deadline=None, max_examples=100)
@given(st.data(), st.sampled_from(list(ARCHIVES)))
def test_an_archive_changed_or_cut_anywhere_is_converted_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str
) -> None:
    archive = bytearray(ARCHIVES[name])
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(archive) - 1) | st.integers(0, 1200))
        archive[place : place + 1] = data.draw(st.binary(min_size=1, max_size=4))
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(archive[: data.draw(st.integers(0, len(archive)) | st.just(len(archive)))])
    try:
        artifacts.make_artifact(read_source(path), LABELS, "a test")
    except ModelError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)


# ONNX.


def network(
    shape: list[int | str] | None = None,
    last: str | None = "Softmax",
    opset: int = 10,
    kind: int = TensorProto.FLOAT,
    **extra: Any,
) -> onnx.ModelProto:
    """A network as another tool would export it: mean colours, three classes."""
    weight = np.linspace(-0.02, 0.02, 9, dtype=np.float32).reshape(3, 3)
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y" if last is None else "logits"]),
    ]
    if last is not None:
        nodes.append(helper.make_node(last, ["logits"], ["y"]))
    tensor = onnx.numpy_helper.from_array(weight, "w")
    inputs = [helper.make_tensor_value_info("x", kind, shape or ["N", 3, SIDE, SIDE + 4])]
    outputs = [helper.make_tensor_value_info("y", kind, ["N", 3])]
    graph = helper.make_graph(nodes, "exported", inputs, outputs, [tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], **{"ir_version": 4, **extra})


def given_onnx(model: onnx.ModelProto) -> Onnx:
    return Onnx("a.onnx", model.SerializeToString())


def onnx_refusal(model: onnx.ModelProto | bytes) -> str:
    with pytest.raises(ModelError) as refused:
        artifacts.make_artifact(
            Onnx("a.onnx", model) if isinstance(model, bytes) else given_onnx(model), LABELS, "a test"
        )
    text = str(refused.value)
    assert text.startswith("a.onnx ")
    assert "\n" not in text
    return text


def means(rows: Any) -> Any:
    weight = np.linspace(-0.02, 0.02, 9, dtype=np.float32).reshape(3, 3)
    return softmax(rows.mean((2, 3)).astype(np.float64) @ weight)


@pytest.mark.parametrize("batch", ["N", 1, 8])
@pytest.mark.parametrize("last", ["Softmax", None])
def test_an_exported_network_is_made_to_fit(batch: int | str, last: str | None) -> None:
    artifact = artifacts.make_artifact(given_onnx(network([batch, 3, SIDE, SIDE + 4], last)), LABELS, "a test")
    made = artifact.network
    assert (made.width, made.height, made.classes) == (SIDE + 4, SIDE, 3)
    assert made.softmax_added is (last is None)
    assert json.loads(artifact.text)["softmax"] == ("of the model" if last else "added at conversion")
    rows = np.random.default_rng(0).uniform(0, 255, (3, 3, SIDE, SIDE + 4)).astype(np.float32)
    np.testing.assert_allclose(by_onnxruntime(made.data, rows), means(rows), atol=1e-6)
    np.testing.assert_allclose(by_opencv(made.data, rows), means(rows), atol=1e-6)


def test_weights_that_are_listed_as_inputs_are_none() -> None:
    model = network(ir_version=3)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 3]))
    made = onnx.load_model_from_string(artifacts.make_artifact(given_onnx(model), LABELS, "a test").network.data)
    assert [value.name for value in made.graph.input] == ["x"]
    assert made.ir_version == 5


def test_an_artifact_may_be_given_again() -> None:
    made = artifacts.make_artifact(sagemaker(), LABELS, "a test")
    again = artifacts.make_artifact(Onnx("a.onnx", made.network.data), LABELS, "a test")
    assert again.network == made.network


def external(model: onnx.ModelProto) -> onnx.ModelProto:
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    return model


def counting(model: onnx.ModelProto) -> onnx.ModelProto:
    pool = helper.make_node(
        "AveragePool", ["x"], ["p"], name="pool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1
    )
    model.graph.node[0].input[0] = "p"
    model.graph.node.insert(0, pool)
    return model


def dividing_by_zero(model: onnx.ModelProto) -> onnx.ModelProto:
    pool = helper.make_node("MaxPool", ["x"], ["p"], kernel_shape=[1, 1], strides=[0, 0])
    model.graph.node[0].input[0] = "p"
    model.graph.node.insert(0, pool)
    return model


def two_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1]))
    return model


def renamed_output(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.output[0].name = "nowhere"
    return model


def reshaped(model: onnx.ModelProto) -> onnx.ModelProto:
    shape = onnx.numpy_helper.from_array(np.array([8, 3]), "shape")
    model.graph.initializer.append(shape)
    model.graph.node[1].CopyFrom(helper.make_node("Reshape", ["means", "shape"], ["flat"]))
    return model


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (b"no protobuf", "cannot be read as ONNX"),
        (b"", "inputs"),
        (network(opset=13, ir_version=7), "is of opset 13, and Bookworm's OpenCV reads up to 10: export it again"),
        (two_inputs(network()), "has 2 inputs and 1 outputs"),
        (network(last="Sigmoid"), "ends in Sigmoid"),
        (network(last="LogSoftmax"), "ends in LogSoftmax"),
        (
            network(shape=[1, 1, 28, 28]),
            "takes [1, 1, 28, 28], and devices give float numbers of [1, 3, height, width]",
        ),
        (network(shape=[1, 3, 2048, 28]), "sides up to 1024"),
        (network(shape=[1, 3, "H", "W"]), "takes [1, 3, 0, 0], and devices give"),
        (network(kind=TensorProto.DOUBLE), "takes other numbers than float"),
        (renamed_output(network()), "does not compute its output 'nowhere'"),
        (external(network()), "keeps its weights in other files"),
        (counting(network()), "has count_include_pad in the layer 'pool'"),
        (reshaped(network([8, 3, SIDE, SIDE])), "is no valid network"),
        (network(last="NoSuchThing"), "is no valid network"),
        (dividing_by_zero(network()), "is no valid network (ONNX's checker died of it: Floating point exception)"),
    ],
)
def test_an_onnx_file_that_does_not_fit_is_named(model: onnx.ModelProto | bytes, words: str) -> None:
    assert words in onnx_refusal(model)


def test_operators_of_others_are_named() -> None:
    model = network()
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    assert "uses operators of com.example" in onnx_refusal(model)


EXPORTED = network().SerializeToString()


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, len(EXPORTED) - 1), st.binary(min_size=1, max_size=2)), max_size=4), st.data())
def test_an_onnx_file_changed_or_cut_anywhere_is_converted_or_refused(
    changes: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    broken = bytearray(EXPORTED)
    for place, replacement in changes:
        broken[place : place + 1] = replacement
    end = data.draw(st.integers(0, len(broken)) | st.just(len(broken)))
    try:
        artifacts.make_artifact(Onnx("a.onnx", bytes(broken[:end])), LABELS, "a test")
    except ModelError as error:
        assert "\n" not in str(error)


# The artifact.


def test_labels_are_those_of_the_outputs() -> None:
    for labels, words in (
        (["one", "two"], "has 3 outputs and 2 labels were given"),
        ([*LABELS, "more"], "has 3 outputs and 4 labels were given"),
        (["cup", "can", "cup"], "are not all different and not empty"),
        (["cup", "can", " "], "are not all different and not empty"),
    ):
        with pytest.raises(ModelError, match=words):
            artifacts.make_artifact(sagemaker(), labels, "a test")


def test_the_same_code_makes_the_same_bytes() -> None:
    """Where this fails, artifacts are made in another way: raise CONVERSION, so that what stands is made again."""
    arrays = {name: np.linspace(0.1, 1, int(np.prod(shape)), dtype=np.float32) for name, shape in TINY.shapes.items()}
    weights = {name: arrays[name].reshape(shape) for name, shape in TINY.shapes.items()}
    artifact = artifacts.make_artifact(SageMaker("a", "b", *sample.members(TINY, weights, SIDE).values()), LABELS, "")
    assert (artifacts.CONVERSION, artifact.sha256[:16]) == (1, "f81cd1fb822e333a")


# The module.


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the module on the tiny model in tmp_path."""
    src = packed(tmp_path, MEMBERS.items())

    def once(check_mode: bool = False, **arguments: Any) -> dict[str, Any]:
        capsys.readouterr()
        given = {"src": str(src), "dest": str(tmp_path / "made" / "tiny"), "labels": LABELS, **arguments}
        with patch_module_args({**given, "_ansible_check_mode": check_mode}), pytest.raises(SystemExit):
            module.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return once


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_a_model_is_converted_once(run: Run, tmp_path: Path) -> None:
    dest = tmp_path / "made" / "tiny"
    first = run()
    assert first["changed"]
    assert {path.name for path in dest.iterdir()} == {"model.onnx", "model.json"}
    assert {path.stat().st_mode & 0o777 for path in dest.iterdir()} == {0o644}
    described = json.loads((dest / "model.json").read_text())
    assert described["labels"] == first["labels"] == LABELS
    assert described["sha256"] == first["sha256"] == hashlib.sha256((dest / "model.onnx").read_bytes()).hexdigest()
    assert (described["width"], described["height"]) == (first["width"], first["height"]) == (SIDE, SIDE)
    assert described["source"] == "model.tar.gz"
    assert first["dest"] == str(dest)
    before = state(dest)
    assert not run()["changed"]
    assert not run(check_mode=True)["changed"]
    assert state(dest) == before


def test_check_mode_converts_and_writes_nothing(run: Run, tmp_path: Path) -> None:
    checked = run(check_mode=True)
    assert not (tmp_path / "made").exists()
    made = run()
    assert {key: checked[key] for key in ("changed", "sha256", "labels", "diff")} == {
        key: made[key] for key in ("changed", "sha256", "labels", "diff")
    }
    before = state(tmp_path / "made" / "tiny")
    assert run(check_mode=True, labels=["a", "b", "c"])["changed"]
    assert "3 outputs and 1 labels" in run(check_mode=True, labels=["a"])["msg"]
    assert state(tmp_path / "made" / "tiny") == before


def test_diff_mode_shows_the_description(run: Run, tmp_path: Path) -> None:
    first = run()["diff"]
    text = (tmp_path / "made" / "tiny" / "model.json").read_text()
    assert (first["before"], first["after"]) == ("", text)
    second = run(labels=["a", "b", "c"])["diff"]
    assert second["before"] == text
    assert second["after"] == (tmp_path / "made" / "tiny" / "model.json").read_text() != text


@pytest.mark.parametrize("change", [{"labels": ["x", "y", "z"]}, {"source": "our own"}])
def test_other_inputs_make_another_artifact(run: Run, change: dict[str, Any]) -> None:
    run()
    assert run(**change)["changed"]
    assert not run(**change)["changed"]
    assert run()["changed"]


def damage(name: str, data: bytes | None) -> Callable[[Path], object]:
    return lambda dest: (dest / name).unlink() if data is None else (dest / name).write_bytes(data)


def edit(dest: Path) -> None:
    path = dest / "model.json"
    path.write_text(path.read_text().replace('"width": 12', '"width": 13'))


def append(dest: Path) -> None:
    # Protobuf takes what it does not know, here field 99.
    with (dest / "model.onnx").open("ab") as stream:
        stream.write(b"\x98\x06\x01")


@pytest.mark.parametrize(
    "harm",
    [
        *(damage("model.onnx", None), damage("model.onnx", b""), damage("model.onnx", EXPORTED), append),
        *(damage("model.json", None), damage("model.json", b"{}"), damage("model.json", b"\xff"), edit),
    ],
)
def test_what_was_damaged_is_made_again(run: Run, harm: Callable[[Path], object], tmp_path: Path) -> None:
    dest = tmp_path / "made" / "tiny"
    run()
    whole = {name: data for name, (data, _) in state(dest).items()}
    harm(dest)
    assert run(check_mode=True)["changed"]
    assert run()["changed"]
    assert {name: data for name, (data, _) in state(dest).items()} == whole


def test_what_was_made_earlier_is_taken_as_it_is(run: Run, tmp_path: Path) -> None:
    dest = tmp_path / "made" / "tiny"
    made = run()
    before = state(dest)
    taken = run(src=str(dest), dest=str(tmp_path / "elsewhere"))
    facts = ("dest", "sha256", "labels", "width", "height")
    assert not taken["changed"]
    assert {name: taken[name] for name in facts} == {name: made[name] for name in facts}
    assert taken["diff"]["before"] == taken["diff"]["after"] == before["model.json"][0].decode()
    assert state(dest) == before
    assert not (tmp_path / "elsewhere").exists()


def describe(**change: Any) -> Callable[[Path], object]:
    def harm(dest: Path) -> None:
        described = json.loads((dest / "model.json").read_text())
        (dest / "model.json").write_text(json.dumps({**described, **change}))

    return harm


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (append, ", and model.json says "),
        (describe(sha256="0" * 64), ", and model.json says " + "0" * 64),
        (describe(labels=["x", "y", "z"]), "was converted with the labels x, y, z, and given are"),
        (describe(labels=None), "/model.json is not what module model writes"),
        (damage("model.json", b"{}"), "/model.json is not what module model writes ('sha256')"),
        (damage("model.json", b"\xff"), "/model.json is not what module model writes"),
        (damage("model.json", b'{"sha256": "", "labels": [], "width": 1e999}'), "/model.json is not what module model"),
        (damage("model.json", b"[" * 100_000), "/model.json is not what module model writes"),
    ],
)
def test_what_was_made_earlier_and_damaged_since_is_refused(
    run: Run, tmp_path: Path, harm: Callable[[Path], object], said: str
) -> None:
    dest = tmp_path / "made" / "tiny"
    run()
    harm(dest)
    refused = run(src=str(dest))
    assert refused["failed"]
    assert said in refused["msg"]


def test_a_model_is_held_to_its_sha256(run: Run, tmp_path: Path) -> None:
    archive, dest = tmp_path / "model.tar.gz", tmp_path / "made" / "tiny"
    given = hashlib.sha256(archive.read_bytes()).hexdigest()
    made = run(sha256=given.upper())
    assert made["changed"]
    assert run(src=str(dest), sha256=made["sha256"])["dest"] == str(dest)
    before = state(dest)
    for src, file, found, wanted in (
        (archive, archive, given, "0" * 64),
        (archive, archive, given, made["sha256"]),
        (dest, dest / "model.onnx", made["sha256"], given),
    ):
        refused = run(src=str(src), sha256=wanted, labels=["x", "y", "z"])
        assert refused["failed"]
        assert (
            f"{file} has the sha256 {found}, and image_classifier_model_sha256 is '{wanted}': fetch" in refused["msg"]
        )
    assert state(dest) == before


def test_a_folder_of_several_files_has_no_sha256(run: Run, tmp_path: Path) -> None:
    refused = run(src=str(unpacked(tmp_path / "model", MEMBERS)), sha256="0" * 64)
    assert f"{tmp_path}/model is no file, and image_classifier_model_sha256 is that of one" in refused["msg"]


def test_what_was_made_earlier_needs_nothing_that_converts(run: Run, tmp_path: Path) -> None:
    """As on a device, which has no onnx."""
    made = run()
    given = {"src": made["dest"], "dest": str(tmp_path / "elsewhere"), "labels": LABELS}
    script = "import sys; sys.modules['onnx'] = sys.modules['numpy'] = None\n"
    script += "from ansible.module_utils.testing import patch_module_args\n"
    script += "from ansible_collections.edge.pi_fleet.plugins.modules import model\n"
    script += f"with patch_module_args({given!r}):\n    model.main()\n"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(ROOT / "collections")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(done.stdout)["sha256"] == made["sha256"]


def test_what_cannot_be_converted_leaves_what_stands(run: Run, tmp_path: Path) -> None:
    run()
    before = state(tmp_path / "made" / "tiny")
    broken = packed(
        tmp_path, [*list(MEMBERS.items())[:1], (PARAMS, b"cut"), (SHAPES, MEMBERS[SHAPES])], "broken.tar.gz"
    )
    failed = run(src=str(broken))
    assert failed["failed"]
    assert failed["msg"].startswith(f"{broken}: {PARAMS} is no file of MXNet's weights")
    assert state(tmp_path / "made" / "tiny") == before


def test_a_folder_that_cannot_be_made_is_one_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "made").write_text("a file")
    assert run()["failed"]


def test_what_a_killed_run_left_is_replaced(run: Run, tmp_path: Path) -> None:
    dest = tmp_path / "made" / "tiny"
    dest.mkdir(parents=True)
    (dest / ".model.onnx.incoming").write_bytes(b"half")
    assert run()["changed"]
    assert {path.name for path in dest.iterdir()} == {"model.onnx", "model.json"}


def test_two_at_once_leave_one_whole_artifact(tmp_path: Path) -> None:
    made = [artifacts.make_artifact(sagemaker(), labels, "a test") for labels in (LABELS, ["x", "y", "z"])]
    threads = [threading.Thread(target=artifact.write, args=(tmp_path / "one",)) for artifact in made * 10]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "one" / "model.json").read_text() in {artifact.text for artifact in made}
    assert (tmp_path / "one" / "model.onnx").read_bytes() == made[0].network.data


def test_a_network_of_ours_says_where_it_is_from(run: Run, tmp_path: Path) -> None:
    told = network(producer_name=PRODUCER, doc_string="Said by itself.")
    for name, model, source in (
        ("ours", told, "Said by itself."),
        ("other", network(doc_string="x"), "other.onnx"),
    ):
        (tmp_path / f"{name}.onnx").write_bytes(model.SerializeToString())
        run(src=str(tmp_path / f"{name}.onnx"), dest=str(tmp_path / name))
        assert json.loads((tmp_path / name / "model.json").read_text())["source"] == source


@pytest.mark.parametrize("package", ["onnx", "numpy"])
def test_what_the_control_node_lacks_is_named(package: str, tmp_path: Path) -> None:
    script = f"""
import sys, types
sys.modules[{package!r}] = None
from ansible.module_utils.testing import patch_module_args
from ansible_collections.edge.pi_fleet.plugins.modules import model
with patch_module_args({{"src": "x", "dest": {str(tmp_path)!r}, "labels": ["x"]}}):
    model.main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT / "collections", capture_output=True, text=True, check=False
    )
    assert json.loads(ended.stdout)["msg"] == (
        f"Python at {sys.executable} has no {package}: run 'make tools' and delegate to localhost, or give a"
        " folder that this module made there."
    )
