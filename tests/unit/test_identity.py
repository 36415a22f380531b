"""A device's identity on the device: sshd survives, a killed run is healed, the seed's secrets go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.edge.pi_fleet.plugins.module_utils import identity as module
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, DeviceError
from ansible_collections.edge.pi_fleet.plugins.module_utils.first_boot import FirstBoot, check_first_boot
from ansible_collections.edge.pi_fleet.plugins.module_utils.identity import (
    HostKeyFile,
    Hostname,
    SshServer,
    check_host_key,
    check_hostname,
)
from ansible_collections.edge.pi_fleet.plugins.module_utils.identity_store import Identity, public_key
from ansible_collections.edge.pi_fleet.plugins.module_utils.state_record import Record, Role, save
from ansible_collections.edge.pi_fleet.plugins.modules import identity

IDENTITY = Identity.make("kitchen")
PRIVATE = IDENTITY.host_keys["ed25519"]
PUBLIC = f"{public_key(PRIVATE)} kitchen\n"
KEYS = {"ed25519": HostKeyFile(PRIVATE, PUBLIC)}
HASH = "$6$saltsalt$" + "a" * 86


class Pi:
    """A device in a folder, whose sshd accepts or refuses what it is given."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.refuses = False
        self.answers = ""
        self.calls: list[str] = []
        self.device = Device(self.run, root)

    def run(self, argv: list[str]) -> tuple[int, str, str]:
        self.calls.append(" ".join(argv))
        match argv:
            case ["/usr/sbin/sshd", "-t"] if self.refuses:
                return 255, "", "sshd: no hostkeys available -- exiting."
            case ["/usr/sbin/sshd", "-T"]:
                return 0, "port 2022\naddressfamily any\n", ""
            case ["ssh-keyscan", "-p", "2022", "-t", "ed25519", "127.0.0.1"]:
                return 0, self.answers, ""
        return 0, "", ""

    def write(self, name: str, text: str) -> Path:
        path = self.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def read(self, name: str) -> str:
        return (self.root / name.lstrip("/")).read_text()


@pytest.fixture
def pi(tmp_path: Path) -> Pi:
    return Pi(tmp_path)


def test_keys_are_installed_tested_and_read(pi: Pi) -> None:
    server = SshServer(pi.device, KEYS)
    assert sorted(server.differing()) == ["/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_ed25519_key.pub"]
    server.apply()
    assert pi.read("/etc/ssh/ssh_host_ed25519_key") == PRIVATE
    assert (pi.root / "etc/ssh/ssh_host_ed25519_key").stat().st_mode & 0o777 == 0o600
    assert pi.read("/etc/ssh/ssh_host_ed25519_key.pub") == PUBLIC
    assert pi.calls == ["/usr/sbin/sshd -t", "systemctl try-reload-or-restart ssh.service"]
    assert (server.differing(), server.owed()) == ([], False)


def test_a_key_that_others_may_read_is_mended(pi: Pi) -> None:
    SshServer(pi.device, KEYS).apply()
    (pi.root / "etc/ssh/ssh_host_ed25519_key").chmod(0o644)
    assert SshServer(pi.device, KEYS).differing() == ["/etc/ssh/ssh_host_ed25519_key"]


def test_what_sshd_refuses_is_put_back(pi: Pi) -> None:
    pi.write("/etc/ssh/ssh_host_ed25519_key", "old private").chmod(0o600)
    pi.write("/etc/ssh/ssh_host_ed25519_key.pub", "old public")
    pi.refuses = True
    with pytest.raises(DeviceError, match=r"all is as before: .*no hostkeys available"):
        SshServer(pi.device, KEYS, passwords=False).apply()
    assert pi.read("/etc/ssh/ssh_host_ed25519_key") == "old private"
    assert pi.read("/etc/ssh/ssh_host_ed25519_key.pub") == "old public"
    assert not (pi.root / module.PASSWORDS.lstrip("/")).exists()
    assert "systemctl try-reload-or-restart ssh.service" not in pi.calls


