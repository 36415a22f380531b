"""What faults are broken on, what must hold after each of them, and the table that they end with.

A test is a fault: the first line of its docstring says what is broken, the rest what holds. docs/reliability.md shows
both, `make faults` prints them with what came of it.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import PROJECT, Fleet, Run, fleet, unwrapped

__all__ = ["fleet"]

TABLE = PROJECT / ".cache" / "faults.txt"
# As the Lambda stores them, and what a device is known by.
STORE = """
import os, sys
from pathlib import Path
sys.path.insert(0, "/opt/pi-fleet/lambda/beverage_classifier/current")
os.setgid(Path("/home/ggc_user/raw_field_data").stat().st_gid)
os.setuid(Path("/home/ggc_user").stat().st_uid)
from beverage_classifier.captures import save
for _ in range(20):
    save(Path("/home/ggc_user/raw_field_data"), os.urandom(40000))
"""
SACRED = """
import hashlib, json
from pathlib import Path
paths = [*Path("/home/ggc_user/raw_field_data").glob("*.jpg"), Path("/etc/ssh/ssh_host_ed25519_key")]
print(json.dumps({str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}))
"""


class Pi:
    """A device on which things are broken."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.fleet = fleet
        self.name = name

    def play(self, playbook: str, *arguments: str) -> Run:
        """Run a playbook for this device alone; whatever comes of it, no traceback is shown."""
        run = self.fleet.playbook(f"playbooks/{playbook}", "--limit", self.name, *arguments)
        assert "Traceback" not in run.output, run.output[-6000:]
        return run

    def root(self, script: str) -> str:
        """Run a Python script on it as root."""
        return self.fleet.root(self.name, f"import json, os, subprocess, sys, time\nfrom pathlib import Path\n{script}")

    def sh(self, *lines: str) -> str:
        """Run lines of shell on it as root."""
        return self.root(f"subprocess.run(['sh', '-e'], input={chr(10).join(lines)!r}, text=True, check=True)")

    def refuses(self, *words: str) -> str:
        """Require that site.yml changes nothing, in words that say why; return what it said."""
        # Also on a device where nothing is to do.
        run = self.play("site.yml", "--extra-vars", "full=true")
        said = unwrapped(run.output)
        assert run.code != 0, run.output[-4000:]
        assert run.changed[self.name] == 0, run.output[-4000:]
        for word in words:
            assert word in said, run.output[-4000:]
        return said

    def heals(self) -> str:
        """Require that the next run mends everything, and one after it finds nothing to do; return what it said."""
        run = self.play("site.yml")
        assert run.code == 0, run.output[-6000:]
        verified = self.play("verify.yml")
        assert verified.code == 0, verified.output[-4000:]
        again = self.play("site.yml")
        assert again.changed[self.name] == 0, again.output[-4000:]
        assert "converged, " in again.output, again.output[-4000:]
        return unwrapped(run.output)

    def answers(self) -> Run:
        """Require that a question about a picture is answered."""
        run = self.play("classify.yml")
        assert run.code == 0, run.output[-4000:]
        return run

    def sacred(self) -> dict[str, str]:
        """Return the hashes of what is never lost: pictures, and the key that the device is known by."""
        found: dict[str, str] = json.loads(self.root(SACRED))
        return found


@pytest.fixture
def pi(fleet: Fleet) -> Iterator[Pi]:
    """A virtual Pi whose kernel is this host's."""
    yield from unlosing(Pi(fleet, "pi-trixie"))


@pytest.fixture
def machine(fleet: Fleet) -> Iterator[Pi]:
    """A virtual Pi with a kernel of its own."""
    yield from unlosing(Pi(fleet, "pi-machine"))


def unlosing(pi: Pi) -> Iterator[Pi]:
    """Have some pictures on a device, and require that they are still there at the end."""
    pi.root(STORE)
    before = pi.sacred()
    assert len(before) > 20
    yield pi
    after = pi.sacred()
    assert {name: after.get(name) for name in before} == before


class Table:
    """What came of each fault."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[str, bool, float]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            told = inspect.getdoc(item.function) or ""  # type: ignore[attr-defined]
            first, _, rest = told.partition("\n")
            which = f" ({item.callspec.id})" if hasattr(item, "callspec") else ""
            self.rows[item.nodeid] = (f"{first.rstrip('.')}{which}: {' '.join(rest.split())}", True, 0.0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        told, held, seconds = self.rows[report.nodeid]
        self.rows[report.nodeid] = (told, held and report.passed, seconds + report.duration)
        if report.when == "teardown":
            self.write()

    def write(self) -> None:
        """Write the table of what was tried so far, for whoever looks while it goes on, and for the end."""
        lines = [
            f"{'holds' if held else 'FAILS'}  {seconds:4.0f} s  {told}"
            for told, held, seconds in self.rows.values()
            if seconds
        ]
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text("\n".join(lines) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    """Keep a table."""
    config.pluginmanager.register(Table())
