"""Releases: names that follow from content alone, and drops that may be killed at any point."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.edge.pi_fleet.plugins.module_utils.release import Content, ReleaseError, Store, gather
from ansible_collections.edge.pi_fleet.plugins.module_utils.release import check_release as check
from ansible_collections.edge.pi_fleet.plugins.modules import release as module
from fake_device import PowerLossError
from hypothesis import given, settings
from hypothesis import strategies as st

Drop = Callable[..., dict[str, Any]]

FORMER = {"handler.py": "former", "lib/rows.py": "rows"}
NEW = {"handler.py": "new", "lib/rows.py": "rows", "lib/tool": "#!tool"}


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """The module sets it for its process."""
    former = os.umask(0o022)
    yield
    os.umask(former)


def tree(folder: Path, files: dict[str, str]) -> Path:
    """Write files; those that begin with #! are executable."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)
    return folder


def content(folder: Path, files: dict[str, str]) -> Content:
    return gather([f"{tree(folder, files)}/"])


def archive(folder: Path, found: Content) -> Path:
    path = folder / f"{found.identifier}.tar"
    found.write_archive(path)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "opt" / "thing")


@pytest.fixture
def drop(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> Drop:
    """Run the module on files of the control node, as its action plugin does: again with an archive if it wants one."""

    def once(arguments: dict[str, Any], check_mode: bool) -> dict[str, Any]:
        capsys.readouterr()
        with patch_module_args({**arguments, "_ansible_check_mode": check_mode}), pytest.raises(SystemExit):
            module.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    def both(files: dict[str, str], keep: int = 5, check_mode: bool = False) -> dict[str, Any]:
        folder = tmp_path / "control-node"
        shutil.rmtree(folder, ignore_errors=True)
        found = content(folder / "source", files)
        arguments = {"path": str(store.path), "release": found.identifier, "keep": keep}
        result = once(arguments, check_mode)
        if not result.pop("wants_archive", False):
            return result
        return once({**arguments, "archive": str(archive(folder, found))}, check_mode)

    return both


def files_of(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


NAMES = st.sampled_from(["a", "b.py", "c/d", "c/e.py", "f-1"])
FILES = st.dictionaries(NAMES, st.sampled_from(["", "x", "y", "#!x", "#!y"]), min_size=1)


@settings(deadline=None, max_examples=60)
@given(FILES, FILES)
def test_two_contents_have_one_name_only_if_they_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, one: dict[str, str], other: dict[str, str]
) -> None:
    folder = tmp_path_factory.mktemp("contents")
    first, second = content(folder / "one", one), content(folder / "other", dict(reversed(other.items())))
    assert (first.identifier == second.identifier) is (one == other)
    assert (archive(folder / "one", first).read_bytes() == archive(folder / "other", second).read_bytes()) is (
        one == other
    )
    shutil.rmtree(folder)


def test_times_do_not_name_a_release_and_do_not_reach_its_archive(tmp_path: Path) -> None:
    found = content(tmp_path / "one", NEW)
    before = (found.identifier, archive(tmp_path, found).read_bytes())
    for number, path in enumerate((tmp_path / "one").rglob("*")):
        os.utime(path, (number * 1e6, number * 1e6))
    again = gather([f"{tmp_path}/one/"])
    assert (again.identifier, archive(tmp_path, again).read_bytes()) == before


def test_a_name_is_of_what_is_there_and_not_of_where(tmp_path: Path) -> None:
    files = {"a": "one", "b": "two"}
    assert content(tmp_path / "x", files).identifier == content(tmp_path / "y", files).identifier
    swapped = {"a": "two", "b": "one"}
    assert content(tmp_path / "z", swapped).identifier != content(tmp_path / "x", files).identifier
    one, two = f"{tmp_path}/x/a", f"{tmp_path}/x/b"
    assert gather([one, two]).identifier == gather([two, one]).identifier
    (tmp_path / "x" / "a").chmod(0o755)
    assert gather([f"{tmp_path}/x/"]).identifier != gather([f"{tmp_path}/y/"]).identifier


def names(found: Content) -> list[str]:
    return sorted(map(str, found.files))


def test_a_slash_at_the_end_is_the_content_of_a_folder(tmp_path: Path) -> None:
    tree(tmp_path / "package", FORMER)
    assert names(gather([f"{tmp_path}/package/"])) == ["handler.py", "lib/rows.py"]
    assert names(gather([f"{tmp_path}/package"])) == ["package/handler.py", "package/lib/rows.py"]
    assert names(gather([f"{tmp_path}/package/handler.py"])) == ["handler.py"]
    assert names(gather([f"{tmp_path}/package/lib", f"{tmp_path}/package/handler.py"])) == ["handler.py", "lib/rows.py"]


def test_what_python_writes_beside_sources_is_no_content(tmp_path: Path) -> None:
    tree(tmp_path, {"a.py": "", "__pycache__/a.cpython-311.pyc": "x", "lib/b.pyc": "x"})
    assert names(gather([f"{tmp_path}/"])) == ["a.py"]


def test_patterns_choose_by_name(tmp_path: Path) -> None:
    tree(tmp_path, {"a.jpg": "", "b.PNG": "", "c.txt": "", "deep/d.jpg": ""})
    assert names(gather([f"{tmp_path}/"], ["*.jpg", "*.[pP][nN][gG]"])) == ["a.jpg", "b.PNG", "deep/d.jpg"]


def test_what_is_not_there_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"nowhere is not there; name a file or folder of the control node\.$"):
        gather([f"{tmp_path}/nowhere"])
    with pytest.raises(ReleaseError, match=r"holds no file that matches \*\.jpg\.$"):
        gather([f"{tree(tmp_path, FORMER)}/"], ["*.jpg"])


