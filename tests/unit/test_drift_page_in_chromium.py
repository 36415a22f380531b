"""The page of drift in a browser: no error on its console, and nothing that axe-core finds."""

from __future__ import annotations

import importlib.resources
import json
import re
import subprocess
from pathlib import Path

import pytest
from ansible_collections.edge.pi_fleet.plugins.module_utils.drift_page import page
from test_drift_report import ABOUT, CONVERGED, DRIFTED, report

PIXEL = "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
AXE = """<script>{axe}</script>
<script>axe.run().then(found => {{
  const shown = document.createElement("pre");
  shown.id = "axe";
  shown.textContent = JSON.stringify(found.violations.map(each => [each.id, each.nodes.map(node => node.html)]));
  document.body.append(shown);
}})</script>
"""


@pytest.fixture
def text() -> str:
    pictured = {**CONVERGED, "about": {**ABOUT, "picture": {**ABOUT["picture"], "thumbnail": PIXEL}}}
    known = [["2026", number * 100] for number in range(1, 30)]
    reports = [report("roof", DRIFTED, free_disk=known), report("cellar", {}), report("bar", pictured, free_disk=known)]
    return page("2026-11-26T18:00:00Z", reports)


def browse(tmp_path: Path, text: str, *arguments: str) -> tuple[str, str]:
    """Return the page as the browser has it after its scripts, and what the browser said."""
    path = tmp_path / "page.html"
    path.write_text(text)
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    private = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [*command, private, *arguments, path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout, done.stderr


def test_nothing_is_said_on_the_console(tmp_path: Path, text: str) -> None:
    shown, said = browse(tmp_path, text, "--window-size=360,740")
    assert "Drift of 3 devices" in shown
    assert "CONSOLE" not in said
    # The test sees what a browser says: a page that loads something is refused by its own policy.
    _, said = browse(tmp_path, text.replace("</main>", '<script src="https://example.org/x.js"></script></main>'))
    assert "Content Security Policy" in said


@pytest.mark.parametrize("size", ["360,740", "1280,1024"])
@pytest.mark.parametrize("scheme", [(), ("--force-dark-mode",)])
def test_axe_finds_nothing(tmp_path: Path, text: str, size: str, scheme: tuple[str, ...]) -> None:
    axe = importlib.resources.files("axe_core_python").joinpath("axe.min.js").read_text()
    opened = re.sub(r"<meta http-equiv[^>]+>", "", text)
    script = AXE.format(axe=axe)
    arguments = (f"--window-size={size}", "--virtual-time-budget=10000", *scheme)
    shown, _ = browse(tmp_path, opened.replace("</html>", f"{script}</html>"), *arguments)
    assert violations(shown) == []
    # It finds what is wrong, where something is.
    shown, _ = browse(
        tmp_path, opened.replace("<th scope", "<img><th scope").replace("</html>", f"{script}</html>"), *arguments
    )
    assert "image-alt" in {rule for rule, _ in violations(shown)}


def violations(shown: str) -> list[tuple[str, list[str]]]:
    found = re.search(r'<pre id="axe">(.*?)</pre>', shown, re.DOTALL)
    assert found, "axe did not come to its end"
    listed: list[tuple[str, list[str]]] = json.loads(
        found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    )
    return listed
