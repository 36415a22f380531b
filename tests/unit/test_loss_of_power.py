"""What has its name is on the card: writers write content through before they name it, and the folder afterwards."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pull
import pytest
from ansible_collections.edge.pi_fleet.plugins.module_utils import device, field_data, kept, model
from ansible_collections.edge.pi_fleet.plugins.module_utils.release import Store, gather
from localcore.shadows import Shadows
from model_samples import LABELS, sagemaker
from test_collecting import Pi, collector

Writer = Callable[[], object]


class Card:
    """Sees what is written through, and what has its name without, or in a folder that is not."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.through = {path.lstat().st_ino for path in root.rglob("*")}
        self.owed: dict[int, Path] = {}
        self.named: list[str] = []
        for name in ("rename", "replace", "link"):
            monkeypatch.setattr(os, name, self.naming(getattr(os, name)))
        unlink = os.unlink

        def unlinking(path: str | Path, *, dir_fd: int | None = None) -> None:
            unlink(path, dir_fd=dir_fd)
            self.note(self.place(path, dir_fd))

        monkeypatch.setattr(os, "unlink", unlinking)
        monkeypatch.setattr(os, "fsync", self.fsync)

    def fsync(self, handle: int) -> None:
        inode = os.fstat(handle).st_ino
        self.through.add(inode)
        self.owed.pop(inode, None)

    def naming(self, real: Callable[..., None]) -> Callable[..., None]:
        def name(source: Path, target: Path, **handles: Any) -> None:
            real(source, target, **handles)
            path = self.place(target, handles.get("dst_dir_fd"))
            if self.note(path):
                self.named.append(path.name)
                below = [each for each in (path, *path.rglob("*")) if not each.is_symlink()]
                torn = [each for each in below if each.lstat().st_ino not in self.through]
                assert not torn, f"{torn} would be torn by a loss of power"

        return name

    @staticmethod
    def place(path: str | Path, handle: int | None) -> Path:
        return Path(path) if handle is None else Path(f"/proc/self/fd/{handle}").readlink() / path

    def note(self, path: Path) -> bool:
        """Have a folder owe its names, unless they are hidden: those are nobody's."""
        if any(part.startswith(".") for part in path.relative_to(self.root).parts):
            return False
        self.owed[path.parent.stat().st_ino] = path
        return True


def text(root: Path) -> Writer:
    (root / "settings").write_text("former")
    return lambda: device.write_text(root / "settings", "new")


def link(root: Path) -> Writer:
    return lambda: device.switch_link(root / "current", "releases/1")


def removal(root: Path) -> Writer:
    (root / "settings").touch()
    return lambda: device.remove(root / "settings")


def picture_back(root: Path) -> Writer:
    (root / "field").mkdir()
    (root / "1.jpg").write_bytes(b"picture")
    with tarfile.open(root / "pictures.tar", "w") as tar:
        tar.add(root / "1.jpg", "1.jpg")
    return lambda: field_data.FieldData(root / "field").put(root / "pictures.tar")


def picture_off(root: Path) -> Writer:
    (root / "field").mkdir()
    (root / "field" / "1.jpg").write_bytes(b"picture")
    sums = {"1.jpg": hashlib.sha256(b"picture").hexdigest()}
    return lambda: field_data.FieldData(root / "field").remove(sums)


def collected(root: Path) -> Writer:
    pi = Pi(root / "device")
    pi.folder.mkdir()
    pi.write("1.jpg", b"picture")
    return collector(pi, root / "control" / "field_data" / "roof-1").collect


def kept_file(root: Path) -> Writer:
    def no_commands(argv: list[str]) -> tuple[int, str, str]:
        raise AssertionError(argv)

    old, new = (device.Device(no_commands, root / name) for name in ("old", "new"))
    for each in (old, new):
        each.path("/etc").mkdir(parents=True)
        each.path("/etc/hosts").write_text(each.root.name)
    saved = kept.save(old, ["/etc/hosts"], root / "kept.tar")
    return lambda: kept.restore(new, root / "kept.tar", saved.files)


def release(root: Path) -> Writer:
    (root / "code" / "lib").mkdir(parents=True)
    (root / "code" / "lib" / "handler.py").write_text("code")
    found = gather([f"{root / 'code'}/"])
    found.write_archive(root / "code.tar")
    return lambda: Store(root / "thing").unpack(found.identifier, root / "code.tar")


def artifact(root: Path) -> Writer:
    made = model.make_artifact(sagemaker(), LABELS, "a test")
    return lambda: made.write(root / "model")


def shadow(root: Path) -> Writer:
    shadows = Shadows(root / "shadows")
    return lambda: shadows.request("$aws/things/pi-1/shadow/update", b'{"state": {"reported": {"a": 1}}}')


def pulled(root: Path) -> Writer:
    return lambda: pull.write(root / "result", "{}")


@pytest.mark.parametrize(
    ("writer", "named"),
    [
        (text, ["settings"]),
        (link, ["current"]),
        (removal, []),
        (picture_back, ["1.jpg"]),
        (picture_off, []),
        (collected, ["1.jpg"]),
        (kept_file, ["hosts.new-card", "hosts"]),
        (release, None),
        (artifact, ["model.onnx", "model.json"]),
        (shadow, None),
        (pulled, ["result"]),
    ],
)
def test_nothing_is_named_before_it_is_on_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: Callable[[Path], Writer], named: list[str] | None
) -> None:
    monkeypatch.setattr(field_data, "OWNER", pwd.getpwuid(os.getuid()).pw_name)
    monkeypatch.setattr(field_data, "GROUP", grp.getgrgid(os.getgid()).gr_name)
    write = writer(tmp_path)
    card = Card(tmp_path, monkeypatch)
    write()
    assert named == card.named if named is not None else len(card.named) == 1
    # Which of two results of pulls a loss of power leaves makes no difference.
    assert writer is pulled or not card.owed
