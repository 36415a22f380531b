"""Files and folders, many at once: made, owned, replaced, removed, and never through somebody's link."""

from __future__ import annotations

import grp
import json
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device
from ansible_collections.edge.pi_fleet.plugins.modules import files as module

ME = {"owner": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name}
Files = Callable[..., dict[str, Any]]
WANTED = [
    {"path": "/etc/mine", "state": "directory", "mode": "2770", **ME},
    {"path": "/opt/there/is/none/yet", "content": "one\n", **ME},
    {"path": "/etc/mine/program", "content": "two\n", "mode": "0755", **ME},
]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Files:
    """Run the module on a device in a folder."""
    monkeypatch.setattr(module, "Device", lambda run: Device(run, root=tmp_path))

    def once(*wanted: dict[str, str], check_mode: bool = False) -> dict[str, Any]:
        capsys.readouterr()
        with patch_module_args({"files": list(wanted), "_ansible_check_mode": check_mode}), pytest.raises(SystemExit):
            module.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return once


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_they_are_made_in_one_go_and_a_second_run_does_nothing(tmp_path: Path, files: Files) -> None:
    dry = files(*WANTED, check_mode=True)
    assert list(tmp_path.iterdir()) == []
    first = files(*WANTED)
    assert (first["changed"], first["made"]) == (dry["changed"], dry["made"])
    assert first["made"] == [each["path"] for each in WANTED]
    assert first["diff"] == dry["diff"]
    assert [each["after"] for each in first["diff"]] == ["one\n", "two\n"]
    assert mode(tmp_path / "etc/mine") == 0o2770
    assert (tmp_path / "opt/there/is/none/yet").read_text() == "one\n"
    assert (mode(tmp_path / "opt/there"), mode(tmp_path / "opt/there/is/none/yet")) == (0o755, 0o644)
    assert mode(tmp_path / "etc/mine/program") == 0o755
    second = files(*WANTED)
    assert (second["changed"], second["made"], second["diff"]) == (False, [], [])


@pytest.mark.parametrize(
    ("spoil", "path"),
    [
        (lambda root: (root / "etc/mine").chmod(0o755), "/etc/mine"),
        (lambda root: (root / "etc/mine/program").chmod(0o644), "/etc/mine/program"),
        (lambda root: (root / "etc/mine/program").write_text("two\n\n"), "/etc/mine/program"),
        (lambda root: (root / "etc/mine/program").unlink(), "/etc/mine/program"),
        (lambda root: os.truncate(root / "etc/mine/program", 0), "/etc/mine/program"),
    ],
)
def test_what_was_changed_is_made_again_and_nothing_else(
    tmp_path: Path, files: Files, spoil: Callable[[Path], object], path: str
) -> None:
    files(*WANTED)
    (tmp_path / "etc/mine/users").write_text("own")
    spoil(tmp_path)
    assert files(*WANTED)["made"] == [path]
    assert files(*WANTED)["changed"] is False
    assert (tmp_path / "etc/mine/users").read_text() == "own"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda path: path.symlink_to("/tmp"),
            "/etc/mine is no folder, where one shall be: move it away, and run again.",
        ),
        (lambda path: path.write_text(""), "/etc/mine is no folder, where one shall be: move it away, and run again."),
    ],
)
def test_a_link_or_a_file_where_a_folder_shall_be_is_refused(
    tmp_path: Path, files: Files, make: Callable[[Path], object], sentence: str
) -> None:
    (tmp_path / "etc").mkdir()
    make(tmp_path / "etc/mine")
    assert files(*WANTED)["msg"] == sentence
    # Nothing was touched before.
    assert not (tmp_path / "opt").exists()


def test_a_link_that_takes_the_folders_place_meanwhile_gives_nothing_away(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, chown = tmp_path / "secret", os.chown
    secret.mkdir(mode=0o700)

    def swap(path: Path, *numbers: int, **options: Any) -> None:
        chown(path, *numbers, **options)
        (tmp_path / "etc/mine").rename(tmp_path / "etc/aside")
        (tmp_path / "etc/mine").symlink_to(secret)

    monkeypatch.setattr(os, "chown", swap)
    files(WANTED[0])
    assert (mode(secret), mode(tmp_path / "etc/aside")) == (0o700, 0o2770)


def test_a_folder_where_a_file_shall_be_is_refused(tmp_path: Path, files: Files) -> None:
    (tmp_path / "etc/mine/program").mkdir(parents=True)
    assert "/etc/mine/program is a folder, where a file shall be" in files(*WANTED)["msg"]


def test_an_owner_that_is_not_there_yet_is_none_in_a_dry_run_and_refused_in_a_real_one(files: Files) -> None:
    wanted = {"path": "/etc/mine", "state": "directory", "owner": "nobody-knows", "group": "nobody-knows"}
    assert files(wanted, check_mode=True)["changed"] is True
    assert "/etc/mine cannot be given to nobody-knows:nobody-knows" in files(wanted)["msg"]


def test_what_shall_not_be_there_is_removed_a_link_without_what_it_leads_to(tmp_path: Path, files: Files) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep/it").write_text("")
    (tmp_path / "gone/with/all").mkdir(parents=True)
    (tmp_path / "link").symlink_to("keep")
    wanted = [{"path": f"/{name}", "state": "absent"} for name in ("gone", "link", "never")]
    assert files(*wanted, check_mode=True)["made"] == files(*wanted)["made"] == ["/gone", "/link"]
    assert [path.name for path in tmp_path.iterdir()] == ["keep"]
    assert (tmp_path / "keep/it").exists()
    assert files(*wanted)["changed"] is False
