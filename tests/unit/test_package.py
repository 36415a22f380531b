"""The Lambda's zip: what is in it, and the same bytes from the same sources."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import package
import pytest


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the sources."""
    return copy_sources(tmp_path / "files")


def copy_sources(files: Path) -> Path:
    for source in package.SOURCES:
        original = package.FILES / source
        target = files / source
        target.parent.mkdir(parents=True, exist_ok=True)
        if original.is_dir():
            shutil.copytree(original, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(original, target)
    return files


def members(content: bytes) -> dict[str, zipfile.ZipInfo]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        return {member.filename: member for member in archive.infolist()}


def test_the_zip_holds_the_lambda_and_what_it_imports(tmp_path: Path) -> None:
    names = members(package.build(tmp_path / "lambda.zip"))
    assert {name.split("/")[0] for name in names} == {
        "beverage_classifier",
        "greengrass_machine_learning_sdk",
        "pi_camera.py",
    }
    for name in (
        "beverage_classifier/__init__.py",
        "beverage_classifier/handler.py",
        "greengrass_machine_learning_sdk/__init__.py",
        "pi_camera.py",
    ):
        assert name in names


def test_the_zip_alone_is_enough_to_import_the_handler(tmp_path: Path) -> None:
    package.build(tmp_path / "lambda.zip")
    with zipfile.ZipFile(tmp_path / "lambda.zip") as archive:
        archive.extractall(tmp_path / "task")
    program = "import greengrass_machine_learning_sdk, beverage_classifier as b; print(b.function_handler.__name__)"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path / "task", capture_output=True, text=True, check=True
    )
    assert result.stdout == "function_handler\n"


def test_copies_of_the_sources_give_the_same_bytes(tmp_path: Path, copy: Path) -> None:
    other = copy_sources(tmp_path / "other")
    for number, path in enumerate(sorted(other.rglob("*"), reverse=True)):
        os.utime(path, (number * 1e6, number * 1e6))
        path.chmod(0o755 if path.is_dir() else 0o600)
    stray = {"__pycache__/handler.cpython-311.pyc", ".handler.py.swp", "notes.txt", "handler.py.orig"}
    for name in stray:
        path = other / package.SOURCES[0] / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"stray")
    first = package.build(tmp_path / "first.zip", copy)
    former = os.umask(0o077)
    try:
        second = package.build(tmp_path / "second.zip", other)
    finally:
        os.umask(former)
    assert first == second
    assert first == (tmp_path / "first.zip").read_bytes()


def test_members_are_sorted_and_carry_nothing_of_the_machine(tmp_path: Path) -> None:
    content = package.build(tmp_path / "lambda.zip")
    assert list(members(content)) == sorted(members(content))
    for member in members(content).values():
        assert member.date_time == (1980, 1, 1, 0, 0, 0)
        assert member.external_attr >> 16 == 0o100644
        assert member.compress_type == zipfile.ZIP_STORED
        assert (member.create_system, member.extra, member.comment) == (3, b"", b"")


def test_a_changed_source_gives_other_bytes(tmp_path: Path, copy: Path) -> None:
    before = package.build(tmp_path / "lambda.zip", copy)
    camera = copy / "camera/pi_camera.py"
    camera.write_text(camera.read_text() + "\n")
    assert package.build(tmp_path / "lambda.zip", copy) != before


@pytest.mark.parametrize("source", package.SOURCES)
def test_an_incomplete_checkout_is_refused(tmp_path: Path, copy: Path, source: str) -> None:
    missing = copy / source
    if missing.is_dir():
        shutil.rmtree(missing)
    else:
        missing.unlink()
    with pytest.raises(package.PackageError, match=f"{missing} holds no Python source; run this from"):
        package.build(tmp_path / "lambda.zip", copy)
    assert not (tmp_path / "lambda.zip").exists()


def test_a_failed_replacement_leaves_nothing_behind(tmp_path: Path) -> None:
    output = tmp_path / "folder"
    output.mkdir()
    with pytest.raises(package.PackageError, match=f"{output} cannot be written"):
        package.build(output)
    assert list(tmp_path.iterdir()) == [output]


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, package.__file__, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_the_program_prints_path_size_and_checksum(tmp_path: Path) -> None:
    result = run(cwd=tmp_path)
    content = (tmp_path / "dist/beverage_classifier.zip").read_bytes()
    checksum = hashlib.sha256(content).hexdigest()
    assert result.stdout == f"dist/beverage_classifier.zip {len(content)} bytes sha256 {checksum}\n"
    assert (result.returncode, result.stderr) == (0, "")


def test_the_program_replaces_its_output(tmp_path: Path) -> None:
    output = tmp_path / "lambda.zip"
    output.write_bytes(b"former")
    assert run("--output", output, cwd=tmp_path).returncode == 0
    assert list(tmp_path.iterdir()) == [output]
    assert zipfile.is_zipfile(output)


def test_the_program_says_one_sentence_when_it_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("--output", "file/lambda.zip", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert "The zip file/lambda.zip cannot be written" in result.stderr
