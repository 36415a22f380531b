"""Names that numpy had when V1's Lambdas were written, given back to them.

numpy 1.24 (Bookworm) has no `np.float` any more, numpy 2 (Trixie) besides no `np.float_`. Nothing is imported until
the function imports numpy.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import Loader

# Python's own types; removed in 1.24. In numpy 2 `bool` and `long` are numpy's own again, and stay so.
TYPES: dict[str, type] = {
    "bool": bool,
    "complex": complex,
    "float": float,
    "int": int,
    "long": int,
    "object": object,
    "str": str,
    "unicode": str,
}
# Second names; removed in 2.0.
SECOND_NAMES = {
    "Inf": "inf",
    "Infinity": "inf",
    "NaN": "nan",
    "PINF": "inf",
    "alltrue": "all",
    "complex_": "complex128",
    "cumproduct": "cumprod",
    "float_": "float64",
    "infty": "inf",
    "mat": "asmatrix",
    "product": "prod",
    "round_": "round",
    "sometrue": "any",
    "string_": "bytes_",
    "unicode_": "str_",
}


def install() -> None:
    """See to it that numpy has the names as soon as it is imported."""
    if "numpy" in sys.modules:
        restore(sys.modules["numpy"])
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def restore(numpy: ModuleType) -> None:
    """Give the module the names that it lacks."""
    # Not by hasattr and getattr: numpy answers for some of these names by a warning.
    names = vars(numpy)
    for name, kind in TYPES.items():
        names.setdefault(name, kind)
    for name, present in SECOND_NAMES.items():
        if present in names:
            names.setdefault(name, names[present])
    if "inf" in names:
        names.setdefault("NINF", -names["inf"])


class _Finder:
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "numpy":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            _restore_after(spec.loader)
        return spec


def _restore_after(loader: Loader) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        restore(module)

    # On the one loader of this import, which otherwise stays what it is: packages are read through it too.
    vars(loader)["exec_module"] = exec_module
