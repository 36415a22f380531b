"""Virtual Pis: containers that boot systemd and sshd, made with podman or Docker.

What a container engine needs on a given host differs (rootless or not, cgroup v2 or the hybrid layout, low hard
limits). `Host.detect` looks, `Engine` turns what it saw into arguments; nothing else here depends on the host.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import re
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LABEL = "pi-fleet"
"""Everything that pi-fleet makes in a container engine carries this label; `make clean` removes just that."""

RELEASES = ("bookworm", "trixie")
ARCHITECTURES = {"amd64": "amd64", "arm64": "arm64", "armhf": "arm"}
"""Debian's names, and the names that OCI images use for the same."""

# systemd, sshd and sudo ask for these; CAP_MKNOD makes /dev/raw1394, CAP_SYS_PTRACE shows who holds which file.
CAPABILITIES = "SYS_ADMIN,SYS_PTRACE,AUDIT_WRITE,AUDIT_CONTROL,MKNOD"

INSTANCE: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "release": {"type": "str", "choices": list(RELEASES), "required": True},
    "architecture": {"type": "str", "choices": ["", *ARCHITECTURES], "default": ""},
    "packages": {"type": "list", "elements": "str", "default": []},
}
"""Options of whatever is made of an image, in a container or with a kernel of its own."""

OPTIONS: dict[str, Any] = {
    "fleet": {"type": "str", "required": True},
    "recipe": {"type": "path", "required": True},
    "mirror": {"type": "str", "default": ""},
    "password": {"type": "str", "default": "", "no_log": True},
    "private_key": {"type": "path", "default": "", "no_log": False},
    "engine": {"type": "str", "choices": ["auto", "podman", "docker"], "default": "auto"},
}
"""Options of the modules that make them."""

USER = "pi"

PORTS = range(20_000, 32_768)
"""For what is published on loopback: below those that the kernel hands out. podman redirects a port and listens on
none, so that whatever else is given that port would never be reached."""

# podman's own default for nofile, which a lower hard limit of the host makes unattainable.
PODMAN_NOFILE = 1048576


class VirtualPiError(Exception):
    """One sentence: what went wrong with a virtual Pi, and what to do."""


@dataclass(frozen=True)
class Host:
    """What of this host decides how containers are started."""

    architecture: str
    hybrid_cgroups: bool
    nofile_limit: int

    @classmethod
    def detect(cls, cgroups: Path = Path("/sys/fs/cgroup")) -> Host:
        """Look at the host."""
        return cls(
            architecture=run(["dpkg", "--print-architecture"]).strip(),
            hybrid_cgroups=not (cgroups / "cgroup.controllers").exists(),
            nofile_limit=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        )


@dataclass(frozen=True)
class Instance:
    """A virtual Pi as it is wanted: `name` is its host name, the container's starts with the fleet's."""

    fleet: str
    name: str
    image: str
    key: str = ""
    """Fingerprint of the SSH key that may log in: with another key it could not be entered."""
    files: tuple[tuple[str, str], ...] = ()
    """Folders here, and the folders of the virtual Pi over which they are copied before its first start."""

    @property
    def container(self) -> str:
        """Name of the container."""
        return f"{self.fleet}-{self.name}"


def read_public_key(private_key: str, check_mode: bool) -> str:
    """Return the public key beside a private one, or nothing where check mode kept it from being made."""
    path = Path(private_key or "/nonexistent").with_suffix(".pub")
    if path.is_file():
        return path.read_text().strip()
    if check_mode:
        return ""
    raise VirtualPiError(f"private_key is '{private_key}', and there is no {path}: make the pair with ssh-keygen.")


@dataclass(frozen=True)
class Connection:
    """Where a virtual Pi's sshd answers, and the key that it answers with."""

    name: str
    port: int
    host_key: str


Runner = Callable[..., str]


def run(argv: Sequence[str], stdin: str | None = None, env: dict[str, str] | None = None) -> str:
    """Run a command and return what it prints; raise VirtualPiError with its errors, or last words, if it fails."""
    try:
        done = subprocess.run(
            list(argv), input=stdin, capture_output=True, text=True, check=False, env={**os.environ, **(env or {})}
        )
    except FileNotFoundError:
        hint = "run 'make tools', and for machines with a kernel of their own 'tools/host.sh --machines'"
        raise VirtualPiError(f"{argv[0]} is not installed here; {hint}.") from None
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        # As apt marks them, and mmdebstrap: what it says first is why.
        words = [line for line in lines if line.startswith("E: ")][:3] or lines[-3:]
        raise VirtualPiError(f"'{' '.join(argv[:4])} ...' failed: {' '.join(words) or 'it said nothing'}")
    return done.stdout