def test_a_first_drop(drop: Drop, store: Store) -> None:
    said = drop(NEW, check_mode=True)
    assert said["changed"]
    assert not store.path.exists()
    done = drop(NEW)
    assert done == {**said, "invocation": done["invocation"]}
    assert done["former"] == ""
    assert str(store.current.readlink()) == f"releases/{done['release']}"
    assert files_of(store.current.resolve()) == NEW
    assert not drop(NEW)["changed"]
    assert check(str(store.path)) == (True, done["release"], "current points to a whole release")


def test_every_user_reads_a_release_whatever_the_umask(drop: Drop, store: Store) -> None:
    os.umask(0o077)
    drop(NEW)
    modes = {str(p.relative_to(store.path)): stat.S_IMODE(p.stat().st_mode) for p in store.current.resolve().rglob("*")}
    release = store.current.readlink()
    expected = {"handler.py": 0o644, "lib": 0o755, "lib/rows.py": 0o644, "lib/tool": 0o755}
    assert modes == {f"{release}/{name}": mode for name, mode in expected.items()}
    for folder in (store.path.parent, store.path, store.releases, store.current.resolve()):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_forward_and_back_costs_one_transfer(drop: Drop, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    former, new = drop(FORMER)["release"], drop(NEW)["release"]
    monkeypatch.setattr(Store, "unpack", None)
    back = drop(FORMER)
    assert (back["changed"], back["former"], back["release"]) == (True, new, former)
    assert back["diff"]["before"].endswith(f"current -> {new}\n")
    assert back["diff"]["after"].endswith(f"current -> {former}\n")
    assert drop(NEW)["changed"]


def damage_a_byte(release: Path) -> None:
    (release / "handler.py").write_text("neW")


def damage_a_mode(release: Path) -> None:
    (release / "handler.py").chmod(0o755)


def remove_a_file(release: Path) -> None:
    (release / "lib" / "rows.py").unlink()


def add_a_file(release: Path) -> None:
    (release / "lib" / "added.py").write_text("")


def remove_all(release: Path) -> None:
    shutil.rmtree(release)


DAMAGES = [damage_a_byte, damage_a_mode, remove_a_file, add_a_file, remove_all]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_release_is_found_and_replaced(drop: Drop, store: Store, damage: Callable[[Path], None]) -> None:
    release = drop(NEW)["release"]
    damage(store.releases / release)
    ok, found, _ = check(str(store.path))
    assert (ok, found) == (False, f"{release} is missing or was changed")
    assert drop(NEW, check_mode=True)["changed"]
    assert drop(NEW)["changed"]
    assert files_of(store.current.resolve()) == NEW
    assert check(str(store.path))[0]
    assert [path.name for path in store.releases.iterdir()] == [release]


def test_bytecode_written_on_the_device_is_no_damage(drop: Drop, store: Store) -> None:
    drop(NEW)
    tree(store.current.resolve(), {"lib/__pycache__/rows.cpython-311.pyc": "x"})
    assert check(str(store.path))[0]
    assert not drop(NEW)["changed"]


def test_a_folder_in_place_of_the_link_is_left_alone(drop: Drop, store: Store) -> None:
    tree(store.current, {"precious": "mine"})
    refused = drop(NEW)
    sentence = f"{store.current} is no link, and not ours to replace; move it away and run again."
    assert (refused["failed"], refused["msg"]) == (True, sentence)
    assert check(str(store.path))[:2] == (False, sentence)
    assert files_of(store.path) == {"current/precious": "mine"}


def test_without_a_link_there_is_no_release(store: Store) -> None:
    assert check(str(store.path))[:2] == (False, "no link current")


def test_only_so_many_releases_stay_and_the_current_one_always(drop: Drop, store: Store) -> None:
    releases = []
    for number in range(4):
        releases.append(drop({"a": str(number)}, keep=3)["release"])
        os.utime(store.releases / releases[-1], (1000 + number, 1000 + number))
    assert {path.name for path in store.releases.iterdir()} == set(releases[1:])
    drop({"a": "1"}, keep=3)
    said = drop({"a": "1"}, keep=2, check_mode=True)
    assert said["changed"]
    assert len(list(store.releases.iterdir())) == 3
    assert drop({"a": "1"}, keep=2)["changed"]
    assert {path.name for path in store.releases.iterdir()} == {releases[1], releases[3]}
    for keep in (1, 0):
        drop({"a": "1"}, keep=keep)
        assert [path.name for path in store.releases.iterdir()] == [releases[1]]
    assert not drop({"a": "1"}, keep=1)["changed"]


@pytest.mark.parametrize("damage", [damage_a_byte, remove_a_file, add_a_file])
def test_a_damaged_release_goes_though_it_is_not_the_current_one(
    drop: Drop, store: Store, damage: Callable[[Path], None]
) -> None:
    releases = []
    for number in range(3):
        releases.append(drop({**FORMER, "number": str(number)}, keep=3)["release"])
    damage(store.releases / releases[0])
    assert drop({**FORMER, "number": "2"}, keep=3, check_mode=True)["changed"]
    assert drop({**FORMER, "number": "2"}, keep=3)["changed"]
    assert {path.name for path in store.releases.iterdir()} == set(releases[1:])
    assert not drop({**FORMER, "number": "2"}, keep=3)["changed"]


def test_a_damaged_release_takes_no_others_place(drop: Drop, store: Store) -> None:
    releases = []
    for number in range(3):
        releases.append(drop({**FORMER, "number": str(number)}, keep=3)["release"])
        os.utime(store.releases / releases[-1], (1000 + number, 1000 + number))
    damage_a_byte(store.releases / releases[1])
    drop({**FORMER, "number": "2"}, keep=2)
    assert {path.name for path in store.releases.iterdir()} == {releases[0], releases[2]}


def test_a_link_by_the_name_of_a_release_stays(tmp_path: Path, drop: Drop, store: Store) -> None:
    drop(NEW)
    (store.releases / ("0" * 16)).symlink_to(tree(tmp_path / "mine", {"a": "precious"}))
    assert not drop(NEW, keep=1)["changed"]
    assert files_of(tmp_path / "mine") == {"a": "precious"}


def test_what_others_put_beside_the_releases_stays(drop: Drop, store: Store) -> None:
    others = {"backup/a": "mine", "note.txt": "mine", ".by-hand/b": "mine"}
    tree(store.releases, others)
    drop(FORMER, keep=1)
    release = drop(NEW, keep=1)["release"]
    assert files_of(store.releases) == {**others, **{f"{release}/{name}": text for name, text in NEW.items()}}


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as stream:
        for member, data in members:
            member.size = len(data)
            stream.addfile(member, io.BytesIO(data))
    return path


def link(kind: bytes, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo("link")
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("../outside"),
        tarfile.TarInfo("lib/../../outside"),
        tarfile.TarInfo("{tmp}/outside"),
        link(tarfile.SYMTYPE, "/etc"),
        link(tarfile.LNKTYPE, "nothing"),
        link(tarfile.DIRTYPE, ""),
        link(tarfile.FIFOTYPE, ""),
    ],
    ids=lambda member: f"{member.name} {member.linkname}",
)
def test_an_archive_writes_files_inside_its_release_and_nothing_else(
    tmp_path: Path, store: Store, member: tarfile.TarInfo
) -> None:
    member.name = member.name.format(tmp=tmp_path)
    bad = tar(tmp_path / "bad.tar", (tarfile.TarInfo("a"), b"x"), (member, b""))
    refusal = r"^What arrived (holds .*, which no release of ours holds|for .* cannot be read \(.*\)); run again\.$"
    with pytest.raises(ReleaseError, match=refusal):
        store.unpack("0" * 16, bad)
    assert not list(tmp_path.rglob("outside"))
    assert [path.name for path in store.releases.iterdir() if not path.name.startswith(".")] == []


