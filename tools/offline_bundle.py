#!/usr/bin/env python3
"""Write one file that a site without internet provisions from: dist/pi-fleet-offline-RELEASE-ARCHITECTURE.tar.

usage: offline_bundle.py --release RELEASE --architecture ARCHITECTURE [--help for the rest]

Its packages are a part of the archives that the devices' own apt names: their index, signed as it was published, and
of the packages those that the roles install, with all that they depend on. A device's apt verifies them as ever.
Beside them are wheels for the control node and for devices, models, and the collection.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "collections"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ansible_collections.edge.pi_fleet.plugins.module_utils.kept import file_sha256
from ansible_collections.edge.pi_fleet.plugins.module_utils.virtual_pi import (
    ARCHITECTURES,
    RELEASES,
    VirtualPiError,
    apt_sources,
    host_mirror,
)

from tools import build_collection

ROOT = Path(__file__).resolve().parents[1]
DEVICE_PATH = "/opt/pi-fleet/offline/current"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

# apt on the device takes the first of these that the archive has.
COMPRESSIONS = (".xz", ".gz", "")


class BundleError(Exception):
    """One sentence: what is in the way of a bundle, and what to do."""


@dataclass(frozen=True)
class Source:
    """An entry of apt's sources: one archive, in the words of deb822."""

    uris: tuple[str, ...]
    fields: dict[str, str]
    """The other fields, as they were written."""

    def stanza(self, **fields: str) -> str:
        """Return it as deb822, with these fields in place of its own."""
        return "".join(f"{name}: {value}\n" for name, value in {**self.fields, **fields}.items())


def parse_sources(text: str) -> list[Source]:
    """Read sources of packages, in either of apt's formats."""
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        lines = [line for line in paragraph.splitlines() if line.strip() and not line.startswith("#")]
        if not lines:
            continue
        one_line = re.match(r"deb(-src)?\s", lines[0])
        for entry in [_one_line(line) for line in lines] if one_line else [_fields(lines)]:
            if "deb" in entry.get("Types", "").split() and entry.get("Enabled", "yes").lower() != "no":
                uris = tuple(uri if uri.endswith("/") else f"{uri}/" for uri in entry.pop("URIs", "").split())
                found.append(Source(uris, {**entry, "Types": "deb"}))
    if not found:
        raise BundleError("No archive of packages is named; give the files of a device's /etc/apt/sources.list.d.")
    return found


def _one_line(line: str) -> dict[str, str]:
    matched = re.fullmatch(r"(deb|deb-src)\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)((?:\s+[^\s#]+)*)\s*(?:#.*)?", line)
    if not matched:
        raise BundleError(f"'{line}' is no line of apt's sources.list; mend it, or leave it out.")
    kind, options, uri, suite, components = matched.groups()
    entry = {"Types": kind, "URIs": uri, "Suites": suite, "Components": components.strip()}
    for option in (options or "").split():
        name, _, value = option.partition("=")
        if name == "signed-by":
            entry["Signed-By"] = value
    return entry


def _fields(lines: Sequence[str]) -> dict[str, str]:
    entry: dict[str, str] = {}
    name = ""
    for line in lines:
        if line[0].isspace() and name:
            entry[name] += f"\n{line}"
            continue
        name, colon, value = line.partition(":")
        if not colon:
            raise BundleError(f"'{line}' is no field of apt's sources; mend it, or leave it out.")
        entry[name] = value.strip()
    return entry


def archive_folder(uri: str) -> str:
    """Return the folder of an archive's part in a bundle: its address, without what leads to it."""
    parts = urlsplit(uri)
    return f"{parts.hostname or 'local'}/{parts.path.strip('/')}".rstrip("/")


def device_sources(sources: Sequence[Source], architecture: str) -> str:
    """Return apt's sources for devices: the same archives, in the folder that role offline drops."""
    # The date of an index says how old a bundle is, and nothing of whether it is genuine.
    fixed = {"Architectures": architecture, "Check-Valid-Until": "no", "Languages": "none"}
    return "\n".join(
        source.stanza(URIs=" ".join(f"file:{DEVICE_PATH}/{archive_folder(uri)}/" for uri in source.uris), **fixed)
        for source in sources
    )


def wanted_packages(release: str, roles: Path = ROOT / "roles") -> tuple[list[str], list[str]]:
    """Return the packages that roles install on devices, and those that they install where an archive has them."""
    wanted: set[str] = set()
    offered: set[str] = set()
    for path in sorted(roles.glob("*/vars/main.yml")):
        role = path.parents[1].name
        variables = yaml.safe_load(path.read_text())
        packages = variables.get(f"__{role}_packages", [])
        if isinstance(packages, dict):
            packages = packages[release]
        wanted |= set(packages)
        # The camera's stacks: of each need the first will do.
        for stack, needs in variables.get(f"__{role}_stacks", {}).items():
            (wanted if stack == "v4l2" else offered).update(need[0] for need in needs)
    return sorted(wanted), sorted(offered)


