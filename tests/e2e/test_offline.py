"""A site without internet: one file, a control node made of it, and a device whose only route is that control node.

The device loses its default route, so that no archive of packages can be reached. The control node's `install` runs
where there is no network at all; its playbooks are shown proxies that are not there, and a home without caches.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from ansible_collections.edge.pi_fleet.plugins.module_utils.virtual_pi import Engine, Host

from tests.e2e.conftest import PROJECT, Fleet, Run, role_alone

HOST = "pi-trixie"
CONTAINER = f"{os.environ.get('E2E_FLEET', 'molecule-offline')}-{HOST}"
NOWHERE = "http://127.0.0.1:9"
DROPIN = "/etc/apt/apt.conf.d/99pi-fleet-offline"

# Whether a device reaches the archive that its own sources name.
REACHES = """
import re, socket
from pathlib import Path
host = re.search(r"https?://([^/ ]+)", Path("/etc/apt/sources.list").read_text())[1]
try:
    socket.create_connection((host, 80), timeout=3)
    print("reached")
except OSError:
    print("cut off")
"""


@dataclass(frozen=True)
class Site:
    """The folder that the bundle was unpacked to, and the devices of the site."""

    folder: Path
    home: Path
    fleet: Fleet
    packages: str
    route: str
    """The device's default route, while it has one."""

    def environment(self) -> dict[str, str]:
        """Return what programs of the control node see: nothing of this checkout, and no way to the internet."""
        dead = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), NOWHERE)
        kept = {name: value for name, value in self.fleet.environment().items() if name != "VIRTUAL_ENV"}
        path = f"{self.folder}/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {**kept, **dead, "HOME": str(self.home), "PATH": path}

    def play(self, playbook: str, *arguments: str, packages: str | None = None) -> Run:
        """Run a playbook of the bundle's."""
        named = self.packages if packages is None else packages
        return self.fleet.playbook(
            playbook, "--extra-vars", f"offline_packages={named}", *arguments, cwd=self.folder, **self.environment()
        )


