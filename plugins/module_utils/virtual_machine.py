"""Virtual Pis with a kernel of their own: machines that qemu emulates, their disks made of the containers' images.

What a container shares with its host is here real: swap, the devices of /dev, limits of control groups, reboots, and
power that is cut. qemu's own translator runs them, ten times slower than the host, as fast on every host.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.edge.pi_fleet.plugins.module_utils.virtual_pi import (
    LABEL,
    Connection,
    Engine,
    Image,
    Instance,
    VirtualPiError,
    free_port,
    recipe_digest,
    run,
)

DISK = "6G"
MEMORY = 1024
"""MiB, as the smallest Pi has that runs a camera and an inference."""

# Beside what a card has: a kernel, what checks the partition that the firmware reads, and what knows its own name.
PACKAGES = ("dosfstools", "initramfs-tools", "libnss-myhostname")


@dataclass(frozen=True)
class Board:
    """What is emulated for an architecture."""

    kernel: str
    command: tuple[str, ...]
    console: str


BOARDS = {
    "amd64": Board("linux-image-cloud-amd64", ("qemu-system-x86_64", "-cpu", "max"), "ttyS0"),
    "arm64": Board("linux-image-cloud-arm64", ("qemu-system-aarch64", "-machine", "virt", "-cpu", "max"), "ttyAMA0"),
    "armhf": Board("linux-image-armmp-lpae", ("qemu-system-arm", "-machine", "virt", "-cpu", "max"), "ttyAMA0"),
}

# The disk's driver by its name: under qemu-user, what is copied into an initrd by folders lacks some of them.
INITRD = "echo virtio_blk >>/etc/initramfs-tools/modules && exec update-initramfs -u"


def with_kernel(image: Image) -> Image:
    """Return the image of a card, and on it the kernel that is among its packages, or one of few drivers."""
    named = any(package.startswith("linux-image-") for package in image.packages)
    packages = (*image.packages, *PACKAGES, *([] if named else [BOARDS[image.architecture].kernel]))
    return Image(image.recipe, image.release, image.architecture, image.mirror, packages)


@dataclass(frozen=True)
class Card:
    """Disks and kernel that machines start from, made once of an image and of the files that go over it."""

    image: Image
    files: Path
    cache: Path

    @property
    def folder(self) -> Path:
        """Where they are kept, by their content."""
        return self.cache / f"{self.image.release}-{recipe_digest(self.files, self.image.name, DISK, INITRD)}"

    def build(self, engine: Engine, scratch: Path) -> bool:
        """Make what is not there yet; say whether anything was made."""
        if self.folder.exists():
            return False
        if os.geteuid() != 0:
            raise VirtualPiError("Root alone can write the disk of a machine, with files of all owners: run as root.")
        self.image.build(engine, scratch)
        self.cache.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix="making-", dir=self.cache))
        try:
            self._write(engine, made)
            made.rename(self.folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return True

    def _write(self, engine: Engine, made: Path) -> None:
        root = made / "root"
        root.mkdir()
        maker = f"pi-fleet-card-{self.folder.name}-{os.getpid()}"
        try:
            options = [f"--name={maker}", f"--label={LABEL}=image", *engine.limits()]
            engine.call("run", *options, self.image.name, "sh", "-c", INITRD)
            engine.call("export", f"--output={made}/root.tar", maker)
        finally:
            engine.call("rm", "--force", maker)
        run(["tar", "--extract", "--numeric-owner", f"--directory={root}", f"--file={made}/root.tar"])
        (made / "root.tar").unlink()
        # A container has its devices from its host.
        (root / "etc/systemd/system/systemd-udevd.service").unlink()
        (root / "etc/hostname").unlink(missing_ok=True)
        run(["cp", "--recursive", "--no-dereference", f"{self.files}/.", str(root)])
        for name in ("vmlinuz", "initrd.img"):
            shutil.copy(root / name, made / name)
        boot = root / "boot/firmware"
        run(["mkfs.vfat", "-C", "-n", "bootfs", f"{made}/boot.img", str(64 * 1024)])
        run(["mcopy", "-s", "-i", f"{made}/boot.img", *map(str, sorted(boot.iterdir())), "::"])
        for path in boot.iterdir():
            path.unlink()
        run(["mke2fs", "-q", "-t", "ext4", "-L", "rootfs", "-d", str(root), f"{made}/root.img", DISK])
        shutil.rmtree(root)


@dataclass(frozen=True)
class Machine:
    """A virtual machine as it is wanted, in a folder of its own."""

    instance: Instance
    card: Card
    folder: Path
    power: Path

    @property
    def _made(self) -> str:
        return f"{self.card.folder} {self.instance.key}"

    def is_as_wanted(self) -> bool:
        """Say whether it was made from its image, for its key."""
        with suppress(FileNotFoundError):
            return (self.folder / "made").read_text() == self._made
        return False

    def create(self, engine: Engine, password: str, public_key: str) -> None:
        """Make its disks, with the seed that its first boot reads."""
        self.folder.mkdir(mode=0o700, parents=True)
        back = str(self.card.folder / "root.img")
        run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", back, f"{self.folder}/root.qcow2"])
        shutil.copy(self.card.folder / "boot.img", self.folder)
        run(
            ["mcopy", "-i", f"{self.folder}/boot.img", "-", "::virtual-pi-seed"], stdin=f"pi:{password}\n{public_key}\n"
        )
        (self.folder / "port").write_text(str(free_port(engine)))
        (self.folder / "made").write_text(self._made)

    def start(self) -> None:
        """Give it power, for as long as it is there."""
        board = BOARDS[self.card.image.architecture]
        if shutil.which(board.command[0]) is None:
            raise VirtualPiError(f"{board.command[0]} is not installed here; run 'tools/host.sh --machines'.")
        drives = [
            "file=root.qcow2,if=none,id=root,format=qcow2,cache=writeback",
            "file=boot.img,if=none,id=boot,format=raw,cache=writeback",
        ]
        port = (self.folder / "port").read_text()
        network = f"user,model=virtio-net-pci,hostname={self.instance.name},hostfwd=tcp:127.0.0.1:{port}-:22"
        options = ["-accel", "tcg,thread=multi", "-smp", "2", "-m", str(MEMORY), "-nodefaults", "-display", "none"]
        options += ["-no-reboot", "-kernel", f"{self.card.folder}/vmlinuz", "-initrd", f"{self.card.folder}/initrd.img"]
        options += ["-drive", drives[0], "-device", "virtio-blk-pci,drive=root"]
        options += ["-drive", drives[1], "-device", "virtio-blk-pci,drive=boot"]
        options += ["-nic", network, "-device", "virtio-rng-pci"]
        options += ["-chardev", "file,id=console,path=console.log,append=on", "-serial", "chardev:console"]
        place = ["env", f"--chdir={self.folder}", f"CONSOLE={board.console}"]
        run(["setsid", "--fork", *place, str(self.power), *board.command, *options])

    @property
    def console(self) -> Path:
        """What it has written on its console."""
        return self.folder / "console.log"

    def connection(self) -> Connection:
        """Return where it answers, with the host key that it wrote on its console."""
        written = self.console.read_text(errors="replace") if self.console.exists() else ""
        found = re.search(r"host key: (ssh-\S+ \S+)", written)
        if not found:
            raise VirtualPiError(f"it has not told its host key on {self.console}")
        return Connection(self.instance.name, int((self.folder / "port").read_text()), found[1])


def has_power(folder: Path) -> bool:
    """Say whether the machine in a folder has power."""
    with suppress(OSError, ValueError):
        # After a reboot of this host, the number may be somebody else's.
        return Path(f"/proc/{int((folder / 'supply').read_text())}/cwd").readlink() == folder.resolve()
    return False


def remove(folder: Path) -> None:
    """Cut a machine's power for good, and remove it."""
    (folder / "off").touch()
    if has_power(folder):
        with suppress(ProcessLookupError):
            os.killpg(int((folder / "supply").read_text()), signal.SIGKILL)
    shutil.rmtree(folder)