@dataclass(frozen=True)
class Archive:
    """What a run of apt needs to know of itself: it reads nothing of this machine's own, and changes nothing there."""

    root: Path
    architecture: str
    sources: Sequence[Source]

    def prepare(self) -> None:
        """Write apt's settings, and fetch the indexes, which apt verifies."""
        for folder in ("etc/apt/sources.list.d", "etc/apt/preferences.d", "lists/partial", "archives/partial"):
            (self.root / folder).mkdir(parents=True)
        (self.root / "status").touch()
        stanzas = [source.stanza(URIs=" ".join(source.uris)) for source in self.sources]
        (self.root / "etc/apt/sources.list.d/bundle.sources").write_text("\n".join(stanzas))
        settings = {
            "Dir": self.root,
            "Dir::State::lists": self.root / "lists",
            "Dir::State::status": self.root / "status",
            "Dir::Cache::archives": self.root / "archives",
            "APT::Architecture": self.architecture,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        lines = [f'{name} "{value}";' for name, value in settings.items()]
        lines.append(f'APT::Architectures {{ "{self.architecture}"; }};')
        (self.root / "apt.conf").write_text("\n".join(lines) + "\n")
        self._apt("update", "--error-on=any")

    def offered(self, packages: Sequence[str]) -> list[str]:
        """Return those of the packages that the archives have."""
        if not packages:
            return []
        shown = self._run("apt-cache", "--no-all-versions", "show", *packages, check=False)
        return sorted(set(re.findall(r"^Package: (\S+)$", shown, re.MULTILINE)) & set(packages))

    def packages(self, names: Sequence[str]) -> dict[str, Path]:
        """Fetch packages and all that they depend on; return their files by their addresses."""
        install = ("install", "--yes", "--no-install-recommends")
        printed = self._apt(*install, "--print-uris", *names)
        files = dict(re.findall(r"^'([^']+)' (\S+) \d+", printed, re.MULTILINE))
        self._apt(*install, "--download-only", *names)
        return {uri: self.root / "archives" / name for uri, name in files.items()}

    def indexes(self) -> Iterator[tuple[str, str, Path]]:
        """Give each verified index and each list of packages that it names: archive, path in it, file."""
        printed = self._run(
            "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(METAKEY)", "Created-By: Packages"
        )
        for line in printed.splitlines():
            uri, release, listed = line.split(" ")
            signed = self.root / "lists" / (_apt_name(f"{uri}dists/{release}/InRelease"))
            if not signed.exists():
                raise BundleError(f"{uri} has no InRelease for {release}, which devices could verify; leave it out.")
            yield uri, f"dists/{release}/InRelease", signed
            found = re.findall(rf"^ ([0-9a-f]{{64}}) +\d+ ({re.escape(listed)}\S*)$", signed.read_text(), re.MULTILINE)
            hashes = {name: digest for digest, name in found}
            name = next((listed + end for end in COMPRESSIONS if listed + end in hashes), "")
            if not name:
                raise BundleError(f"{uri} has no sha256 of {listed} as .xz, .gz or plain text; leave it out.")
            target = self.root / "indexes" / archive_folder(uri) / release / name
            target.parent.mkdir(parents=True, exist_ok=True)
            address = f"{uri}dists/{release}/{name}"
            self._run("/usr/lib/apt/apt-helper", "download-file", address, str(target), f"SHA256:{hashes[name]}")
            yield uri, f"dists/{release}/{name}", target

    def _apt(self, *arguments: str) -> str:
        return self._run("apt-get", "--quiet", "--quiet", *arguments)

    def _run(self, *argv: str, check: bool = True) -> str:
        environment = {**os.environ, "APT_CONFIG": str(self.root / "apt.conf"), "LC_ALL": "C"}
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
        if check and done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if line.startswith("E:")] or done.stderr.splitlines()
            raise BundleError(f"apt could not fetch what the bundle needs: {' '.join(said[:3])}")
        return done.stdout


def _apt_name(uri: str) -> str:
    # As apt names files of its lists: an address without its scheme and whoever logs in, what is special in it escaped.
    place = re.sub(r"^[a-z+]+:(//([^/@]*@)?)?", "", uri)
    escaped = re.sub(r'[\\|{}\[\]<>"^~_=!@#$%&*]', lambda found: f"%{ord(found[0]):02x}", place)
    return escaped.replace("/", "_")


def write_packages(folder: Path, release: str, archive: Archive, extra: Sequence[str]) -> int:
    """Write the packages of a bundle, and what role offline asks of them; return how many there are."""
    wanted, if_offered = wanted_packages(release)
    names = sorted({*wanted, *archive.offered(if_offered), *extra})
    files = archive.packages(names)
    for uri, path, file in archive.indexes():
        _copy(file, folder / archive_folder(uri) / path)
    for uri, file in files.items():
        base = next(base for source in archive.sources for base in source.uris if uri.startswith(base))
        _copy(file, folder / archive_folder(base) / unquote(uri.removeprefix(base)))
    (folder / "offline.sources").write_text(device_sources(archive.sources, archive.architecture))
    settings = f'Dir::Etc::SourceList "{DEVICE_PATH}/offline.sources";\nDir::Etc::SourceParts "-";\n'
    (folder / "offline.conf").write_text(settings)
    content = hashlib.sha256("".join(checksums(folder)).encode()).hexdigest()
    about = {"release": release, "architecture": archive.architecture, "packages": names, "content": content}
    (folder / "packages.json").write_text(json.dumps(about, indent=2) + "\n")
    return len(files)