def test_a_run_killed_before_sshd_read_is_healed(pi: Pi, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*argv: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(Device, "command", lambda self, *argv: killed(*argv))
    with pytest.raises(KeyboardInterrupt):
        SshServer(pi.device, KEYS).apply()
    monkeypatch.undo()
    server = SshServer(pi.device, KEYS)
    assert (server.differing(), server.owed()) == ([], True)
    server.apply()
    assert not server.owed()
    assert pi.calls[-1] == "systemctl try-reload-or-restart ssh.service"


def test_passwords_are_closed_on_request_only(pi: Pi) -> None:
    assert SshServer(pi.device, {}).differing() == []
    server = SshServer(pi.device, {}, passwords=False)
    server.apply()
    assert "PasswordAuthentication no\nKbdInteractiveAuthentication no\n" in pi.read(module.PASSWORDS)
    assert SshServer(pi.device, {}).differing() == []


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("PasswordAuthentication yes\n")])
def test_what_was_closed_stays_closed(pi: Pi, spoil: Callable[[Path], object]) -> None:
    assert not identity.closed(pi.device)
    SshServer(pi.device, {}, passwords=False).apply()
    known = {f"path {module.PASSWORDS}": {"type": "file"}}
    save(pi.device, Record({"identity": Role(inputs="", manages={}, entries=known)}))
    spoil(pi.root / module.PASSWORDS.lstrip("/"))
    assert identity.closed(pi.device)


HOSTS = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"{HOSTS}127.0.1.1\traspberrypi\n", f"{HOSTS}127.0.1.1\tkitchen\n"),
        (f"{HOSTS}127.0.1.1 kitchen.lan kitchen\n", f"{HOSTS}127.0.1.1 kitchen.lan kitchen\n"),
        (f"{HOSTS}10.88.0.2\tkitchen fleet-kitchen\n", f"{HOSTS}10.88.0.2\tkitchen fleet-kitchen\n"),
        (HOSTS, f"{HOSTS}127.0.1.1\tkitchen\n"),
        (HOSTS.rstrip(), f"{HOSTS}127.0.1.1\tkitchen\n"),
        ("# 10.0.0.1 kitchen\n", "# 10.0.0.1 kitchen\n127.0.1.1\tkitchen\n"),
        (f"{HOSTS}10.0.0.1 kitchen-2\n", f"{HOSTS}10.0.0.1 kitchen-2\n127.0.1.1\tkitchen\n"),
        ("", "127.0.1.1\tkitchen\n"),
    ],
)
def test_the_host_name_is_written_where_it_is_read(pi: Pi, before: str, after: str) -> None:
    pi.write("/etc/hosts", before)
    pi.write("/etc/hostname", "raspberrypi\n")
    pi.write("/proc/sys/kernel/hostname", "raspberrypi\n")
    hostname = Hostname(pi.device, "kitchen")
    assert hostname.differs()
    hostname.apply()
    assert (pi.read("/etc/hosts"), pi.read("/etc/hostname")) == (after, "kitchen\n")
    assert pi.calls == ["hostname kitchen"]
    pi.write("/proc/sys/kernel/hostname", "kitchen\n")
    assert not hostname.differs()


def test_verify_asks_sshd_itself(pi: Pi) -> None:
    (key,) = IDENTITY.public_keys()
    pi.answers = f"# 127.0.0.1:2022 SSH-2.0-OpenSSH_9.2p1\n[127.0.0.1]:2022 {key.line}\n"
    assert check_host_key(pi.device, key.line) == (True, key.fingerprint, key.fingerprint)
    (other,) = Identity.make("other").public_keys()
    assert check_host_key(pi.device, other.line) == (False, key.fingerprint, other.fingerprint)
    pi.answers = ""
    assert check_host_key(pi.device, key.line) == (False, "none", key.fingerprint)


def test_verify_looks_at_both_host_names(pi: Pi) -> None:
    pi.write("/etc/hostname", "kitchen\n")
    pi.write("/proc/sys/kernel/hostname", "raspberrypi\n")
    assert check_hostname(pi.device, "kitchen") == (False, "raspberrypi until the next boot, then kitchen", "kitchen")
    pi.write("/proc/sys/kernel/hostname", "kitchen\n")
    assert check_hostname(pi.device, "kitchen") == (True, "kitchen", "kitchen")
    assert check_hostname(pi.device, "hall") == (False, "kitchen", "hall")


