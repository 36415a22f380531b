#!/usr/bin/env python3
"""Ask OSV, the database of vulnerabilities, about the Python that control nodes and devices get, as it is locked.

usage: audit.py [URL]    another address that answers as OSV's does

Exit code 0: all was asked about, and nothing is known. 1: something is known, and said. 3: not all was asked about.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# `make audit` makes it: pip-audit has an environment of its own.
PIP_AUDIT = ROOT / ".cache" / "pip-audit" / "bin" / "pip-audit"
LOCKED = (
    "requirements.lock",
    "requirements-run.lock",
    "tools/execution_environment/requirements.txt",
    # The wheels that devices get.
    "roles/greengrass_sdk/files/requirements.txt",
    "roles/pull/files/requirements.txt",
)
OSV = "https://api.osv.dev/v1/query"
NOTHING_KNOWN, KNOWN, NOT_CHECKED = 0, 1, 3


def main(arguments: list[str]) -> int:
    """Entry point."""
    url = arguments[0] if arguments else OSV
    # pip-audit's other service, PyPI, is often a mirror without vulnerabilities, of which it says that there are none.
    argv = [str(PIP_AUDIT), "--vulnerability-service=osv", f"--osv-url={url}", "--format=json", "--disable-pip"]
    argv += ["--require-hashes", "--progress-spinner=off", *(f"--requirement={ROOT / name}" for name in LOCKED)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    try:
        parts: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        said = (done.stderr.strip().splitlines() or [f"pip-audit ended with {done.returncode}"])[-1]
        print(f"Nothing was checked, as {url} gave no answer ({said}): run it where that address can be reached.")
        return NOT_CHECKED
    skipped = [part for part in parts if "vulns" not in part]
    if skipped or not parts:
        names = ", ".join(part["name"] for part in skipped) or "any package"
        print(f"pip-audit did not ask about {names}: run {PIP_AUDIT} by hand, and see why.")
        return NOT_CHECKED
    known = [(part, each) for part in parts for each in part["vulns"]]
    for part, each in known:
        fixed = ", ".join(each["fix_versions"]) or "no version"
        print(f"{part['name']} {part['version']}: {each['id']}, mended in {fixed}: {each['description'][:200]}")
    print(f"Known vulnerabilities: {len(known)}, in {len(parts)} packages.")
    return KNOWN if known else NOTHING_KNOWN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
