"""Virtual Pis: what a container engine is asked for on the hosts that there are, and when an image is another one."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.edge.pi_fleet.plugins.module_utils import virtual_pi
from ansible_collections.edge.pi_fleet.plugins.module_utils.host_key import HostKey
from ansible_collections.edge.pi_fleet.plugins.module_utils.virtual_pi import (
    Connection,
    Engine,
    Host,
    Image,
    Instance,
    Snapshot,
    VirtualPiError,
    alone,
    host_mirror,
    recipe_digest,
    recipe_packages,
    refuse_unbootable,
    take_snapshot,
)
from ansible_collections.edge.pi_fleet.plugins.modules import virtual_pi as module

LAPTOP = Host("amd64", hybrid_cgroups=False, nofile_limit=1048576)
CRAMPED = Host("amd64", hybrid_cgroups=True, nofile_limit=20000)
KITCHEN = Instance("fleet", "kitchen", "localhost/pi-fleet/virtual-pi:trixie-amd64-0123456789ab")


class Played:
    """A container engine that answers by the verb, and remembers what it was asked."""

    def __init__(self, answers: dict[str, str | Callable[[list[str]], str]] | None = None) -> None:
        self.answers = answers or {}
        self.calls: list[list[str]] = []

    def __call__(self, argv: Sequence[str], stdin: str | None = None) -> str:
        self.calls.append(list(argv))
        words = [word for word in argv[1:] if word not in ("--runtime", "runc")]
        found = self.answers.get(argv[0] if argv[0] in self.answers else words[0], "")
        return found(list(argv)) if callable(found) else found


def arguments(program: str, host: Host) -> list[str]:
    return Engine(program, host).create_arguments(KITCHEN, 2201)


@pytest.mark.parametrize("host", [LAPTOP, CRAMPED])
@pytest.mark.parametrize("program", ["podman", "docker"])
def test_every_virtual_pi_is_on_loopback_labelled_and_unprivileged(program: str, host: Host) -> None:
    found = arguments(program, host)
    assert [word for word in found if "publish" in word or word.startswith(("-p", "-P"))] == [
        "--publish=127.0.0.1:2201:22"
    ]
    assert "--label=pi-fleet=fleet" in found
    assert f"--label=pi-fleet.image={KITCHEN.image}" in found
    assert "--hostname=kitchen" in found
    assert found[-1] == KITCHEN.image
    assert not [word for word in found if word.startswith(("--privileged", "--network", "--net", "--pid", "--ipc"))]


def test_podman_on_a_plain_host_is_asked_for_no_exception() -> None:
    found = arguments("podman", LAPTOP)
    assert {"--systemd=always", "--cgroupns=private"} <= set(found)
    assert not [word for word in found if word.startswith(("--ulimit", "--env", "--volume", "--security-opt"))]


def test_podman_on_a_cramped_host_stays_within_its_limits() -> None:
    found = arguments("podman", CRAMPED)
    assert {"--ulimit=nofile=20000:20000", "--ulimit=nproc=20000:20000"} <= set(found)
    assert "--env=SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1" in found


def test_docker_gets_the_mounts_that_podman_makes_by_itself() -> None:
    found = arguments("docker", LAPTOP)
    assert {"--cgroupns=host", "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw", "--tmpfs=/run"} <= set(found)
    assert not [word for word in found if word.startswith(("--systemd", "--ulimit", "--env"))]
    assert "--env=SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1" in arguments("docker", CRAMPED)


@pytest.mark.parametrize(
    ("program", "host", "start"),
    [
        ("podman", LAPTOP, ["podman", "images"]),
        ("podman", CRAMPED, ["podman", "--runtime", "runc", "images"]),
        ("docker", CRAMPED, ["docker", "images"]),
    ],
)
def test_the_hybrid_layout_needs_runc(program: str, host: Host, start: list[str]) -> None:
    played = Played({"images": "0123\n"})
    assert Engine(program, host, played).image_exists("image")
    assert played.calls == [[*start, "--quiet", "image"]]


@pytest.mark.parametrize(
    ("there", "wanted", "found"),
    [
        (["podman", "docker"], "auto", "podman"),
        (["docker"], "auto", "docker"),
        (["podman", "docker"], "docker", "docker"),
        ([], "podman", "podman"),
    ],
)
def test_an_engine_is_found(monkeypatch: pytest.MonkeyPatch, there: list[str], wanted: str, found: str) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name in there else None)
    assert Engine.find(wanted, LAPTOP, Played()).program == found


def test_a_docker_whose_daemon_does_not_answer_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(argv: list[str]) -> str:
        raise VirtualPiError("Cannot connect to the Docker daemon")

    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/docker" if name == "docker" else None)
    played = Played({"info": refuse})
    with pytest.raises(
        VirtualPiError, match=r"^docker is installed here and its daemon does not answer; start it, or "
    ):
        Engine.find("auto", LAPTOP, played)
    assert played.calls == [["docker", "info"]]


def test_without_an_engine_the_next_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(VirtualPiError, match=r"^Neither podman nor docker is installed here; run 'make tools'"):
        Engine.find("auto", LAPTOP)


def test_a_program_that_is_not_there_or_fails_is_told() -> None:
    with pytest.raises(VirtualPiError, match=r"^no-such-engine is not installed here; run 'make tools', "):
        virtual_pi.run(["no-such-engine", "create"])
    with pytest.raises(VirtualPiError, match=r"^'sh -c .*' failed: 2 3 4$"):
        virtual_pi.run(["sh", "-c", "seq 1 4 >&2; exit 1"])
    with pytest.raises(VirtualPiError, match=r"failed: E: no such file E: so nothing was made$"):
        virtual_pi.run(
            ["sh", "-c", "printf 'Get:1\nE: no such file\nE: so nothing was made\nI: gone\n1\n2\n' >&2; exit 1"]
        )
    with pytest.raises(VirtualPiError, match=r"failed: it said nothing$"):
        virtual_pi.run(["false"])
    assert virtual_pi.run(["cat"], stdin="text") == "text"


@pytest.mark.parametrize("hybrid", [True, False])
def test_a_host_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hybrid: bool) -> None:
    monkeypatch.setattr(virtual_pi, "run", lambda argv: "armhf\n")
    if not hybrid:
        (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    host = Host.detect(tmp_path)
    assert (host.architecture, host.hybrid_cgroups) == ("armhf", hybrid)
    assert host.nofile_limit != 0


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    folder = tmp_path / "recipe"
    (folder / "etc").mkdir(parents=True)
    (folder / "packages.txt").write_text("# a card\nsystemd\nrpi-swap [trixie]\ndphys-swapfile [bookworm] # swap\n\n")
    (folder / "customize.sh").write_text("#!/bin/sh\n")
    (folder / "customize.sh").chmod(0o755)
    (folder / "etc" / "motd").write_text("hello\n")
    return folder


def change_a_byte(recipe: Path) -> None:
    (recipe / "etc" / "motd").write_text("hellO\n")


def change_a_mode(recipe: Path) -> None:
    (recipe / "etc" / "motd").chmod(0o755)


def rename_a_file(recipe: Path) -> None:
    (recipe / "etc" / "motd").rename(recipe / "motd")


def add_an_empty_file(recipe: Path) -> None:
    (recipe / "etc" / "issue").touch()


def remove_a_file(recipe: Path) -> None:
    (recipe / "etc" / "motd").unlink()


@pytest.mark.parametrize("change", [change_a_byte, change_a_mode, rename_a_file, add_an_empty_file, remove_a_file])
def test_another_recipe_is_another_image(recipe: Path, change: Callable[[Path], None]) -> None:
    before = recipe_digest(recipe, "trixie")
    assert re.fullmatch(r"[0-9a-f]{12}", before)
    change(recipe)
    assert recipe_digest(recipe, "trixie") != before


def test_the_same_recipe_elsewhere_is_the_same_image(recipe: Path, tmp_path: Path) -> None:
    shutil.copytree(recipe, tmp_path / "copy", copy_function=shutil.copy)
    (tmp_path / "copy" / "empty").mkdir()
    assert recipe_digest(tmp_path / "copy", "trixie", "armhf") == recipe_digest(recipe, "trixie", "armhf")


def test_every_word_counts(recipe: Path) -> None:
    words = [("trixie", "armhf"), ("trixie", "arm64"), ("armhf", "trixie"), ("trixie",), (), ("trixiearmhf",)]
    assert len({recipe_digest(recipe, *each) for each in words}) == len(words)


def test_packages_of_a_release(recipe: Path) -> None:
    text = (recipe / "packages.txt").read_text()
    assert recipe_packages(text, "trixie") == ["rpi-swap", "systemd"]
    assert recipe_packages(text, "bookworm") == ["dphys-swapfile", "systemd"]
    assert recipe_packages("# nothing\n\n", "trixie") == []


def test_the_recipe_of_this_project_has_packages_for_each_release() -> None:
    folder = Path(__file__).parents[2] / "roles" / "virtual_pi" / "files" / "image"
    text = (folder / "packages.txt").read_text()
    bookworm, trixie = (recipe_packages(text, release) for release in ("bookworm", "trixie"))
    assert {"openssh-server", "sudo", "python3"} <= set(bookworm) & set(trixie)


@pytest.mark.parametrize(
    ("sources", "mirror"),
    [
        (["deb http://mirror.example/debian trixie main\n"], "http://mirror.example/debian"),
        (["deb [signed-by=/x] https://mirror.example/pub/debian/ trixie main\n"], "https://mirror.example/pub/debian"),
        (["Types: deb\nURIs: http://mirror.example/debian/\nSuites: trixie\n"], "http://mirror.example/debian"),
        (
            ["deb http://mirror.example/ubuntu noble main\n", "deb http://b.example/debian x main"],
            "http://b.example/debian",
        ),
    ],
)
def test_the_mirror_of_this_host(sources: list[str], mirror: str) -> None:
    assert host_mirror(sources) == mirror


@pytest.mark.parametrize(
    "sources",
    [
        ["deb http://security.example/debian-security trixie main\n"],
        ["deb http://mirror.example/not-debian x main\n"],
        ["deb cdrom:[Debian]/debian trixie main\n"],
        [],
    ],
)
def test_a_host_without_a_mirror_is_told_how_to_name_one(sources: list[str]) -> None:
    with pytest.raises(VirtualPiError, match="MIRROR="):
        host_mirror(sources)


def image(recipe: Path, *packages: str, release: str = "trixie", architecture: str = "armhf") -> Image:
    return Image(recipe, release, architecture, "http://mirror.example/debian", packages)


def test_what_would_never_boot_is_refused_before_it_is_built() -> None:
    for bootable in (("trixie", "amd64", "amd64"), ("trixie", "armhf", "armhf"), ("bookworm", "armhf", "amd64")):
        refuse_unbootable(*bootable)
    with pytest.raises(VirtualPiError, match=r"trixie on armhf does not boot here: .* take RELEASE=bookworm, or this"):
        refuse_unbootable("trixie", "armhf", "amd64")


def test_names_of_images(recipe: Path) -> None:
    blank = image(recipe)
    assert blank.name == blank.base
    assert re.fullmatch(r"localhost/pi-fleet/virtual-pi:trixie-armhf-[0-9a-f]{12}", blank.name)
    one, other = image(recipe, "python3-numpy", "mosquitto"), image(recipe, "mosquitto", "python3-numpy")
    assert one.base == blank.base
    assert one.name == other.name
    assert re.fullmatch(rf"{blank.base}-[0-9a-f]{{6}}", one.name)
    names = {
        blank.name,
        one.name,
        image(recipe, "mosquitto").name,
        image(recipe, release="bookworm").name,
        image(recipe, architecture="arm64").name,
        Image(recipe, "trixie", "armhf", "http://other.example/debian").name,
    }
    assert len(names) == 6


def test_an_image_that_is_there_is_not_built(recipe: Path, tmp_path: Path) -> None:
    played = Played({"images": "0123\n"})
    assert not image(recipe, "mosquitto").build(Engine("podman", LAPTOP, played), tmp_path)
    assert len(played.calls) == 1


def test_an_image_is_built_from_the_blank_one_and_nothing_stays(recipe: Path, tmp_path: Path) -> None:
    def mmdebstrap(argv: list[str]) -> str:
        archives = [word for word in argv if word.endswith(".tar")]
        Path(archives[0]).write_bytes(b"card")
        return ""

    played = Played({"mmdebstrap": mmdebstrap})
    wanted = image(recipe, "mosquitto")
    assert wanted.build(Engine("podman", LAPTOP, played), tmp_path)
    assert [call[0] if call[0] == "mmdebstrap" else call[1] for call in played.calls] == [
        "images", "images", "images", "mmdebstrap", "import", "run", "commit", "rm",
    ]  # fmt: skip
    bootstrap, imported, maker = played.calls[3:6]
    assert {"--include=rpi-swap,systemd", "--architectures=armhf"} <= set(bootstrap)
    assert imported[-1] == wanted.base
    assert {"LABEL pi-fleet=image", "--variant", "v7"} <= set(imported)
    assert "--label=pi-fleet=image" in maker
    assert played.calls[6][-1] == wanted.name
    assert not list(tmp_path.glob("*.tar"))


def test_what_another_run_builds_meanwhile_is_waited_for_and_not_built_again(recipe: Path, tmp_path: Path) -> None:
    played = Played({"images": lambda argv: "0123\n" if len(played.calls) > 1 else ""})
    wanted = image(recipe)
    lock = tmp_path.parent / f"pi-fleet-{os.getuid()}-{wanted.base.rpartition(':')[2]}.lock"
    with ThreadPoolExecutor() as pool:
        with alone(lock):
            built = pool.submit(wanted.build, Engine("podman", LAPTOP, played), tmp_path)
            time.sleep(0.3)
            assert [call[1] for call in played.calls] == ["images"]
        assert not built.result(timeout=60)
    assert [call[1] for call in played.calls] == ["images", "images"]


def test_a_build_that_fails_leaves_nothing(recipe: Path, tmp_path: Path) -> None:
    def fail(argv: list[str]) -> str:
        raise VirtualPiError("no route to the mirror")

    played = Played({"images": lambda argv: "" if argv[-1].count("-") > 4 else "0123\n", "run": fail})
    with pytest.raises(VirtualPiError, match="no route"):
        image(recipe, "mosquitto").build(Engine("docker", LAPTOP, played), tmp_path)
    assert played.calls[-1][1:3] == ["rm", "--force"]
    assert played.calls[-1][3] == played.calls[-2][2].removeprefix("--name=")


def test_a_snapshot_is_cleaned_of_what_makes_a_device_itself_and_leaves_nothing_else() -> None:
    played = Played()
    take_snapshot(Engine("podman", LAPTOP, played), KITCHEN, "localhost/pi-fleet/virtual-pi:provisioned")
    first, maker, second, *removed = (call[1:] for call in played.calls)
    assert first[:1] == ["commit"]
    assert first[-2] == "fleet-kitchen"
    assert maker[:1] == ["run"]
    assert first[-1] in maker
    assert "ssh_host_" in maker[-1]
    assert "machine-id" in maker[-1]
    assert second[-1] == "localhost/pi-fleet/virtual-pi:provisioned"
    assert all("--change=LABEL pi-fleet=image" in call for call in (first, second))
    assert removed == [["rm", "--force", second[-2]], ["rmi", "--force", first[-1]]]


def test_a_snapshot_that_is_not_there_is_refused_and_one_that_is_is_used(tmp_path: Path) -> None:
    snapshot = Snapshot("localhost/pi-fleet/virtual-pi:provisioned")
    assert not snapshot.build(Engine("podman", LAPTOP, Played({"images": "0123\n"})), tmp_path)
    with pytest.raises(VirtualPiError, match=r"^There is no image localhost/.*; make it with module"):
        snapshot.build(Engine("podman", LAPTOP, Played()), tmp_path)


def inspected(port: int) -> str:
    return json.dumps([{"HostConfig": {"PortBindings": {"22/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}]}}}])


def copied_key(argv: list[str]) -> str:
    Path(argv[-1]).write_text("ssh-ed25519 AAAAkey root@kitchen\n")
    return ""


def test_a_virtual_pi_is_reached_with_its_host_key_checked() -> None:
    played = Played({"inspect": inspected(2201), "cp": copied_key})
    found = virtual_pi.connection(Engine("podman", LAPTOP, played), KITCHEN)
    assert found == Connection("kitchen", 2201, "ssh-ed25519 AAAAkey")
    command = virtual_pi.ssh(found, Path("/keys/id"))
    assert "KnownHostsCommand=/bin/echo [127.0.0.1]:2201 ssh-ed25519 AAAAkey" in command
    assert not [word for word in command if word.lower().startswith("stricthostkeychecking")]
    assert command[-5:] == ["-i", "/keys/id", "-p", "2201", "pi@127.0.0.1"]


def test_one_that_was_made_from_another_image_or_for_another_key_is_not_as_wanted() -> None:
    wanted = Instance("fleet", "kitchen", "image", "SHA256:abc")

    def is_as_wanted(labels: str) -> bool:
        return Engine("podman", LAPTOP, Played({"inspect": labels})).is_as_wanted(wanted)

    assert is_as_wanted("image SHA256:abc\n")
    assert not is_as_wanted("other SHA256:abc\n")
    assert not is_as_wanted("image SHA256:old\n")
    assert not is_as_wanted("image <no value>\n")


def test_the_fingerprint_of_a_key_is_that_of_ssh_keygen(tmp_path: Path) -> None:
    virtual_pi.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "id")])
    shown = virtual_pi.run(["ssh-keygen", "-l", "-f", str(tmp_path / "id.pub")])
    assert HostKey.parse((tmp_path / "id.pub").read_text()).fingerprint == shown.split()[1]


def test_a_virtual_pi_is_made_with_its_seed() -> None:
    seeds: list[str] = []

    def cp(argv: list[str]) -> str:
        seeds.append(Path(argv[-2]).read_text())
        return ""

    played = Played({"cp": cp})
    virtual_pi.create(Engine("podman", LAPTOP, played), KITCHEN, "secret", "ssh-ed25519 AAAA me")
    assert seeds == ["pi:secret\nssh-ed25519 AAAA me\n"]
    assert [call[1] for call in played.calls] == ["ps", "create", "cp", "rename"]
    assert played.calls[1][2] == "--name=fleet-kitchen_new"
    assert played.calls[2][-1] == "fleet-kitchen_new:/boot/firmware/virtual-pi-seed"
    assert played.calls[3][2:] == ["fleet-kitchen_new", "fleet-kitchen"]
    assert not [word for call in played.calls for word in call if "secret" in word]


def test_files_of_its_own_are_its_seed() -> None:
    played = Played({})
    seeded = replace(KITCHEN, files=(("/cards/kitchen", "/boot/firmware"), ("/overlay", "/")))
    virtual_pi.create(Engine("podman", LAPTOP, played), seeded, "secret", "ssh-ed25519 AAAA me")
    copies = [call[-2:] for call in played.calls if "cp" in call]
    assert copies == [["/cards/kitchen/.", "fleet-kitchen_new:/boot/firmware"], ["/overlay/.", "fleet-kitchen_new:/"]]
    assert played.calls[-1][1:] == ["rename", "fleet-kitchen_new", "fleet-kitchen"]


def booting(*states: str | VirtualPiError) -> Played:
    left = list(states)

    def ssh(argv: list[str]) -> str:
        if argv[-1].startswith("systemctl --failed"):
            return "camera.service loaded failed failed A camera\n"
        state = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(state, VirtualPiError):
            raise state
        return f"{state}\n"

    return Played({"inspect": inspected(2201), "cp": copied_key, "ssh": ssh})


def boot(monkeypatch: pytest.MonkeyPatch, played: Played, limit: float = 5) -> Connection:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return virtual_pi.wait_until_booted(Engine("podman", LAPTOP, played), KITCHEN, Path("/keys/id"), limit)


def test_a_boot_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    played = booting(VirtualPiError("Connection refused"), "starting", "running")
    assert boot(monkeypatch, played).port == 2201


def test_a_boot_with_a_failed_unit_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VirtualPiError, match=r"^fleet-kitchen booted, but with a failed unit: camera\.service"):
        boot(monkeypatch, booting("degraded"))


def test_a_boot_that_never_ends_tells_the_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VirtualPiError, match=r"^fleet-kitchen did not boot within 0 s: Connection refused$"):
        boot(monkeypatch, booting(VirtualPiError("Connection refused")), limit=0.05)


class Shelf(Played):
    """An engine that holds containers, by name whether they run; `killed` is the verb at which a run is killed."""

    def __init__(self, private_key: Path, *states: str) -> None:
        self.containers: dict[str, bool] = {}
        self.killed = ""
        self.states = list(states or ["running"])
        self.labels = ""
        if (public := private_key.with_suffix(".pub")).exists():
            self.labels = f"image {HostKey.parse(public.read_text()).fingerprint}"
        super().__init__({"images": "0123", "inspect": self.inspect, "ps": self.ps, "ssh": self.ssh})
        self.answers |= {verb: getattr(self, verb) for verb in ("create", "cp", "rename", "rm", "start")}

    def __call__(self, argv: Sequence[str], stdin: str | None = None) -> str:
        if self.killed in argv:
            raise KeyboardInterrupt
        return super().__call__(argv, stdin)

    def verbs(self) -> list[str]:
        changing = ("create", "rename", "rm", "start")
        return [" ".join(call[1:2] + call[-1:]) for call in self.calls if call[1] in changing]

    def ps(self, argv: list[str]) -> str:
        return "\n".join(name for name, runs in self.containers.items() if runs or "status=running" not in argv)

    def inspect(self, argv: list[str]) -> str:
        return self.labels if "--format" in argv else inspected(2201)

    def create(self, argv: list[str]) -> str:
        self.containers[argv[2].removeprefix("--name=")] = False
        return ""

    def cp(self, argv: list[str]) -> str:
        return "" if ":" in argv[-1] else copied_key(argv)

    def rename(self, argv: list[str]) -> str:
        self.containers[argv[-1]] = self.containers.pop(argv[-2])
        return ""

    def rm(self, argv: list[str]) -> str:
        del self.containers[argv[-1]]
        return ""

    def start(self, argv: list[str]) -> str:
        self.containers[argv[-1]] = True
        return ""

    def ssh(self, argv: list[str]) -> str:
        if argv[-1].startswith("systemctl --failed"):
            return "camera.service loaded failed failed A camera"
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


@pytest.fixture
def private_key(tmp_path: Path) -> Path:
    virtual_pi.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "id")])
    return tmp_path / "id"


def converge(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    shelf: Shelf,
    private_key: Path,
    **more: object,
) -> dict[str, Any]:
    """Have the module bring a fleet to one virtual Pi; return what it says."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(Host, "detect", lambda: LAPTOP)
    monkeypatch.setattr(Engine, "find", lambda wanted, host: Engine("podman", host, shelf))
    kitchen = {"name": "kitchen", "release": "trixie", "image": "image"}
    wanted = {"fleet": "fleet", "recipe": "/", "instances": [kitchen], "private_key": str(private_key), **more}
    with patch_module_args(wanted), pytest.raises(SystemExit):
        module.main()
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return said