USER_DATA = f"#cloud-config\nssh_keys:\n  ed25519_private: |\n    {PRIVATE}\n"
WIFI = "network:\n  wifis:\n    wlan0:\n      access-points:\n        home:\n          password: '0123abcd'\n"
INSTANCE = "/var/lib/cloud/instances/pi-fleet"


def seed(pi: Pi) -> None:
    pi.write("/boot/firmware/user-data", USER_DATA)
    pi.write("/boot/firmware/user-data.after-first-boot", "#cloud-config\nhostname: kitchen\n")
    pi.write("/boot/firmware/network-config", WIFI)
    pi.write("/boot/firmware/meta-data", "instance-id: pi-fleet\n")
    for name in ("user-data.txt", "user-data.txt.i", "cloud-config.txt", "obj.pkl"):
        pi.write(f"{INSTANCE}/{name}", USER_DATA)
    pi.write(f"{INSTANCE}/sem/config_ssh", "")
    (pi.root / "var/lib/cloud/instance").symlink_to("instances/pi-fleet")


def test_a_seed_of_somebody_else_is_theirs(pi: Pi) -> None:
    seed(pi)
    pi.write(f"{INSTANCE}/boot-finished", "")
    assert FirstBoot(pi.device).left() == []


def test_the_secrets_of_a_seed_go_after_the_first_boot(pi: Pi) -> None:
    seed(pi)
    pi.write("/boot/firmware/pi-fleet-card.txt", "kitchen\n")
    assert FirstBoot(pi.device).left() == [], "cloud-init still reads them"
    pi.write(f"{INSTANCE}/boot-finished", "")
    pi.write("/var/log/cloud-init.log", f"reading\nnetplan: {{'password': '{'ab' * 32}'}}\nsha256 {'ab' * 32}\n")
    copies = [f"{INSTANCE}/{name}" for name in ("cloud-config.txt", "obj.pkl", "user-data.txt", "user-data.txt.i")]
    left = ["/boot/firmware/user-data", "/boot/firmware/network-config", *copies, "/var/log/cloud-init.log"]
    assert FirstBoot(pi.device).left() == left
    assert check_first_boot(pi.device) == (False, ", ".join(left), "none")
    FirstBoot(pi.device).clean()
    assert check_first_boot(pi.device) == (True, "none", "none")
    assert pi.read("/boot/firmware/user-data") == "#cloud-config\nhostname: kitchen\n"
    assert not (pi.root / "boot/firmware/network-config").exists()
    assert pi.read("/boot/firmware/meta-data") == "instance-id: pi-fleet\n"
    assert pi.read("/var/log/cloud-init.log") == f"reading\nnetplan: {{'password': '(removed)'}}\nsha256 {'ab' * 32}\n"
    assert (pi.root / f"{INSTANCE.lstrip('/')}/sem/config_ssh").exists()


@pytest.mark.parametrize(
    ("name", "text", "secret"),
    [
        ("userconf.txt", f"pi:{HASH}\n", True),
        ("userconf.txt", "pi:$y$j9T$abcdefghijklmnopqrstuv$abcdefghijklmnopqrstuvwxyz\n", True),
        ("firstrun.sh", f"install /dev/stdin <<'E'\n{PRIVATE}E\n", True),
        ("custom.toml", '[user]\npassword = "x"\n', True),
        ("user-data", "#cloud-config\nssh_pwauth: false\nusers:\n- name: pi\n  lock_passwd: false\n", False),
        ("user-data", f"#cloud-config\nssh_keys:\n  ed25519_public: {PUBLIC}", False),
        ("network-config", "network:\n  version: 2\n  ethernets: {eth0: {dhcp4: true}}\n", False),
    ],
)
def test_secrets_are_recognised_by_what_they_are(pi: Pi, name: str, text: str, secret: bool) -> None:
    pi.write("/boot/firmware/pi-fleet-card.txt", "kitchen\n")
    pi.write(f"/boot/firmware/{name}", text)
    assert FirstBoot(pi.device).left() == ([f"/boot/firmware/{name}"] if secret else [])
