"""The ways in which a device can have swap, and the steps from what is there to what is wanted.

Each step leaves a device from which the next run's steps go on. Sizes are MiB; /proc/swaps counts KiB.
"""

from __future__ import annotations

import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ansible_collections.edge.pi_fleet.plugins.module_utils import swap_config
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import (
    MANAGED,
    Device,
    DeviceError,
    read_text,
    remove,
    sync,
    write_text,
)

MIB = 1024 * 1024
FREE_MARGIN = 256
MEMORY_MARGIN = 64
SIGNATURE = b"SWAPSPACE2"


@dataclass(frozen=True)
class Active:
    """One line of /proc/swaps."""

    kind: str
    kib: int
    used_kib: int


@dataclass(frozen=True)
class Target:
    """Where a mechanism should end up: its file of configuration, its unit's enabling link, and the size."""

    text: str | None
    enabled: bool | None
    mib: int | None
    """None: the mechanism works the size out for itself."""


@dataclass(frozen=True)
class Step:
    """One change; a device may lose power before and after it."""

    what: str
    do: Callable[[], object]


def active_swaps(device: Device) -> dict[str, Active]:
    """Return /proc/swaps by name; the kernel writes blanks in names as octal."""
    found = {}
    for line in (read_text(device.path("/proc/swaps")) or "").splitlines()[1:]:
        name, kind, kib, used, *_ = line.split()
        name = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), name)
        found[name] = Active(kind, int(kib), int(used))
    return found


