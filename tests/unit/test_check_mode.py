"""The script that holds check mode to its word."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "e2e" / "check_mode.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("check_mode_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ORDER = (True, False, False, True)


def runs(*changed: list[list[str]], order: tuple[bool, ...] = ORDER) -> list[dict[str, Any]]:
    """Converge runs in their order; those that are left out changed nothing."""
    filled = [*changed, *([] for _ in range(len(order) - len(changed)))]
    return [
        {"playbook": "converge", "check": check, "changed": tasks, "failed": False}
        for check, tasks in zip(order, filled, strict=True)
    ]


A, B = ["kitchen", "Swap"], ["kitchen", "User"]
OTHER = ["bar", "Swap"]


@pytest.mark.parametrize(
    ("said", "did"),
    [
        ([], []),
        ([A, B], [A, B]),
        # Hosts run side by side: only the order on each of them counts.
        ([A, OTHER, B], [OTHER, A, B]),
    ],
)
def test_what_was_said_was_done(script: Any, said: list[list[str]], did: list[list[str]]) -> None:
    assert script.complaints(runs(said, did)) == []


@pytest.mark.parametrize(
    ("said", "did", "complaint"),
    [
        ([A], [A, B], "kitchen: check named ['Swap'], converge changed ['Swap', 'User']"),
        ([A, B], [A], "kitchen: check named ['Swap', 'User'], converge changed ['Swap']"),
        ([B, A], [A, B], "kitchen: check named ['User', 'Swap'], converge changed ['Swap', 'User']"),
        ([], [OTHER], "bar: check named None, converge changed ['Swap']"),
        ([OTHER], [], "bar: check named ['Swap'], converge changed None"),
        ([A, A], [A], "kitchen: check named ['Swap', 'Swap'], converge changed ['Swap']"),
    ],
)
def test_what_was_not_said_or_not_done_is_told(
    script: Any, said: list[list[str]], did: list[list[str]], complaint: str
) -> None:
    assert script.complaints(runs(said, did)) == [complaint]


def test_each_host_is_held_to_its_own(script: Any) -> None:
    assert script.complaints(runs([A, OTHER], [A])) == ["bar: check named ['Swap'], converge changed None"]


@pytest.mark.parametrize(("late", "number"), [(2, 3), (3, 4), (4, 5)])
def test_later_runs_change_nothing(script: Any, late: int, number: int) -> None:
    changed: list[list[list[str]]] = [[A], [A], [], [], []]
    changed[late] = [B]
    assert script.complaints(runs(*changed, order=(*ORDER, False))) == [f"run {number} changed [{B}]"]


@pytest.mark.parametrize("order", [(), (True, False, False), (False, False, False, True), (True, True, False, True)])
def test_a_sequence_with_a_run_left_out_proves_nothing(script: Any, order: tuple[bool, ...]) -> None:
    (complaint,) = script.complaints(runs(order=order))
    assert complaint.startswith("expected check, converge, idempotence, check; found [")


@pytest.mark.parametrize(("did", "code"), [([A], 0), ([B], 1)])
def test_the_script_ends_with_what_it_found(
    script: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    did: list[list[str]],
    code: int,
) -> None:
    prepare = {"playbook": "prepare", "check": False, "changed": [B], "failed": False}
    log = tmp_path / "changes"
    log.write_text("".join(json.dumps(run) + "\n" for run in [prepare, *runs([A], did)]))
    monkeypatch.setattr(sys, "argv", ["check_mode.py", str(log)])
    assert script.main() == code
    assert ("check named" in capsys.readouterr().out) is bool(code)
