"""A device in a folder: its files are real, its kernel and its commands are played. Nothing here swaps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ansible_collections.edge.pi_fleet.plugins.module_utils import swap_config
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device

MIB = 1024 * 1024
PAGE = 4096
PLENTY = 100_000 * MIB
COMPUTED = 7
"""MiB of a swap file whose size nobody says."""


class PowerLossError(Exception):
    """The run ends here, as by a loss of power."""


class FakeDevice:
    """Plays systemd-detect-virt, dphys-swapfile, mkswap, swapon and swapoff, and writes /proc/swaps."""

    def __init__(self, root: Path, container: bool = False) -> None:
        self.root = root
        self.container = container
        self.free = PLENTY
        self.calls: list[str] = []
        self.used_kib: dict[str, int] = {}
        self.kill_in_setup: Callable[[Path], object] | None = None
        self.write("/proc/meminfo", "MemTotal: 1000000 kB\nMemAvailable: 500000 kB\n")
        self._show_swaps()

    def device(self) -> Device:
        return Device(self.run, self.root, PAGE, lambda path: self.free, self._allocate)

    def write(self, name: str, text: str) -> Path:
        path = self.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
        return path

    def read(self, name: str) -> str:
        return (self.root / name.lstrip("/")).read_bytes().decode()

    def exists(self, name: str) -> bool:
        return (self.root / name.lstrip("/")).exists()

    def run(self, argv: list[str]) -> tuple[int, str, str]:
        if argv[0] == "systemd-detect-virt":
            return (0 if self.container else 1), "", ""
        assert not self.container, f"{argv} in a container"
        self.calls.append(" ".join(argv))
        match argv:
            case ["/sbin/dphys-swapfile", verb]:
                return self._dphys(verb)
            case ["/sbin/mkswap", name]:
                self._format(self.root / name.lstrip("/"))
            case ["/sbin/swapon", name]:
                return self._swapon(name)
            case ["/sbin/swapoff", name]:
                del self.used_kib[name]
            case _:
                raise AssertionError(f"unexpected command {argv}")
        self._show_swaps()
        return 0, "", ""

    def boot(self) -> None:
        """Start anew: swap is gone, and rpi-swap's generator sets up what its files say."""
        self.used_kib.clear()
        drop_ins = sorted((self.root / "etc/rpi/swap.conf.d").glob("*.conf"))
        options = swap_config.merge_rpi({path.name: path.read_text() for path in drop_ins})
        mechanism, _ = options.get("Main.Mechanism", ("auto", ""))
        fixed, _ = options.get("File.FixedSizeMiB", ("", ""))
        (self.root / "var").mkdir(exist_ok=True)
        if mechanism == "swapfile":
            self._make(self.root / "var/swap", int(fixed or COMPUTED))
            self._swapon("/var/swap")
        self._show_swaps()

    def _dphys(self, verb: str) -> tuple[int, str, str]:
        text = self.read("/etc/dphys-swapfile")
        last = swap_config.last_assignment(text, "CONF_SWAPFILE")
        name = last.value if last and last.value else "/var/swap"
        path = self.root / name.lstrip("/")
        if verb == "setup":
            self.used_kib.pop(name, None)
            size = swap_config.dphys_size(text)
            size = COMPUTED if size is None else size
            if not path.exists() or path.stat().st_size != size * MIB:
                path.unlink(missing_ok=True)
                if self.kill_in_setup is not None:
                    self.kill_in_setup(path)
                    raise PowerLossError
                self._make(path, size)
        elif verb == "swapon":
            return self._swapon(name)
        self._show_swaps()
        return 0, "", ""

    def _make(self, path: Path, size: int) -> None:
        path.unlink(missing_ok=True)
        self._allocate(path, size * MIB)
        self._format(path)

    def _allocate(self, path: Path, size: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=False)
        with path.open("r+b") as stream:
            stream.truncate(size)

    def _format(self, path: Path) -> None:
        with path.open("r+b") as stream:
            stream.seek(PAGE - 10)
            stream.write(b"SWAPSPACE2")

    def _swapon(self, name: str) -> tuple[int, str, str]:
        path = self.root / name.lstrip("/")
        if not path.exists() or path.read_bytes()[PAGE - 10 : PAGE] != b"SWAPSPACE2":
            return 255, "", f"swapon: {name}: read swap header failed"
        self.used_kib[name] = 0
        self._show_swaps()
        return 0, "", ""

    def _show_swaps(self) -> None:
        lines = ["Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority"]
        for name, used in self.used_kib.items():
            size = (self.root / name.lstrip("/")).stat().st_size // 1024 - PAGE // 1024
            lines.append(f"{name}\tfile\t\t{size}\t\t{used}\t\t-2")
        self.write("/proc/swaps", "\n".join(lines) + "\n")
