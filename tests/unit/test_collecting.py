"""Collecting on the control node: once, whole, never over another picture, continued after a kill at any point."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ansible_collections.edge.pi_fleet.plugins.module_utils import collecting
from ansible_collections.edge.pi_fleet.plugins.module_utils.collecting import CollectError, Collector, Ledger, lock
from ansible_collections.edge.pi_fleet.plugins.module_utils.field_data import FieldData, Listing, Signature

DAYS = 86400


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class KilledError(Exception):
    """Plays a kill."""


@dataclass
class Pi:
    """Plays the device with a folder, and counts what is moved."""

    folder: Path
    moved: list[str] = field(default_factory=list)
    damaged: set[str] = field(default_factory=set)
    """Pictures that arrive with other bytes, once."""
    calls: int = 0
    kill_at: int = -1
    check_mode: bool = False

    def _call(self) -> None:
        self.calls += 1
        if self.calls == self.kill_at:
            raise KilledError

    def look(self) -> Listing:
        self._call()
        return FieldData(self.folder).find(0)

    def sums(self, names: Sequence[str]) -> tuple[dict[str, tuple[str, Signature]], dict[str, str]]:
        self._call()
        return FieldData(self.folder).sums(names)

    def pull(self, names: Sequence[str], folder: Path, lock: int) -> None:
        for name in names:
            if (self.folder / name).exists():
                self._call()
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.folder / name, folder / name)
                self.moved.append(name)
                if name in self.damaged:
                    (folder / name).write_bytes(b"damaged")
                    self.damaged.remove(name)

    def remove(self, sums: Mapping[str, str]) -> tuple[Sequence[str], dict[str, str]]:
        self._call()
        return FieldData(self.folder).remove(sums, self.check_mode)

    def write(self, name: str, data: bytes, days: float = 10) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        os.utime(path, ns=(0, path.stat().st_mtime_ns - int(days * DAYS * 1e9)))
        return path


@pytest.fixture
def pi(tmp_path: Path) -> Pi:
    folder = tmp_path / "device"
    folder.mkdir()
    return Pi(folder)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "control" / "field_data" / "roof-1"


def collector(pi: Pi, here: Path, again: bool = False, check_mode: bool = False) -> Collector:
    pi.check_mode = check_mode
    return Collector("roof-1", here, here.parents[1] / "labeled", pi, print, again, check_mode)


def pictures(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".collect" not in path.parts
    }


def test_a_second_collection_moves_nothing(pi: Pi, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pi.write("1_clutter_0.5.jpg", b"one")
    pi.write("belt/2.jpg", b"two")
    first = collector(pi, here).collect()
    assert (first.collected, first.size, first.had, first.left) == (["1_clutter_0.5.jpg", "belt/2.jpg"], 6, 0, {})
    assert pictures(here) == pictures(pi.folder)
    assert capsys.readouterr().out == "roof-1: 2 of 2 pictures, 0.0 MiB moved\n"
    for folder in (here, here.parent, here / "belt", here / ".collect"):
        assert folder.stat().st_mode & 0o077 == 0
    pi.calls = 0
    second = collector(pi, here).collect()
    assert (second.collected, second.size, second.had) == ([], 0, 2)
    assert pi.calls == 1, "one look at the device is all that it takes"
    assert len(pi.moved) == 2


def test_check_mode_says_what_it_would_collect_and_writes_nothing(pi: Pi, here: Path) -> None:
    pi.write("1.jpg", b"one")
    assert collector(pi, here, check_mode=True).collect().collected == ["1.jpg"]
    assert not here.exists()


def test_what_is_moved_away_is_not_collected_again_unless_all_is_wanted(pi: Pi, here: Path) -> None:
    for name in ("labelled.jpg", "thrown.jpg", "kept.jpg"):
        pi.write(name, name.encode())
    collector(pi, here).collect()
    category = here.parents[1] / "labeled" / "clutter"
    category.mkdir(parents=True)
    (here / "labelled.jpg").rename(category / "labelled.jpg")
    (here / "thrown.jpg").unlink()
    # Touched: asked for its sum, and not moved.
    (pi.folder / "thrown.jpg").chmod(0o600)
    assert collector(pi, here).collect().collected == []
    assert pictures(here).keys() == {"kept.jpg"}
    assert collector(pi, here, again=True).collect().collected == ["thrown.jpg"]
    assert pictures(here).keys() == {"kept.jpg", "thrown.jpg"}


def test_a_picture_that_is_renamed_there_is_renamed_here(pi: Pi, here: Path) -> None:
    capture = pi.write("17.jpg", b"capture")
    pi.write("18.jpg", b"capture")
    collector(pi, here).collect()
    capture.rename(capture.with_name("17_clutter_0.5.jpg"))
    report = collector(pi, here).collect()
    assert (report.renamed, report.collected, len(pi.moved)) == (1, [], 2)
    assert pictures(here) == pictures(pi.folder)
    assert Ledger.load(here).entries.keys() == {"17_clutter_0.5.jpg", "18.jpg"}


def test_a_renamed_picture_that_was_labelled_stays_where_it_is(pi: Pi, here: Path) -> None:
    capture = pi.write("17.jpg", b"capture")
    collector(pi, here).collect()
    category = here.parents[1] / "labeled" / "clutter"
    category.mkdir(parents=True)
    (here / "17.jpg").rename(category / "17.jpg")
    capture.rename(capture.with_name("17_clutter_0.5.jpg"))
    collector(pi, here).collect()
    assert pictures(here) == {}
    entry = Ledger.load(here).entries["17_clutter_0.5.jpg"]
    assert collector(pi, here).find(entry) == category / "17.jpg"


def test_another_picture_of_the_same_name_is_kept_beside(pi: Pi, here: Path) -> None:
    pi.write("1.jpg", b"one")
    collector(pi, here).collect()
    pi.write("1.jpg", b"two")
    report = collector(pi, here).collect()
    beside = f"1-{digest(b'two')[:8]}.jpg"
    assert report.beside == {"1.jpg": beside}
    assert pictures(here) == {"1.jpg": b"one", beside: b"two"}
    assert collector(pi, here).collect().collected == []


def test_where_both_names_are_taken_it_stops_and_loses_nothing(pi: Pi, here: Path) -> None:
    pi.write("1.jpg", b"two")
    here.mkdir(parents=True)
    (here / "1.jpg").write_bytes(b"mine")
    (here / f"1-{digest(b'two')[:8]}.jpg").write_bytes(b"mine, too")
    with pytest.raises(CollectError, match="is not what its name says: look at it, move it away"):
        collector(pi, here).collect()
    assert set(pictures(here).values()) == {b"mine", b"mine, too"}


def test_what_arrives_damaged_is_asked_for_again(pi: Pi, here: Path) -> None:
    pi.write("1.jpg", b"one")
    pi.damaged = {"1.jpg"}
    assert collector(pi, here).collect().left == {}
    assert pictures(here) == {"1.jpg": b"one"}
    assert pi.moved == ["1.jpg", "1.jpg"]


def test_what_is_written_is_left(pi: Pi, here: Path) -> None:
    path = pi.write("1.jpg", b"half")
    with path.open("ab") as stream:
        report = collector(pi, here).collect()
        assert report.left == {"1.jpg": "is being written"}
        assert pictures(here) == {}
        stream.write(b" and half")
    assert collector(pi, here).collect().collected == ["1.jpg"]
    assert pictures(here) == {"1.jpg": b"half and half"}


def test_a_run_that_is_killed_anywhere_is_continued(pi: Pi, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "BATCH_PICTURES", 2)
    for number in range(5):
        pi.write(f"{number}.jpg", f"picture {number}".encode())
    for moment in range(1, 20):
        pi.calls, pi.kill_at = 0, moment
        try:
            collector(pi, here).collect()
            break
        except KilledError:
            assert pictures(here).items() <= pictures(pi.folder).items()
        # Between a picture's name and the ledger.
        ledger = here / ".collect" / "ledger.json"
        if moment == 9:
            ledger.unlink()
    pi.kill_at = -1
    collector(pi, here).collect()
    assert pictures(here) == pictures(pi.folder)
    assert Ledger.load(here).standing().keys() == pictures(pi.folder).keys()
    assert not any(path.is_file() for path in (here / ".collect" / "incoming").rglob("*"))


def test_only_what_is_old_and_here_is_removed_there(pi: Pi, here: Path) -> None:
    for name, days in (("old.jpg", 10), ("labelled.jpg", 10), ("thrown.jpg", 10), ("edited.jpg", 10), ("new.jpg", 6)):
        pi.write(name, name.encode(), days)
    collector(pi, here).collect()
    pi.write("uncollected.jpg", b"uncollected")
    category = here.parents[1] / "labeled" / "clutter"
    category.mkdir(parents=True)
    (here / "labelled.jpg").rename(category / "labelled.jpg")
    (here / "thrown.jpg").unlink()
    (here / "edited.jpg").write_bytes(b"edited")
    why = "is not on the control node any more"
    for check_mode in (True, False):
        report = collector(pi, here, check_mode=check_mode).prune(7)
        assert sorted(report.pruned) == ["labelled.jpg", "old.jpg"]
        assert report.kept == {"thrown.jpg": why, "edited.jpg": why}
        assert (pi.folder / "old.jpg").exists() is check_mode
    assert pictures(pi.folder).keys() == {"thrown.jpg", "edited.jpg", "new.jpg", "uncollected.jpg"}
    assert Ledger.load(here).entries["old.jpg"].pruned
    assert Ledger.load(here).standing().keys() == {"thrown.jpg", "edited.jpg", "new.jpg"}
    assert collector(pi, here).prune(7).pruned == []


def test_a_picture_that_was_changed_after_it_was_collected_stays_there(pi: Pi, here: Path) -> None:
    pi.write("1.jpg", b"one")
    collector(pi, here).collect()
    pi.write("1.jpg", b"two")
    report = collector(pi, here).prune(7)
    assert (report.pruned, report.kept) == ([], {"1.jpg": "is not what was collected"})
    assert pictures(pi.folder) == {"1.jpg": b"two"}


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"looked": 1, "pictures": {"1.jpg": {}}}', '{"looked": 1, "pictures": [1]}']
)
def test_a_damaged_ledger_is_named(pi: Pi, here: Path, text: str) -> None:
    collector(pi, here).collect()
    (here / ".collect" / "ledger.json").write_text(text)
    with pytest.raises(CollectError, match=r"ledger.json cannot be read \(.*\): move it away"):
        collector(pi, here).collect()


@pytest.mark.parametrize("name", ["../evil.jpg", ".collect/ledger.json", "/etc/passwd"])
def test_a_device_that_names_what_is_elsewhere_is_refused(
    pi: Pi, here: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pi, "look", lambda: Listing({name: (1, 2, 3, 4)}))
    with pytest.raises(CollectError, match="as no picture is named"):
        collector(pi, here).collect()


def test_two_runs_do_not_collect_into_one_folder(pi: Pi, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collector(pi, here).collect()
    monkeypatch.setattr("time.sleep", lambda _: None)
    with lock(here, "roof-1") as handle, pytest.raises(CollectError, match="Another run collects from roof-1"):
        fcntl.flock(handle, fcntl.LOCK_EX)
        collector(pi, here).collect()
    collector(pi, here).collect()


def test_a_picture_of_another_size_than_the_device_says_is_not_taken(
    pi: Pi, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pi.write("1.jpg", b"picture")
    monkeypatch.setattr(pi, "sums", lambda names: ({name: (digest(b"picture"), (1, 3, 1, 1)) for name in names}, {}))
    report = collector(pi, here).collect()
    assert (report.collected, report.left) == ([], {"1.jpg": "changed meanwhile"})
    assert pictures(here) == {}
