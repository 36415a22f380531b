"""Files that survive a reimaging: saved with all that is below them, put back over nothing."""

from __future__ import annotations

import gzip
import hashlib
import os
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device
from ansible_collections.edge.pi_fleet.plugins.module_utils.kept import KeptError, card, check, restore, save


def no_commands(argv: list[str]) -> tuple[int, str, str]:
    raise AssertionError(argv)


def blank(path: Path) -> Device:
    path.mkdir()
    return Device(no_commands, path)


@pytest.fixture
def old(tmp_path: Path) -> Device:
    device = blank(tmp_path / "old")
    notes = device.path("/home/pi/notes")
    (notes / "empty").mkdir(parents=True)
    (notes / "todo").write_bytes(b"water\x00the plants")
    (notes / "todo").chmod(0o600)
    os.utime(notes / "todo", (1000, 1000))
    (notes / "link").symlink_to("todo")
    device.path("/etc").mkdir()
    device.path("/etc/hosts").write_text("mine")
    return device


def everything(device: Device) -> dict[str, str]:
    """Return what is on a card: contents, targets of links, and modes."""
    found = {}
    for path in sorted(device.root.rglob("*")):
        what = f"-> {path.readlink()}" if path.is_symlink() else path.read_bytes().decode() if path.is_file() else "/"
        found[device.name(path)] = f"{what} {path.lstat().st_mode & 0o7777:o}"
    return found


def test_what_is_saved_is_put_back_as_it_was(old: Device, tmp_path: Path) -> None:
    archive = tmp_path / "kept.tar"
    saved = save(old, ["/home/pi/notes", "/etc/hosts", "/not/there"], archive)
    assert saved.files.keys() == {"/home/pi/notes/todo", "/etc/hosts"}
    assert saved.missing == ["/not/there"]
    assert archive.stat().st_mode & 0o777 == 0o600
    check(archive, saved.files, ["/home/pi/notes/", "/etc/hosts"])
    new = blank(tmp_path / "new")
    assert restore(new, archive, saved.files) == [
        "/home/pi/notes",
        "/home/pi/notes/empty",
        "/home/pi/notes/link",
        "/home/pi/notes/todo",
        "/etc/hosts",
    ]
    before = everything(new)
    assert before == everything(old)
    assert new.path("/home/pi/notes/todo").stat().st_mtime == 1000
    assert restore(new, archive, saved.files) == []
    assert everything(new) == before


def test_what_the_new_card_has_is_kept_beside(old: Device, tmp_path: Path) -> None:
    archive = tmp_path / "kept.tar"
    saved = save(old, ["/etc/hosts", "/home/pi/notes/link"], archive)
    new = blank(tmp_path / "new")
    for name in ("/etc/hosts", "/etc/hosts.new-card", "/home/pi/notes/link"):
        new.path(name).parent.mkdir(parents=True, exist_ok=True)
        new.path(name).write_text(f"the image's {name}")
    # What a killed run left.
    new.path("/etc/.hosts.pi-fleet-new").write_text("half")
    assert restore(new, archive, saved.files) == ["/etc/hosts", "/home/pi/notes/link"]
    assert new.path("/etc/hosts").read_text() == "mine"
    assert new.path("/etc/hosts.new-card").read_text() == "the image's /etc/hosts.new-card"
    assert new.path("/etc/hosts.new-card-2").read_text() == "the image's /etc/hosts"
    assert new.path("/home/pi/notes/link").is_symlink()
    assert new.path("/home/pi/notes/link.new-card").read_text() == "the image's /home/pi/notes/link"
    assert not new.path("/etc/.hosts.pi-fleet-new").exists()


def test_an_archive_that_is_not_what_the_device_says_is_refused(old: Device, tmp_path: Path) -> None:
    archive = tmp_path / "kept.tar"
    saved = save(old, ["/etc/hosts"], archive)
    for files in ({}, {"/etc/hosts": "0" * 64}, {**saved.files, "/etc/more": "0" * 64}):
        with pytest.raises(KeptError, match="changed while it was read: stop what writes it"):
            check(archive, files, ["/etc/hosts"])


def member(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", more: dict[str, str] | None = None
) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.pax_headers = kind, link, more or {}
    return found


