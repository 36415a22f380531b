"""MXNet's weights: three formats read, and broken files answered by one sentence."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from ansible_collections.edge.pi_fleet.plugins.module_utils.model_source import ModelError
from ansible_collections.edge.pi_fleet.plugins.module_utils.mxnet_params import read_params
from hypothesis import example, given, settings
from hypothesis import strategies as st
from model_samples import MEMBERS, PARAMS, WEIGHTS

WHOLE = MEMBERS[PARAMS]
KINDS = {0: "<f4", 1: "<f8", 2: "<f2", 3: "u1", 4: "<i4", 6: "<i8", 12: "<u2", 77: "<f4"}


def pack(arrays: list[bytes], names: list[bytes], counts: tuple[int, int] | None = None) -> bytes:
    many, named = counts or (len(arrays), len(names))
    texts = [struct.pack("<Q", len(name)) + name for name in names]
    return b"".join([struct.pack("<QQQ", 0x112, 0, many), *arrays, struct.pack("<Q", named), *texts])


def array(numbers: object, version: int = 2, kind: int = 0, storage: int = 0) -> bytes:
    data = np.array(numbers, KINDS[kind])
    shape = struct.pack(f"<{data.ndim}{'I' if version == 0 else 'q'}", *data.shape)
    head = {
        0: struct.pack("<I", data.ndim),
        1: struct.pack("<II", 0xF993FAC8, data.ndim),
        2: struct.pack("<IiI", 0xF993FAC9, storage, data.ndim),
        3: struct.pack("<IiI", 0xF993FACA, storage, data.ndim),
    }[version]
    return head + shape + struct.pack("<iii", 1, 0, kind) + data.tobytes()


def refusal(data: bytes) -> str:
    with pytest.raises(ModelError) as refused:
        read_params(data, "a.params")
    text = str(refused.value)
    assert text.startswith("a.params ")
    assert text.endswith(".")
    assert "\n" not in text
    return text


def test_what_was_written_is_read() -> None:
    found = read_params(WHOLE, "a.params")
    assert found.keys() == {name.partition(":")[2] for name in WEIGHTS}
    for name, numbers in WEIGHTS.items():
        np.testing.assert_array_equal(found[name.partition(":")[2]], numbers)


@pytest.mark.parametrize("version", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", [0, 1, 2])
def test_every_version_and_float_type(version: int, kind: int) -> None:
    numbers = [[1.5, -2, 3], [0, 0.25, 6]]
    found = read_params(pack([array(numbers, version, kind)], [b"arg:w"]), "a.params")
    assert found["w"].dtype == np.float32
    np.testing.assert_array_equal(found["w"], numbers)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no file of MXNet's weights"),
        (b"PK\x03\x04" + bytes(40), "no file of MXNet's weights"),
        (pack([array([1.0], storage=1)], [b"arg:w"]), "sparse array (number 0, storage 1)"),
        (pack([array([1], kind=4)], [b"arg:w"]), "array of int32 (number 0)"),
        (pack([array([1], kind=12)], [b"arg:w"]), "array of bfloat16"),
        (pack([array([1], kind=77)], [b"arg:w"]), "array of type 77"),
        (pack([array([np.nan])], [b"arg:w"]), "not finite (array 0)"),
        (pack([array([1e300], kind=1)], [b"arg:w"]), "not finite (array 0)"),
        (pack([array([1.0])], [b"w"]), "name 'w'"),
        (pack([array([1.0])], [b"arg:"]), "name 'arg:'"),
        (pack([array([1.0])], [b"arg:\xff"]), "a name is no text"),
        (pack([array([1.0])] * 2, [b"arg:w", b"aux:w"]), "there twice"),
        (pack([array([1.0])] * 2, [b"arg:w"]), "2 arrays and 1 names"),
        (pack([array([1.0])], [b"arg:w"]) + b"more", "4 bytes follow its end"),
        (pack([array([1.0])], [b"arg:" + b"w" * 5000]), "a name has 5004 bytes"),
        (pack([array(np.zeros((1,) * 9))], [b"arg:w"]), "array 0 has 9 dimensions"),
        (pack([array(1.0)], [b"arg:w"]), "array 0 has 0 dimensions"),
        (pack([array(np.zeros((2, 0)))], [b"arg:w"]), "array 0 has the shape (2, 0)"),
        (pack([array([1.0])], [b"arg:w"], (2**40, 1)), "claims 1099511627776 arrays"),
        (pack([array([1.0])], [b"arg:w"], (1, 2**63)), "claims 9223372036854775808 names"),
        (pack([array([1.0])] * 10_001, []), "holds 10001 arrays where 10000 are the most: name another model"),
        (pack([array([1.0])], [b"arg:w"] * 10_001), "holds 10001 names where 10000 are the most"),
    ],
)
def test_what_is_no_model_is_named(data: bytes, words: str) -> None:
    assert words in refusal(data)


def test_many_arrays_are_read() -> None:
    names = [b"arg:%d" % number for number in range(10_000)]
    assert len(read_params(pack([array([1.0])] * len(names), names), "a.params")) == len(names)


def test_nothing_is_allocated_by_what_a_header_claims() -> None:
    claim = struct.pack("<IiIqqqq", 0xF993FAC9, 0, 4, 2**40, 2**40, 2**40, 2**40) + struct.pack("<iii", 1, 0, 0)
    tracemalloc.start()
    assert "in the middle" in refusal(pack([claim], [b"arg:w"]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


@settings(deadline=None, max_examples=300)
@given(st.integers(0, len(WHOLE) - 1))
@example(0)
@example(7)
@example(24)
def test_cut_anywhere(end: int) -> None:
    refusal(WHOLE[:end])


EXTREMES = st.sampled_from([struct.pack("<q", n) for n in (0, 1, -1, 2**31, 2**62, -(2**63))])


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=8) | EXTREMES), min_size=1))
def test_changed_anywhere(changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(WHOLE)
    for place, replacement in changes:
        data[place : place + len(replacement)] = replacement
    try:
        found = read_params(bytes(data), "a.params")
    except ModelError as error:
        assert str(error).startswith("a.params ")
    else:
        assert all(np.isfinite(numbers).all() for numbers in found.values())
