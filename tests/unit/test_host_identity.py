"""Who answers at an address: a real SSH server is asked, and what it says is compared with what is known."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest
from ansible_collections.edge.pi_fleet.plugins.module_utils.host_identity import (
    Answer,
    UnreachableError,
    Wanted,
    accept,
    ask,
    identify,
    knowledge,
)
from ansible_collections.edge.pi_fleet.plugins.module_utils.host_key import (
    HostKey,
    known,
    known_keys,
    record,
    with_keys,
)
from ansible_collections.edge.pi_fleet.plugins.module_utils.identity_store import Identity

IDENTITY = Identity.make("pi-1")
OTHER = Identity.make("pi-2")
(KEY,) = IDENTITY.public_keys()
(OTHER_KEY,) = OTHER.public_keys()


class Nobody(paramiko.ServerInterface):
    """Counts who asks to come in."""

    logins = 0

    def check_auth_none(self, username: str) -> int:
        self.logins += 1
        return paramiko.common.AUTH_FAILED


class Server:
    """An SSH server that shows these host keys, and lets nobody in."""

    def __init__(self, keys: list[paramiko.PKey]) -> None:
        self.keys = keys
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.nobody = Nobody()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            transport = paramiko.Transport(connection)
            for key in self.keys:
                transport.add_server_key(key)
            transport.start_server(event=threading.Event(), server=self.nobody)


def loaded(identity: Identity, folder: Path) -> paramiko.PKey:
    """Return an identity's key as a server loads it."""
    path = folder / f"{identity.hostname}.key"
    path.write_text(identity.host_keys["ed25519"])
    return paramiko.Ed25519Key(filename=str(path))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server with the identity's key and an RSA key."""
    found = Server([loaded(IDENTITY, tmp_path), paramiko.RSAKey.generate(2048)])
    yield found
    found.listener.close()


def test_a_server_is_asked_for_its_key_without_a_login(server: Server) -> None:
    assert ask("127.0.0.1", server.port, 10) == KEY
    assert server.nobody.logins == 0


def test_the_type_that_is_known_is_asked_for_first(server: Server) -> None:
    assert ask("127.0.0.1", server.port, 10, ["ssh-rsa"]).kind == "ssh-rsa"
    assert ask("127.0.0.1", server.port, 10, ["ecdsa-sha2-nistp256"]) == KEY


def test_nobody_and_somebody_who_speaks_no_ssh_are_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free: int = listener.getsockname()[1]
    with pytest.raises(UnreachableError, match="refused"):
        ask("127.0.0.1", free, 5)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak() -> None:
            connection, _ = listener.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        threading.Thread(target=speak, daemon=True).start()
        with pytest.raises(UnreachableError):
            ask("127.0.0.1", listener.getsockname()[1], 5)


@pytest.mark.parametrize(
    ("wanted", "state"),
    [
        (Wanted(known=[KEY]), "known"),
        (Wanted(known=[KEY], seeded=[KEY]), "known"),
        (Wanted(seeded=[KEY]), "reimaged"),
        (Wanted(known=[OTHER_KEY], seeded=[KEY]), "reimaged"),
        (Wanted(), "blank"),
        (Wanted(known=[OTHER_KEY]), "foreign"),
        (Wanted(seeded=[OTHER_KEY]), "foreign"),
        (Wanted(others={"pi-2": [KEY]}), "foreign"),
    ],
)
def test_what_is_known_decides_who_answers(server: Server, wanted: Wanted, state: str) -> None:
    answer = identify("pi-1", "127.0.0.1", server.port, 10, wanted)
    assert (answer.state, answer.fingerprint) == (state, KEY.fingerprint)


