"""What is wrong with packages: held, half-configured, a mirror that has them not, or sends something else."""

from __future__ import annotations

from collections.abc import Iterator

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


@pytest.fixture(params=["404", "200"], ids=["404", "garbage"])
def mirror(request: pytest.FixtureRequest, pi: Pi) -> Iterator[str]:
    """Have apt ask a mirror that answers so."""
    pi.root(f"Path('/run/mirror.py').write_text({MIRROR!r})")
    pi.sh(
        f"dpkg --purge {PACKAGE}",
        f"systemd-run --quiet --collect --unit=mirror python3 /run/mirror.py {request.param}",
        "mkdir /run/sources",
        "mv /etc/apt/sources.list* /run/sources",
        "echo 'deb http://127.0.0.1:8099/debian trixie main' >/etc/apt/sources.list",
        "rm -rf /var/lib/apt/lists/*",
        "apt-get clean",
    )
    yield request.param
    pi.sh("systemctl stop mirror", "rm /etc/apt/sources.list", "mv /run/sources/* /etc/apt", "rm -r /run/sources")
    pi.heals()


def test_the_mirror_is_of_no_use(pi: Pi, mirror: str) -> None:
    """The mirror that the device's apt asks answers with what is no archive.

    The run fails, and names the mirror; with one that works, the next run heals.
    """
    pi.refuses("http://127.0.0.1:8099/debian")
