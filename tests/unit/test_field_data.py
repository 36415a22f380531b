"""The field data of a device: what is listed, hashed and removed, and what is left alone."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from ansible_collections.edge.pi_fleet.plugins.module_utils.field_data import (
    CHANGED,
    GONE,
    WRITING,
    YOUNG,
    FieldData,
    FieldDataError,
    is_plain,
    signature,
)

NOW = 1_700_000_000.0


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def field_data(tmp_path: Path) -> FieldData:
    folder = tmp_path / "raw_field_data"
    folder.mkdir()
    return FieldData(folder)


def write(field_data: FieldData, name: str, data: bytes = b"picture", age: float = 3600) -> Path:
    path = field_data.folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (NOW - age, NOW - age))
    return path


def test_pictures_are_listed_and_hidden_files_links_and_folders_are_not(field_data: FieldData, tmp_path: Path) -> None:
    picture, below = write(field_data, "1.jpg"), write(field_data, "belt/2.jpg")
    write(field_data, ".3.jpg.part")
    write(field_data, ".hidden/4.jpg")
    (tmp_path / "secret").write_text("secret")
    (field_data.folder / "link.jpg").symlink_to(tmp_path / "secret")
    (field_data.folder / "away").symlink_to(tmp_path)
    os.mkfifo(field_data.folder / "pipe.jpg")
    found = field_data.find(60, NOW)
    assert found.pictures == {"1.jpg": signature(picture.stat()), "belt/2.jpg": signature(below.stat())}
    assert found.left == {}


def test_a_young_picture_is_left_unless_its_time_is_in_the_future(field_data: FieldData) -> None:
    write(field_data, "young.jpg", age=59)
    write(field_data, "old.jpg", age=60)
    write(field_data, "future.jpg", age=-5)
    found = field_data.find(60, NOW)
    assert found.pictures.keys() == {"old.jpg", "future.jpg"}
    assert found.left == {"young.jpg": YOUNG}
    assert field_data.find(0, NOW).left == {}


def test_of_two_names_of_a_file_the_one_with_the_prediction_counts(field_data: FieldData) -> None:
    capture = write(field_data, "17.jpg")
    capture.with_name("17_clutter_0.5.jpg").hardlink_to(capture)
    assert field_data.find(0, NOW).pictures.keys() == {"17_clutter_0.5.jpg"}


def test_a_name_that_no_picture_has_is_told_in_plain_letters(field_data: FieldData) -> None:
    write(field_data, "a\nb.jpg")
    os.close(os.open(os.fsencode(field_data.folder) + b"/\xff.jpg", os.O_CREAT))
    found = field_data.find(0, NOW)
    assert found.pictures == {}
    assert found.left.keys() == {"a\\nb.jpg", "\\udcff.jpg"}


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("1.jpg", True),
        ("belt/1 2.jpg", True),
        ("ä.jpg", True),
        ("", False),
        ("/etc/passwd", False),
        ("../1.jpg", False),
        ("belt/../../1.jpg", False),
        ("belt//1.jpg", False),
        ("./1.jpg", False),
        (".part", False),
        (".collect/ledger.json", False),
        ("a\x00b", False),
    ],
)
def test_names(name: str, plain: bool) -> None:
    assert is_plain(name) is plain


def test_no_folder_or_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FieldDataError, match="is no folder, so there is no field data"):
        FieldData(tmp_path / "none").find(0)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(FieldDataError, match="is no folder"):
        FieldData(tmp_path / "link").find(0)


def test_sums_are_of_what_is_there_and_no_link_is_followed(field_data: FieldData, tmp_path: Path) -> None:
    path = write(field_data, "1.jpg", b"one")
    write(field_data, "belt/2.jpg", b"two")
    (tmp_path / "secret").write_text("secret")
    (field_data.folder / "link.jpg").symlink_to(tmp_path / "secret")
    (field_data.folder / "away").symlink_to(tmp_path)
    os.mkfifo(field_data.folder / "pipe.jpg")
    found, left = field_data.sums(["1.jpg", "belt/2.jpg", "no.jpg", "link.jpg", "away/secret", "1.jpg/x", "pipe.jpg"])
    assert found["1.jpg"] == (digest(b"one"), signature(path.stat()))
    assert found["belt/2.jpg"][0] == digest(b"two")
    assert left == dict.fromkeys(["no.jpg", "link.jpg", "away/secret", "1.jpg/x", "pipe.jpg"], GONE)


def test_what_somebody_has_open_for_writing_has_no_sum_and_stays(field_data: FieldData) -> None:
    path = write(field_data, "1.jpg")
    with path.open("ab"):
        assert field_data.sums(["1.jpg"]) == ({}, {"1.jpg": WRITING})
        assert field_data.remove({"1.jpg": digest(b"picture")}) == ([], {"1.jpg": WRITING})
    # Who reads it, such as rsync, is no writer.
    with path.open("rb"):
        assert field_data.sums(["1.jpg"])[1] == {}
    assert path.exists()


def test_a_picture_that_changes_while_it_is_read_has_no_sum(
    field_data: FieldData, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(field_data, "1.jpg")
    real = hashlib.file_digest

    def slow(stream: object, name: str) -> object:
        path.write_bytes(b"another")
        return real(stream, name)  # type: ignore[arg-type]

    monkeypatch.setattr(hashlib, "file_digest", slow)
    assert field_data.sums(["1.jpg"]) == ({}, {"1.jpg": CHANGED})


def test_only_what_is_as_it_was_collected_is_removed(field_data: FieldData) -> None:
    same, other = write(field_data, "belt/same.jpg", b"same"), write(field_data, "other.jpg", b"tampered")
    sums = {"belt/same.jpg": digest(b"same"), "other.jpg": digest(b"other"), "gone.jpg": digest(b"gone")}
    left = {"other.jpg": "is not what was collected", "gone.jpg": GONE}
    assert field_data.remove(sums, check_mode=True) == (["belt/same.jpg"], left)
    assert same.exists()
    assert field_data.remove(sums) == (["belt/same.jpg"], left)
    assert not same.exists()
    assert other.read_bytes() == b"tampered"


def test_a_picture_that_takes_the_name_meanwhile_stays(field_data: FieldData, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(field_data, "1.jpg", b"old")
    real = hashlib.file_digest

    def replaced(stream: object, name: str) -> object:
        new = path.with_name("new")
        new.write_bytes(b"new")
        result = real(stream, name)  # type: ignore[arg-type]
        new.rename(path)
        return result

    monkeypatch.setattr(hashlib, "file_digest", replaced)
    assert field_data.remove({"1.jpg": digest(b"old")}) == ([], {"1.jpg": CHANGED})
    assert path.read_bytes() == b"new"
