"""Who is asked for a proof, and who has nobody yet that answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.edge.pi_fleet.plugins.module_utils import workers
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device
from ansible_collections.edge.pi_fleet.plugins.modules import prove

QUESTION = {
    "by": "lambda/cups",
    "topics": {"request": "/a", "response": "/b", "errors": "/c"},
    "categories": ["mug"],
    "timeout": 1,
}


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mock:
    """How the question went, of a device in a folder."""
    monkeypatch.setattr(prove, "Device", lambda run: Device(run, root=tmp_path))
    monkeypatch.setattr(workers, "texts", lambda device: {})
    monkeypatch.setattr(workers, "wait_until_ready", lambda *given: None)
    asked = Mock(return_value=(True, "mug 0.95 in 37 ms", ""))
    monkeypatch.setattr(prove, "check_answer", asked)
    return asked


def run(capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    with patch_module_args(arguments), pytest.raises(SystemExit):
        prove.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def drop(root: Path) -> None:
    store = root / "opt/pi-fleet/lambda/cups"
    (store / "releases" / ("a" * 16)).mkdir(parents=True)
    (store / "current").symlink_to(f"releases/{'a' * 16}")


def test_where_the_lambda_is_it_is_asked(tmp_path: Path, asked: Mock, capsys: pytest.CaptureFixture[str]) -> None:
    drop(tmp_path)
    assert run(capsys, question=QUESTION)["answer"] == "mug 0.95 in 37 ms"
    assert asked.call_args.args[0].keys() == {"topics", "categories", "timeout"}
    asked.return_value = (False, "nothing", "one of mug")
    assert "did not answer as wanted (one of mug): nothing" in run(capsys, question=QUESTION)["msg"]


def test_where_it_was_not_dropped_yet_nobody_is(
    tmp_path: Path, asked: Mock, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, question=QUESTION)["answer"] == ""
    drop(tmp_path)
    assert run(capsys)["answer"] == ""
    assert run(capsys, question=QUESTION, _ansible_check_mode=True)["answer"] == ""
    asked.assert_not_called()
