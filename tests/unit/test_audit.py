"""The question whether vulnerabilities are known of what is locked: pip-audit itself, and a service that is played."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tools import audit

VULNERABILITY = {
    "id": "PYSEC-0000-1",
    "summary": "It answers what it should not.",
    "affected": [
        {
            "package": {"name": "jinja2", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]}],
        }
    ],
}


class Service(ThreadingHTTPServer):
    """Answers as OSV does, of the packages that are in `known`; with another code where that is said."""

    known: frozenset[str] = frozenset()
    code = 200
    asked: set[str]


class Answer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Service)
        name = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]["name"]
        self.server.asked.add(name)
        body = json.dumps({"vulns": [VULNERABILITY]} if name in self.server.known else {}).encode()
        self.send_response(self.server.code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module", autouse=True)
def _pip_audit() -> None:
    subprocess.run(["make", "--silent", ".cache/pip-audit/installed"], cwd=audit.ROOT, check=True)


@pytest.fixture
def service() -> Iterator[Service]:
    with Service(("127.0.0.1", 0), Answer) as server:
        server.asked = set()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def one_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "LOCKED", ["roles/greengrass_sdk/files/requirements.txt"])


def ask(service: Service) -> int:
    return audit.main([f"http://127.0.0.1:{service.server_port}/v1/query"])


def test_all_that_is_locked_is_asked_about_and_what_is_known_is_said(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.known = frozenset(["jinja2"])
    assert ask(service) == audit.KNOWN
    said = capsys.readouterr().out
    assert ": PYSEC-0000-1, mended in 99.1: It answers what it should not.\n" in said
    assert said.startswith("jinja2 ")
    assert said.endswith(f"\nKnown vulnerabilities: 1, in {len(service.asked)} packages.\n")
    assert {"ansible-core", "greengrasssdk", "ansible-runner", "pytest", "paramiko"} <= service.asked


@pytest.mark.usefixtures("one_wheel")
def test_nothing_may_be_known(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(service) == audit.NOTHING_KNOWN
    assert capsys.readouterr().out == "Known vulnerabilities: 0, in 1 packages.\n"


@pytest.mark.usefixtures("one_wheel")
def test_a_service_that_fails_has_checked_nothing(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.code = 503
    assert ask(service) == audit.NOT_CHECKED
    assert capsys.readouterr().out.startswith("Nothing was checked, as http://127.0.0.1:")


@pytest.mark.usefixtures("one_wheel")
def test_a_service_that_is_not_reached_has_checked_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main(["http://127.0.0.1:9/v1/query"]) == audit.NOT_CHECKED
    said = capsys.readouterr().out
    assert said.startswith("Nothing was checked, as http://127.0.0.1:9/v1/query gave no answer (")
    assert said.count("\n") == 1
    assert "run it where that address can be reached" in said
