"""The identity store: made once, encrypted whole, for its user alone, and told to nobody."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible_collections.edge.pi_fleet.plugins.action import host_identity, identity, identity_store
from ansible_collections.edge.pi_fleet.plugins.module_utils.host_identity import Answer, Wanted
from ansible_collections.edge.pi_fleet.plugins.module_utils.host_key import known_keys
from ansible_collections.edge.pi_fleet.plugins.module_utils.identity_store import Identity, IdentityError, public_key
from ansible_collections.edge.pi_fleet.plugins.plugin_utils.identity_store import IdentityStore
from fake_action import make

SECRETS = [("default", VaultSecret(b"a password of this test"))]
PRIVATE = "PRIVATE KEY"


@pytest.fixture
def store(tmp_path: Path) -> IdentityStore:
    return IdentityStore(tmp_path / "identities", tmp_path / "known_hosts", VaultLib(SECRETS))


def keep(store: IdentityStore, rotate: bool = False, check_mode: bool = False, **credentials: Any) -> Identity:
    return store.keep("pi-1", "kitchen", credentials, rotate, check_mode)[0]


def test_an_identity_is_made_once(store: IdentityStore) -> None:
    assert store.read("pi-1") is None
    made, changed = store.keep("pi-1", "kitchen", {})
    assert changed
    assert store.keep("pi-1", "another-name", {}) == (made, False)
    assert store.read("pi-1") == made
    assert made.hostname == "kitchen"


def test_its_file_is_encrypted_whole_and_this_users_alone(store: IdentityStore) -> None:
    made = keep(store, broker={"password": "s3cret"})
    text = store.path("pi-1").read_text()
    assert text.startswith("$ANSIBLE_VAULT;1.1;AES256\n")
    assert set(text.split("\n", 1)[1]) <= set("0123456789abcdef\n")
    assert store.path("pi-1").stat().st_mode & 0o777 == 0o600
    assert store.folder.stat().st_mode & 0o777 == 0o700
    assert PRIVATE not in repr(made)
    assert "s3cret" not in repr(made)


def test_openssh_reads_the_key(store: IdentityStore, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(keep(store).host_keys["ed25519"])
    file.chmod(0o600)
    shown = subprocess.run(["ssh-keygen", "-y", "-f", str(file)], capture_output=True, text=True, check=True)
    assert shown.stdout.split()[:2] == public_key(file.read_text()).split()
    listed = subprocess.run(["ssh-keygen", "-l", "-f", str(file)], capture_output=True, text=True, check=True)
    (key,) = keep(store).public_keys()
    assert listed.stdout.split()[1] == key.fingerprint


def test_check_mode_writes_nothing(store: IdentityStore) -> None:
    assert store.keep("pi-1", "kitchen", {}, check_mode=True)[1]
    assert not store.folder.exists()


def test_keys_change_on_request_and_the_rest_stays(store: IdentityStore) -> None:
    before = keep(store, broker={"password": "s3cret"})
    after = keep(store, rotate=True)
    assert after.host_keys != before.host_keys
    assert (after.hostname, after.credentials) == (before.hostname, before.credentials)
    assert store.read("pi-1") == after


def test_credentials_that_are_there_stay(store: IdentityStore) -> None:
    keep(store, broker={"password": "first"})
    after = keep(store, broker={"password": "second"}, bridge={"key": "k"})
    assert after.credentials == {"broker": {"password": "first"}, "bridge": {"key": "k"}}


@pytest.mark.parametrize("name", ["Kitchen", "", "a.b", "-a", "a_b", "a" * 64, "a\n"])
def test_a_host_name_is_one_label(store: IdentityStore, name: str) -> None:
    with pytest.raises(IdentityError, match=r"is not one label .* set identity_hostname"):
        store.keep("pi-1", name, {})
    assert not store.path("pi-1").exists()


def refusal(store: IdentityStore, secrets: Any = SECRETS) -> str:
    with pytest.raises(IdentityError) as refused:
        IdentityStore(store.folder, store.known_hosts, VaultLib(secrets)).read("pi-1")
    return str(refused.value)


def test_a_file_that_does_not_open_is_refused_and_not_quoted(store: IdentityStore) -> None:
    keep(store)
    assert "no vault password was given" in refusal(store, [])
    assert "does not open with the vault password" in refusal(store, [("default", VaultSecret(b"other"))])
    plain = keep(store).dump()
    store.path("pi-1").write_text(plain)
    assert "is not encrypted" in refusal(store)
    secret = "hostname: kitchen\nhost_keys: {ed25519: s3cret}\n"
    for text in ("hostname: [", "a: 1", secret, plain.replace("kitchen", "a b")):
        store.path("pi-1").write_bytes(VaultLib(SECRETS).encrypt(text, SECRETS[0][1]))
        said = refusal(store)
        assert "restore it from your backup" in said
        assert "s3cret" not in said


def test_without_a_password_nothing_is_made(store: IdentityStore) -> None:
    bare = IdentityStore(store.folder, store.known_hosts, VaultLib([]))
    with pytest.raises(IdentityError, match="add --vault-password-file"):
        bare.keep("pi-1", "kitchen", {})
    assert not store.path("pi-1").exists()


def act(
    plugin: Any, folder: Path, arguments: dict[str, Any], module: dict[str, Any] | None = None, **variables: Any
) -> tuple[dict[str, Any], Any]:
    """Run an action plugin for pi-1, in an inventory whose folder this is."""
    action = make(plugin, arguments, module=module)
    action._loader.set_vault_secrets(SECRETS)
    result = action.run(task_vars={"inventory_hostname": "pi-1", "inventory_dir": str(folder), **variables})
    return result, action


def test_the_module_returns_what_may_be_seen(tmp_path: Path) -> None:
    assert act(identity_store.ActionModule, tmp_path, {})[0] == {"changed": False, "exists": False, "host_keys": []}
    made, _ = act(identity_store.ActionModule, tmp_path, {"state": "present", "record": True})
    assert made["changed"]
    assert made["hostname"] == "pi-1"
    assert known_keys(tmp_path / "known_hosts")["pi-1"][0].fingerprint == made["host_keys"][0]["fingerprint"]
    again, _ = act(identity_store.ActionModule, tmp_path, {"state": "present", "record": True})
    assert again == {**made, "changed": False}
    assert PRIVATE not in str(again)


def test_secrets_are_returned_on_request_and_not_logged(tmp_path: Path) -> None:
    arguments = {"state": "present", "secrets": True, "credentials": {"broker": {"password": "s3cret"}}}
    result, _ = act(identity_store.ActionModule, tmp_path, arguments)
    assert result["_ansible_no_log"] is True
    assert PRIVATE in result["private_keys"]["ed25519"]
    assert result["credentials"] == {"broker": {"password": "s3cret"}}


def test_role_inputs_say_where_the_store_is(tmp_path: Path) -> None:
    places = {"identity_store": "elsewhere", "identity_known_hosts": "known"}
    variables: dict[str, Any] = {name: str(tmp_path / place) for name, place in places.items()}
    act(identity_store.ActionModule, tmp_path, {"state": "present", "record": True}, None, **variables)
    assert (tmp_path / "elsewhere" / "pi-1.yml").is_file()
    assert (tmp_path / "known").is_file()
    assert not (tmp_path / "identities").exists()
    nowhere, _ = act(identity_store.ActionModule, tmp_path, {}, inventory_dir=None)
    assert nowhere == {
        "failed": True,
        "msg": "pi-1: identity_store is not set and the inventory is in no folder: set it.",
    }


def test_private_keys_go_to_the_device_and_nowhere_else(tmp_path: Path) -> None:
    act(identity_store.ActionModule, tmp_path, {"state": "present"})
    done = {"changed": True, "differing": [], "invocation": {"module_args": {"host_keys": "x"}}}
    result, action = act(identity.ActionModule, tmp_path, {}, done)
    sent = action._execute_module.call_args.kwargs["module_args"]
    assert sent["hostname"] == "pi-1"
    assert PRIVATE in sent["host_keys"]["ed25519"]["private"]
    assert sent["host_keys"]["ed25519"]["public"] == f"{known_keys(tmp_path / 'known_hosts')['pi-1'][0].line} pi-1\n"
    assert result["invocation"] == {"module_args": {}}
    assert PRIVATE not in str(result)


def test_known_hosts_changes_after_the_device_has(tmp_path: Path) -> None:
    act(identity_store.ActionModule, tmp_path, {"state": "present", "record": True})
    before = known_keys(tmp_path / "known_hosts")
    failed, _ = act(identity.ActionModule, tmp_path, {"rotate": True}, {"failed": True, "msg": "no"})
    assert failed["msg"] == "pi-1: no"
    assert known_keys(tmp_path / "known_hosts") == before
    result, _ = act(identity.ActionModule, tmp_path, {}, {"changed": True})
    assert result["changed"]
    assert known_keys(tmp_path / "known_hosts") != before


def test_a_device_without_an_identity_is_given_none(tmp_path: Path) -> None:
    result, action = act(identity.ActionModule, tmp_path, {"passwords": False}, {"changed": False})
    assert action._execute_module.call_args.kwargs["module_args"] == {"passwords": False}
    assert not result["changed"]
    assert not (tmp_path / "known_hosts").exists()


def test_who_answers_is_asked_with_what_the_store_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = act(identity_store.ActionModule, tmp_path, {"state": "present"})

    def answers(host: str, address: str, port: int, timeout: int, wanted: Wanted) -> Answer:
        assert (host, address, port, timeout) == ("pi-1", "10.0.0.7", 2222, 10)
        found = wanted.seeded[0]
        return Answer(host, f"{address}:{port}", wanted.state(found), found, wanted)

    monkeypatch.setattr(host_identity, "identify", answers)
    first, _ = act(host_identity.ActionModule, tmp_path, {"record": True})
    assert (first["state"], first["changed"], first["recorded"]) == ("reimaged", True, True)
    assert first["fingerprint"] == made["host_keys"][0]["fingerprint"]
    second, _ = act(host_identity.ActionModule, tmp_path, {"record": True})
    assert (second["state"], second["changed"], second["recorded"]) == ("known", False, True)
