"""Everything that is run says all that it can; no secret is in what it says, and none lies open on a device.

The inventory's secrets are in a vault, as in inventory/example; identities are in the store, as card.yml makes them.
Each run has words of its own, which nothing else on the control node can have.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

import pytest
import yaml

from tests.e2e.conftest import PROJECT, Fleet, Run
from tests.e2e.test_first_boot import SEEDED, WIFI
from tests.e2e.test_reimage import REIMAGE, Farm, step

# Each is given to what it is for, and looked for everywhere.
WORDS = {
    name: f"{text} {token_hex(4)}"
    for name, text in {
        "vault_become_password": "a password of this test",
        "vault_card_wifi_password": "a Wi-Fi password",
        "vault_mqtt_broker_till": "till keeps this for herself",
        "vault_greeting": "this greeting is for the Lambda alone",
        "vault_variable": "this variable is for the Lambda alone",
        "vault_pull_variable": "this variable is for the device alone",
        "vault_pull_password": "this password is for the repository alone",
    }.items()
}
# What two of them are changed to, and back.
OTHERS = {name: f"another {token_hex(4)}" for name in ("vault_mqtt_broker_till", "vault_greeting")}
PULL = {
    "pull_repository": "ssh://git@192.0.2.1/fleet.git",
    "pull_known_hosts": ["192.0.2.1 ssh-ed25519 AAAA"],
    "pull_allowed_signers": ["anna ssh-ed25519 AAAA0"],
    "pull_key": "{{ vault_pull_key }}",
    "pull_variables": {"vault_greeting": "{{ vault_pull_variable }}"},
    "pull_vault_password": "{{ vault_pull_password }}",
}
# Where a device has to have one: the file, and its mode.
KEPT = {
    # The second is Debian's own copy.
    "vault_card_password_hash": {"/etc/shadow": 0o640, "/etc/shadow-": 0o640},
    "vault_greeting": {"/etc/pi-fleet/private/localcore.json": 0o600},
    "vault_variable": {"/etc/pi-fleet/lambda/echo.env": 0o600, "/etc/pi-fleet/group.json": 0o640},
    "vault_mqtt_broker_key": {"/etc/pi-fleet/mqtt_broker/gate/key.pem": 0o640},
    "vault_bridge_key": {"/etc/pi-fleet/mqtt_broker/bridge/key.pem": 0o640},
    "host key": {"/etc/ssh/ssh_host_ed25519_key": 0o600},
    "token": {"/etc/pi-fleet/private/echo.token": 0o600, "/etc/pi-fleet/private/localcore.json": 0o600},
}
COPY = {"/run/cloud-init/combined-cloud-config.json": 0o600}
SEEDED_BY: Mapping[str, Mapping[str, Mapping[str, int]]] = {
    "pi-trixie": {
        # cloud-init's own copy of what it was given, in memory until the next boot.
        "former host key": COPY,
        "vault_card_password_hash": COPY,
        "key of the Wi-Fi": {
            "/etc/netplan/50-cloud-init.yaml": 0o600,
            "/run/NetworkManager/system-connections/netplan-wlan0-conveyor%3A%20hall%202.nmconnection": 0o600,
        },
    },
    "pi-bookworm": {
        "key of the Wi-Fi": {"/etc/NetworkManager/system-connections/preconfigured.nmconnection": 0o600},
    },
}
# The journal last: what came before it is in it.
SEARCH = """
import json, os, stat, subprocess
from pathlib import Path
found = {}
for parent, folders, files in os.walk("/"):
    if parent == "/":
        folders[:] = [name for name in folders if name not in ("proc", "sys", "dev")]
    for name in files:
        path = Path(parent, name)
        if not path.is_file() or path.is_symlink():
            continue
        content = path.read_bytes()
        for secret, forms in WORDS.items():
            if any(form in content for form in forms):
                found.setdefault(secret, {})[str(path)] = stat.S_IMODE(path.stat().st_mode)
journal = subprocess.run(["journalctl", "--output=export"], capture_output=True, check=True).stdout
for secret, forms in WORDS.items():
    if any(form in journal for form in forms):
        found.setdefault(secret, {})["the journal"] = 0
