"""What is wrong with packages: held, half-configured, a mirror that has them not, or sends something else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.faults.conftest import Pi

# One of those that roles install, and that nothing needs to be removed for.
PACKAGE = "python3-paho-mqtt"
MIRROR = r"""
import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = bytes(range(256)) * 100
        self.send_response(int(sys.argv[1]))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("127.0.0.1", 8099), Answer).serve_forever()
"""


def test_a_package_is_held(pi: Pi) -> None:
    """A package that is to be installed is held at none.

    The run fails, and names the package and how to let go of it.
    """
    pi.sh("apt-get -qq update", f"dpkg --purge {PACKAGE}", f"apt-mark hold {PACKAGE}")
    try:
        pi.refuses(PACKAGE, f"apt-mark unhold {PACKAGE}")
    finally:
        pi.sh(f"apt-mark unhold {PACKAGE}")
    pi.heals()


def test_dpkg_was_interrupted(pi: Pi) -> None:
    """A package was unpacked and never configured, and dpkg's notes not filed: power was cut, or dpkg was killed.

    The next run configures it by itself.
    """
    pi.sh(
        "apt-get -qq update",
        f"cd /tmp && apt-get -qq download {PACKAGE} && dpkg --unpack {PACKAGE}_*.deb && rm {PACKAGE}_*",
        # As dpkg leaves it between two packages.
        f"dpkg-query --status {PACKAGE} >/var/lib/dpkg/updates/0000",
    )
    pi.heals()
    pi.sh('test -z "$(ls /var/lib/dpkg/updates)"')


@contextmanager
def asking(pi: Pi, source: str, server: str) -> Iterator[None]:
    """Have apt ask a server on the device for a package that is missing, and then what it asked before."""
    pi.sh(
        f"dpkg --purge {PACKAGE}",
        f"systemd-run --quiet --collect --unit=mirror {server}",
        "mkdir /run/sources",
        "mv /etc/apt/sources.list* /run/sources",
        f"echo 'deb {source}' >/etc/apt/sources.list",
        "rm -rf /var/lib/apt/lists/*",
        "apt-get clean",
    )
    try:
        yield
    finally:
        pi.sh("systemctl stop mirror", "rm /etc/apt/sources.list", "mv /run/sources/* /etc/apt", "rm -r /run/sources")
    pi.heals()


@pytest.mark.parametrize("answer", ["404", "200"], ids=["404", "garbage"])
def test_the_mirror_is_of_no_use(pi: Pi, answer: str) -> None:
    """The mirror that the device's apt asks answers with what is no archive.

    The run fails, and names the mirror; with one that works, the next run heals.
    """
    pi.root(f"Path('/run/mirror.py').write_text({MIRROR!r})")
    with asking(pi, "http://127.0.0.1:8099/debian trixie main", f"python3 /run/mirror.py {answer}"):
        pi.refuses("http://127.0.0.1:8099/debian")


def test_a_package_has_other_bytes(pi: Pi) -> None:
    """The mirror sends a package with a byte that is another one than its index says.

    apt refuses it by its hash, the run fails and names the package; with a mirror that works, the next run heals.
    """
    pi.sh(
        "apt-get -qq update",
        "rm -rf /run/mirror && mkdir /run/mirror && cd /run/mirror",
        f"apt-get -qq download {PACKAGE}",
        f'apt-cache show {PACKAGE} | sed "s|^Filename: .*|Filename: ./$(ls)|" >/run/Packages',
        "printf X | dd of=$(ls) bs=1 seek=5000 conv=notrunc status=none",
        "mv /run/Packages .",
    )
    with asking(pi, "[trusted=yes] http://127.0.0.1:8099/ ./", "python3 -m http.server --directory /run/mirror 8099"):
        pi.refuses(PACKAGE, "Hash Sum mismatch")
