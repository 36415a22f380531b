"""The journal: what was accepted is found again, in order; what is damaged is set aside and said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from localcore.journal import Journal, Record


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def opened(folder: Path) -> Journal:
    journal = Journal(folder)
    journal.load()
    return journal


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_records_are_found_again_in_order(folder: Path) -> None:
    journal = opened(folder)
    numbers = [journal.add("waiting", {"id": str(number)}, bytes([number]) * number) for number in range(12)]
    records, damaged = Journal(folder).load()
    assert numbers == sorted(numbers)
    assert damaged == []
    assert records == [
        Record(numbers[number], "waiting", {"id": str(number)}, bytes([number]) * number) for number in range(12)
    ]


@settings(deadline=None)
@given(fields=st.dictionaries(st.text(), st.none() | st.text() | st.integers()), payload=st.binary())
def test_whatever_is_added_comes_back(fields: dict[str, Any], payload: bytes, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("journal")
    sequence = opened(folder).add("outgoing", fields, payload)
    assert Journal(folder).load() == ([Record(sequence, "outgoing", fields, payload)], [])


def test_the_sequence_goes_on_after_a_restart(folder: Path) -> None:
    first = opened(folder).add("waiting", {}, b"")
    assert opened(folder).add("waiting", {}, b"") == first + 1


def test_states_follow_each_other_and_leave_one_file(folder: Path) -> None:
    journal = opened(folder)
    sequence = journal.add("waiting", {"id": "a"}, b"asked")
    journal.move(sequence, "waiting", "started-123")
    assert Journal(folder).load()[0] == [Record(sequence, "started-123", {"id": "a"}, b"asked")]
    journal.replace(sequence, "started-123", "done", {"id": "a", "error": ""}, b"answered")
    assert len(names(folder)) == 1
    assert Journal(folder).load()[0] == [Record(sequence, "done", {"id": "a", "error": ""}, b"answered")]
    journal.remove(sequence, "done")
    journal.remove(sequence, "done")
    assert names(folder) == []


def test_of_two_states_that_a_kill_leaves_the_answer_counts(folder: Path) -> None:
    journal = opened(folder)
    sequence = journal.add("started-5", {}, b"asked")
    journal._write(sequence, "done", {}, b"answered")
    records, _ = Journal(folder).load()
    assert [(record.state, record.payload) for record in records] == [("done", b"answered")]
    assert len(names(folder)) == 1


def test_what_was_being_written_was_never_accepted(folder: Path) -> None:
    opened(folder)
    (folder / "000000000001.part").write_bytes(b"{")
    assert Journal(folder).load() == ([], [])
    assert names(folder) == []


@pytest.mark.parametrize("content", [b"", b"\n", b"{}\n", b"00000000\n{}\n", b"\xff\n"])
def test_a_damaged_file_is_set_aside_and_the_rest_is_found(folder: Path, content: bytes) -> None:
    journal = opened(folder)
    sequences = [journal.add("waiting", {}, b"x") for _ in range(3)]
    (folder / f"{sequences[1]:012d}.waiting").write_bytes(content)
    records, damaged = Journal(folder).load()
    assert [record.sequence for record in records] == [sequences[0], sequences[2]]
    assert damaged == [f"{sequences[1]:012d}.waiting"]
    assert (folder / "damaged" / damaged[0]).read_bytes() == content
    assert Journal(folder).load()[1] == []


@settings(deadline=None)
@given(cut=st.integers(0, 200), flip=st.integers(0, 7))
def test_a_file_that_is_cut_or_changed_anywhere_does_no_harm(cut: int, flip: int, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("journal")
    sequence = opened(folder).add("waiting", {"id": "a", "context": {"custom": {}}}, b"payload" * 10)
    path = folder / f"{sequence:012d}.waiting"
    whole = path.read_bytes()
    broken = bytearray(whole)
    broken[cut % len(whole)] ^= 1 << flip
    for content in (whole[: cut % len(whole)], bytes(broken)):
        path.write_bytes(content)
        records, damaged = Journal(folder).load()
        assert (records, damaged) == ([], [path.name])


def test_a_file_with_another_name_is_set_aside(folder: Path) -> None:
    opened(folder)
    (folder / "notes.txt").write_text("x")
    assert Journal(folder).load() == ([], ["notes.txt"])


def test_a_full_disk_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened(folder)

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        journal.add("waiting", {}, b"x")
    assert names(folder) == []


def test_nobody_else_reads_the_journal(folder: Path) -> None:
    opened(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