def write_wheels(folder: Path) -> None:
    """Write the wheels of the control node, for this Python and machine, and those that roles carry to devices."""
    _download(folder, ROOT / "requirements-run.lock")
    for requirements in sorted(ROOT.glob("roles/*/files/requirements.txt")):
        _download(folder / "devices", requirements)


def _download(folder: Path, requirements: Path) -> None:
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    argv += ["--only-binary=:all:", "--require-hashes", f"--requirement={requirements}", f"--dest={folder}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BundleError(f"pip could not fetch what {requirements} names: {done.stderr.strip().splitlines()[-1]}")


def write_rest(folder: Path, models: Sequence[Path]) -> None:
    """Write what the packages and wheels are for: the collection, models, and how to begin."""
    for name in ("install", "README.md"):
        shutil.copy(ROOT / "tools/offline" / name, folder / name)
    for name in ("ansible.cfg", "requirements-run.lock"):
        shutil.copy(ROOT / name, folder / name)
    # What git knows of it: somebody may have tried it, and have keys in it.
    for path in build_collection.files_below(ROOT / "inventory/example"):
        _copy(path, folder / path.relative_to(ROOT))
    build_collection.build(folder / "collection")
    for model in models:
        if not model.exists():
            raise BundleError(
                f"There is no model {model}; name a file or folder, or make the demonstration's: make model."
            )
        if model.is_dir():
            shutil.copytree(model, folder / "models" / model.name)
        else:
            _copy(model, folder / "models" / model.name)
    (folder / "python").write_text(python_here())
    (folder / "SHA256SUMS").write_text("".join(checksums(folder)))


def checksums(folder: Path) -> list[str]:
    """Return the lines of SHA256SUMS for the files of a folder."""
    return [
        f"{file_sha256(path)}  {path.relative_to(folder)}\n" for path in sorted(folder.rglob("*")) if path.is_file()
    ]


def python_here() -> str:
    """Return what wheels are made for: version of Python, and platform."""
    return f"{sysconfig.get_python_version()} {sysconfig.get_platform()}\n"


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def debian(release: str, mirror: str) -> list[Source]:
    """Return the sources of Debian itself, which 64-bit Raspberry Pi OS names too."""
    fields = {"Types": "deb", "Components": "main", "Signed-By": KEYRING}
    return [Source((f"{mirror.rstrip('/')}/",), {**fields, "Suites": f"{release} {release}-updates"})]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", required=True, choices=RELEASES)
    parser.add_argument("--architecture", required=True, choices=ARCHITECTURES)
    parser.add_argument("--sources", nargs="*", default=[], type=Path, help="a device's /etc/apt/sources.list.d/*")
    parser.add_argument("--mirror", default="", help="Debian mirror, where no --sources are; this host's own")
    parser.add_argument("--packages", nargs="*", default=[], help="packages beside those of the roles")
    parser.add_argument("--models", nargs="*", default=[], type=Path, help="what image_classifier_model names")
    parser.add_argument("--output", default=ROOT / "dist", type=Path, help="folder for the bundle")
    return parser.parse_args()


def bundle(asked: argparse.Namespace) -> Path:
    """Write the bundle, and say on the way what takes a while."""
    if asked.sources:
        sources = [source for path in asked.sources for source in parse_sources(path.read_text())]
    else:
        sources = debian(asked.release, asked.mirror or host_mirror(apt_sources()))
    name = f"pi-fleet-offline-{asked.release}-{asked.architecture}"
    asked.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pi-fleet-offline-", dir=asked.output) as scratch:
        folder = Path(scratch, name)
        folder.mkdir()
        print(f"Fetching the packages of {asked.release} for {asked.architecture}", flush=True)
        archive = Archive(Path(scratch, "apt"), asked.architecture, sources)
        archive.prepare()
        count = write_packages(folder / "packages", asked.release, archive, asked.packages)
        print(f"Fetching wheels for devices, and for control nodes with Python {python_here().strip()}", flush=True)
        write_wheels(folder / "wheels")
        write_rest(folder, asked.models)
        unfinished = Path(scratch, f"{name}.tar")
        with tarfile.open(unfinished, "w") as tar:
            tar.add(folder, name)
        target: Path = asked.output / unfinished.name
        unfinished.rename(target)
    size = target.stat().st_size
    print(f"{target}: {count} packages, {size / 1e6:.0f} MB, sha256 {file_sha256(target)}")
    print(f"On the control node of the site: tar xf {target.name} && {name}/install")
    return target


def main() -> int:
    """Write the bundle, or say what is in the way."""
    try:
        bundle(arguments())
    except (BundleError, VirtualPiError, OSError) as error:
        print(f"offline-bundle: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