print(json.dumps([found, len(journal)]))
"""


class Log:
    """What programs of the control node log meanwhile: Ansible's modules do, as on devices."""

    def __init__(self) -> None:
        self.begun = time.time()
        self.place = Path("/dev/log")
        self.socket: socket.socket | None = None
        self.lines: list[bytes] = []
        if not self.is_heard():
            self.place.unlink(missing_ok=True)
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self.socket.bind(str(self.place))
            threading.Thread(target=self.read, daemon=True).start()

    def is_heard(self) -> bool:
        """Say whether somebody takes what is logged: a test that was killed leaves its socket behind."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
            return asking.connect_ex(str(self.place)) == 0

    def read(self) -> None:
        """Take what comes, as journald does."""
        assert self.socket
        with suppress(OSError):
            while True:
                self.lines.append(self.socket.recv(2**20))

    def end(self) -> bytes:
        """Return all of it."""
        if self.socket is None:
            argv = ["journalctl", f"--since=@{self.begun:.0f}", "--output=export"]
            return subprocess.run(argv, capture_output=True, check=True).stdout
        self.socket.close()
        self.place.unlink()
        return b"\n".join(self.lines)


class Vault(Farm):
    """A farm whose inventory has secrets, all of them in a vault; what is run is run with all that it can say."""

    password = WORDS["vault_become_password"]
    wifi: Mapping[str, str] = {**WIFI, "card_wifi_password": WORDS["vault_card_wifi_password"]}

    def make(self) -> None:
        super().make()
        self.begun = time.time()
        self.said: list[str] = []
        self.logged = b""
        self.fleet = Fleet(self.fleet.inventory, extra=[*self.fleet.extra, "-vvv", "--diff"])
        keys = {name: self.certificate(name) for name in ("mqtt_broker", "bridge")}
        pull = self.folder / "pull.key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(pull)], check=True)
        path = self.inventory / "hosts.yml"
        devices = yaml.safe_load(path.read_text())["devices"]
        hashed = devices["vars"]["card_password_hash"]
        wifi = self.wifi["card_wifi_password"].encode(), self.wifi["card_wifi_ssid"].encode()
        self.words = {
            **WORDS,
            **{f"another {name}": word for name, word in OTHERS.items()},
            "vault_card_password_hash": hashed.rpartition("$")[2],
            "key of the Wi-Fi": hashlib.pbkdf2_hmac("sha1", *wifi, 4096, 32).hex(),
            # A line from amid the text: it is the same however the text is quoted.
            **{f"vault_{name}_key": key.read_text().splitlines()[7] for name, (key, _) in keys.items()},
            "vault_pull_key": pull.read_text().splitlines()[-3],
            "key of the login": self.key.read_text().splitlines()[-3],
        }
        certificate = keys["mqtt_broker"][1].read_text()
        devices["vars"] |= {
            "ansible_become_password": "{{ vault_become_password }}",
            "card_wifi_password": "{{ vault_card_wifi_password }}",
            "card_password_hash": "{{ vault_card_password_hash }}",
            "mqtt_broker_listen": "0.0.0.0",
            "mqtt_broker_certificate": certificate,
            "mqtt_broker_key": "{{ vault_mqtt_broker_key }}",
            "mqtt_broker_users": [{"name": "till", "password": "{{ vault_mqtt_broker_till }}"}],
            "mqtt_broker_bridge": {
                "endpoint": "localhost",
                "certificate": keys["bridge"][1].read_text(),
                "key": "{{ vault_bridge_key }}",
                "ca": certificate,
            },
            "local_core_lambdas": [
                {
                    "name": "echo",
                    "src": str(PROJECT / "tests" / "lambdas" / "echo"),
                    "handler": "echo.function_handler",
                    "secrets": ["greeting"],
                    "variables": {"GREETING": "{{ vault_variable }}"},
                }
            ],
            "local_core_subscriptions": [
                {"source": "cloud", "subject": "echo/+/request", "target": "echo"},
                {"source": "echo", "subject": "echo/answer", "target": "cloud"},
            ],
            "local_core_secrets": {"greeting": {"SecretString": "{{ vault_greeting }}"}},
        }
        path.write_text(yaml.safe_dump({"devices": devices}))
        secrets = {
            **WORDS,
            **{f"vault_{name}_key": key.read_text() for name, (key, _) in keys.items()},
            "vault_pull_key": pull.read_text(),
            "vault_card_password_hash": hashed,
        }
        vault = self.inventory / "group_vars" / "devices" / "vault.yml"
        vault.parent.mkdir(parents=True)
        encrypt = ["ansible-vault", "encrypt", "--vault-password-file", str(self.vault), "--output", str(vault)]
        subprocess.run(encrypt, input=yaml.safe_dump(secrets), text=True, check=True, capture_output=True)

    def certificate(self, name: str) -> tuple[Path, Path]:
        """Make a key and a certificate that signs itself."""
        key, certificate = self.folder / f"{name}.key", self.folder / f"{name}.pem"
        argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
        argv += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(argv, check=True, capture_output=True)
        return key, certificate

    def run(self, playbook: str, *arguments: str) -> Run:
        """Run a playbook, and keep what it says."""
        run = self.fleet.playbook(playbook, *arguments)
        self.said.append(run.output)
        return run

    def play(self, playbook: str, *arguments: str) -> Run:
        """Run a playbook, and require that it succeeds."""
        run = self.run(playbook, *arguments)
        assert run.code == 0, run.output[-6000:]
        return run

    def fail(self, playbook: str, *arguments: str) -> None:
        """Run a playbook that cannot succeed."""
        run = self.run(playbook, *arguments)
        assert run.code != 0, run.output[-6000:]

    def rotate(self) -> None:
        """Give the devices new host keys."""
        self.former = self.private_keys()
        self.play("playbooks/site.yml", "--tags", "identity", "-e", "identity_rotate=true")

    def end(self) -> None:
        """Learn what was made meanwhile: the key of collect here, and each device's token there."""
        read = "print(json.dumps(Path('/etc/pi-fleet/private/echo.token').read_text().strip()))"
        self.tokens: Mapping[str, str] = {name: self.python(name, read) for name in SEEDED}
        self.collects = self.inventory / "keys" / "collect"
        self.words["key of collect"] = self.collects.read_text().splitlines()[-3]

    def secrets(self, name: str) -> Mapping[str, str]:
        """Return all secrets that concern a device."""
        own = {"host key": self.private_keys()[name], "former host key": self.former[name], "token": self.tokens[name]}
        return {**self.words, **own}


