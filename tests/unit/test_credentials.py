"""Tokens are made once and stay; nobody but root reads them; whoever reads them is restarted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.edge.pi_fleet.plugins.module_utils import credentials as under_test
from ansible_collections.edge.pi_fleet.plugins.module_utils import device
from ansible_collections.edge.pi_fleet.plugins.module_utils.credentials import FOLDER, Credentials, apply
from ansible_collections.edge.pi_fleet.plugins.module_utils.units import OWED
from fake_device import FakeDevice, PowerLossError

TWO = {"one": "lambda@one.service", "two": "lambda@two.service"}


def make(fake: FakeDevice, functions: dict[str, str], secrets: dict[str, dict[str, str]] | None = None) -> Credentials:
    return Credentials(fake.device(), functions, secrets or {})


def tokens(fake: FakeDevice) -> dict[str, str]:
    found: dict[str, str] = json.loads(fake.read(f"{FOLDER}/localcore.json"))["tokens"]
    return found


def owed(fake: FakeDevice) -> set[str]:
    return {path.name for path in (fake.root / OWED.lstrip("/")).glob("*")}


@pytest.fixture
def fake(tmp_path: Path) -> FakeDevice:
    return FakeDevice(tmp_path)


def test_each_function_gets_a_token_of_its_own_and_a_second_run_changes_nothing(fake: FakeDevice) -> None:
    assert apply(make(fake, TWO), check_mode=True) == ["localcore.json", "one.token", "two.token"]
    assert not fake.exists(FOLDER)
    assert apply(make(fake, TWO), check_mode=False) == ["localcore.json", "one.token", "two.token"]
    assert owed(fake) == {"localcore.service", *TWO.values()}
    made = tokens(fake)
    assert made["one"] != made["two"]
    assert fake.read(f"{FOLDER}/one.token").strip() == made["one"]
    assert {path.stat().st_mode & 0o777 for path in (fake.root / FOLDER.lstrip("/")).iterdir()} == {0o600}
    assert apply(make(fake, TWO), check_mode=False) == []


def test_a_new_function_leaves_the_tokens_of_others_and_one_that_is_gone_loses_its_own(fake: FakeDevice) -> None:
    apply(make(fake, {"one": TWO["one"]}), check_mode=False)
    before = tokens(fake)
    for mark in (fake.root / OWED.lstrip("/")).iterdir():
        mark.unlink()
    assert apply(make(fake, TWO), check_mode=False) == ["localcore.json", "two.token"]
    assert tokens(fake)["one"] == before["one"]
    assert owed(fake) == {"localcore.service", "lambda@two.service"}
    assert apply(make(fake, {"two": TWO["two"]}), check_mode=False) == ["localcore.json", "one.token"]
    assert not fake.exists(f"{FOLDER}/one.token")


def test_a_secret_that_changes_owes_the_core_a_restart(fake: FakeDevice) -> None:
    apply(make(fake, TWO, {"wifi": {"SecretString": "a"}}), check_mode=False)
    assert apply(make(fake, TWO, {"wifi": {"SecretString": "b"}}), check_mode=False) == ["localcore.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"tokens": 1}', '{"tokens": {"one": "short"}}'])
def test_what_is_damaged_is_made_anew(fake: FakeDevice, text: str) -> None:
    apply(make(fake, TWO), check_mode=False)
    before = tokens(fake)
    fake.write(f"{FOLDER}/localcore.json", text)
    assert apply(make(fake, TWO), check_mode=False) == ["localcore.json", "one.token", "two.token"]
    assert tokens(fake)["one"] != before["one"]
    assert fake.read(f"{FOLDER}/one.token").strip() == tokens(fake)["one"]


def test_a_file_that_others_may_read_is_written_anew(fake: FakeDevice) -> None:
    apply(make(fake, TWO), check_mode=False)
    (fake.root / FOLDER.lstrip("/") / "one.token").chmod(0o644)
    assert apply(make(fake, TWO), check_mode=False) == ["one.token"]
    assert apply(make(fake, TWO), check_mode=False) == []


@pytest.mark.parametrize("step", range(6))
def test_a_run_that_ends_anywhere_is_healed_by_the_next(
    fake: FakeDevice, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    left = iter(range(step))
    write = device.write_text

    def counted(path: Path, text: str, mode: int | None = None) -> None:
        if next(left, None) is None:
            raise PowerLossError
        write(path, text, mode)

    with monkeypatch.context() as patch:
        patch.setattr(under_test, "write_text", counted)
        with pytest.raises(PowerLossError):
            apply(make(fake, TWO), check_mode=False)
    apply(make(fake, TWO), check_mode=False)
    assert fake.read(f"{FOLDER}/two.token").strip() == tokens(fake)["two"]
    assert "localcore.service" in owed(fake)
    assert apply(make(fake, TWO), check_mode=False) == []