class Mechanism(ABC):
    """One way to have swap: what is configured, what is real, and the steps from one to the other."""

    name: str
    unit = ""
    """The unit file that `link` enables."""

    def __init__(self, device: Device, config: str, link: str | None = None) -> None:
        """Read the configuration: one file, and the link that enables a unit if there is one to enable."""
        self.device = device
        self.config = device.path(config)
        self.link = None if link is None else device.path(link)
        self.text = read_text(self.config)

    @abstractmethod
    def swap_file(self) -> Path:
        """Return where the swap file is or will be."""

    @abstractmethod
    def for_size(self, mib: int) -> Target:
        """Return the target of a wanted size; 0 is no swap."""

    @abstractmethod
    def former(self) -> Any:
        """Return what `for_former` needs to come back to the present configuration."""

    @abstractmethod
    def for_former(self, former: Any) -> Target:
        """Return the target of a recorded configuration."""

    @abstractmethod
    def configured_mib(self) -> int | None:
        """Return the size that is configured now by us or by a number; None if there is no such number."""

    @abstractmethod
    def is_active(self, target: Target) -> bool:
        """Whether the kernel swaps as `target` says, on a file that will still do at the next boot."""

    @abstractmethod
    def refuse(self, target: Target, container: bool, stay_free: int) -> None:
        """Raise DeviceError if `target` cannot be reached, or leaves less than `stay_free` MiB; nothing is touched."""

    @abstractmethod
    def activation_steps(self, target: Target) -> list[Step]:
        """Return the steps that make the kernel swap as `target` says."""

    def steps(self, target: Target, container: bool) -> list[Step]:
        """Return all steps to `target`; a container gets its configuration only."""
        return self.config_steps(target) + ([] if container else self.activation_steps(target))

    def enabled(self) -> bool | None:
        """Whether the unit is started at boot; None if there is no unit to enable."""
        return None if self.link is None else self.link.is_symlink()

    def is_configured(self, target: Target) -> bool:
        """Whether files and links are as `target` says."""
        return self.text == target.text and self.enabled() == target.enabled

    def config_steps(self, target: Target) -> list[Step]:
        """Return the steps to the configuration: a unit is enabled after it is written and vice versa."""
        where = self.device.name(self.config)
        steps = []
        if self.text != target.text:
            text = target.text
            if text is None:
                steps.append(Step(f"remove {where}", lambda: remove(self.config)))
            else:
                steps.append(Step(f"write {where}", lambda: write_text(self.config, text)))
        if self.link is not None and self.enabled() != target.enabled:
            link = self.link
            if target.enabled:
                steps.append(Step(f"enable {link.name}", lambda: enable(link, self.unit)))
            else:
                steps.insert(0, Step(f"disable {link.name}", lambda: remove(link)))
        return steps

    def active(self) -> Active | None:
        """Return the kernel's line for our swap file."""
        return active_swaps(self.device).get(self.device.name(self.swap_file()))

    def mode(self) -> int | None:
        """Return the mode of the swap file, if there is one."""
        return stat.S_IMODE(self.swap_file().stat().st_mode) if self.swap_file().exists() else None

    def is_whole(self, mib: int | None) -> bool:
        """Whether the swap file is finished: of the wanted size, if one is known, and formatted.

        The signature ends the kernel's first page (4 KiB, or 16 KiB on a Pi 5). A right size
        alone proves nothing: a run may have died between the blocks and the mkswap.
        """
        path = self.swap_file()
        if not path.is_file() or (mib is not None and path.stat().st_size != mib * MIB):
            return False
        with path.open("rb") as stream:
            stream.seek(self.device.page_bytes - len(SIGNATURE))
            return stream.read(len(SIGNATURE)) == SIGNATURE

    def is_swapping(self, mib: int | None) -> bool:
        """Whether the kernel uses the whole file; the first page holds the header and is not counted."""
        active = self.active()
        if active is None or not self.is_whole(mib):
            return False
        return active.kib * 1024 == self.swap_file().stat().st_size - self.device.page_bytes

    def stays(self, target: Target) -> bool:
        """Whether the present swap file is kept."""
        return self.is_whole(target.mib) and (self.active() is None or self.is_swapping(target.mib))

    def refuse_disk(self, mib: int, stay_free: int) -> None:
        """Raise DeviceError if the disk cannot hold a file of `mib` in the place of the present one.

        What a run needs beside it is needed on /: of another disk less stays free.
        """
        path = self.swap_file()
        free = self.device.free_bytes(path.parent)
        there = path.stat().st_blocks * 512 if path.is_file() else 0
        elsewhere = path.parent.exists() and path.parent.stat().st_dev != self.device.path("/").stat().st_dev
        margin = FREE_MARGIN if elsewhere else max(FREE_MARGIN, stay_free)
        needed = (mib + margin) * MIB - there
        if free < needed:
            raise DeviceError(
                f"{self.device.name(path.parent)} has {free // MIB} MiB free and a swap of {mib} MiB needs "
                f"{-(-needed // MIB)} MiB there ({margin} MiB stay free): make room or choose less."
            )

    def refuse_swapoff(self) -> None:
        """Raise DeviceError if memory cannot take back what is swapped out: swapoff would get killed."""
        active = self.active()
        if active is None:
            return
        memory = read_text(self.device.path("/proc/meminfo")) or ""
        found = re.search(r"^MemAvailable:\s+(\d+) kB", memory, re.M)
        available = int(found[1]) if found else 0
        needed = active.used_kib + MEMORY_MARGIN * 1024
        if available < needed:
            raise DeviceError(
                f"To change the swap file it must be switched off, {available // 1024} MiB of memory are "
                f"available and what it holds needs {needed // 1024} MiB: stop something large or reboot, "
                f"then run again."
            )

    def swapoff_steps(self) -> list[Step]:
        """Return the step that takes our swap file from the kernel, if it has it."""
        if self.active() is None:
            return []
        path = self.device.name(self.swap_file())
        return [Step(f"swapoff {path}", lambda: self.device.command("/sbin/swapoff", path))]

    def close_steps(self) -> list[Step]:
        """Return the step that closes a swap file to other users, if it is open to them."""
        path = self.swap_file()
        return [] if self.mode() == 0o600 else [Step(f"close {path.name} to other users", lambda: path.chmod(0o600))]

    def new_file(self) -> Path:
        """Return where a swap file is made, so that one under its own name is always finished."""
        return self.swap_file().with_name(f"{self.swap_file().name}.pi-fleet-new")

    def remove_steps(self) -> list[Step]:
        """Return the steps that remove what there is of the swap file."""
        left = [path for path in (self.swap_file(), self.new_file()) if path.exists()]
        return [Step(f"remove {path.name}", partial(remove, path)) for path in left]

    def make_steps(self, mib: int) -> list[Step]:
        """Return the steps that make the swap file in the place of the present one."""
        path, new = self.swap_file(), self.new_file()
        return [
            *self.swapoff_steps(),
            *self.remove_steps(),
            Step(f"allocate {new.name}", lambda: self.device.allocate(new, mib * MIB)),
            Step(f"mkswap {new.name}", lambda: self.device.command("/sbin/mkswap", self.device.name(new))),
            Step(f"rename {new.name}", lambda: _rename(new, path)),
        ]


