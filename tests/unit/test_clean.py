"""`make clean` removes what is pi-fleet's, to its end and for whoever has sudo, and nothing beside it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "clean.sh"
HANDLERS = "/proc/sys/fs/binfmt_misc"
LOCKS = "/var/tmp"

ENGINE = r"""#!/bin/sh
echo "${0##*/} $*" >>calls
case "$*" in
  "ps "*label=pi-fleet*) [ "${0##*/}" = docker ] || echo kitchen ;;
  "images "*label=pi-fleet*) printf 'trixie\nbookworm\ntrixie\n' ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout whose clean.sh finds engines and handlers that are played, and nothing of this machine's."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "handlers").mkdir()
    (tmp_path / "locks").mkdir()
    script = tmp_path / "tools" / "clean.sh"
    text = SCRIPT.read_text()
    assert text.count(HANDLERS) == text.count(LOCKS) == 1
    script.write_text(text.replace(HANDLERS, str(tmp_path / "handlers")).replace(LOCKS, str(tmp_path / "locks")))
    script.chmod(0o755)
    program(tmp_path, "podman", ENGINE)
    program(tmp_path, "docker", ENGINE)
    program(tmp_path, "id", "#!/bin/sh\necho 1000\n")
    program(tmp_path, "sudo", '#!/bin/sh\necho "sudo $*" >>calls\nchmod u+w handlers/*\n"$@"\n')
    for name in (".venv", ".cache/verify", "dist", "inventory/virtual/keys", "inventory/virtual/field_data"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "inventory/virtual/connections.yml").touch()
    (tmp_path / "inventory/virtual/hosts.yml").touch()
    return tmp_path


def program(checkout: Path, name: str, text: str) -> None:
    path = checkout / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def clean(checkout: Path) -> list[str]:
    """Run it from elsewhere, and return what was called."""
    environment = {**os.environ, "PATH": f"{checkout}/bin:{os.environ['PATH']}"}
    script = str(checkout / "tools" / "clean.sh")
    done = subprocess.run([script], cwd="/", env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Removed ")
    return (checkout / "calls").read_text().splitlines()


def test_what_carries_the_label_goes_and_nothing_else(checkout: Path) -> None:
    calls = clean(checkout)
    assert [call for call in calls if " rm" in call] == [
        "podman rm --force --volumes kitchen",
        "podman rmi --force bookworm trixie",
        "docker rmi --force bookworm trixie",
    ]
    left = {str(path.relative_to(checkout)) for path in checkout.rglob("*") if checkout / "bin" not in path.parents}
    assert left == {
        *("bin", "calls", "handlers", "locks", "tools", "tools/clean.sh"),
        *("inventory", "inventory/virtual", "inventory/virtual/hosts.yml", "inventory/virtual/field_data"),
    }


def test_handlers_of_an_emulation_go_by_sudo_and_so_does_the_rest(checkout: Path) -> None:
    for name in ("pi-fleet-arm", "qemu-arm"):
        (checkout / "handlers" / name).write_text("enabled")
        # As the kernel's files are to others than root, who runs these tests at times.
        (checkout / "handlers" / name).chmod(0o444)
    calls = clean(checkout)
    assert [call for call in calls if call.startswith("sudo")] == [f"sudo tee {checkout}/handlers/pi-fleet-arm"]
    assert (checkout / "handlers" / "pi-fleet-arm").read_text() == "-1\n"
    assert (checkout / "handlers" / "qemu-arm").read_text() == "enabled"
    assert not (checkout / ".venv").exists()


def test_locks_of_builds_go_but_not_those_of_others(checkout: Path) -> None:
    # As module virtual_pi names them: by the number of whose they are, which is played.
    kept = ["pi-fleet-1001-trixie-amd64-0123456789ab.lock", "other.lock"]
    for name in ("pi-fleet-1000-trixie-amd64-0123456789ab.lock", *kept):
        (checkout / "locks" / name).touch()
    clean(checkout)
    assert sorted(path.name for path in (checkout / "locks").iterdir()) == sorted(kept)
