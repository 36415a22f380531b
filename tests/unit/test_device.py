"""Files are replaced at once, and a link leads to what is written only if that is a file."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import write_text


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
