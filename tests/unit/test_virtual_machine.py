"""Virtual Pis with a kernel of their own: what they start from, their power, and where they answer. See scenario vm."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.edge.pi_fleet.plugins.module_utils.virtual_machine import (
    BOARDS,
    Board,
    Card,
    Machine,
    has_power,
    remove,
    with_kernel,
)
from ansible_collections.edge.pi_fleet.plugins.module_utils.virtual_pi import (
    Engine,
    Host,
    Image,
    Instance,
    VirtualPiError,
)
from ansible_collections.edge.pi_fleet.plugins.modules import virtual_machine as module

ROLE = Path(__file__).resolve().parents[2] / "roles" / "virtual_pi" / "files"


@pytest.fixture
def card(tmp_path: Path) -> Card:
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    (recipe / "packages.txt").write_text("systemd\n")
    files = tmp_path / "files"
    files.mkdir()
    (files / "fstab").write_text("/dev/vda / ext4\n")
    image = with_kernel(Image(recipe, "bookworm", "armhf", "http://mirror.example/debian", ("mosquitto",)))
    return Card(image, files, tmp_path / "cards")


@pytest.fixture
def machine(card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A machine whose processor is a shell that notes what the kernel is told, and runs until it is killed."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "mtype").write_text("#!/bin/sh\ncat cmdline.txt\n")
    (tools / "processor").write_text(
        '#!/bin/sh\nwhile [ "$1" != -pidfile ]; do shift; done\necho "$4" >>told\nexec sleep 60\n'
    )
    for tool in tools.iterdir():
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setitem(BOARDS, "armhf", Board("linux", ("processor",), "ttyX"))
    folder = tmp_path / "machines" / "pi"
    folder.mkdir(parents=True)
    (folder / "port").write_text("2201")
    (folder / "cmdline.txt").write_text("console=tty1 root=PARTUUID=1 cgroup_enable=memory\r\n")
    made = Machine(Instance("fleet", "pi", card.image.name, "SHA256:key"), card, folder, ROLE / "power.sh")
    yield made
    if folder.exists():
        remove(folder)


def told(machine: Machine, times: int) -> list[str]:
    """Return what the kernel was told, when it was told so many times."""
    for _ in range(500):
        lines = (machine.folder / "told").read_text().splitlines() if (machine.folder / "told").exists() else []
        if len(lines) >= times:
            return lines
        time.sleep(0.02)
    raise AssertionError("it did not start")


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_kernel_is_told_what_the_firmware_would_and_power_comes_back(machine: Machine) -> None:
    machine.start()
    assert told(machine, 1) == ["console=tty1 root=PARTUUID=1 cgroup_enable=memory root=/dev/vda console=ttyX"]
    assert has_power(machine.folder)
    (machine.folder / "cmdline.txt").write_text("quiet\n")
    os.kill(children(int((machine.folder / "supply").read_text()))[0], 9)
    assert told(machine, 2)[1] == "quiet root=/dev/vda console=ttyX"


def test_one_that_is_removed_is_gone_with_its_processor(machine: Machine) -> None:
    machine.start()
    told(machine, 1)
    (processor,) = children(int((machine.folder / "supply").read_text()))
    remove(machine.folder)
    assert not machine.folder.exists()
    for _ in range(100):
        if not Path(f"/proc/{processor}").exists() or "Z" in Path(f"/proc/{processor}/stat").read_text().split()[2]:
            return
        time.sleep(0.02)
    raise AssertionError("its processor goes on")


def test_it_answers_with_the_key_that_it_wrote_on_its_console(machine: Machine) -> None:
    with pytest.raises(VirtualPiError, match=r"^it has not told its host key on .*console\.log$"):
        machine.connection()
    machine.console.write_text("[  OK  ] Started\nhost key: ssh-ed25519 AAAA root@pi\n")
    found = machine.connection()
    assert (found.name, found.port, found.host_key) == ("pi", 2201, "ssh-ed25519 AAAA")


def test_without_power_it_says_so(machine: Machine) -> None:
    assert not has_power(machine.folder)
    (machine.folder / "supply").write_text("no number")
    assert not has_power(machine.folder)


def test_what_it_starts_from_is_known_by_its_content(card: Card) -> None:
    assert "linux-image-armmp-lpae" in card.image.packages
    assert "mosquitto" in card.image.packages
    before = card.folder
    assert before == Card(card.image, card.files, card.cache).folder
    (card.files / "fstab").write_text("/dev/vda / ext4 ro\n")
    assert card.folder != before


def test_one_of_another_card_or_for_another_key_is_not_as_wanted(machine: Machine) -> None:
    assert not machine.is_as_wanted()
    (machine.folder / "made").write_text(f"{machine.card.folder} SHA256:key")
    assert machine.is_as_wanted()
    (machine.folder / "made").write_text(f"{machine.card.folder} SHA256:other")
    assert not machine.is_as_wanted()


def test_check_mode_says_what_it_would_make_before_there_is_a_key(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Host, "detect", lambda: Host("armhf", hybrid_cgroups=False, nofile_limit=1048576))
    monkeypatch.setattr(Engine, "find", lambda wanted, host: Engine("podman", host))
    paths = {"recipe": card.image.recipe, "files": card.files, "cards": card.cache, "power": ROLE / "power.sh"}
    wanted = {
        **{name: str(path) for name, path in paths.items()},
        "fleet": "fleet",
        "directory": str(tmp_path / "machines"),
        "instances": [{"name": "pi", "release": "bookworm"}],
        "mirror": card.image.mirror,
        "private_key": str(tmp_path / "missing"),
        "_ansible_check_mode": True,
    }
    with patch_module_args(wanted), pytest.raises(SystemExit):
        module.main()
    said = json.loads(capsys.readouterr().out)
    assert (said["changed"], said["diff"]) == (True, {"before": "", "after": "pi\n"})
    assert not (tmp_path / "machines").exists()


@pytest.mark.parametrize("architecture", sorted(BOARDS))
def test_each_board_has_a_kernel_a_processor_and_a_console(architecture: str) -> None:
    board = BOARDS[architecture]
    assert board.kernel.startswith("linux-image-")
    assert board.command[0].startswith("qemu-system-")
    assert board.console.startswith("tty")