FINGERPRINT = KEY.fingerprint


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (
            Answer("pi-1", "a:22", "blank", KEY),
            [f"found is {FINGERPRINT}, wanted is one that you confirm", f"-e bootstrap_fingerprint={FINGERPRINT}"],
        ),
        (
            Answer("pi-1", "a:22", "foreign", KEY, Wanted(known=[OTHER_KEY])),
            [f"wanted is {OTHER_KEY.fingerprint}", "playbooks/card.yml", "playbooks/bootstrap.yml --limit pi-1"],
        ),
        (
            Answer("pi-1", "a:22", "foreign", KEY, Wanted(others={"pi-2": [KEY]})),
            ["and pi-2 has the one found: correct ansible_host of pi-1 or pi-2"],
        ),
        (
            Answer("pi-1", "a:22", "reimaged", KEY, Wanted(seeded=[KEY])),
            [f"its own host key {FINGERPRINT}: if ssh does not"],
        ),
        (Answer("pi-1", "a:22", "unreachable", reason="Connection refused"), ["does not answer at a:22 (Connection"]),
        (Answer("pi-1", "a:22", "known", KEY, Wanted(known=[KEY])), [f"its own host key {FINGERPRINT}"]),
    ],
)
def test_the_sentence_says_what_was_found_and_wanted_and_how_to_decide(answer: Answer, parts: list[str]) -> None:
    assert answer.sentence.endswith(".")
    assert answer.sentence.startswith("pi-1 ")
    assert not [part for part in parts if part not in answer.sentence], answer.sentence


@pytest.mark.parametrize(
    ("wanted", "fingerprint", "taken"),
    [
        (Wanted(seeded=[KEY]), "", True),
        (Wanted(), "", False),
        (Wanted(), OTHER_KEY.fingerprint, False),
        (Wanted(), FINGERPRINT, True),
        (Wanted(known=[OTHER_KEY]), "", False),
        (Wanted(known=[OTHER_KEY]), FINGERPRINT, True),
        (Wanted(others={"pi-2": [KEY]}), FINGERPRINT, False),
        (Wanted(known=[KEY]), FINGERPRINT, False),
    ],
)
def test_known_hosts_takes_what_is_ours_or_confirmed(
    tmp_path: Path, wanted: Wanted, fingerprint: str, taken: bool
) -> None:
    path = tmp_path / "known_hosts"
    answer = Answer("pi-1", "a:22", wanted.state(KEY), KEY, wanted)
    assert accept(answer, path, fingerprint, check_mode=True) is taken
    assert not path.exists()
    assert accept(answer, path, fingerprint) is taken
    assert known_keys(path) == ({"pi-1": [KEY]} if taken else {})
    assert not accept(replace(answer, found=None, state="unreachable"), path, fingerprint)


def test_known_hosts_and_the_identity_are_what_is_known(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    assert knowledge("pi-1", path, [KEY]) == Wanted([], [KEY], {})
    record(path, "pi-1", [KEY])
    record(path, "pi-2", [OTHER_KEY])
    found = knowledge("pi-1", path, [])
    assert found == Wanted([KEY], [], {"pi-2": [OTHER_KEY]})
    assert found.owner(OTHER_KEY) == "pi-2"


def test_a_key_is_read_as_openssh_writes_it() -> None:
    assert HostKey.parse(f"{KEY.line} root@pi-1") == KEY
    assert FINGERPRINT.startswith("SHA256:")
    assert len(FINGERPRINT) == 50
    for text in ("", "ssh-ed25519", "ssh-ed25519 !", f"ssh-rsa {KEY.data}"):
        with pytest.raises(ValueError, match=r".*"):
            HostKey.parse(text)


def test_a_name_gets_its_lines_and_others_keep_theirs(tmp_path: Path) -> None:
    lines = ["# mine", f"a,b {OTHER_KEY.line}", f"|1|x|y {KEY.line}", f"@revoked * {KEY.line}", "broken line here"]
    text = "\n".join([*lines, f"pi-1 {OTHER_KEY.line}", f"z {KEY.line}", ""])
    after = with_keys(text, "pi-1", [KEY])
    assert after == text.replace(f"pi-1 {OTHER_KEY.line}", f"pi-1 {KEY.line}")
    assert known(after) == {"a": [OTHER_KEY], "b": [OTHER_KEY], "pi-1": [KEY], "z": [KEY]}
    assert with_keys(after, "new", [KEY]) == f"{after}new {KEY.line}\n"
    path = tmp_path / "inventory" / "known_hosts"
    assert record(path, "pi-1", [KEY])
    assert not record(path, "pi-1", [KEY])
    assert path.read_text().startswith("# ")
    assert oct(path.stat().st_mode & 0o777) == "0o644"


def test_runs_side_by_side_lose_no_line(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    names = [f"pi-{number}" for number in range(24)]
    threads = [threading.Thread(target=record, args=(path, name, [KEY])) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert known_keys(path).keys() == set(names)