def enable(link: Path, unit: str) -> None:
    """Do what `systemctl enable` does, which also works while systemd does not run."""
    link.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    link.symlink_to(unit)
    sync(link.parent)


class DphysSwapfile(Mechanism):
    """Raspberry Pi OS up to Bookworm: one sourced shell file without drop-ins, and a tool run at each boot.

    A size of 0 switches its unit off: with CONF_SWAPSIZE=0 the tool runs mkswap on an empty file, and its
    unit fails at each boot.

    Where the tool makes or removes a file, it writes /etc/fstab anew, in a way that leaves it full of zeros when
    power is cut within seconds: the device then boots with its card read-only. So the file is made here, and the
    tool keeps it.
    """

    name = "dphys-swapfile"
    unit = "/lib/systemd/system/dphys-swapfile.service"
    tool = "/sbin/dphys-swapfile"
    settings = ("CONF_SWAPSIZE", "CONF_MAXSWAP")

    def __init__(self, device: Device) -> None:
        """A package without its unit has nothing to enable."""
        link = "/etc/systemd/system/multi-user.target.wants/dphys-swapfile.service"
        super().__init__(device, "/etc/dphys-swapfile", link if device.path(self.unit).exists() else None)
        self.shell = self.text or ""

    def swap_file(self) -> Path:
        """Return CONF_SWAPFILE."""
        last = swap_config.last_assignment(self.shell, "CONF_SWAPFILE")
        value = "/var/swap" if last is None else last.value
        if not value or not value.startswith("/"):
            raise DeviceError("CONF_SWAPFILE in /etc/dphys-swapfile is no plain absolute path: write it as one.")
        return self.device.path(value)

    def for_size(self, mib: int) -> Target:
        """Set CONF_SWAPSIZE; for 0 the file stays as it is and the unit goes off."""
        on = None if self.link is None else mib > 0
        return Target(swap_config.dphys_with_size(self.shell, mib) if mib else self.text, on, mib)

    def former(self) -> Any:
        """Return the values as written (None: not set by a plain line), and whether the unit is enabled."""
        lasts = {name: swap_config.last_assignment(self.shell, name) for name in self.settings}
        return {name: last and last.raw for name, last in lasts.items()} | {"enabled": self.enabled()}

    def for_former(self, former: Any) -> Target:
        """Write the former values back; a line that was added is taken away."""
        text = self.shell
        for name in self.settings:
            last = swap_config.last_assignment(text, name)
            # Where the former file says the same, no line is ours to take away.
            if (last and last.raw) != former[name]:
                text = swap_config.assign(text, name, former[name])
        on = None if self.link is None else bool(former["enabled"])
        return Target(text, on, swap_config.dphys_size(text) if on is not False else 0)

    def configured_mib(self) -> int | None:
        """Return CONF_SWAPSIZE within its limit, if it is a number."""
        return 0 if self.enabled() is False else swap_config.dphys_size(self.shell)

    def is_active(self, target: Target) -> bool:
        """Whether the file is finished, in use and closed to other users, or gone for 0."""
        if target.mib == 0:
            return self.active() is None and not self.swap_file().exists()
        return self.is_swapping(target.mib) and self.mode() == 0o600

    def stays(self, target: Target) -> bool:
        """Whether the file is kept; a computed size is computed anew when the configuration changes."""
        return super().stays(target) and (target.mib is not None or self.text == target.text)

    def refuse(self, target: Target, container: bool, stay_free: int) -> None:
        """Refuse what the tool would refuse, silently make smaller, or break."""
        path = self.swap_file()
        if path.exists() and not path.is_file():
            raise DeviceError(
                f"CONF_SWAPFILE in /etc/dphys-swapfile is {self.device.name(path)}, not a regular file: name another."
            )
        if not container and not self.device.path(self.tool).exists():
            raise DeviceError("/etc/dphys-swapfile is there and its tool is not: install or purge that package.")
        if self.stays(target):
            return
        if target.mib:
            self.refuse_disk(target.mib, stay_free)
            self._refuse_share(path, target.mib)
        if not container:
            self.refuse_swapoff()

    def _refuse_share(self, path: Path, mib: int) -> None:
        """Raise DeviceError where the tool would silently make less: half of the free space is its limit."""
        share = swap_config.last_assignment(self.shell, "CONF_MAXDISK_PCT")
        if share is not None and share.value == "":
            return
        there = path.stat().st_size if path.is_file() else 0
        half = (self.device.free_bytes(path.parent) + there) // MIB // 2
        if mib > half:
            raise DeviceError(
                f"dphys-swapfile takes half of the free space of {self.device.name(path.parent)} at most, "
                f"{half} MiB, and {mib} MiB are wanted: make room, choose less, or lift its limit with an "
                f"empty CONF_MAXDISK_PCT= in /etc/dphys-swapfile."
            )

    def activation_steps(self, target: Target) -> list[Step]:
        """Make a finished file and have the kernel use it; a size that the tool works out is for the tool to make."""
        if target.mib == 0:
            return [] if self.is_active(target) else [*self.swapoff_steps(), *self.remove_steps()]
        swapon = self._call("swapon")
        if self.stays(target):
            return [*self.close_steps(), *([] if self.active() is not None else [swapon])]
        if target.mib:
            return [*self.make_steps(target.mib), swapon]
        fstab = self.device.path("/etc/fstab")
        written = Step("have /etc/fstab on the card", lambda: sync(fstab) if fstab.exists() else None)
        # The tool keeps a file of the right size, whether mkswap has seen it or not.
        return [*self.swapoff_steps(), *self.remove_steps(), self._call("setup"), written, swapon]

    def _call(self, verb: str) -> Step:
        return Step(f"dphys-swapfile {verb}", lambda: self.device.command(self.tool, verb))


