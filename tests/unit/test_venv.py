"""Environments on a device, as files: half-made ones, changed wheels, and what pip is asked."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.edge.pi_fleet.plugins.module_utils import venv as venv_module
from ansible_collections.edge.pi_fleet.plugins.module_utils.venv import (
    Venv,
    VenvError,
    check_distribution,
    last_line,
    normalise,
)
from ansible_collections.edge.pi_fleet.plugins.modules import venv as module

FILES = {"greengrasssdk/__init__.py": "from .client import client\n", "greengrasssdk/a, b.py": "# a comma in a name\n"}


@pytest.fixture(autouse=True)
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Debian's pip, in the place that python3-venv has it."""
    wheel = write(tmp_path / "python-wheels" / "pip-23.0.1-py3-none-any.whl", "")
    monkeypatch.setattr(venv_module, "PIP", str(wheel.parent / "pip-*.whl"))
    return wheel


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """The module sets it for its process."""
    former = os.umask(0o022)
    yield
    os.umask(former)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def make(path: Path, python: str = "python3.11") -> Venv:
    """An environment as `python3 -m venv --system-site-packages --without-pip` leaves it."""
    interpreter = write(path.parent / "usr" / "bin" / python, "")
    write(path / "pyvenv.cfg", "home = /usr/bin\ninclude-system-site-packages = true\nversion = 3.11.2\n")
    (path / "bin").mkdir()
    (path / "bin" / "python3").symlink_to(interpreter)
    (path / "bin" / "python").symlink_to("python3")
    (path / "lib" / python / "site-packages").mkdir(parents=True)
    for script in ("activate", "activate.csh", "activate.fish", "Activate.ps1"):
        write(path / "bin" / script, "# activate\n")
    return Venv(path)


