"""First contact: whose key ssh refused is told in a sentence, and a device's own key is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible_collections.edge.pi_fleet.plugins.action.contact import ActionModule
from ansible_collections.edge.pi_fleet.plugins.module_utils.host_identity import Answer, Wanted
from ansible_collections.edge.pi_fleet.plugins.module_utils.host_key import HostKey, known_keys, record
from ansible_collections.edge.pi_fleet.plugins.module_utils.identity_store import Identity
from ansible_collections.edge.pi_fleet.plugins.plugin_utils import contact
from ansible_collections.edge.pi_fleet.plugins.plugin_utils.identity_store import IdentityStore
from fake_action import make

SECRETS = [("default", VaultSecret(b"a password of this test"))]
UNKNOWN = AnsibleConnectionFailure("No ED25519 host key is known for kitchen.\r\nHost key verification failed.")
HERE = {"rc": 0, "stdout": "here\n", "stderr": ""}
(OTHER,) = Identity.make("other").public_keys()


@pytest.fixture
def own(tmp_path: Path) -> HostKey:
    """The key of the identity that kitchen has in the store."""
    store = IdentityStore(tmp_path / "identities", tmp_path / "known_hosts", VaultLib(SECRETS))
    return store.keep("kitchen", "kitchen", {})[0].public_keys()[0]


def speak(
    folder: Path, monkeypatch: pytest.MonkeyPatch, found: HostKey | None, *replies: Any
) -> tuple[dict[str, Any], int]:
    """Speak to kitchen, which answers with a key; return the result, and how often it was asked for its key."""
    asked = []

    def identify(host: str, address: str, port: int, timeout: int, wanted: Wanted) -> Answer:
        asked.append(address)
        shown = f"{address}:{port}"
        return Answer(host, shown, wanted.state(found) if found else "unreachable", found, wanted)

    monkeypatch.setattr(contact, "identify", identify)
    action = make(ActionModule, {}, reply=HERE)
    action._low_level_execute_command.side_effect = list(replies)
    action._loader.set_vault_secrets(SECRETS)
    result = action.run(task_vars={"inventory_hostname": "kitchen", "inventory_dir": str(folder)})
    return result, len(asked)


def test_a_device_that_answers_is_not_asked_for_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert speak(tmp_path, monkeypatch, OTHER, HERE) == ({"changed": False}, 0)


def test_the_key_of_its_identity_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: HostKey) -> None:
    record(tmp_path / "known_hosts", "kitchen", [OTHER])
    assert speak(tmp_path, monkeypatch, own, UNKNOWN, HERE)[0] == {"changed": False}
    assert known_keys(tmp_path / "known_hosts") == {"kitchen": [own]}


def test_an_ssh_that_reads_another_known_hosts_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: HostKey
) -> None:
    result, _ = speak(tmp_path, monkeypatch, own, UNKNOWN, UNKNOWN)
    assert result["unreachable"]
    assert "if ssh does not take it, let ssh read this inventory's known_hosts" in result["msg"]


def test_an_unknown_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: HostKey) -> None:
    result, _ = speak(tmp_path, monkeypatch, OTHER, UNKNOWN)
    assert result["unreachable"]
    assert f"found is {OTHER.fingerprint}, wanted is {own.fingerprint}" in result["msg"]
    assert not (tmp_path / "known_hosts").exists()


def test_a_first_key_is_shown_and_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = speak(tmp_path, monkeypatch, OTHER, UNKNOWN)
    assert f"--limit kitchen -e bootstrap_fingerprint={OTHER.fingerprint}" in result["msg"]
    assert not (tmp_path / "known_hosts").exists()


def test_behind_a_jump_host_the_sentence_goes_without_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = speak(tmp_path, monkeypatch, None, UNKNOWN)
    assert "answers with a host key that is not the known one: if it was reimaged" in result["msg"]
