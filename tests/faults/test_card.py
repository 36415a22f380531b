"""What is wrong with a card or a clock; a machine with a kernel of its own has both for itself."""

from __future__ import annotations

import pytest

from tests.faults.conftest import Pi

FILL = """
handle = os.open({folder!r} + "/filling", os.O_WRONLY | os.O_CREAT)
for size in (2**20, 4096, 1):
    try:
        while True:
            os.write(handle, bytes(size))
    except OSError:
        pass
"""
WITHOUT_FLAG = """
path = Path("/boot/firmware/cmdline.txt")
path.write_text(path.read_text().replace(" cgroup_enable=memory", ""))
"""
CMDLINE = "print(Path('/boot/firmware/cmdline.txt').read_text())"


def test_the_card_is_full(machine: Pi) -> None:
    """No block is free on the card.

    site.yml says so before it changes anything; with room again, the next run heals.
    """
    machine.root(FILL.format(folder="/var"))
    try:
        machine.refuses("The device's card is full (", "sudo apt clean")
    finally:
        machine.sh("rm /var/filling")
    machine.heals()


def test_the_boot_partition_is_full(machine: Pi) -> None:
    """No block is free where the firmware reads the kernel's flags, and one has to be written there.

    The run fails and says so; the flags that were there are whole. With room again, the next run heals.
    """
    machine.root(WITHOUT_FLAG)
    machine.root(FILL.format(folder="/boot/firmware"))
    before = machine.root(CMDLINE)
    try:
        machine.refuses("/boot/firmware")
        assert machine.root(CMDLINE) == before
    finally:
        machine.sh("rm /boot/firmware/filling")
    machine.heals()


def test_the_card_is_read_only(machine: Pi) -> None:
    """The kernel has made the card read-only, as it does when the card has errors.

    The run fails and says so; when the card can be written again, the next run heals.
    """
    machine.sh("echo u >/proc/sysrq-trigger", "sleep 2")
    try:
        machine.refuses("The device's card is read-only", "sudo reboot")
    finally:
        machine.sh("mount -o remount,rw /", "mount -o remount,rw /boot/firmware")
    machine.heals()


@pytest.mark.parametrize(("there", "back"), [("-10 years", "+10 years"), ("+1 day", "-1 day")], ids=["past", "future"])
def test_the_clock_is_wrong(machine: Pi, there: str, back: str) -> None:
    """The clock is wrong: ten years in the past, or a day ahead.

    site.yml says by how much, and what to do, before it changes anything. Questions are answered as before.
    """
    machine.sh(f"date --set='{there}'")
    try:
        machine.refuses("The device's clock is", "sudo date -u -s")
        machine.answers()
    finally:
        machine.sh(f"date --set='{back}'")
    machine.heals()