def test_half_an_archive_is_refused_and_the_former_release_stays(tmp_path: Path, drop: Drop, store: Store) -> None:
    drop(FORMER)
    found = content(tmp_path / "new", NEW)
    whole = archive(tmp_path, found).read_bytes()
    broken = tmp_path / "broken.tar"
    end = whole.rindex(b"#!tool") + len(b"#!tool")
    for length in [*range(0, end, 97), end - 1]:
        broken.write_bytes(whole[:length])
        with pytest.raises(ReleaseError, match=r"^What arrived for .*; run again\.$"):
            store.unpack(found.identifier, broken)
        assert not store.holds(found.identifier)
        assert files_of(store.current.resolve()) == FORMER
    assert drop(NEW)["changed"]
    assert files_of(store.current.resolve()) == NEW


def test_an_archive_of_something_else_is_refused(tmp_path: Path, store: Store) -> None:
    with pytest.raises(ReleaseError, match=r"is not what was sent; run again\.$"):
        store.unpack("0" * 16, archive(tmp_path, content(tmp_path / "new", NEW)))
    assert list(store.releases.iterdir()) == []


def test_a_full_card_is_told(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    assert "No space left on device; free space or mend the card, and run again." in drop(NEW)["msg"]


STEPS = ("mkdir", "rename", "chmod", "unlink", "rmdir", "symlink", "fsync")


class Killer:
    """Ends the run before the given step that changes the device; a copy ends after its first byte."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, only_below: Path, step: int) -> None:
        self.left = step
        self.below = str(only_below)
        for name in STEPS:
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))
        real_copy = shutil.copyfileobj

        def copy(source: io.BytesIO, target: io.BytesIO) -> None:
            target.write(source.read(1))
            self._step()
            real_copy(source, target)

        monkeypatch.setattr(shutil, "copyfileobj", copy)

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            descriptor = arguments[0] if isinstance(arguments[0], int) else options.get("dir_fd")
            where = arguments[-1] if descriptor is None else Path(f"/proc/self/fd/{descriptor}").readlink()
            if any(str(part).startswith(self.below) for part in (where, arguments[0])):
                self._step()
            return real(*arguments, **options)

        return call

    def _step(self) -> None:
        if self.left == 0:
            raise PowerLossError
        self.left -= 1


def prepare_virgin(drop: Drop, store: Store) -> None:
    store.path.parent.mkdir()


def prepare_former(drop: Drop, store: Store) -> None:
    drop({"a": "oldest"})
    drop(FORMER)


def prepare_rollback(drop: Drop, store: Store) -> None:
    drop(NEW)
    drop(FORMER)


def prepare_damaged(drop: Drop, store: Store) -> None:
    drop(FORMER)
    damage_a_byte(store.releases / drop(NEW)["release"])


def prepare_damaged_and_not_current(drop: Drop, store: Store) -> None:
    remove_a_file(store.releases / drop(NEW)["release"])
    drop(FORMER)


@pytest.mark.parametrize(
    "prepare",
    [prepare_virgin, prepare_former, prepare_rollback, prepare_damaged, prepare_damaged_and_not_current],
)
def test_a_run_killed_at_any_point_is_healed_by_the_next_one(
    tmp_path: Path, drop: Drop, store: Store, prepare: Callable[[Drop, Store], None]
) -> None:
    for step in itertools.count():
        shutil.rmtree(store.path.parent, ignore_errors=True)
        prepare(drop, store)
        with pytest.MonkeyPatch.context() as patch:
            Killer(patch, store.path.parent, step)
            try:
                drop(NEW, keep=2)
            except PowerLossError:
                killed = True
            else:
                killed = False
        if prepare is not prepare_damaged:
            # Whoever reads meanwhile gets the former release or the new one, whole.
            ok, found, _ = check(str(store.path))
            assert ok or (prepare is prepare_virgin and found == "no link current"), step
            if ok:
                assert files_of(store.current.resolve()) in (FORMER, NEW)
        if prepare in (prepare_virgin, prepare_former, prepare_rollback) and store.releases.is_dir():
            # What has a release's name is whole, the one that is being added or removed too.
            assert all(store.holds(path.name) for path in store.releases.glob("[!.]*")), step
        drop(NEW, keep=2)
        assert files_of(store.current.resolve()) == NEW, step
        assert check(str(store.path))[0], step
        assert sorted(path.name for path in store.path.iterdir()) == ["current", "releases"], step
        left = [path.name for path in store.releases.iterdir()]
        assert len(left) == (1 if prepare is prepare_virgin else 2), step
        assert all(store.holds(name) for name in left), step
        assert not drop(NEW, keep=2)["changed"], step
        if not killed:
            break
    assert step > 2
