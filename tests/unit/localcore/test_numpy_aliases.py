"""numpy's old names: there for Lambdas on numpy 1.24 and 2, only if they import numpy, and without a warning."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from localcore import numpy_aliases

FILES = Path(__file__).resolve().parents[3] / "files" / "localcore"

# As numpy 1.24 and 2.2 answer for names that are gone: by a warning, or by an error.
NUMPY_1_24 = """
import warnings
__version__ = "1.24.2"
inf, nan, prod, float64, float_ = float("inf"), float("nan"), max, float, float
def __getattr__(name):
    if name in ("bool", "object", "str"):
        warnings.warn(f"In the future `np.{name}` will be defined as the corresponding NumPy scalar.", FutureWarning)
    raise AttributeError(f"module 'numpy' has no attribute {name!r}")
"""
NUMPY_2_2 = """
__version__ = "2.2.4"
inf, nan, prod, float64, str_ = float("inf"), float("nan"), max, float, str
class bool: pass
class long: pass
def __getattr__(name):
    raise AttributeError(f"`np.{name}` was removed in the NumPy 2.0 release.")
"""


def run(program: str, *places: Path) -> str:
    environment = {"PYTHONPATH": os.pathsep.join(map(str, [*places, FILES])), "PATH": os.environ["PATH"]}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def numpy_like(directory: Path, source: str) -> Path:
    package = directory / "numpy"
    package.mkdir()
    (package / "__init__.py").write_text(source)
    (package / "linalg.py").write_text("import numpy\nSEEN = numpy.__version__\n")
    (package / "data.txt").write_text("some data")
    return directory


@pytest.mark.parametrize("source", [NUMPY_1_24, NUMPY_2_2])
def test_the_old_names_are_there_on_every_numpy(tmp_path: Path, source: str) -> None:
    program = """
from localcore import numpy_aliases
numpy_aliases.install()
import numpy as np
assert (np.float, np.int, np.complex, np.object, np.str, np.unicode) == (float, int, complex, object, str, str)
assert np.float_ is np.float64 and np.product is np.prod
assert np.Inf == np.PINF == np.inf == -np.NINF and np.NaN is np.nan
print(np.bool.__module__, np.long.__module__)
import numpy.linalg, importlib.resources
assert numpy.linalg.SEEN == np.__version__
assert importlib.resources.files("numpy").joinpath("data.txt").read_text() == "some data"
"""
    of_numpy = source is NUMPY_2_2
    assert run(program, numpy_like(tmp_path, source)) == ("numpy numpy" if of_numpy else "builtins builtins")


def test_this_machines_numpy_works_as_before_and_has_the_old_names() -> None:
    program = """
from localcore import numpy_aliases
numpy_aliases.install()
import numpy as np
values = np.array([1, 2], dtype=np.float)
assert values.dtype == np.float64 and np.asarray(values, np.int).sum() == 3
assert np.array([True], dtype=np.bool).any() and np.float_(2) == 2 and np.round_(1.26, 1) == 1.3
assert np.linalg.norm(np.array([3.0, 4.0])) == 5 and np.NINF < 0 and np.alltrue([1])
for gone in ("no_such_name", "asscalar"):
    try:
        getattr(np, gone)
    except AttributeError:
        continue
    raise AssertionError(gone)
print("fine")
"""
    assert run(program) == "fine"


def test_numpy_is_not_imported_for_it(tmp_path: Path) -> None:
    program = """
import sys
from localcore import numpy_aliases
numpy_aliases.install()
import json, decimal
print("numpy" in sys.modules)
"""
    assert run(program, numpy_like(tmp_path, NUMPY_1_24)) == "False"


def test_a_device_without_numpy_says_so_as_ever() -> None:
    program = """
import sys
from importlib.machinery import PathFinder
from localcore import numpy_aliases
sys.path[:] = [path for path in sys.path if "site-packages" not in path]
numpy_aliases.install()
try:
    import numpy
except ModuleNotFoundError as error:
    print(error.name)
"""
    assert run(program) == "numpy"


def test_a_numpy_that_breaks_at_import_says_so_and_may_be_mended(tmp_path: Path) -> None:
    program = f"""
from localcore import numpy_aliases
numpy_aliases.install()
try:
    import numpy
except RuntimeError as error:
    print(error)
open({str(tmp_path / "numpy" / "__init__.py")!r}, "w").write("__version__ = 'mended, and of another length'")
import importlib; importlib.invalidate_caches()
import numpy
print(numpy.float is float)
"""
    broken = numpy_like(tmp_path, "raise RuntimeError('does not fit')")
    assert run(program, broken).split("\n") == ["does not fit", "True"]


def test_a_numpy_that_is_there_already_gets_the_names_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("numpy")
    monkeypatch.setitem(sys.modules, "numpy", module)
    before = list(sys.meta_path)
    numpy_aliases.install()
    assert vars(module)["float"] is float
    assert sys.meta_path == before


def test_installing_twice_is_installing_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "numpy", raising=False)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before = len(sys.meta_path)
    numpy_aliases.install()
    numpy_aliases.install()
    assert len(sys.meta_path) == before + 1