class RpiSwap(Mechanism):
    """Raspberry Pi OS from Trixie: a generator reads drop-ins at boot; a reload changes nothing."""

    name = "rpi-swap"
    drop_in = "80-pi-fleet.conf"

    def __init__(self, device: Device) -> None:
        """The generator runs at each boot: nothing to enable."""
        super().__init__(device, f"/etc/rpi/swap.conf.d/{self.drop_in}")

    def _merged(self, text: str | None) -> dict[str, tuple[str, str]]:
        """Return all options as if our drop-in were `text`, in the order of swap.conf(5)."""
        folders = [self.device.path(f"{top}/rpi") for top in ("/usr/lib", "/usr/local/lib", "/run", "/etc")]
        main = [folder / "swap.conf" for folder in reversed(folders) if (folder / "swap.conf").exists()][:1]
        drop_ins = {path.name: path for folder in folders for path in folder.glob("swap.conf.d/*.conf")}
        texts = {self.device.name(path): read_text(path) or "" for path in main}
        for name in sorted({*drop_ins, self.drop_in}):
            if name == self.drop_in:
                texts[self.device.name(self.config)] = text or ""
            else:
                texts[self.device.name(drop_ins[name])] = read_text(drop_ins[name]) or ""
        return swap_config.merge_rpi(texts)

    def swap_file(self) -> Path:
        """Return `Path` of the section `File`."""
        path, _ = self._merged(self.text).get("File.Path", ("", ""))
        return self.device.path(path or "/var/swap")

    def for_size(self, mib: int) -> Target:
        """Own the drop-in."""
        return Target(swap_config.rpi_drop_in(mib), None, mib)

    def former(self) -> Any:
        """Return a phrase: without our drop-in, all is as it was."""
        return "the package's default"

    def for_former(self, former: Any) -> Target:
        """Take the drop-in away."""
        return Target(None, None, None)

    def configured_mib(self) -> int | None:
        """Return the size of our drop-in."""
        return None if self.text is None else swap_config.rpi_size(self.text)

    def is_active(self, target: Target) -> bool:
        """Whether the last boot set it up: the file; neither file nor zram for 0; for the default, what others say."""
        active = self.active()
        size = swap_config.rpi_file(self._merged(None)) if target.mib is None else target.mib
        if size is None:
            return active is not None
        if size:
            header = self.device.page_bytes // 1024
            return active is not None and active.kib == size * 1024 - header
        zram = any(name.startswith("/dev/zram") for name in active_swaps(self.device))
        return active is None and not (zram and target.mib == 0)

    def refuse(self, target: Target, container: bool, stay_free: int) -> None:
        """Refuse what another drop-in overrules, and what the card cannot hold at the next boot."""
        if target.text is None:
            return
        wanted = swap_config.merge_rpi({self.device.name(self.config): target.text})
        merged = self._merged(target.text)
        for option, (value, _) in wanted.items():
            if merged[option][0] != value:
                found, file = merged[option]
                raise DeviceError(
                    f"{file} sets {option.split('.')[1]}={found} after {self.device.name(self.config)} has "
                    f"set {value}: remove that line or give the file a name that sorts earlier."
                )
        # FixedSizeMiB passes by the package's own limits, so that a boot would fill the card.
        if target.mib and not self.is_active(target):
            self.refuse_disk(target.mib, stay_free)

    def activation_steps(self, target: Target) -> list[Step]:
        """Return nothing: the next boot does it."""
        return []


