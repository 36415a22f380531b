"""Hold check mode to its word: read what callback changes.py wrote, and exit 1 with the difference.

The first dry run must name exactly what the next converge changes, in the same order on each host; all later runs,
dry or not, must change nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def by_host(run: dict[str, Any]) -> dict[str, list[str]]:
    """Return the changed tasks of each host, in order."""
    tasks: dict[str, list[str]] = {}
    for host, task in run["changed"]:
        tasks.setdefault(host, []).append(task)
    return tasks


def complaints(runs: list[dict[str, Any]]) -> list[str]:
    """Compare the converge runs of one scenario: dry, real, and what came after."""
    if len(runs) < 4 or [run["check"] for run in runs[:4]] != [True, False, False, True]:
        return [f"expected check, converge, idempotence, check; found {[run['check'] for run in runs]}"]
    said, did = by_host(runs[0]), by_host(runs[1])
    found = [
        f"{host}: check named {said.get(host)}, converge changed {did.get(host)}" for host in sorted({*said, *did})
    ]
    found = [line for line, host in zip(found, sorted({*said, *did}), strict=True) if said.get(host) != did.get(host)]
    found += [f"run {number} changed {run['changed']}" for number, run in enumerate(runs[2:], 3) if run["changed"]]
    return found


def main() -> int:
    """Print what is wrong."""
    lines = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    wrong = complaints([line for line in lines if line["playbook"] in {"converge", "site"}])
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
