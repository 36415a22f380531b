"""What is known of a card before it is written, and what goes back onto the next one."""

from __future__ import annotations

import grp
import os
import pwd
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.edge.pi_fleet.plugins.action.reimage import ActionModule
from ansible_collections.edge.pi_fleet.plugins.module_utils import field_data
from ansible_collections.edge.pi_fleet.plugins.module_utils.collecting import CollectError, Ledger
from ansible_collections.edge.pi_fleet.plugins.module_utils.field_data import FieldData
from ansible_collections.edge.pi_fleet.plugins.module_utils.reimaging import (
    ARCHIVE,
    DONE,
    READY,
    State,
    begin,
    finish,
    lost,
    put_back,
    rescued,
)
from fake_action import make
from test_collecting import Pi, collector, digest, pictures


@pytest.fixture
def pi(tmp_path: Path) -> Pi:
    (tmp_path / "device").mkdir()
    return Pi(tmp_path / "device")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "control" / "field_data" / "roof-1"


@pytest.fixture
def owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have pictures belong to whoever runs the tests."""
    monkeypatch.setattr(field_data, "OWNER", pwd.getpwuid(os.getuid()).pw_name)
    monkeypatch.setattr(field_data, "GROUP", grp.getgrgid(os.getgid()).gr_name)


def put(pi: Pi, tmp_path: Path, batch: Mapping[str, Path]) -> dict[str, str]:
    """Put pictures back as the action does."""
    archive = tmp_path / "pictures.tar"
    with tarfile.open(archive, "w") as tar:
        for name, path in batch.items():
            tar.add(path, arcname=name)
    return FieldData(pi.folder).put(archive)[1]


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert State.load(tmp_path) is None
    state = State(READY, "machine", 1.5, {"1.jpg": "aa"}, {"/etc/hosts": "bb"})
    state.save(tmp_path)
    assert State.load(tmp_path) == state
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(CollectError, match=r"state.json cannot be read .* begin with reimage_step=before"):
        State.load(tmp_path)


def test_another_card_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    begin("roof-1", tmp_path, "")
    State(READY, "old", 0).save(tmp_path)
    begin("roof-1", tmp_path, "old")
    with pytest.raises(
        CollectError, match=r"roof-1 has another card than the one that .* is about: bring it to its end"
    ):
        begin("roof-1", tmp_path, "new")
    State(DONE, "old", 0).save(tmp_path)
    begin("roof-1", tmp_path, "new")


def test_the_old_card_is_not_taken_for_another_one(tmp_path: Path) -> None:
    with pytest.raises(CollectError, match="Nothing is known of the card that roof-1 had: run reimage_step=before"):
        finish("roof-1", tmp_path, "new")
    State(READY, "old", 0).save(tmp_path)
    with pytest.raises(CollectError, match="roof-1 still has the card that it had: write the card anew"):
        finish("roof-1", tmp_path, "old")
    assert finish("roof-1", tmp_path, "new").step == READY


def test_all_must_be_here_before_a_card_is_written(pi: Pi, here: Path) -> None:
    pi.write("1.jpg", b"one")
    pi.write("belt/2.jpg", b"two")
    collecting = collector(pi, here, again=True)
    collecting.collect()
    assert rescued(collecting) == {"1.jpg": digest(b"one"), "belt/2.jpg": digest(b"two")}
    pi.write("3.jpg", b"three")
    with pytest.raises(
        CollectError, match=r"not ready to be flashed, as 1 of its pictures are not here \(3.jpg is new\)"
    ):
        rescued(collecting)
    collecting.collect()
    (here / "1.jpg").write_bytes(b"one, edited")
    with pytest.raises(CollectError, match=r"1.jpg is not on the control node\): stop what writes them"):
        rescued(collecting)
    collecting.collect()
    assert len(rescued(collecting)) == 3


@pytest.mark.usefixtures("owner")
def test_pictures_go_back_and_are_not_collected_again(pi: Pi, here: Path, tmp_path: Path) -> None:
    for name in ("1.jpg", "belt/2.jpg", "labelled.jpg", "thrown.jpg", "taken.jpg"):
        pi.write(name, name.encode())
    collecting = collector(pi, here, again=True)
    collecting.collect()
    wanted, before = rescued(collecting), pictures(pi.folder)
    times = {path.name: path.stat().st_mtime_ns for path in pi.folder.rglob("*.jpg")}
    category = here.parents[1] / "labeled" / "clutter"
    category.mkdir(parents=True)
    (here / "labelled.jpg").rename(category / "labelled.jpg")
    (here / "thrown.jpg").unlink()
    pi.folder.rename(tmp_path / "old")
    pi.folder.mkdir()
    pi.write("taken.jpg", b"by the new card")
    # What a killed run left.
    (pi.folder / ".1.jpg.part").write_bytes(b"half")

    moved, left = put_back(collecting, wanted, lambda batch: put(pi, tmp_path, batch))
    assert moved == 3
    assert left == {
        "thrown.jpg": "is not put back, as it is not on the control node any more",
        "taken.jpg": "is not put back, as the device has another picture of this name",
    }
    found = pictures(pi.folder)
    assert found.pop("taken.jpg") == b"by the new card"
    assert found == {name: data for name, data in before.items() if name not in left}
    assert (pi.folder / "1.jpg").stat().st_mode & 0o777 == 0o660
    assert (pi.folder / "belt").stat().st_mode & 0o7777 == 0o2770
    assert abs((pi.folder / "1.jpg").stat().st_mtime_ns - times["1.jpg"]) < 1e9

    assert put_back(collecting, wanted, lambda batch: put(pi, tmp_path, batch))[0] == 0
    pi.moved.clear()
    assert collector(pi, here).collect().collected == ["taken.jpg"]
    assert pi.moved == ["taken.jpg"]


@pytest.mark.usefixtures("owner")
def test_a_picture_that_arrives_damaged_is_noticed(pi: Pi, here: Path, tmp_path: Path) -> None:
    pi.write("1.jpg", b"one")
    collecting = collector(pi, here)
    collecting.collect()
    wanted = rescued(collecting)
    (pi.folder / "1.jpg").unlink()

    def damage(batch: Mapping[str, Path]) -> dict[str, str]:
        pi.write("1.jpg", b"damaged")
        return {}

    with pytest.raises(CollectError, match=r"1 pictures are not on the card as they were \(1.jpg\): run again"):
        put_back(collecting, wanted, damage)


@pytest.mark.usefixtures("owner")
def test_nothing_is_put_where_a_link_leads(pi: Pi, tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.mkdir()
    (pi.folder / "belt").symlink_to(away)
    (tmp_path / "picture").write_bytes(b"picture")
    with pytest.raises(OSError, match=r"[Nn]ot a directory|[Tt]oo many levels"):
        put(pi, tmp_path, {"belt/1.jpg": tmp_path / "picture"})
    assert not list(away.iterdir())


def test_of_a_dead_card_is_said_what_is_known(pi: Pi, here: Path, tmp_path: Path) -> None:
    collecting = collector(pi, here)
    state, said = lost(collecting, tmp_path / "reimage")
    assert state.pictures == {}
    assert said == (
        "nothing was ever collected from roof-1; no file was ever kept. What came onto the card after that, nobody can"
        " know."
    )
    for name in ("1.jpg", "2.jpg", "thrown.jpg"):
        pi.write(name, name.encode())
    collecting.collect()
    (here / "thrown.jpg").unlink()
    ledger = Ledger.load(here)
    ledger.looked = 1_700_000_000
    ledger.save()
    State(DONE, "old", 0, {}, {"/etc/hosts": "aa"}).save(tmp_path)
    state, said = lost(collecting, tmp_path)
    assert state.step == READY
    with pytest.raises(CollectError, match="roof-1 has another card"):
        state.save(tmp_path)
        begin("roof-1", tmp_path, "")
    assert finish("roof-1", tmp_path, "") == state
    assert state.pictures == {name: digest(name.encode()) for name in ("1.jpg", "2.jpg")}
    assert state.kept == {"/etc/hosts": "aa"}
    assert said.startswith(
        "of the 3 pictures that roof-1 had at its last collection (2023-11-14 22:13 UTC), 2 are here and verified; 1"
        " files of reimage_keeps are from its last reimaging."
    )


def test_what_was_not_to_be_kept_is_not_put_back(here: Path, tmp_path: Path) -> None:
    state = tmp_path / "reimage"
    state.mkdir()
    State(READY, "old", 0, {}, {"/etc/sudoers.d/zz": digest(b"")}).save(state)
    with tarfile.open(state / ARCHIVE, "w") as tar:
        tar.addfile(tarfile.TarInfo("etc/sudoers.d/zz"))
    given = {"step": "put_back", "state_path": str(state), "keeps": ["/home/pi/notes"], "path": str(here)}
    plugin = make(ActionModule, {**given, "labeled_path": str(here), "key": "key"}, module={"card": "new"})
    with pytest.raises(AnsibleActionFail, match=r"holds /etc/sudoers.d/zz, which is not in reimage_keeps"):
        plugin.run(task_vars={"inventory_hostname": "roof-1"})
    plugin._transfer_file.assert_not_called()