@pytest.fixture(scope="module")
def vault() -> Vault:
    """Two devices whose whole life was run with -vvv and --diff."""
    vault = Vault(Path(os.environ["E2E_DIRECTORY"]))
    log = Log()
    vault.make()
    vault.flash()
    vault.play("playbooks/site.yml", "--check")
    vault.play("playbooks/site.yml")
    vault.play("playbooks/site.yml", "-e", "full=true")
    # Other secrets, so that --diff has something to show of what is there; and back.
    user = {"name": "till", "password": OTHERS["vault_mqtt_broker_till"]}
    vault.play("playbooks/site.yml", "-e", json.dumps({"mqtt_broker_users": [user]}))
    greeting = {"greeting": {"SecretString": OTHERS["vault_greeting"]}}
    vault.play("playbooks/site.yml", "-e", json.dumps({"local_core_secrets": greeting}))
    vault.play("playbooks/site.yml")
    vault.rotate()
    vault.play("playbooks/bootstrap.yml")
    # What it would install takes minutes; the device is given the secrets all the same.
    vault.play("playbooks/pull.yml", "--check", "-e", json.dumps(PULL))
    vault.play("playbooks/verify.yml", "-e", f"verify_report_path={vault.folder}/verified")
    vault.play("playbooks/drift.yml", "-e", f"drift_report_path={vault.folder}/drift")
    vault.play("playbooks/classify.yml")
    vault.play("playbooks/collect.yml")
    vault.play(REIMAGE, *step("before"))
    # What fails says more than what does not.
    vault.fail("playbooks/site.yml", "-e", "mqtt_broker_certificate=none")
    vault.fail("playbooks/site.yml", "-e", "ansible_become_password=wrong")
    vault.fail("playbooks/site.yml", "-e", json.dumps({"local_core_secrets": {"greeting": {"SecretNothing": "x"}}}))
    vault.fail("playbooks/card.yml", "-e", "card_wifi_country=nowhere")
    # There is nothing to go back to.
    vault.fail("playbooks/rollback.yml")
    vault.logged = log.end()
    vault.end()
    return vault


def written(word: str) -> Iterator[bytes]:
    """Yield a secret as it is, and as base64 has it at each of three places."""
    yield word.encode()
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + word.encode())
        yield coded[4 if shift else 0 : -4]


