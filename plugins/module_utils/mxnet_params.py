# SPDX-License-Identifier: Apache-2.0
"""Weights as MXNet saves them, read without MXNet.

The format is that of MXNet's `NDArray::Save` (src/ndarray/ndarray.cc), all little-endian: u64 0x112, u64 0, u64 N,
N arrays, u64 N, N names (u64 length, bytes) `arg:NAME` or `aux:NAME`. An array: u32 0xF993FAC9 (or ..CA), i32 storage
(0 is dense), u32 ndim, ndim i64, i32 device type, i32 device id, i32 type, the numbers. 0xF993FAC8 has no storage;
before that an array began with its ndim, and its dimensions were u32.
"""

from __future__ import annotations

import math
import struct

import numpy as np
import numpy.typing as npt
from ansible_collections.edge.pi_fleet.plugins.module_utils.model_source import ModelError

Array = npt.NDArray[np.float32]

FILE, V1, V2, V3 = 0x112, 0xF993FAC8, 0xF993FAC9, 0xF993FACA
TYPES = {0: "<f4", 1: "<f8", 2: "<f2"}
OTHER_TYPES = {3: "uint8", 4: "int32", 5: "int8", 6: "int64", 7: "bool", 12: "bfloat16"}

# A convolution's weights have four dimensions; a name of MXNet's is a line.
MOST_DIMENSIONS = 8
LONGEST_NAME = 4096
# ResNet-152 has 800; each costs some objects of Python, however few its numbers are.
MOST_ARRAYS = 10_000


def read_params(data: bytes, name: str) -> dict[str, Array]:
    """Return the weights by their names without `arg:` and `aux:`, in 32 bits; `name` is what sentences call the file.

    Raises ModelError for a file that is cut off, damaged, or holds what no float model holds. Nothing is allocated by
    what a header claims: every number is looked at in the file before it is believed.
    """
    return _Reader(data, name).params()


class _Reader:
    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name, self.at = memoryview(data), name, 0

    def params(self) -> dict[str, Array]:
        if len(self.data) < 8 or self.number("Q") != FILE:
            raise ModelError(
                f"{self.name} is no file of MXNet's weights: name what SageMaker's image classification wrote."
            )
        self.number("Q")
        # Not even an empty array is shorter than this.
        arrays = [self.array(index) for index in range(self.count("Q", 12, "arrays"))]
        names = [self.text() for _ in range(self.count("Q", 8, "names"))]
        if len(names) != len(arrays):
            raise self.broken(f"it has {len(arrays)} arrays and {len(names)} names")
        if self.at != len(self.data):
            raise self.broken(f"{len(self.data) - self.at} bytes follow its end")
        found: dict[str, Array] = {}
        for full, array in zip(names, arrays, strict=True):
            kind, colon, short = full.partition(":")
            if kind not in ("arg", "aux") or not colon or not short or short in found:
                raise self.broken(f"the name {full!r} is none of arg:NAME and aux:NAME, or is there twice")
            found[short] = array
        return found

    def array(self, index: int) -> Array:
        magic = self.number("I")
        if magic in (V2, V3) and (storage := self.number("i")) != 0:
            raise ModelError(
                f"{self.name} holds a sparse array (number {index}, storage {storage}): save the model dense."
            )
        if magic in (V1, V2, V3):
            dimensions = self.dimensions(index, self.number("I"), "q")
        else:
            dimensions = self.dimensions(index, magic, "I")
        self.take(8)
        kind = self.number("i")
        if kind not in TYPES:
            other = OTHER_TYPES.get(kind, f"type {kind}")
            raise ModelError(
                f"{self.name} holds an array of {other} (number {index}): only float weights are converted."
            )
        numbers = np.frombuffer(self.take(math.prod(dimensions) * np.dtype(TYPES[kind]).itemsize), dtype=TYPES[kind])
        with np.errstate(all="ignore"):
            array = numbers.reshape(dimensions).astype(np.float32)
        if not np.isfinite(array).all():
            raise ModelError(f"{self.name} holds numbers that are not finite (array {index}): the training diverged.")
        return array

    def dimensions(self, index: int, count: int, code: str) -> tuple[int, ...]:
        if not 1 <= count <= MOST_DIMENSIONS:
            raise self.broken(f"array {index} has {count} dimensions")
        found = tuple(self.number(code) for _ in range(count))
        if min(found) < 1:
            raise self.broken(f"array {index} has the shape {found}")
        return found

    def text(self) -> str:
        length = self.number("Q")
        if length > LONGEST_NAME:
            raise self.broken(f"a name has {length} bytes")
        try:
            return bytes(self.take(length)).decode()
        except UnicodeDecodeError as error:
            raise self.broken("a name is no text") from error

    def count(self, code: str, smallest: int, what: str) -> int:
        found = self.number(code)
        if found * smallest > len(self.data) - self.at:
            raise self.broken(f"it claims {found} {what}, more than fit into it")
        if found > MOST_ARRAYS:
            raise ModelError(f"{self.name} holds {found} {what} where {MOST_ARRAYS} are the most: name another model.")
        return found

    def number(self, code: str) -> int:
        found: int = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]
        return found

    def take(self, size: int) -> memoryview:
        if size > len(self.data) - self.at:
            raise self.broken(f"it ends at byte {len(self.data)}, in the middle")
        self.at += size
        return self.data[self.at - size : self.at]

    def broken(self, what: str) -> ModelError:
        return ModelError(f"{self.name} is damaged ({what}): fetch it again.")