@pytest.mark.parametrize("verb", ["create", "cp", "rename", "start", "ssh"])
def test_a_run_that_was_killed_is_healed_by_the_next(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], private_key: Path, verb: str
) -> None:
    shelf = Shelf(private_key)
    shelf.killed = verb
    with pytest.raises(KeyboardInterrupt):
        converge(monkeypatch, capsys, shelf, private_key)
    # It gets a name of the fleet once it has all that lets somebody in.
    assert ("fleet-kitchen" in shelf.containers) == (verb in ("start", "ssh"))
    shelf.killed = ""
    said = converge(monkeypatch, capsys, shelf, private_key)
    assert [each["name"] for each in said["connections"]] == ["kitchen"]
    assert shelf.containers == {"fleet-kitchen": True}
    healed = converge(monkeypatch, capsys, shelf, private_key)
    assert not healed["changed"]


def test_one_that_still_boots_is_waited_for_and_failed_units_of_one_that_ran_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], private_key: Path
) -> None:
    shelf = Shelf(private_key, "starting", "degraded")
    shelf.containers = {"fleet-kitchen": True}
    said = converge(monkeypatch, capsys, shelf, private_key)
    assert not said["changed"]
    assert said["connections"][0]["port"] == 2201
    assert shelf.states == ["degraded"], "it was asked until it had booted"
    assert shelf.verbs() == []
    shelf.containers = {"fleet-kitchen": False}
    assert "failed unit: camera.service" in converge(monkeypatch, capsys, shelf, private_key)["msg"]