def test_nothing_that_was_said_has_a_secret_in_it(vault: Vault) -> None:
    said = "\n".join(vault.said).encode()
    print(f"{len(vault.said)} runs said {len(said)} bytes")
    assert len(said) > 1_000_000
    print(f"{vault.logged.count(b'Invoked with')} modules of the control node logged {len(vault.logged)} bytes")
    assert b"Invoked with" in vault.logged
    for name in SEEDED:
        for text in (said, vault.logged):
            assert [
                word for word, text_of in vault.secrets(name).items() if any(f in text for f in written(text_of))
            ] == []


def written_here(vault: Vault) -> Iterator[Path]:
    """Yield the files of this test, and what was written since it began wherever a run may leave something."""
    yield from (path for path in vault.folder.rglob("*") if path.is_file())
    home = Path.home()
    for place in (home / ".ansible", home / ".cache" / "pi-fleet", PROJECT / ".cache", Path(tempfile.gettempdir())):
        for parent, folders, names in os.walk(place):
            # Not what is mounted there, as in a root that mmdebstrap makes: files of /proc have no end.
            folders[:] = [folder for folder in folders if not os.path.ismount(Path(parent, folder))]
            for path in (Path(parent, name) for name in names):
                # Others that work here remove theirs meanwhile.
                with suppress(FileNotFoundError):
                    found = path.lstat()
                    if stat.S_ISREG(found.st_mode) and found.st_ctime >= vault.begun:
                        yield path


def test_nothing_on_the_control_node_has_a_secret_but_what_is_encrypted(vault: Vault) -> None:
    """But for what the test itself wrote in the place of a user, cards, passwords, keys; and the key of collect."""
    own = {vault.vault, vault.folder / "password", *vault.folder.glob("*.key")}
    belongs = {"key of the login": vault.key, "key of collect": vault.collects}
    looked = {}
    for path in written_here(vault):
        if path not in own and not path.is_relative_to(vault.folder / "cards"):
            with suppress(FileNotFoundError):
                looked[path] = path.read_bytes()
    beyond = [path for path in looked if not path.is_relative_to(vault.folder)]
    print(f"{len(looked)} files, {len(beyond)} of them beyond {vault.folder}")
    assert {"vault.yml", "pi-trixie.yml", "index.html", "pi-trixie.json"} <= {path.name for path in looked}
    for name in SEEDED:
        words = vault.secrets(name)
        assert [
            (str(path), secret)
            for path, content in looked.items()
            for secret, word in words.items()
            if path != belongs.get(secret) and any(form in content for form in written(word))
        ] == []
    modes = {path: path.stat().st_mode & 0o777 for path in belongs.values()}
    assert modes == dict.fromkeys(belongs.values(), 0o600)
    keys = {path for path, content in looked.items() if b"PRIVATE KEY" in content}
    assert keys - set(beyond) == modes.keys()


def test_what_is_made_on_a_device_is_not_in_the_store_either(vault: Vault) -> None:
    """What is encrypted cannot be searched: it is opened. The host key is there, and no device has another's."""
    assert len({*vault.tokens.values(), *vault.former.values(), *vault.private_keys().values()}) == 3 * len(SEEDED)
    for path in [*(vault.inventory / "identities").iterdir(), vault.inventory / "group_vars/devices/vault.yml"]:
        argv = ["ansible-vault", "view", "--vault-password-file", str(vault.vault), str(path)]
        text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        assert ("host_keys" in text) == (path.parent.name == "identities")
        assert not [name for name, token in vault.tokens.items() if token in text]


@pytest.mark.parametrize("name", SEEDED)
def test_a_device_has_its_secrets_where_they_are_used_and_nowhere_else(vault: Vault, name: str) -> None:
    words = {secret: list(written(word)) for secret, word in vault.secrets(name).items()}
    others = {other: list(written(vault.secrets(other)["host key"])) for other in SEEDED if other != name}
    found, journal = vault.python(name, f"import json\nWORDS = {words | others!r}\n{SEARCH}")
    print(f"{name}: {journal} bytes of journal; {found}")
    assert journal > 10_000
    wanted = {secret: {**KEPT.get(secret, {}), **SEEDED_BY[name].get(secret, {})} for secret in words}
    assert found == {secret: places for secret, places in wanted.items() if places}
