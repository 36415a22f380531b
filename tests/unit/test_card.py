"""The boot partition of a card: what image is there, what a user wrote, and the one line of cmdline.txt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edge.pi_fleet.plugins.action import card as action
from ansible_collections.edge.pi_fleet.plugins.module_utils.card import RUN, Card, CardError
from ansible_collections.edge.pi_fleet.plugins.module_utils.first_boot import MARK
from fake_action import make

LINE = "console=tty1 root=PARTUUID=6c586e13-02 rootwait"
TRIXIE = {
    MARK: "# pi-1\n",
    "ssh": "",
    "user-data": "#cloud-config\nhostname: pi-1\n",
    "network-config": "network: {version: 2}\n",
    "meta-data": "instance-id: pi-fleet-pi-1\n",
}
BOOKWORM = {MARK: "# pi-1\n", "ssh": "", "userconf.txt": "pi:*\n", "firstrun.sh": "#!/bin/bash\nexit 0\n"}
SEEDS = {"trixie": TRIXIE, "bookworm": BOOKWORM}
STOCK = {
    "user-data": "#cloud-config\n\n# Comments, as an image has them.\n#hostname: raspberrypi\nssh_pwauth: false\n",
    "meta-data": "# More.\ndsmode: local\ninstance_id: rpios-image\n",
    "network-config": "network:\n  version: 2\n  ethernets:\n    eth0: {dhcp4: true, optional: true}\n# wifis:\n",
    "cmdline.txt": f"{LINE}\n",
}


def fill(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).write_text(text)


def write(folder: Path, check_mode: bool = False, **arguments: Any) -> dict[str, Any]:
    plugin = make(action.ActionModule, {"path": str(folder), "seeds": SEEDS, **arguments})
    plugin._task.check_mode = check_mode
    result: dict[str, Any] = plugin.run(task_vars={})
    return result


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_an_image_with_cloud_init_gets_its_seed(tmp_path: Path) -> None:
    fill(tmp_path, STOCK)
    result = write(tmp_path)
    assert (result["changed"], result["release"], result["written"]) == (True, "trixie", sorted(TRIXIE))
    assert contents(tmp_path) == {**TRIXIE, "cmdline.txt": STOCK["cmdline.txt"]}
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir() if path.name in TRIXIE} == {0}
    assert not write(tmp_path)["changed"]


def test_an_image_without_gets_a_script_and_a_line_that_starts_it(tmp_path: Path) -> None:
    fill(tmp_path, {"cmdline.txt": f"{LINE}\n"})
    result = write(tmp_path, cmdline="cfg80211.ieee80211_regdom=DE")
    assert (result["changed"], result["release"]) == (True, "bookworm")
    wanted = f"{LINE} cfg80211.ieee80211_regdom=DE {' '.join(RUN)}\n"
    assert contents(tmp_path) == {**BOOKWORM, "cmdline.txt": wanted}
    assert (tmp_path / "firstrun.sh").stat().st_mode & 0o777 == 0o700
    assert not write(tmp_path, cmdline="cfg80211.ieee80211_regdom=DE")["changed"]


@pytest.mark.parametrize("text", [LINE, f"{LINE}\n", f"{LINE}\n\n", f" {LINE}  \n"])
def test_the_kernels_command_line_stays_one_line(tmp_path: Path, text: str) -> None:
    fill(tmp_path, {"cmdline.txt": text})
    write(tmp_path)
    assert (tmp_path / "cmdline.txt").read_text() == f"{LINE} {' '.join(RUN)}\n"


def test_check_mode_writes_nothing(tmp_path: Path) -> None:
    fill(tmp_path, STOCK)
    result = write(tmp_path, check_mode=True)
    assert result["changed"]
    assert result["diff"]["after"].split() == sorted(TRIXIE)
    assert contents(tmp_path) == STOCK


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("user-data", "#cloud-config\nhostname: mine\n"),
        ("user-data", "#cloud-config\nssh_pwauth: true\n"),
        ("user-data", "#cloud-config\n- [\n"),
        ("user-data", "just words\n"),
        ("network-config", "network:\n  version: 2\n  wifis: {wlan0: {dhcp4: true}}\n"),
        ("meta-data", "instance-id: rpi-imager-1\n"),
        ("ssh", "something"),
    ],
)
def test_what_a_user_wrote_is_not_overwritten(tmp_path: Path, name: str, text: str) -> None:
    before = {**STOCK, name: text}
    fill(tmp_path, before)
    result = write(tmp_path)
    assert result["failed"]
    assert f"{tmp_path} holds {name}, which neither its image nor pi-fleet wrote" in result["msg"]
    assert contents(tmp_path) == before
    assert write(tmp_path, replace=True)["changed"]
    assert (tmp_path / name).read_text() == TRIXIE[name]


def test_a_customised_bookworm_is_not_overwritten(tmp_path: Path) -> None:
    before = {"cmdline.txt": f"{LINE} systemd.run=/boot/mine.sh\n"}
    fill(tmp_path, before)
    assert "starts a script of its own at the first boot: flash the card again" in write(tmp_path)["msg"]
    fill(tmp_path, {"userconf.txt": "me:hash\n"})
    assert "holds userconf.txt, which neither" in write(tmp_path)["msg"]
    assert contents(tmp_path) == {**before, "userconf.txt": "me:hash\n"}


def test_a_card_of_pi_fleets_own_is_written_anew(tmp_path: Path) -> None:
    fill(tmp_path, {**STOCK, MARK: "# pi-2\n", "user-data": "#cloud-config\nhostname: pi-2\n"})
    assert write(tmp_path)["changed"]
    assert contents(tmp_path)["user-data"] == TRIXIE["user-data"]


def test_a_folder_needs_to_know_its_image(tmp_path: Path) -> None:
    assert "is no boot partition of Raspberry Pi OS" in write(tmp_path)["msg"]
    assert "holds no cmdline.txt: copy the card's own there" in write(tmp_path, release="bookworm")["msg"]
    assert contents(tmp_path) == {}
    assert write(tmp_path, release="trixie")["release"] == "trixie"
    assert contents(tmp_path) == TRIXIE


def test_what_starts_the_first_boot_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(
        "ansible_collections.edge.pi_fleet.plugins.module_utils.card.write_text",
        lambda path, text, mode=None: order.append(path.name),
    )
    Card(tmp_path).write(TRIXIE, list(TRIXIE))
    assert (order[0], order[-1]) == (MARK, "meta-data")
    order.clear()
    files = {"cmdline.txt": "x\n", **BOOKWORM}
    Card(tmp_path).write(files, list(files))
    assert (order[0], order[-1]) == (MARK, "cmdline.txt")


def test_errors_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"\.$"):
        Card(tmp_path).release()