def test_check_mode_says_what_it_would_make_before_there_is_a_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    missing = tmp_path / "missing"
    shelf = Shelf(missing)
    said = converge(monkeypatch, capsys, shelf, missing, _ansible_check_mode=True)
    assert (said["changed"], said["diff"]) == (True, {"before": "", "after": "fleet-kitchen\n"})
    shelf.containers, shelf.labels = {"fleet-kitchen": True}, "image SHA256:of-a-key-that-is-gone"
    assert converge(monkeypatch, capsys, shelf, missing, _ansible_check_mode=True)["changed"]
    said = converge(monkeypatch, capsys, shelf, missing)
    assert said["msg"] == f"private_key is '{missing}', and there is no {missing}.pub: make the pair with ssh-keygen."
    assert shelf.verbs() == []


def test_a_port_is_none_that_the_kernel_hands_out_is_listened_on_or_leads_to_another_container(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    played = Played({})
    engine = Engine("podman", LAPTOP, played)
    assert virtual_pi.free_port(engine) < int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
        monkeypatch.setattr(virtual_pi, "PORTS", range(port, port + 1))
        with pytest.raises(VirtualPiError, match=rf"^No port from {port} to {port} is free on this host; "):
            virtual_pi.free_port(engine)
    assert virtual_pi.free_port(engine) == port
    played.answers["ps"] = f"\n127.0.0.1:22->22/tcp, 127.0.0.1:{port}->80/tcp\n"
    with pytest.raises(VirtualPiError, match=rf"^No port from {port} to {port} is free on this host; "):
        virtual_pi.create(engine, KITCHEN, "secret", "ssh-ed25519 AAAA me")
    assert {call[1] for call in played.calls} == {"ps"}
