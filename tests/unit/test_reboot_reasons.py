"""Why a device needs a reboot, judged from its files and its kernel alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.edge.pi_fleet.plugins.module_utils import kernel_cmdline, swap, swap_config
from fake_device import FakeDevice

FLAGS = "cgroup_enable=memory cgroup_memory=1"


def pi(root: Path, container: bool = False) -> FakeDevice:
    """A device as a run left it that was killed before its reboot."""
    fake = FakeDevice(root, container)
    fake.write("/usr/lib/systemd/system-generators/rpi-swap-generator", "")
    fake.write("/etc/rpi/swap.conf.d/80-pi-fleet.conf", swap_config.rpi_drop_in(5))
    fake.write(kernel_cmdline.FIRMWARE, f"console=tty1 rootwait {FLAGS}\n")
    fake.write("/proc/cmdline", "console=tty1 rootwait\n")
    return fake


def reasons(fake: FakeDevice) -> list[str]:
    device = fake.device()
    found = [swap.swap_reboot_reason(device), kernel_cmdline.cmdline_reboot_reason(device)]
    return [reason for reason in found if reason]


def waits(fake: FakeDevice) -> list[str]:
    device = fake.device()
    found = [swap.swap_waits(device), kernel_cmdline.cmdline_waits(device)]
    return [wait for wait in found if wait]


def test_what_was_configured_before_a_kill_still_asks_for_a_boot(tmp_path: Path) -> None:
    fake = pi(tmp_path)
    assert reasons(fake) == [
        "swap: 5 MiB by rpi-swap are configured and start with the next boot",
        f"memory controller: {FLAGS} in /boot/firmware/cmdline.txt act from the next boot on",
    ]
    assert waits(fake) == []


def test_a_boot_answers_all_reasons(tmp_path: Path) -> None:
    fake = pi(tmp_path)
    fake.boot()
    fake.write("/sys/fs/cgroup/cgroup.controllers", "cpu memory\n")
    assert reasons(fake) == []


@pytest.mark.parametrize("size", [4, 0])
def test_another_size_than_the_active_one(tmp_path: Path, size: int) -> None:
    fake = pi(tmp_path)
    fake.boot()
    fake.write("/etc/rpi/swap.conf.d/80-pi-fleet.conf", swap_config.rpi_drop_in(size))
    assert reasons(fake)[0].startswith(f"swap: {size} MiB")


def test_a_container_waits_for_ever(tmp_path: Path) -> None:
    fake = pi(tmp_path, container=True)
    assert reasons(fake) == []
    assert waits(fake) == [
        "swap: 5 MiB by rpi-swap: this is a container, its kernel is the host's",
        f"memory controller: {FLAGS} in /boot/firmware/cmdline.txt: this is a container, its kernel is the host's",
    ]


@pytest.mark.parametrize("container", [False, True])
def test_a_virgin_device_has_nothing_to_say(tmp_path: Path, container: bool) -> None:
    fake = FakeDevice(tmp_path, container)
    assert (reasons(fake), waits(fake)) == ([], [])
