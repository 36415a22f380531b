"""Swap by each of the three mechanisms, on a device in a folder with a played kernel."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.edge.pi_fleet.plugins.module_utils import swap, swap_config
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import MANAGED, Device, DeviceError
from ansible_collections.edge.pi_fleet.plugins.module_utils.swap import Request
from ansible_collections.edge.pi_fleet.plugins.module_utils.swap_mechanism import mechanism
from fake_device import MIB, PAGE, FakeDevice, PowerLossError
from hypothesis import given
from hypothesis import strategies as st

DPHYS = """# /etc/dphys-swapfile - user settings for dphys-swapfile package

# where we want the swapfile to be, this is the default
#CONF_SWAPFILE=/var/swap

# set size to absolute value, leaving empty (default) then uses computed value
CONF_SWAPSIZE=3

#CONF_MAXSWAP=2048
"""
UNIT = "/lib/systemd/system/dphys-swapfile.service"
LINK = "/etc/systemd/system/multi-user.target.wants/dphys-swapfile.service"
DROP_IN = "/etc/rpi/swap.conf.d/80-pi-fleet.conf"
GENERATOR = "/usr/lib/systemd/system-generators/rpi-swap-generator"
OUR_UNIT = "/etc/systemd/system/var-swap.swap"
OUR_LINK = "/etc/systemd/system/swap.target.wants/var-swap.swap"


def dphys(root: Path, container: bool = False, text: str = DPHYS) -> FakeDevice:
    fake = FakeDevice(root, container)
    fake.write("/etc/dphys-swapfile", text)
    fake.write("/sbin/dphys-swapfile", "")
    fake.write(UNIT, "")
    fake.write(LINK, "").unlink()
    (root / LINK.lstrip("/")).symlink_to(UNIT)
    (root / "var").mkdir()
    if not container:
        fake.run(["/sbin/dphys-swapfile", "setup"])
        fake.run(["/sbin/dphys-swapfile", "swapon"])
        fake.calls.clear()
    return fake


def rpi(root: Path, container: bool = False) -> FakeDevice:
    fake = FakeDevice(root, container)
    fake.write(GENERATOR, "")
    fake.write("/etc/rpi/swap.conf", "[Main]\n#Mechanism=auto\n")
    (root / "var").mkdir()
    return fake


def plain(root: Path, container: bool = False) -> FakeDevice:
    (root / "var").mkdir()
    return FakeDevice(root, container)


MECHANISMS = pytest.mark.parametrize("make", [dphys, rpi, plain])


def plan(fake: FakeDevice, size: int, restore: bool = False, after: bool = False) -> swap.Plan:
    return swap.make_plan(fake.device(), Request(size, restore, after))


def apply(fake: FakeDevice, size: int, restore: bool = False, after: bool = False) -> swap.Report:
    done = plan(fake, size, restore, after)
    done.carry_out()
    return swap.report(done, done=True)


def snapshot(root: Path) -> dict[str, bytes | str]:
    """Everything below `root`; sparse swap files by their size and first page."""
    found: dict[str, bytes | str] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file():
            with path.open("rb") as stream:
                found[name] = stream.read(PAGE) + str(path.stat().st_size).encode()
    return found


# -- text

LINE = st.one_of(
    st.sampled_from(
        [
            "CONF_SWAPSIZE=100",
            'CONF_SWAPSIZE="512"',
            "CONF_SWAPSIZE=",
            "CONF_SWAPSIZE=100 # why",
            "CONF_SWAPSIZE=$((2 * 512))",
            "if true; then CONF_SWAPSIZE=5; fi",
            "  CONF_SWAPSIZE=7",
            "#CONF_SWAPSIZE=100",
            "CONF_MAXSWAP=1",
            "CONF_MAXSWAP=",
            "CONF_SWAPFILE=/var/other",
            "# words",
            "",
        ]
    ),
    st.text(alphabet=st.characters(blacklist_characters="\n", blacklist_categories=["Cs"]), max_size=12),
)
TEXT = st.builds(lambda lines, end: "\n".join(lines) + end, st.lists(LINE, max_size=8), st.sampled_from(["", "\n"]))


@given(TEXT, st.integers(1, 5000))
def test_a_size_set_twice_is_the_size_set_once(text: str, mib: int) -> None:
    once = swap_config.dphys_with_size(text, mib)
    assert swap_config.dphys_with_size(once, mib) == once
    assert swap_config.dphys_size(once) == mib


@given(TEXT, st.integers(1, 5000))
def test_lines_of_others_stay_in_their_order(text: str, mib: int) -> None:
    def others(body: str) -> list[str]:
        lines = body.split("\n") if body.endswith("\n") else [*body.split("\n"), ""]
        return [line for line in lines if line and not line.startswith(("CONF_SWAPSIZE=", "CONF_MAXSWAP="))]

    assert others(swap_config.dphys_with_size(text, mib)) == others(text)


@given(TEXT, st.integers(1, 5000))
def test_the_former_text_comes_back(text: str, mib: int) -> None:
    former = swap_config.last_assignment(text, "CONF_SWAPSIZE")
    changed = swap_config.assign(text, "CONF_SWAPSIZE", str(mib))
    back = swap_config.assign(changed, "CONF_SWAPSIZE", former.raw if former else None)
    assert back in (text, text + "\n")


def test_a_comment_behind_the_value_stays() -> None:
    assert swap_config.dphys_with_size("CONF_SWAPSIZE=1 # why\n", 2) == "CONF_SWAPSIZE=2 # why\n"


def test_the_limit_is_raised_only_when_it_would_cut() -> None:
    assert "CONF_MAXSWAP" not in swap_config.dphys_with_size("", 2048)
    assert "CONF_MAXSWAP=2049" in swap_config.dphys_with_size("", 2049)
    assert swap_config.dphys_with_size("CONF_MAXSWAP=\n", 5000) == "CONF_MAXSWAP=\nCONF_SWAPSIZE=5000\n"


def test_rpi_swap_needs_a_mechanism_beside_the_size() -> None:
    expected = f"{MANAGED}[Main]\nMechanism=swapfile\n[File]\nFixedSizeMiB=1000\n"
    assert swap_config.rpi_drop_in(1000) == expected
    assert "Mechanism=none" in swap_config.rpi_drop_in(0)


# -- what each mechanism ends up with


def test_dphys_swapfile_gets_its_line_and_a_finished_file(tmp_path: Path) -> None:
    fake = dphys(tmp_path)
    stands = apply(fake, 5)
    assert fake.read("/etc/dphys-swapfile") == DPHYS.replace("CONF_SWAPSIZE=3", "CONF_SWAPSIZE=5")
    assert (stands.mechanism, stands.activation, stands.active_kib) == (
        "dphys-swapfile",
        "active",
        5 * 1024 - 4,
    )
    # The tool would write /etc/fstab anew, and lose it where power is cut soon after: it has nothing to make.
    assert fake.calls == [
        "/sbin/swapoff /var/swap",
        "/sbin/mkswap /var/swap.pi-fleet-new",
        "/sbin/dphys-swapfile swapon",
    ]


def test_rpi_swap_gets_a_drop_in_and_waits_for_a_boot(tmp_path: Path) -> None:
    fake = rpi(tmp_path)
    stands = apply(fake, 5)
    assert fake.read(DROP_IN) == swap_config.rpi_drop_in(5)
    assert (stands.activation, stands.reboot_required) == ("next_boot", True)
    assert fake.calls == []
    fake.boot()
    stands = apply(fake, 5)
    assert (stands.activation, stands.reboot_required) == ("active", False)


def test_a_plain_system_gets_a_file_and_a_unit(tmp_path: Path) -> None:
    fake = plain(tmp_path)
    stands = apply(fake, 5)
    assert (stands.mechanism, stands.activation) == ("plain", "active")
    unit = fake.read(OUR_UNIT)
    assert "ConditionVirtualization=!container" in unit
    assert "WantedBy=swap.target" in unit
    assert (tmp_path / OUR_LINK.lstrip("/")).readlink() == Path(OUR_UNIT)
    found = (tmp_path / "var/swap").stat()
    assert (found.st_size, stat.S_IMODE(found.st_mode)) == (5 * MIB, 0o600)


@MECHANISMS
def test_a_second_run_changes_nothing(tmp_path: Path, make: Callable[[Path], FakeDevice]) -> None:
    fake = make(tmp_path)
    apply(fake, 5)
    before = snapshot(tmp_path)
    assert plan(fake, 5).steps == []
    apply(fake, 5)
    assert snapshot(tmp_path) == before


@MECHANISMS
def test_planning_changes_nothing(tmp_path: Path, make: Callable[[Path], FakeDevice]) -> None:
    fake = make(tmp_path)
    before = snapshot(tmp_path)
    made = plan(fake, 5)
    assert made.steps
    assert made.diff()["before"] != made.diff()["after"]
    assert swap.report(made, done=False).wanted_mib == 5
    assert snapshot(tmp_path) == before


@MECHANISMS
@pytest.mark.parametrize("size", [2, 9])
def test_another_size_later(tmp_path: Path, make: Callable[[Path], FakeDevice], size: int) -> None:
    fake = make(tmp_path)
    apply(fake, 5)
    apply(fake, size)
    if make is rpi:
        fake.boot()
    assert swap.check_swap(fake.device(), size)[0]


@MECHANISMS
def test_no_swap(tmp_path: Path, make: Callable[[Path], FakeDevice]) -> None:
    fake = make(tmp_path)
    apply(fake, 5)
    apply(fake, 0)
    assert fake.used_kib == {}
    assert not fake.exists("/var/swap")
    assert plan(fake, 0).steps == []
    assert swap.check_swap(fake.device(), 0)[0]


def test_no_swap_disables_the_unit_of_dphys_swapfile(tmp_path: Path) -> None:
    fake = dphys(tmp_path)
    apply(fake, 0)
    assert fake.read("/etc/dphys-swapfile") == DPHYS
    assert not (tmp_path / LINK.lstrip("/")).is_symlink()
    apply(fake, 5)
    assert (tmp_path / LINK.lstrip("/")).is_symlink()


def test_a_page_of_16_kib_is_counted(tmp_path: Path) -> None:
    fake = plain(tmp_path)
    fake.write("/proc/swaps", "head\n/var/swap file 1008 0 -2\n")
    path = tmp_path / "var/swap"
    path.write_bytes(b"\0" * (16384 - 10) + b"SWAPSPACE2" + b"\0" * (MIB - 16384))
    device = Device(fake.run, tmp_path, 16384)
    assert mechanism(device).is_swapping(1)


def test_names_with_blanks_in_proc_swaps(tmp_path: Path) -> None:
    fake = dphys(tmp_path, text='CONF_SWAPFILE="/var/my swap"\nCONF_SWAPSIZE=3\n')
    fake.write("/proc/swaps", "head\n/var/my\\040swap file 3068 0 -2\n")
    assert mechanism(fake.device()).is_swapping(3)


# -- which mechanism


def test_a_configuration_left_behind_does_not_hide_rpi_swap(tmp_path: Path) -> None:
    fake = rpi(tmp_path)
    fake.write("/etc/dphys-swapfile", DPHYS)
    assert mechanism(fake.device()).name == "rpi-swap"


# -- containers


@MECHANISMS
@pytest.mark.parametrize("size", [5, 0])
def test_a_container_is_configured_only(tmp_path: Path, make: Callable[[Path, bool], FakeDevice], size: int) -> None:
    fake = make(tmp_path, True)
    stands = apply(fake, size)
    assert (stands.activation, stands.reboot_required) == ("waits", False)
    assert "this is a container, its kernel is the host's" in stands.message
    assert fake.calls == []
    assert not fake.exists("/var/swap")
    assert plan(fake, size).steps == []
    ok, found, _ = swap.check_swap(fake.device(), size)
    assert ok
    assert found == f"configured {size} MiB, activation waits: container"


# -- kills


@MECHANISMS
@pytest.mark.parametrize("sizes", [(5,), (5, 2), (5, 0)])
def test_a_run_killed_between_any_two_steps_is_healed(
    tmp_path: Path, make: Callable[[Path], FakeDevice], sizes: tuple[int, ...]
) -> None:
    count, step = 1, 0
    while step <= count:
        root = tmp_path / str(step)
        root.mkdir()
        fake = make(root)
        for size in sizes[:-1]:
            apply(fake, size)
        half = plan(fake, sizes[-1])
        count = len(half.steps)
        for taken in half.steps[:step]:
            taken.do()
        apply(fake, sizes[-1])
        if make is rpi:
            fake.boot()
        ok, found, wanted = swap.check_swap(fake.device(), sizes[-1])
        assert ok, (step, found, wanted)
        apply(fake, sizes[-1], restore=True)
        if make is dphys:
            assert fake.read("/etc/dphys-swapfile") == DPHYS
        step += 1


@pytest.mark.parametrize("left", [b"", b"\0" * 100, b"\0" * 5 * MIB])
def test_a_file_that_the_tool_left_half_made_is_healed(tmp_path: Path, left: bytes) -> None:
    fake = dphys(tmp_path)
    apply(fake, 5)
    # As at a boot whose power was cut too.
    fake.kill_in_setup = lambda path: path.write_bytes(left)
    (tmp_path / "var/swap").unlink()
    with pytest.raises(PowerLossError):
        fake.run(["/sbin/dphys-swapfile", "setup"])
    fake.boot()
    assert apply(fake, 5).activation == "active"


@pytest.mark.parametrize("make", [dphys, plain])
def test_a_failing_command_is_one_sentence(tmp_path: Path, make: Callable[[Path], FakeDevice]) -> None:
    fake = make(tmp_path)
    run = fake.run

    def refuse(argv: list[str]) -> tuple[int, str, str]:
        return run(argv) if argv[0] == "systemd-detect-virt" else (1, "", "first\nno room")

    fake.run = refuse  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match=r"failed with exit code 1 \(no room\)"):
        apply(fake, 5)


def test_a_file_of_another_size_is_found_out(tmp_path: Path) -> None:
    fake = dphys(tmp_path)
    real = fake._allocate
    fake._allocate = lambda path, size: real(path, 4 * MIB)  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match="was set to 5 MiB of swap and the kernel has 4092 KiB"):
        apply(fake, 5)


# -- refusals: nothing is touched


@MECHANISMS
def test_a_full_disk_is_refused(tmp_path: Path, make: Callable[[Path], FakeDevice]) -> None:
    fake = make(tmp_path)
    fake.free = 200 * MIB
    before = snapshot(tmp_path)
    with pytest.raises(DeviceError, match=r"^/var has 200 MiB free and a swap of 50 MiB needs 306 MiB there"):
        plan(fake, 50)
    assert snapshot(tmp_path) == before


@MECHANISMS
def test_what_a_run_needs_beside_the_swap_is_counted_too(tmp_path: Path, make: Callable[[Path], FakeDevice]) -> None:
    """Both are of the same bytes: enough for each of them is not enough."""
    fake = make(tmp_path)
    fake.free = 1340 * MIB
    assert plan(fake, 50).steps
    with pytest.raises(DeviceError, match=r"^/var has 1340 MiB .* needs 13(47|50) MiB there \(1300 MiB stay free\)"):
        swap.make_plan(fake.device(), Request(50, stay_free=1300))
    fake.free = 1350 * MIB
    assert swap.make_plan(fake.device(), Request(50, stay_free=1300)).steps


def test_what_a_run_needs_is_not_needed_of_another_disk(tmp_path: Path) -> None:
    fake = plain(tmp_path)
    fake.free = 1340 * MIB
    (tmp_path / "var").rmdir()
    (tmp_path / "var").symlink_to("/proc")
    assert swap.make_plan(fake.device(), Request(50, stay_free=1300)).steps
    fake.free = 300 * MIB
    with pytest.raises(DeviceError, match=r"\(256 MiB stay free\)"):
        swap.make_plan(fake.device(), Request(50, stay_free=1300))


def test_half_of_the_disk_is_the_limit_of_dphys_swapfile(tmp_path: Path) -> None:
    fake = dphys(tmp_path)
    fake.free = 1500 * MIB
    with pytest.raises(DeviceError, match="half of the free space of /var at most, 751 MiB"):
        plan(fake, 1000)
    fake.write("/etc/dphys-swapfile", DPHYS + "CONF_MAXDISK_PCT=\n")
    assert plan(fake, 1000).steps


@pytest.mark.parametrize("make", [dphys, plain])
def test_too_little_memory_for_swapoff_is_refused(tmp_path: Path, make: Callable[[Path], FakeDevice]) -> None:
    fake = make(tmp_path)
    apply(fake, 4)
    fake.used_kib["/var/swap"] = 4000
    fake._show_swaps()
    fake.write("/proc/meminfo", f"MemAvailable: {4000 + 64 * 1024 - 1} kB\n")
    before = snapshot(tmp_path)
    fake.calls.clear()
    for size in (5, 0):
        with pytest.raises(DeviceError, match="of memory are available and what it holds needs"):
            plan(fake, size)
    assert snapshot(tmp_path) == before
    fake.write("/proc/meminfo", f"MemAvailable: {4000 + 64 * 1024} kB\n")
    assert plan(fake, 5).steps


def test_a_negative_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"^swap_size is -1; wanted are MiB, or 0 for no swap: correct it"):
        plan(plain(tmp_path), -1)


def test_a_later_drop_in_is_named(tmp_path: Path) -> None:
    fake = rpi(tmp_path)
    fake.write("/etc/rpi/swap.conf.d/90-ram.conf", "[Main]\nMechanism = zram\n")
    with pytest.raises(DeviceError, match=r"^/etc/rpi/swap.conf.d/90-ram.conf sets Mechanism=zram after"):
        plan(fake, 5)
    assert not fake.exists(DROP_IN)


def test_an_earlier_drop_in_is_overruled(tmp_path: Path) -> None:
    fake = rpi(tmp_path)
    fake.write("/usr/lib/rpi/swap.conf.d/10-vendor.conf", "[Main]\nMechanism=zram\n[File]\nPath=/var/elsewhere\n")
    assert plan(fake, 5).steps
    assert mechanism(fake.device()).swap_file() == tmp_path / "var/elsewhere"


@pytest.mark.parametrize("theirs", ["/var/swap", OUR_UNIT])
def test_a_users_swap_file_is_left_alone(tmp_path: Path, theirs: str) -> None:
    fake = plain(tmp_path)
    fake.write(theirs, "[Swap]\n")
    before = snapshot(tmp_path)
    with pytest.raises(DeviceError, match=f"^{theirs} is there and was not made by pi-fleet"):
        plan(fake, 5)
    assert plan(fake, 0).steps == []
    apply(fake, 0)
    assert snapshot(tmp_path) == before


def test_a_computed_place_of_the_file_is_refused(tmp_path: Path) -> None:
    fake = dphys(tmp_path, container=True, text="CONF_SWAPFILE=$HOME/swap\n")
    with pytest.raises(DeviceError, match="CONF_SWAPFILE"):
        plan(fake, 5)


def test_a_configuration_without_its_tool_is_refused(tmp_path: Path) -> None:
    fake = dphys(tmp_path)
    (tmp_path / "sbin/dphys-swapfile").unlink()
    with pytest.raises(DeviceError, match="its tool is not"):
        plan(fake, 5)


@pytest.mark.parametrize("size", [3, 5])
def test_a_configuration_that_is_gone_is_written_anew(tmp_path: Path, size: int) -> None:
    fake = dphys(tmp_path)
    apply(fake, size)
    (tmp_path / "etc/dphys-swapfile").unlink()
    stands = apply(fake, size)
    assert (stands.mechanism, stands.active_kib) == ("dphys-swapfile", size * 1024 - 4)
    assert swap_config.dphys_size(fake.read("/etc/dphys-swapfile")) == size
    assert not fake.exists(OUR_UNIT)
    assert plan(fake, size).steps == []


def test_a_swap_file_of_our_own_stays_though_dphys_swapfile_without_a_configuration_is_there(tmp_path: Path) -> None:
    fake = plain(tmp_path)
    apply(fake, 5)
    fake.write(UNIT, "")
    assert mechanism(fake.device()).name == "plain"


# -- the former size


def state(fake: FakeDevice) -> dict[str, object]:
    return dict(json.loads(fake.read(swap.STATE_PATH)))


@MECHANISMS
def test_the_life_of_the_former_size(tmp_path: Path, make: Callable[[Path], FakeDevice]) -> None:
    fake = make(tmp_path)
    config = mechanism(fake.device()).config
    before = config.read_text() if config.exists() else None

    apply(fake, 5, after=True)
    assert state(fake)["restored"] is False
    assert stat.S_IMODE((tmp_path / swap.STATE_PATH.lstrip("/")).stat().st_mode) == 0o600
    former = state(fake)["former"]
    apply(fake, 6, after=True)
    assert state(fake)["former"] == former, "only the first change has a former size"
    if make is rpi:
        fake.boot()

    stands = apply(fake, 6, restore=True)
    assert stands.reboot_required is (make is rpi)
    assert state(fake) == {"mechanism": stands.mechanism, "former": former, "restored": True}
    assert (config.read_text() if config.exists() else None) == before
    reason = swap.swap_reboot_reason(fake.device())
    assert (reason is not None) is (make is rpi)
    if make is rpi:
        fake.boot()

    # Later runs do not go back and forth.
    assert plan(fake, 6, after=True).steps == []
    assert plan(fake, 6, restore=True).steps == []
    assert swap.check_swap(fake.device(), 6, restore_after_install=True)[0]
    assert swap.swap_reboot_reason(fake.device()) is None

    # Without the wish to restore, the size is wanted again, and may be restored again.
    apply(fake, 6)
    assert state(fake) == {"mechanism": stands.mechanism, "former": former, "restored": False}


@pytest.mark.parametrize(
    "theirs", ["Mechanism=swapfile\n[File]\nFixedSizeMiB=3\n", "Mechanism=swapfile\n", "Mechanism=none\n"]
)
@pytest.mark.parametrize("size", [5, 0])
def test_rpi_swap_goes_back_to_what_another_drop_in_says(tmp_path: Path, theirs: str, size: int) -> None:
    fake = rpi(tmp_path)
    fake.write("/etc/rpi/swap.conf.d/50-mine.conf", f"[Main]\n{theirs}")
    apply(fake, size, after=True)
    fake.boot()
    stands = apply(fake, size, restore=True)
    fake.boot()
    assert swap.swap_reboot_reason(fake.device()) is None
    assert swap.check_swap(fake.device(), size, restore_after_install=True)[0]
    assert (stands.mechanism, stands.wanted_mib) == ("rpi-swap", None)


def test_rpi_swap_needs_a_boot_to_go_back_to_another_size(tmp_path: Path) -> None:
    fake = rpi(tmp_path)
    fake.write("/etc/rpi/swap.conf.d/50-mine.conf", "[Main]\nMechanism=swapfile\n[File]\nFixedSizeMiB=3\n")
    apply(fake, 5, after=True)
    fake.boot()
    assert apply(fake, 5, restore=True).reboot_required
    assert swap.swap_reboot_reason(fake.device()) is not None


def test_dphys_swapfile_goes_back_to_its_size(tmp_path: Path) -> None:
    fake = dphys(tmp_path)
    apply(fake, 5)
    stands = apply(fake, 5, restore=True)
    assert (stands.wanted_mib, stands.active_kib) == (3, 3 * 1024 - 4)


def test_dphys_swapfile_goes_back_to_a_computed_size(tmp_path: Path) -> None:
    text = "#CONF_SWAPSIZE=\nCONF_SWAPFILE=/var/swap"
    fake = dphys(tmp_path, text=text)
    fake.write("/etc/fstab", "/dev/mmcblk0p2 / ext4 defaults 0 1\n")
    apply(fake, 5)
    stands = apply(fake, 5, restore=True)
    assert (stands.wanted_mib, stands.active_kib) == (None, 7 * 1024 - 4)
    assert fake.read("/etc/dphys-swapfile") == text + "\n"


@MECHANISMS
def test_a_dry_run_foresees_that_it_goes_back_from_the_size_that_it_did_not_set(
    tmp_path: Path, make: Callable[[Path], FakeDevice]
) -> None:
    fake = make(tmp_path)
    before = snapshot(tmp_path)
    foreseen = swap.make_plan(fake.device(), swap.Request(5, restore=True), dry=True)
    assert foreseen.steps
    assert foreseen.diff()["before"] == foreseen.diff()["after"]
    assert snapshot(tmp_path) == before
    apply(fake, 5)
    assert swap.make_plan(fake.device(), swap.Request(5, restore=True), dry=True).steps
    apply(fake, 5, restore=True)
    assert swap.make_plan(fake.device(), swap.Request(5, restore=True), dry=True).steps == []


@MECHANISMS
def test_nothing_changed_is_nothing_to_restore(tmp_path: Path, make: Callable[[Path], FakeDevice]) -> None:
    fake = make(tmp_path)
    before = snapshot(tmp_path)
    assert "nothing to restore" in apply(fake, 5, restore=True).message
    assert snapshot(tmp_path) == before


@MECHANISMS
def test_a_restore_killed_between_any_two_steps_is_healed(tmp_path: Path, make: Callable[[Path], FakeDevice]) -> None:
    count, step = 1, 0
    while step <= count:
        root = tmp_path / str(step)
        root.mkdir()
        fake = make(root)
        apply(fake, 5)
        half = plan(fake, 5, restore=True)
        count = len(half.steps)
        for taken in half.steps[:step]:
            taken.do()
        apply(fake, 5, restore=True)
        assert state(fake)["restored"] is True
        assert plan(fake, 5, after=True).steps == []
        step += 1


def test_a_record_from_before_an_upgrade_says_nothing(tmp_path: Path) -> None:
    fake = dphys(tmp_path)
    apply(fake, 5)
    fake.write(GENERATOR, "")
    assert swap.read_record(fake.device(), swap.STATE_PATH, "rpi-swap") is None


def test_a_spoilt_record_is_one_sentence(tmp_path: Path) -> None:
    fake = plain(tmp_path)
    fake.write(swap.STATE_PATH, "{")
    with pytest.raises(DeviceError, match="remove it and run again"):
        plan(fake, 5)


# -- drift


def test_drift_is_found(tmp_path: Path) -> None:
    fake = dphys(tmp_path)
    assert swap.check_swap(fake.device(), 5) == (False, "configured 3 MiB", "5 MiB by dphys-swapfile")
    apply(fake, 5)
    assert swap.check_swap(fake.device(), 5) == (True, "active 5116 KiB", "5 MiB by dphys-swapfile")
    fake.boot()
    assert swap.check_swap(fake.device(), 5)[:2] == (False, "configured 5 MiB, active 0 KiB")


@pytest.mark.parametrize("make", [dphys, plain])
def test_a_file_open_to_others_is_closed(tmp_path: Path, make: Callable[[Path], FakeDevice]) -> None:
    fake = make(tmp_path)
    apply(fake, 5)
    (tmp_path / "var/swap").chmod(0o644)
    apply(fake, 5)
    assert stat.S_IMODE((tmp_path / "var/swap").stat().st_mode) == 0o600