NOTES = member("home/pi/notes", tarfile.DIRTYPE)


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([NOTES, member("etc/sudoers.d/zz")], "/etc/sudoers.d/zz, which is not in reimage_keeps"),
        ([member("home/pi/notes2")], "/home/pi/notes2, which is not in reimage_keeps"),
        ([member("home/pi", tarfile.DIRTYPE)], "/home/pi, which is not in reimage_keeps"),
        ([member("home/pi/notes/../../../etc/x")], "which is not in reimage_keeps"),
        (
            [NOTES, member("home/pi/notes/a", tarfile.SYMTYPE, "/etc/cron.d"), member("home/pi/notes/a/zz")],
            "/home/pi/notes/a/zz, which lies beneath a link",
        ),
        (
            [member("home/pi/notes/a/zz"), member("home/pi/notes/a", tarfile.SYMTYPE, "/etc/cron.d")],
            "/home/pi/notes/a/zz, which lies beneath a link",
        ),
        ([member("home/pi/notes/a", tarfile.LNKTYPE, "etc/shadow")], "is no file, folder or link of its own"),
        ([member("home/pi/notes/a", tarfile.CHRTYPE)], "is no file, folder or link of its own"),
        ([member("home/pi/notes/a", tarfile.FIFOTYPE)], "is no file, folder or link of its own"),
        (
            [member("home/pi/notes/a", more={"GNU.sparse.map": "0,0", "GNU.sparse.size": "1099511627776"})],
            "is no file, folder or link of its own",
        ),
        ([member("home/pi/notes/a"), member("home//pi/notes/a")], "/home/pi/notes/a, which is there twice"),
    ],
)
def test_an_archive_with_more_than_was_to_be_kept_is_refused(
    tmp_path: Path, members: list[tarfile.TarInfo], why: str
) -> None:
    archive = tmp_path / "kept.tar"
    with tarfile.open(archive, "w") as tar:
        for each in members:
            tar.addfile(each)
    empty = hashlib.sha256().hexdigest()
    files = {f"/{each.name}": empty for each in members if each.isfile()}
    with pytest.raises(KeptError, match=r"^The archive of what is kept holds .*: correct reimage_keeps, or") as refused:
        check(archive, files, ["/home/pi/notes"])
    assert why in str(refused.value)


@pytest.mark.parametrize("damage", [lambda data: b"no archive" * 200, gzip.compress, lambda data: data[:700]])
def test_what_is_no_archive_is_a_sentence(old: Device, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    archive = tmp_path / "kept.tar"
    saved = save(old, ["/home/pi/notes"], archive)
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(KeptError, match=r"cannot be read \(.*\): run again|changed while it was read"):
        check(archive, saved.files, ["/home/pi/notes"])


def test_what_is_named_twice_is_kept_once(old: Device, tmp_path: Path) -> None:
    archive = tmp_path / "kept.tar"
    keeps = ["/home/pi/notes/todo", "/home/pi/notes", "/home/pi/notes"]
    check(archive, save(old, keeps, archive).files, keeps)


def test_what_is_put_back_is_hashed(old: Device, tmp_path: Path) -> None:
    archive = tmp_path / "kept.tar"
    save(old, ["/etc/hosts"], archive)
    with pytest.raises(KeptError, match="/etc/hosts is not what was put back"):
        restore(blank(tmp_path / "new"), archive, {"/etc/hosts": "0" * 64})


def test_a_pipe_is_refused_and_a_socket_left_out(old: Device, tmp_path: Path) -> None:
    notes = old.path("/home/pi/notes")
    with socket.socket(socket.AF_UNIX) as server:
        # Paths of sockets are short.
        where = os.open(notes, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{where}/socket")
        os.close(where)
    assert "/home/pi/notes/socket" not in save(old, ["/home/pi/notes"], tmp_path / "kept.tar").files
    os.mkfifo(notes / "pipe")
    with pytest.raises(KeptError, match="/home/pi/notes/pipe is no file, folder or link: leave it out"):
        save(old, ["/home/pi/notes"], tmp_path / "kept.tar")


def test_without_room_for_the_archive_nothing_is_written(old: Device, tmp_path: Path) -> None:
    full = Device(no_commands, old.root, free_bytes=lambda _: 3)
    with pytest.raises(KeptError, match=r"which .* has not free for an archive: free space, or name less"):
        save(full, ["/etc/hosts"], tmp_path / "kept.tar")
    assert not (tmp_path / "kept.tar").exists()


def test_a_card_is_named_once(old: Device) -> None:
    assert card(old, "") == ""
    assert card(old, "first") == "first"
    assert card(old, "second") == "first"
    assert card(old, "") == "first"
