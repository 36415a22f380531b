"""Files are replaced at once, and a link leads to what is written only if that is a file."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import (
    ImmutableError,
    own,
    remove,
    switch_link,
    write_text,
)


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("old")
    (tmp_path / "link").symlink_to("there/file")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "file").read_text() == "new"


def test_a_link_to_nothing_makes_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_link_to_anything_else_is_replaced_and_that_stays(tmp_path: Path, kind: str) -> None:
    """`systemctl mask` links a unit to /dev/null, which is everybody's."""
    there = tmp_path / "there"
    if kind == "pipe":
        os.mkfifo(there)
    else:
        there.mkdir()
    before = stat.S_IFMT(there.stat().st_mode)
    (tmp_path / "link").symlink_to(there)
    write_text(tmp_path / "link", "new", mode=0o644)
    assert stat.S_IFMT(there.lstat().st_mode) == before
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "link").read_text() == "new"


def test_a_full_card_is_told_with_the_files_name_and_nothing_is_left_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "cmdline.txt").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/cmdline.txt'"):
        write_text(tmp_path / "cmdline.txt", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["cmdline.txt"]
    assert (tmp_path / "cmdline.txt").read_text() == "old"


@pytest.mark.parametrize(
    ("flag", "word", "letter"), [(0x10, "immutable", "i"), (0x20, "open for appending alone", "a")]
)
@pytest.mark.parametrize("of", ["file", "folder"])
@pytest.mark.parametrize(
    "change",
    [lambda path: write_text(path, "new"), remove, lambda path: switch_link(path, "there")],
    ids=["write", "remove", "link"],
)
def test_what_somebody_made_immutable_is_named_with_what_to_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    of: str,
    flag: int,
    word: str,
    letter: str,
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    fixed = path if of == "file" else tmp_path

    def refuse(one: Path, *other: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(one), None, *map(str, other))

    def ioctl(handle: int, _request: int, _buffer: bytes) -> bytes:
        same = os.path.samestat(os.fstat(handle), fixed.stat())
        return (flag if same else 0).to_bytes(8, sys.byteorder)

    monkeypatch.setattr(Path, "unlink", lambda one, missing_ok=False: refuse(one) if one == path else None)
    monkeypatch.setattr(Path, "rename", refuse)
    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    with pytest.raises(ImmutableError) as caught:
        change(path)
    assert str(caught.value) == f"{fixed} is {word}: run 'sudo chattr -{letter} {fixed}' on the device, and run again."


def test_what_is_refused_for_another_reason_keeps_the_kernels_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(one: Path, _other: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(one))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError, match="Operation not permitted"):
        write_text(tmp_path / "file", "new")


def test_who_owns_what_and_how_is_given_to_no_target_of_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.touch(mode=0o600)
    link.symlink_to(target)
    me = os.getuid(), os.getgid()
    own(target, (-1, -1), 0o640)
    own(link, me, None)
    assert target.stat().st_mode & 0o7777 == 0o640
    with pytest.raises(OSError, match=re.escape(str(link))):
        own(link, (-1, -1), 0o777)
    assert target.stat().st_mode & 0o7777 == 0o640
    if os.getuid() == 0:
        own(link, (4242, 4243), None)
        assert (link.lstat().st_uid, link.lstat().st_gid, target.stat().st_uid) == (4242, 4243, 0)