@dataclass(frozen=True)
class Engine:
    """podman or Docker, and how this host wants it called."""

    program: str
    host: Host
    run: Runner = field(default=run, repr=False)

    @classmethod
    def find(cls, wanted: str, host: Host, runner: Runner | None = None) -> Engine:
        """Return the engine asked for; `auto` is podman where it is installed, else a Docker whose daemon answers."""
        if wanted != "auto":
            return cls(wanted, host, runner or run)
        if shutil.which("podman"):
            return cls("podman", host, runner or run)
        if not shutil.which("docker"):
            raise VirtualPiError(
                "Neither podman nor docker is installed here; run 'make tools', which installs podman."
            )
        docker = cls("docker", host, runner or run)
        try:
            docker.call("info")
        except VirtualPiError:
            raise VirtualPiError(
                "docker is installed here and its daemon does not answer; start it, or run 'make tools' to have podman."
            ) from None
        return docker

    def call(self, *arguments: str, stdin: str | None = None) -> str:
        """Run the engine with these arguments."""
        # crun refuses to start containers on the hybrid cgroup layout; runc does not.
        runtime = ["--runtime", "runc"] if self.program == "podman" and self.host.hybrid_cgroups else []
        return self.run([self.program, *runtime, *arguments], stdin=stdin)

    def limits(self) -> list[str]:
        """Arguments that keep podman from asking for limits that the host does not grant."""
        if self.program != "podman" or self.host.nofile_limit >= PODMAN_NOFILE:
            return []
        limit = f"{self.host.nofile_limit}:{self.host.nofile_limit}"
        return [f"--ulimit=nofile={limit}", f"--ulimit=nproc={limit}"]

    def create_arguments(self, instance: Instance, port: int) -> list[str]:
        """Arguments of `create` for one virtual Pi, but for its name; its sshd is published on loopback only."""
        arguments = [
            *self.limits(),
            f"--hostname={instance.name}",
            f"--label={LABEL}={instance.fleet}",
            f"--label={LABEL}.image={instance.image}",
            f"--label={LABEL}.key={instance.key}",
            f"--publish=127.0.0.1:{port}:22",
        ]
        if self.program == "podman":
            arguments += ["--systemd=always", "--cgroupns=private", f"--cap-add={CAPABILITIES}"]
        else:
            arguments += [
                "--cap-add=SYS_ADMIN",
                "--security-opt=apparmor=unconfined",
                "--cgroupns=host",
                "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw",
                "--tmpfs=/run",
                "--tmpfs=/run/lock",
            ]
        if self.host.hybrid_cgroups:
            # systemd >= 256 otherwise refuses to boot there.
            arguments.append("--env=SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1")
        return [*arguments, instance.image]

    def published_ports(self) -> set[int]:
        """Return the ports of this host that lead to any container."""
        return {int(port) for port in re.findall(r":(\d+)->", self.call("ps", "--all", "--format", "{{.Ports}}"))}

    def image_exists(self, image: str) -> bool:
        """Say whether the engine holds this image."""
        return bool(self.call("images", "--quiet", image).strip())

    def is_as_wanted(self, instance: Instance) -> bool:
        """Say whether the container of an instance was made from its image, for its key."""
        shown = " ".join(f'{{{{index .Config.Labels "{LABEL}.{what}"}}}}' for what in ("image", "key"))
        return self.call("inspect", "--format", shown, instance.container).split() == [instance.image, instance.key]


def recipe_digest(recipe: Path, *words: str) -> str:
    """Hash every file of an image's recipe (names, executable bits, bytes) and the words that parametrise it."""
    digest = hashlib.sha256()
    for path in sorted(p for p in recipe.rglob("*") if p.is_file()):
        executable = "x" if path.stat().st_mode & 0o100 else "-"
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(recipe)} {executable} {content}\n".encode())
    digest.update("\n".join(words).encode())
    return digest.hexdigest()[:12]


def recipe_packages(text: str, release: str) -> list[str]:
    """Parse packages.txt: one package a line, `#` comments, `[release]` limits a line to one release."""
    packages = []
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if words and (len(words) == 1 or words[1] == f"[{release}]"):
            packages.append(words[0])
    return sorted(packages)


def apt_sources() -> list[str]:
    """Return the text of this host's apt sources."""
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    return [file.read_text(errors="replace") for file in files if file.is_file()]


def host_mirror(sources: Iterable[str]) -> str:
    """Return the Debian mirror that this host's apt sources name; raise VirtualPiError where they name none."""
    for text in sources:
        for word in text.split():
            if word.startswith(("http://", "https://")) and word.rstrip("/").endswith("/debian"):
                return word.rstrip("/")
    raise VirtualPiError(
        "This host's apt sources name no Debian mirror to build from; name one: MIRROR=http://... make demo"
    )


