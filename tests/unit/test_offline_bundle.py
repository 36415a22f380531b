"""What a bundle for a site without internet is made of."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools import offline_bundle
from tools.offline_bundle import BundleError, Source, archive_folder, device_sources, parse_sources, wanted_packages

DEB822 = """# Modernized from /etc/apt/sources.list
Types: deb deb-src
URIs: http://deb.example.org/debian/
Suites: trixie trixie-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.pgp

Types: deb
URIs: http://pi.example.org/debian
Suites: trixie
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQENBE
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: http://off.example.org/debian
Suites: trixie
Components: main
Enabled: no

Types: deb-src
URIs: http://src.example.org/debian
Suites: trixie
Components: main
"""

ONE_LINE = """deb http://pi.example.org/raspbian bookworm main contrib # 32-bit
#deb-src http://pi.example.org/raspbian bookworm main
deb-src http://pi.example.org/raspbian bookworm main
deb [arch=armhf signed-by=/usr/share/keyrings/pi.gpg] http://pi.example.org/debian/ bookworm main
"""


def test_both_formats_of_sources_are_read() -> None:
    first, second = parse_sources(DEB822)
    assert first.uris == ("http://deb.example.org/debian/",)
    assert first.fields == {
        "Types": "deb",
        "Suites": "trixie trixie-updates",
        "Components": "main",
        "Signed-By": "/usr/share/keyrings/debian-archive-keyring.pgp",
    }
    assert second.uris == ("http://pi.example.org/debian/",)
    assert "Signed-By: \n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQENBE\n" in second.stanza()
    plain, signed = parse_sources(ONE_LINE)
    assert plain.fields == {"Types": "deb", "Suites": "bookworm", "Components": "main contrib"}
    assert signed.uris == ("http://pi.example.org/debian/",)
    assert signed.fields["Signed-By"] == "/usr/share/keyrings/pi.gpg"


@pytest.mark.parametrize("text", ["", "# nothing\n", "Types: deb-src\nURIs: http://a.example.org/\nSuites: trixie\n"])
def test_no_archive_is_refused(text: str) -> None:
    with pytest.raises(BundleError, match=r"give the files of a device's /etc/apt/sources\.list\.d\."):
        parse_sources(text)


@pytest.mark.parametrize("line", ["deb http://a.example.org", "Types: deb\nno field"])
def test_what_is_no_source_is_named(line: str) -> None:
    with pytest.raises(BundleError, match="mend it, or leave it out"):
        parse_sources(line)


def test_an_archive_has_a_folder_that_says_which_it_is() -> None:
    assert archive_folder("http://deb.example.org/debian/") == "deb.example.org/debian"
    assert archive_folder("http://deb.example.org:8080/") == "deb.example.org"
    assert archive_folder("file:/srv/mirror/debian/") == "local/srv/mirror/debian"


def test_devices_read_the_same_archives_in_the_bundle_and_verify_them_by_the_same_keys() -> None:
    written = device_sources(parse_sources(DEB822), "armhf")
    first, second = parse_sources(written)
    assert first.uris == ("file:/opt/pi-fleet/offline/current/deb.example.org/debian/",)
    assert second.uris == ("file:/opt/pi-fleet/offline/current/pi.example.org/debian/",)
    for source, origin in zip((first, second), parse_sources(DEB822), strict=True):
        fixed = {"Architectures": "armhf", "Check-Valid-Until": "no", "Languages": "none"}
        assert source.fields == {**origin.fields, **fixed}
    assert "Trusted" not in written


def test_what_roles_install_is_read_from_their_variables(tmp_path: Path) -> None:
    written = {
        "one": "__one_packages: [mosquitto]\n__one_other: [nothing]\n",
        "two": "__two_packages:\n  bookworm: []\n  trixie: [python3-onnxruntime]\n",
        "camera": "__camera_on_offer: '{{ asked }}'\n__camera_stacks:\n  v4l2:\n    - [python3-opencv]\n"
        "  picamera2:\n    - [rpicam-apps-lite, rpicam-apps]\n",
    }
    for role, text in written.items():
        path = tmp_path / role / "vars/main.yml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    assert wanted_packages("trixie", tmp_path) == (
        ["mosquitto", "python3-onnxruntime", "python3-opencv"],
        ["rpicam-apps-lite"],
    )
    assert wanted_packages("bookworm", tmp_path)[0] == ["mosquitto", "python3-opencv"]


def test_no_role_computes_what_it_installs() -> None:
    """A bundle would not have it: what depends on the inventory is in __ROLE_further_packages."""
    found = {
        path.parents[1].name: yaml.safe_load(path.read_text())
        for path in (offline_bundle.ROOT / "roles").glob("*/vars/main.yml")
    }
    named = {role: variables.get(f"__{role}_packages") for role, variables in found.items()}
    assert {role for role, packages in named.items() if isinstance(packages, str)} == set()
    assert {"python3-pil", "python3-opencv", "mosquitto", "rsync"} <= set(wanted_packages("trixie")[0])


def test_debian_is_what_is_bundled_where_no_archive_is_named() -> None:
    (source,) = offline_bundle.debian("trixie", "http://deb.example.org/debian")
    assert source.uris == ("http://deb.example.org/debian/",)
    assert source.fields["Suites"] == "trixie trixie-updates"


def archive(folder: Path) -> Source:
    """Make an archive with one package, whose index nobody signed."""
    (folder / "dists/trixie/main/binary-armhf").mkdir(parents=True)
    packages = folder / "dists/trixie/main/binary-armhf/Packages"
    packages.write_text("Package: a\nVersion: 1\nArchitecture: armhf\nFilename: pool/a.deb\nSize: 1\n\n")
    digest = hashlib.sha256(packages.read_bytes()).hexdigest()
    (folder / "dists/trixie/Release").write_text(
        f"Suite: trixie\nCodename: trixie\nComponents: main\nArchitectures: armhf\nSHA256:\n"
        f" {digest} {packages.stat().st_size} main/binary-armhf/Packages\n"
    )
    return Source((f"file:{folder}/",), {"Types": "deb", "Suites": "trixie", "Components": "main"})


def test_an_archive_that_nobody_signed_is_refused(tmp_path: Path) -> None:
    source = archive(tmp_path / "mirror")
    made = offline_bundle.Archive(tmp_path / "apt", "armhf", [source])
    with pytest.raises(BundleError, match="is not signed"):
        made.prepare()


def test_apt_is_asked_in_a_place_of_its_own(tmp_path: Path) -> None:
    """Whatever this machine has installed, all that a package depends on is bundled."""
    source = archive(tmp_path / "mirror")
    trusted = Source(source.uris, {**source.fields, "Trusted": "yes"})
    made = offline_bundle.Archive(tmp_path / "apt", "armhf", [trusted])
    made.prepare()
    assert made.offered(["a", "b"]) == ["a"]
    assert made.offered([]) == []
    with pytest.raises(BundleError, match="Unable to locate package b"):
        made.packages(["a", "b"])
    with pytest.raises(BundleError, match="has no InRelease for trixie"):
        list(made.indexes())


def test_a_folder_is_hashed_by_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_text("c")
    (tmp_path / "a").write_text("a")
    (tmp_path / "SHA256SUMS").write_text("".join(offline_bundle.checksums(tmp_path)))
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=True)
    assert (tmp_path / "SHA256SUMS").read_text().splitlines()[1].endswith("  b/c")


INSTALL = Path(__file__).resolve().parents[2] / "tools/offline/install"


def install(folder: Path, damage: str) -> str:
    """Run install in a bundle with something wrong; return what it says."""
    (folder / "install").write_bytes(INSTALL.read_bytes())
    (folder / "python").write_text(offline_bundle.python_here())
    if damage == "python":
        (folder / "python").write_text("2.7 linux-armv7l\n")
    (folder / "SHA256SUMS").write_text("".join(offline_bundle.checksums(folder)))
    if damage == "bytes":
        (folder / "python").write_text("damaged\n")
    done = subprocess.run(
        ["sh", str(folder / "install")],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(folder)},
    )
    assert done.returncode == 1
    return done.stderr


def test_a_bundle_that_is_not_whole_installs_nothing(tmp_path: Path) -> None:
    assert "install: this folder is not what was bundled; copy the file anew" in install(tmp_path, "bytes")
    assert not (tmp_path / ".venv").exists()


def test_a_bundle_for_another_python_installs_nothing(tmp_path: Path) -> None:
    said = install(tmp_path, "python")
    assert "install: the wheels are for Python 2.7 linux-armv7l, and here is 3." in said
    assert not (tmp_path / ".venv").exists()