def run(argv: Sequence[str], **options: object) -> str:
    """Run a command that is to succeed."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    output: str = done.stdout
    return output


def routes(container: str, *change: str) -> str:
    """Show or change the routes of a virtual Pi. Without a default one, this machine is all that it reaches."""
    engine = Engine.find("auto", Host.detect())
    process = engine.call("inspect", "--format", "{{.State.Pid}}", container).strip()
    # A rootless container's network belongs to a user namespace of its own.
    rootless = ["podman", "unshare"] if engine.program == "podman" and os.geteuid() != 0 else []
    return run([*rootless, "nsenter", f"--target={process}", "--net", "ip", "route", *change]).strip()


@pytest.fixture(scope="module")
def site(fleet: Fleet) -> Site:
    folder = Path(os.environ["E2E_DIRECTORY"])
    shutil.rmtree(folder, ignore_errors=True)
    home = folder / "home"
    home.mkdir(parents=True)
    begun = time.monotonic()
    model = PROJECT / ".cache/models/demonstration"
    architecture = run(["dpkg", "--print-architecture"]).strip()
    bundled = run(
        [
            *(str(PROJECT / "tools/offline_bundle.py"), "--release", "trixie", "--architecture", architecture),
            *("--mirror", os.environ.get("MIRROR", ""), "--models", str(model), "--output", str(folder)),
        ]
    )
    print(f"{bundled}in {time.monotonic() - begun:.0f} s")
    (archive,) = folder.glob("pi-fleet-offline-*.tar")
    run(["tar", "--extract", "--file", str(archive), "--directory", str(folder)])
    unpacked = archive.with_suffix("")
    extra = ["--extra-vars", f"image_classifier_model={unpacked}/models/demonstration"]
    made = Site(
        unpacked, home, replace(fleet, extra=extra), f"{unpacked}/packages", routes(CONTAINER, "show", "default")
    )
    # Without any network, as a user who has none would notice.
    alone = ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--net"]
    told = run([*alone, str(unpacked / "install")], env={**os.environ, "HOME": str(home)})
    assert made.packages in told
    return made


def test_a_bundle_for_another_device_is_refused_before_anything_is_touched(site: Site) -> None:
    about = json.loads(Path(site.packages, "packages.json").read_text())
    other = site.home / "packages"
    other.mkdir()
    (other / "packages.json").write_text(json.dumps({**about, "release": "bookworm", "architecture": "armhf"}))
    refused = site.play("playbooks/site.yml", packages=str(other))
    assert refused.code != 0
    words = " ".join(refused.output.split())
    assert f"which holds packages for bookworm armhf; the device is trixie {about['architecture']}:" in words
    for playbook in ("playbooks/site.yml", role_alone("offline", site.home)):
        refused = site.play(playbook, packages=str(site.home))
        assert "where no packages.json is; name the folder packages of a bundle" in " ".join(refused.output.split())
        assert set(refused.changed.values()) == {0}


def test_a_device_whose_only_route_is_the_control_node_is_provisioned(site: Site) -> None:
    routes(CONTAINER, "del", "default")
    assert site.fleet.root(HOST, REACHES).strip() == "cut off"
    begun = time.monotonic()
    first = site.play("playbooks/site.yml")
    assert first.code == 0, first.output
    print(f"provisioned without internet in {time.monotonic() - begun:.0f} s")
    assert site.fleet.root(HOST, REACHES).strip() == "cut off"
    second = site.play("playbooks/site.yml")
    assert second.code == 0, second.output
    assert second.changed[HOST] == 0
    # Packages came from the bundle, whose index apt has verified by the release's own keys.
    assert "file:/opt/pi-fleet/offline/current/" in offered(site)
    assert "Trusted" not in Path(site.packages, "offline.sources").read_text()


def test_it_is_as_it_should_be_and_answers_a_real_question(site: Site) -> None:
    verified = site.play("playbooks/verify.yml")
    assert verified.code == 0, verified.output
    assert "apt uses the bundle's packages" in verified.output
    # It replays two pictures.
    asked = site.play("playbooks/classify.yml", "--extra-vars", "classify_times=2")
    assert asked.code == 0, asked.output
    assert "coffee-mug" in asked.output


def test_a_run_that_was_killed_before_its_end_begins_again(site: Site) -> None:
    # As after a kill between the packages' arrival and the drop-in, which is written last.
    site.fleet.root(HOST, f"import os; os.unlink('{DROPIN}')")
    healed = site.play("playbooks/site.yml", "--tags", "offline")
    assert healed.code == 0, healed.output
    assert healed.changed[HOST] == 1
    assert site.play("playbooks/site.yml", "--tags", "offline").changed[HOST] == 0


SPOILT = {
    "cut off": "[os.truncate(path, 0) for path in Path('/opt/pi-fleet/offline/current').rglob('*.deb')]",
    "gone": "shutil.rmtree('/opt/pi-fleet/offline/releases')",
    "other bytes": "Path('/opt/pi-fleet/offline/current/packages.json').open('r+').write('?')",
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_packages_that_somebody_spoilt_are_told_and_dropped_again(site: Site, spoil: str) -> None:
    assert site.play("playbooks/site.yml").code == 0
    assert site.play("playbooks/drift.yml").code == 0
    site.fleet.root(HOST, f"import os, shutil\nfrom pathlib import Path\n{spoil}")
    told = site.play("playbooks/drift.yml")
    assert told.code == 2
    assert "path /opt/pi-fleet/offline/releases" in told.output
    healed = site.play("playbooks/site.yml")
    assert healed.code == 0, healed.output
    assert site.play("playbooks/drift.yml").code == 0
    assert site.play("playbooks/verify.yml").code == 0


def offered(site: Site) -> str:
    """Return where the device's apt would take a package from."""
    return site.fleet.root(HOST, "import subprocess; print(subprocess.getoutput('apt-cache policy python3-opencv'))")


def test_a_device_that_reaches_no_archive_says_so_and_takes_the_bundle_again(site: Site) -> None:
    failed = site.play("playbooks/site.yml", "--tags", "offline", packages="")
    assert failed.code != 0
    assert "Failed to update apt cache" in failed.output
    again = site.play("playbooks/site.yml", "--tags", "offline")
    assert again.code == 0, again.output
    assert "file:/opt/pi-fleet/offline/current/" in offered(site)


def test_a_device_that_has_its_route_back_goes_back_to_its_archives(site: Site) -> None:
    routes(CONTAINER, "add", *site.route.split())
    assert site.fleet.root(HOST, REACHES).strip() == "reached"
    back = site.play("playbooks/site.yml", packages="")
    assert back.code == 0, back.output
    policy = offered(site)
    assert "http" in policy
    assert "file:" not in policy
    left = f"import os; print([os.path.exists(path) for path in ('{DROPIN}', '/opt/pi-fleet/offline')])"
    assert site.fleet.root(HOST, left).strip() == "[False, False]"
    assert site.play("playbooks/site.yml", packages="").changed[HOST] == 0
    assert site.play("playbooks/verify.yml", packages="").code == 0