def add(venv: Venv, name: str, version: str, files: dict[str, str]) -> Path:
    """A distribution as pip installs it: its files, and a RECORD of their hashes that names itself without one."""
    assert venv.site_packages is not None
    information = venv.site_packages / f"{name}-{version}.dist-info"
    rows = [(f"{information.name}/RECORD", "", "")]
    for path, text in files.items():
        write(venv.site_packages / path, text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append((path, f"sha256={digest}", str(len(text))))
    information.mkdir()
    with (information / "RECORD").open("w", newline="") as stream:
        csv.writer(stream).writerows(sorted(rows))
    return information


@pytest.fixture
def venv(tmp_path: Path) -> Venv:
    return make(tmp_path / "venv")


def test_a_whole_environment_is_usable(venv: Venv) -> None:
    assert venv.is_usable()


def remove_all(path: Path) -> None:
    shutil.rmtree(path)


def remove_the_configuration(path: Path) -> None:
    (path / "pyvenv.cfg").unlink()


def hide_the_system(path: Path) -> None:
    write(path / "pyvenv.cfg", "include-system-site-packages = false\n")


def empty_the_configuration(path: Path) -> None:
    (path / "pyvenv.cfg").write_bytes(bytes(80))


def remove_the_interpreter(path: Path) -> None:
    (path / "bin" / "python").unlink()


def retire_the_interpreter(path: Path) -> None:
    (path.parent / "usr" / "bin" / "python3.11").unlink()


def upgrade_the_release(path: Path) -> None:
    newer = write(path.parent / "usr" / "bin" / "python3.13", "")
    (path / "bin" / "python3").unlink()
    (path / "bin" / "python3").symlink_to(newer)


def remove_the_packages(path: Path) -> None:
    shutil.rmtree(path / "lib")


def stop_before_the_end(path: Path) -> None:
    (path / "bin" / "activate.fish").unlink()


def stop_amid_the_last_file(path: Path) -> None:
    (path / "bin" / "Activate.ps1").write_text("")


@pytest.mark.parametrize(
    "spoil",
    [
        remove_all,
        remove_the_configuration,
        hide_the_system,
        empty_the_configuration,
        remove_the_interpreter,
        retire_the_interpreter,
        upgrade_the_release,
        remove_the_packages,
        stop_before_the_end,
        stop_amid_the_last_file,
    ],
)
def test_half_an_environment_is_not_usable(venv: Venv, spoil: Callable[[Path], None]) -> None:
    spoil(venv.path)
    assert not venv.is_usable()


def test_a_distribution_of_the_version_is_whole(venv: Venv) -> None:
    add(venv, "greengrasssdk", "1.6.1", FILES)
    assert venv.problem("greengrasssdk", "1.6.1") is None
    assert check_distribution(str(venv.path), "greengrasssdk", "1.6.1") == (True, "1.6.1", "1.6.1")


@pytest.mark.parametrize("installed", ["typing_extensions", "Typing_Extensions", "typing.extensions"])
@pytest.mark.parametrize("wanted", ["typing-extensions", "typing_extensions", "Typing.Extensions"])
def test_names_agree_however_they_are_spelled(venv: Venv, installed: str, wanted: str) -> None:
    add(venv, installed, "4.4.0", {"typing_extensions.py": ""})
    assert venv.problem(wanted, "4.4.0") is None
    assert normalise(wanted) == "typing_extensions"


def test_a_longer_name_is_another_distribution(venv: Venv) -> None:
    add(venv, "numpy_stl", "1.0", {"stl.py": ""})
    assert venv.problem("numpy", "1.0") == "not installed"
    assert venv.problem("stl", "1.0") == "not installed"


def test_without_an_environment_there_is_no_distribution(tmp_path: Path) -> None:
    assert Venv(tmp_path).problem("numpy", "1.0") == "no environment"
    assert check_distribution(str(tmp_path), "numpy", "1.0") == (False, "no environment", "1.0")


def test_another_version_and_two_versions(venv: Venv) -> None:
    add(venv, "greengrasssdk", "1.6.0", FILES)
    assert venv.problem("greengrasssdk", "1.6.1") == "1.6.0"
    add(venv, "greengrasssdk", "1.6.1", FILES)
    assert venv.problem("greengrasssdk", "1.6.1") == "1.6.0 and 1.6.1"


@pytest.mark.parametrize("name", list(FILES))
def test_a_changed_file_and_a_missing_one(venv: Venv, name: str) -> None:
    add(venv, "greengrasssdk", "1.6.1", FILES)
    assert venv.site_packages is not None
    path = venv.site_packages / name
    path.write_text("changed")
    assert venv.problem("greengrasssdk", "1.6.1") == f"{name} was changed or is missing"
    path.unlink()
    assert venv.problem("greengrasssdk", "1.6.1") == f"{name} was changed or is missing"


def test_without_its_record_a_distribution_is_half_installed(venv: Venv) -> None:
    (add(venv, "greengrasssdk", "1.6.1", FILES) / "RECORD").unlink()
    assert venv.problem("greengrasssdk", "1.6.1") == "half-installed"


def test_whatever_a_loss_of_power_leaves_of_a_record_is_no_proof(venv: Venv) -> None:
    record = add(venv, "greengrasssdk", "1.6.1", {"one.py": "1\n"}) / "RECORD"
    whole = record.read_bytes()
    for content in (b"", bytes(len(whole)), b"\xff\xfe" + whole, b"one.py,sha3=x,1\n", b"\n\n", b'"', whole[:-5]):
        record.write_bytes(content)
        assert venv.problem("greengrasssdk", "1.6.1") is not None, content


def test_create_makes_anew_what_sees_the_system(venv: Venv) -> None:
    calls: list[list[str]] = []

    def run(argv: list[str]) -> tuple[int, str, str]:
        calls.append(argv)
        return 0, "", ""

    venv.create(run)
    assert calls == [["python3", "-m", "venv", "--clear", "--system-site-packages", "--without-pip", str(venv.path)]]


def test_what_fails_is_told_in_one_sentence(venv: Venv) -> None:
    def fail(argv: list[str]) -> tuple[int, str, str]:
        return 1, "", "Looking in links: /w\nERROR: No matching distribution found for a==1\n\n"

    with pytest.raises(VenvError, match=r"^'python3 -m venv .*No matching.*; is python3-venv installed\?$"):
        venv.create(fail)
    wanted = r"^pip could not install a 1 from /w: ERROR: No matching distribution found for a==1\.$"
    with pytest.raises(VenvError, match=wanted):
        venv.install(fail, "a", "1", Path("/w"))
    assert last_line("\n \n") == "it said nothing"


def test_without_debians_pip_nothing_is_installed(venv: Venv, pip: Path) -> None:
    pip.unlink()
    with pytest.raises(VenvError, match=r"^There is no .*pip-\*\.whl to install a with; is python3-venv installed\?$"):
        venv.install(lambda argv: (0, "", ""), "a", "1", Path("/w"))


class Played:
    """Plays python3 -m venv and pip on files, and remembers what it was asked."""

    def __init__(self, path: Path, pip_writes: str = "1.6.1") -> None:
        self.path, self.pip_writes = path, pip_writes
        self.calls: list[list[str]] = []

    def run_command(self, argv: list[str]) -> tuple[int, str, str]:
        self.calls.append(argv)
        if "venv" in argv:
            shutil.rmtree(self.path, ignore_errors=True)
            make(self.path)
        else:
            venv = Venv(self.path)
            assert venv.site_packages is not None
            for former in venv.site_packages.glob("greengrasssdk-*"):
                shutil.rmtree(former)
            add(venv, "greengrasssdk", self.pip_writes, FILES)
        return 0, "", ""


@pytest.fixture
def keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run the module with pip and venv played."""

    def run(played: Played, check_mode: bool = False) -> dict[str, Any]:
        monkeypatch.setattr(AnsibleModule, "run_command", lambda module, argv: played.run_command(argv))
        arguments = {
            "path": str(played.path),
            "wheels": "/opt/wheels",
            "distributions": {"greengrasssdk": "1.6.1"},
            "_ansible_check_mode": check_mode,
        }
        capsys.readouterr()
        with patch_module_args(arguments), pytest.raises(SystemExit):
            module.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return run


def test_the_module_makes_what_lacks_and_then_nothing(tmp_path: Path, keep: Callable[..., Any]) -> None:
    played = Played(tmp_path / "venv")
    said = keep(played, check_mode=True)
    assert (said["changed"], said["installed"], played.calls) == (True, ["greengrasssdk"], [])
    done = keep(played)
    assert (done["changed"], done["installed"]) == (True, ["greengrasssdk"])
    assert done["diff"] == {"before": "greengrasssdk: no environment\n", "after": "greengrasssdk: 1.6.1\n"}
    pip = played.calls[1]
    assert [pip[0], Path(pip[1]).name, pip[2]] == [str(tmp_path / "venv/bin/python"), "pip", "install"]
    assert {"--no-index", "--no-deps", "--find-links=/opt/wheels", "greengrasssdk==1.6.1"} <= set(pip)
    again = keep(played)
    assert (again["changed"], again["installed"], len(played.calls)) == (False, [], 2)


def test_the_module_puts_a_changed_file_back_and_leaves_the_environment(
    tmp_path: Path, keep: Callable[..., Any]
) -> None:
    played = Played(tmp_path / "venv")
    keep(played)
    played.calls.clear()
    write(tmp_path / "venv/lib/python3.11/site-packages/greengrasssdk/__init__.py", "changed")
    assert keep(played)["changed"]
    assert ["venv" in call for call in played.calls] == [False]
    assert not keep(played)["changed"]


def test_the_module_makes_an_environment_of_a_former_python_anew(tmp_path: Path, keep: Callable[..., Any]) -> None:
    played = Played(tmp_path / "venv")
    keep(played)
    upgrade_the_release(tmp_path / "venv")
    played.calls.clear()
    done = keep(played)
    assert (done["changed"], done["installed"]) == (True, ["greengrasssdk"])
    assert ["venv" in call for call in played.calls] == [True, False]


def test_the_module_does_not_believe_pip(tmp_path: Path, keep: Callable[..., Any]) -> None:
    refused = keep(Played(tmp_path / "venv", pip_writes="1.6.0"))
    assert refused["msg"] == "greengrasssdk 1.6.1 was installed but is not whole: 1.6.0; run again."


def test_a_real_environment_is_usable(tmp_path: Path) -> None:
    """The one that runs these tests is of the same making, but for the system's packages."""
    venv = Venv(Path(sys.prefix))
    if not (venv.path / "pyvenv.cfg").is_file():
        pytest.skip("these tests do not run in a virtual environment")
    assert venv.problem("pytest", pytest.__version__) is None