def refuse_unbootable(release: str, architecture: str, host: str) -> None:
    """Raise VirtualPiError for what would never boot: Trixie's systemd under qemu-user."""
    # It was tried with qemu 7.2, which cannot start a service, and 10.0, which cannot confine one: see decision 3.
    if release == "trixie" and architecture != host:
        raise VirtualPiError(
            f"A virtual Pi of trixie on {architecture} does not boot here: its systemd asks for what qemu-user, which"
            f" emulates {architecture} on {host}, does not have (a real Pi has it): take RELEASE=bookworm, or this"
            f" machine's own {host}."
        )


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Wait until no other process holds a lock, and hold it."""
    held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


@dataclass(frozen=True)
class Image:
    """An image of a virtual Pi: a release for an architecture, with packages beyond a blank card if named."""

    recipe: Path
    release: str
    architecture: str
    mirror: str
    packages: tuple[str, ...] = ()

    @property
    def base(self) -> str:
        """Name of the blank image, by the content of its recipe."""
        digest = recipe_digest(self.recipe, self.release, self.architecture, self.mirror)
        return f"localhost/pi-fleet/virtual-pi:{self.release}-{self.architecture}-{digest}"

    @property
    def name(self) -> str:
        """Name of the image: the blank one, or the one with the packages on top of it."""
        if not self.packages:
            return self.base
        return f"{self.base}-{recipe_digest(self.recipe, *sorted(self.packages))[:6]}"

    def build(self, engine: Engine, scratch: Path) -> bool:
        """Build what the engine does not hold yet, or wait while another run does; return whether this one built it."""
        if engine.image_exists(self.name):
            return False
        with alone(scratch.parent / f"pi-fleet-{os.getuid()}-{self.base.rpartition(':')[2]}.lock"):
            if engine.image_exists(self.name):
                return False
            if not engine.image_exists(self.base):
                self._build_base(engine, scratch)
            if self.packages:
                self._build_packages(engine)
        return True

    def _build_base(self, engine: Engine, scratch: Path) -> None:
        archive = scratch / f"{self.base.rpartition(':')[2]}.tar"
        packages = recipe_packages((self.recipe / "packages.txt").read_text(), self.release)
        try:
            engine.run(
                [
                    "mmdebstrap",
                    "--variant=minbase",
                    f"--architectures={self.architecture}",
                    f"--include={','.join(packages)}",
                    # A card holds the package lists of the day its image was made.
                    "--skip=cleanup/apt/lists",
                    f'--customize-hook={self.recipe}/customize.sh "$1" {self.release}',
                    self.release,
                    str(archive),
                    f"deb {self.mirror} {self.release} main",
                    f"deb {self.mirror} {self.release}-updates main",
                ]
            )
            arguments = ["--change", 'CMD ["/sbin/init"]', "--change", "STOPSIGNAL SIGRTMIN+3"]
            arguments += ["--change", f"LABEL {LABEL}=image"]
            if engine.program == "podman":
                arguments += ["--quiet", "--os", "linux", "--arch", ARCHITECTURES[self.architecture]]
                arguments += ["--variant", "v7"] if self.architecture == "armhf" else []
            else:
                variant = "/v7" if self.architecture == "armhf" else ""
                arguments += ["--platform", f"linux/{ARCHITECTURES[self.architecture]}{variant}"]
            engine.call("import", *arguments, str(archive), self.base)
        finally:
            archive.unlink(missing_ok=True)

    def _build_packages(self, engine: Engine) -> None:
        maker = f"pi-fleet-image-{self.name.rpartition(':')[2]}-{os.getpid()}"
        install = f"apt-get -qq update && apt-get -qq install --yes --no-install-recommends {' '.join(self.packages)}"
        options = [f"--name={maker}", f"--label={LABEL}=image", "--env=DEBIAN_FRONTEND=noninteractive"]
        command = ["sh", "-c", f"{install} >/dev/null && apt-get clean"]
        try:
            engine.call("run", *options, *engine.limits(), self.base, *command)
            engine.call("commit", '--change=CMD ["/sbin/init"]', f"--change=LABEL {LABEL}=image", maker, self.name)
        finally:
            engine.call("rm", "--force", maker)


@dataclass(frozen=True)
class Snapshot:
    """An image that was made of a virtual Pi's disk: see `take_snapshot`."""

    name: str

    @property
    def base(self) -> str:
        """Name of what it stands on: nothing that could be built."""
        return self.name

    def build(self, engine: Engine, scratch: Path) -> bool:
        """Refuse one that the engine does not hold; it cannot be built here."""
        if not engine.image_exists(self.name):
            raise VirtualPiError(f"There is no image {self.name}; make it with module virtual_pi_snapshot.")
        return False