class PlainFile(Mechanism):
    """A system with neither: a swap file and a unit of our own. The unit's header makes the file ours."""

    name = "plain"
    unit = "/etc/systemd/system/var-swap.swap"
    file = "/var/swap"

    def __init__(self, device: Device) -> None:
        """The unit is ours and enabled for `swap.target`."""
        super().__init__(device, self.unit, "/etc/systemd/system/swap.target.wants/var-swap.swap")
        self.ours = self.text is not None and self.text.startswith(MANAGED)

    def swap_file(self) -> Path:
        """Return our one place."""
        return self.device.path(self.file)

    def for_size(self, mib: int) -> Target:
        """Own the unit and the file; for 0 neither, and a user's own ones stay."""
        if mib == 0:
            return Target(None, False, 0) if self.ours else Target(self.text, self.enabled(), 0)
        return Target(swap_config.swap_unit(self.file, mib), True, mib)

    def former(self) -> Any:
        """Return a phrase: before us there was no swap of ours."""
        return "none"

    def for_former(self, former: Any) -> Target:
        """Take the unit and the file away."""
        return self.for_size(0)

    def configured_mib(self) -> int | None:
        """Return the size that the unit is for."""
        found = re.search(r"^Description=Swap file of (\d+) MiB$", self.text or "", re.M)
        return int(found[1]) if found else 0

    def is_active(self, target: Target) -> bool:
        """Whether our file is in use and closed to other users; for 0 whether nothing of ours is left."""
        if target.mib:
            return self.is_swapping(target.mib) and self.mode() == 0o600
        return not self.ours or (self.active() is None and not self.swap_file().exists())

    def refuse(self, target: Target, container: bool, stay_free: int) -> None:
        """Refuse to take over a swap file that a user made, and what does not fit."""
        if target.mib and not self.ours and (self.text is not None or self.swap_file().exists()):
            found = self.unit if self.text is not None else self.file
            raise DeviceError(
                f"{found} is there and was not made by pi-fleet: switch that swap off and remove the file, "
                f"or keep it and ask for a size of 0."
            )
        if target.mib and not self.is_whole(target.mib):
            self.refuse_disk(target.mib, stay_free)
        if self.ours and not container and not self.stays(target):
            self.refuse_swapoff()

    def steps(self, target: Target, container: bool) -> list[Step]:
        """The unit marks the file as ours: it comes before the file and goes after it."""
        if target.mib:
            return super().steps(target, container)
        first = self.activation_steps(target) if self.ours and not container else []
        return first + self.config_steps(target)

    def activation_steps(self, target: Target) -> list[Step]:
        """Make the file and have the kernel use it."""
        if not target.mib:
            return self.swapoff_steps() + self.remove_steps()
        if self.is_active(target):
            return []
        stays = self.stays(target)
        steps = self.close_steps() if stays else self.make_steps(target.mib)
        if self.active() is None or not stays:
            steps.append(Step(f"swapon {self.file}", lambda: self.device.command("/sbin/swapon", self.file)))
        return steps


def _rename(new: Path, path: Path) -> None:
    sync(new)
    new.rename(path)
    sync(path.parent)


def mechanism(device: Device) -> Mechanism:
    """Return the mechanism that the device has, by its files.

    rpi-swap replaces dphys-swapfile, whose configuration may stay behind: its generator decides first.
    """
    if device.path("/usr/lib/systemd/system-generators/rpi-swap-generator").exists():
        return RpiSwap(device)
    if device.path("/etc/dphys-swapfile").exists():
        return DphysSwapfile(device)
    if device.path("/etc/rpi/swap.conf").exists() or device.path("/etc/rpi/swap.conf.d").exists():
        return RpiSwap(device)
    # Somebody removed the configuration: its tool is there all the same, and /var/swap is what it swaps on.
    if device.path(DphysSwapfile.unit).exists() and not device.path(PlainFile.unit).exists():
        return DphysSwapfile(device)
    return PlainFile(device)