def take_snapshot(engine: Engine, instance: Instance, image: str) -> None:
    """Make an image of a virtual Pi's disk, to start from; each copy makes a host key and a machine id anew."""
    maker = f"pi-fleet-snapshot-{instance.container}-{os.getpid()}"
    forget = "rm -f /etc/ssh/ssh_host_* && : >/etc/machine-id"
    label = f"--change=LABEL {LABEL}=image"
    try:
        engine.call("commit", label, instance.container, f"{image}-{maker}")
        engine.call("run", f"--name={maker}", *engine.limits(), f"{image}-{maker}", "sh", "-c", forget)
        engine.call("commit", '--change=CMD ["/sbin/init"]', label, maker, image)
    finally:
        engine.call("rm", "--force", maker)
        engine.call("rmi", "--force", f"{image}-{maker}")


def free_port(engine: Engine) -> int:
    """Return a TCP port on loopback that nobody listens on just now, and that leads to no container."""
    free = sorted(set(PORTS) - engine.published_ports())
    for port in random.sample(free, len(free)):
        with suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port
    raise VirtualPiError(f"No port from {PORTS.start} to {PORTS.stop - 1} is free on this host; end what listens.")


def create(engine: Engine, instance: Instance, password: str, public_key: str) -> None:
    """Make a virtual Pi, with the seed that its first boot reads: a password and an SSH key for its first user.

    Where it is given files of its own, they are its seed. It gets its name last, since nobody could enter it without:
    what a killed run leaves has none that the fleet wants, and the next run removes it.
    """
    made = f"{instance.container}_new"
    engine.call("create", f"--name={made}", *engine.create_arguments(instance, free_port(engine)))
    for source, destination in instance.files:
        engine.call("cp", f"{source}/.", f"{made}:{destination}")
    if not instance.files:
        with tempfile.NamedTemporaryFile("w", prefix="pi-fleet-seed-") as seed:
            seed.write(f"{USER}:{password}\n{public_key}\n")
            seed.flush()
            engine.call("cp", seed.name, f"{made}:/boot/firmware/virtual-pi-seed")
    engine.call("rename", made, instance.container)


def wait_until_booted(
    engine: Engine,
    instance: Instance,
    private_key: Path,
    limit: float,
    find: Callable[[], Connection] | None = None,
    degraded: bool = False,
) -> Connection:
    """Wait until systemd says over SSH that all is up, or say what is wrong; `find` says where, if it is no container.

    `degraded` is for what ran before: units that failed there are their owner's.

    Nothing is executed in the container through the engine: on hosts with the hybrid cgroup layout, systemd in one
    container may remove the directory through which the engine enters another.
    """
    deadline = time.monotonic() + limit
    state = "it has not started"
    while time.monotonic() < deadline:
        try:
            found = find() if find else connection(engine, instance)
            # Exit code 1 with an answer means: up, but not as it should be.
            state = engine.run([*ssh(found, private_key), "systemctl is-system-running --wait; true"]).strip()
        except VirtualPiError as error:
            state = str(error)
            time.sleep(0.5)
            continue
        if state == "running" or (degraded and state == "degraded"):
            return found
        if state == "degraded":
            failed = engine.run([*ssh(found, private_key), "systemctl --failed --plain --no-legend"]).split("\n")[0]
            raise VirtualPiError(f"{instance.container} booted, but with a failed unit: {failed}")
    raise VirtualPiError(
        f"{instance.container} did not boot within {limit:.0f} s: {state or 'systemd does not answer'}"
    )


def ssh(found: Connection, private_key: Path) -> list[str]:
    """Return the ssh command that reaches a virtual Pi, its host key checked."""
    known = f"KnownHostsCommand=/bin/echo [127.0.0.1]:{found.port} {found.host_key}"
    options = ["BatchMode=yes", "ConnectTimeout=10", "IdentitiesOnly=yes", "UserKnownHostsFile=/dev/null", known]
    arguments = [word for option in options for word in ("-o", option)]
    return ["ssh", *arguments, "-i", str(private_key), "-p", str(found.port), f"{USER}@127.0.0.1"]


def connection(engine: Engine, instance: Instance) -> Connection:
    """Return where a virtual Pi answers, with the host key read from its file system."""
    inspected = json.loads(engine.call("inspect", instance.container))[0]
    bindings = inspected["HostConfig"]["PortBindings"]["22/tcp"]
    with tempfile.TemporaryDirectory(prefix="pi-fleet-key-") as folder:
        key = Path(folder, "key.pub")
        engine.call("cp", f"{instance.container}:/etc/ssh/ssh_host_ed25519_key.pub", str(key))
        words = key.read_text().split()
    return Connection(instance.name, int(bindings[0]["HostPort"]), " ".join(words[:2]))
