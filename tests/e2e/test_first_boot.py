"""A device's first boot, from the card that card.yml wrote, and first contact with one that has no such card.

Trixie boots with Debian's cloud-init from the boot partition, Bookworm with systemd's own systemd.run=. What they meet
there of Raspberry Pi OS is played by molecule/firstboot/files: its settings of cloud-init, its service that replaces
host keys at the first normal boot, its ways to switch ssh on and to name the first user. A container does not come back
from a reboot by itself: the test switches it on again.
"""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from ansible_collections.edge.pi_fleet.plugins.module_utils.host_key import known_keys
from ansible_collections.edge.pi_fleet.plugins.module_utils.virtual_pi import Engine, Host

from tests.e2e.conftest import PROJECT, Fleet, Run, role_alone
from tests.e2e.test_refusals import sentence

FLEET = os.environ.get("E2E_FLEET", "molecule-firstboot")
OVERLAY = PROJECT / "molecule" / "firstboot" / "files"
CMDLINE = PROJECT / "roles" / "virtual_pi" / "files" / "image" / "common" / "boot" / "firmware" / "cmdline.txt"
SEEDED = ("pi-trixie", "pi-bookworm")
BLANK = "pi-blank"
PASSWORD = "a password of this test"
WIFI = {"card_wifi_ssid": "conveyor: hall 2", "card_wifi_password": "a Wi-Fi password", "card_wifi_country": "DE"}
STRICT = (
    "-o StrictHostKeyChecking=yes -o UserKnownHostsFile={{ inventory_dir }}/known_hosts"
    " -o HostKeyAlias={{ inventory_hostname }} -o IdentitiesOnly=yes"
)


class Site:
    """An inventory of this test's own, with its vault, its cards and its virtual Pis."""

    password = PASSWORD
    wifi: Mapping[str, str] = WIFI

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inventory = folder / "inventory"
        self.key = folder / "id_ed25519"
        self.vault = folder / "vault-password"
        extra = [f"--vault-password-file={self.vault}", "-e", f"virtual_pi_fleet={FLEET}"]
        extra += ["-e", f"virtual_pi_directory={folder}"]
        self.fleet = Fleet(str(self.inventory), extra=extra)

    def make(self) -> None:
        """Write what a user has before the first card: an inventory, an SSH key, a vault's password."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.inventory.mkdir(parents=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
        self.vault.write_text("a vault password of this test\n")
        (self.folder / "password").write_text(self.password)
        packages = {
            "trixie": ["cloud-init", "locales", "netplan.io", "tzdata"],
            "bookworm": ["locales", "network-manager", "tzdata"],
        }
        hosts = {
            name: {
                "ansible_ssh_common_args": STRICT,
                "virtual_pi_release": release,
                "virtual_pi_packages": packages[release],
                "virtual_pi_files": [
                    {"src": str(OVERLAY / "common"), "dest": "/"},
                    {"src": str(OVERLAY / release), "dest": "/"},
                    {"src": str(self.card(name)), "dest": "/boot/firmware"},
                ],
            }
            for name, release in (("pi-trixie", "trixie"), ("pi-bookworm", "bookworm"))
        }
        hosts[BLANK] = {"ansible_ssh_common_args": STRICT, "virtual_pi_release": "trixie"}
        hashed = subprocess.run(
            ["openssl", "passwd", "-6", "-stdin"], input=self.password, capture_output=True, text=True, check=True
        ).stdout.strip()
        variables = {
            "ansible_python_interpreter": "/usr/bin/python3",
            "card_path": f"{self.folder}/cards/{{{{ inventory_hostname }}}}",
            "card_password_hash": hashed,
            "card_authorized_keys": [self.key.with_suffix(".pub").read_text().strip()],
            "card_locale": "en_GB.UTF-8",
            "card_timezone": "Europe/Berlin",
            "camera_source": "directory",
            "camera_directory": str(PROJECT / "files" / "photos"),
            "image_classifier_model": str(PROJECT / ".cache" / "models" / "demonstration" / "model.onnx"),
            **self.wifi,
        }
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump({"devices": {"hosts": hosts, "vars": variables}}))
        for name in SEEDED:
            self.card(name).mkdir(parents=True)
        # What is on a flashed card's boot partition, as far as it decides anything.
        (self.card("pi-trixie") / "user-data").write_text("#cloud-config\n\n# Comments.\nssh_pwauth: false\n")
        (self.card("pi-trixie") / "meta-data").write_text("dsmode: local\ninstance_id: rpios-image\n")
        for name in SEEDED:
            shutil.copy(CMDLINE, self.card(name))

    def card(self, name: str) -> Path:
        """Return the folder in the place of a device's mounted card."""
        return self.folder / "cards" / name

    def ssh(self, name: str, script: str) -> str:
        """Run a command on a device as a user would by hand: no other known_hosts, and strict."""
        done = self.attempt(name, script)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def attempt(self, name: str, script: str) -> subprocess.CompletedProcess[str]:
        """Run a command on a device that may not answer."""
        port = self.fleet.hosts()[name]["ansible_port"]
        options = ["BatchMode=yes", "StrictHostKeyChecking=yes", f"HostKeyAlias={name}", "IdentitiesOnly=yes"]
        options.append(f"UserKnownHostsFile={self.inventory / 'known_hosts'}")
        argv = ["ssh", *(word for option in options for word in ("-o", option)), "-i", str(self.key), "-p", str(port)]
        return subprocess.run([*argv, "pi@127.0.0.1", script], capture_output=True, text=True, check=False)

    def root(self, name: str, script: str) -> str:
        """Run a command on a device as root."""
        return self.ssh(name, f"echo '{PASSWORD}' | sudo -S -p '' sh -c '{script}'")

    def root_by_password(self, name: str, script: str) -> None:
        """Run a command as root on a device that the virtual fleet's key still opens."""
        argv = ["ssh", "-F", str(self.folder / "ssh_config"), "-o", "BatchMode=yes", name]
        subprocess.run([*argv, f"sudo -S -p '' {script}"], input=f"{PASSWORD}\n", text=True, check=True)

    def private_keys(self) -> dict[str, str]:
        """Return the secret part of each private host key in the store, a line of its base64."""
        found = {}
        for path in (self.inventory / "identities").glob("*.yml"):
            argv = ["ansible-vault", "view", "--vault-password-file", str(self.vault), str(path)]
            text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
            found[path.stem] = yaml.safe_load(text)["host_keys"]["ed25519"].splitlines()[-3]
        return found


def switch_on_again(engine: Engine, container: str, done: threading.Event) -> None:
    """Start a container when it has rebooted, which an engine takes for its end."""
    while not done.wait(1):
        filters = ["--filter", f"name=^{container}$", "--filter", "status=exited"]
        if engine.call("ps", "--all", *filters, "--format", "{{.Names}}").strip():
            engine.call("start", container)


@pytest.fixture(scope="module")
def site() -> Site:
    """The site after its cards were written twice, and its devices booted for the first time."""
    site = Site(Path(os.environ["E2E_DIRECTORY"]))
    site.make()
    run = site.fleet.playbook("playbooks/card.yml", "--limit", ",".join(SEEDED), "--diff")
    assert run.code == 0, run.output
    known = (site.inventory / "known_hosts").read_text()
    print(run.output)
    secrets = [WIFI["card_wifi_password"], "PRIVATE KEY", "$6$", *site.private_keys().values()]
    assert not [secret for secret in secrets if secret in run.output]
    again = site.fleet.playbook("playbooks/card.yml", "--limit", ",".join(SEEDED))
    assert again.changed == dict.fromkeys(SEEDED, 0), again.output
    done = threading.Event()
    engine = Engine.find("auto", Host.detect())
    thread = threading.Thread(target=switch_on_again, args=(engine, f"{FLEET}-pi-bookworm", done))
    thread.start()
    begun = time.monotonic()
    try:
        booted = site.fleet.playbook("playbooks/virtual_fleet.yml")
    finally:
        done.set()
        thread.join()
    assert booted.code == 0, booted.output
    print(f"made and booted in {time.monotonic() - begun:.0f} s")
    assert (site.inventory / "known_hosts").read_text() == known, "it was known before it existed, and still is"
    return site


@pytest.mark.parametrize("name", SEEDED)
def test_the_very_first_login_is_to_a_known_device(site: Site, name: str) -> None:
    assert site.ssh(name, "hostname") == f"{name}\n"
    assert site.ssh(name, "id --name --user --real 1000") == "pi\n"
    assert site.root(name, "id -u") == "0\n"


@pytest.mark.parametrize("name", SEEDED)
def test_the_seed_did_what_it_says(site: Site, name: str) -> None:
    assert site.root(name, "readlink /etc/localtime").strip().endswith("/Europe/Berlin")
    assert "en_GB.utf8" in site.ssh(name, "locale -a").split()
    assert "en_GB.UTF-8" in site.root(name, "cat /etc/default/locale /etc/locale.conf 2>/dev/null; true")
    folder = {
        "pi-trixie": "/run/NetworkManager/system-connections",
        "pi-bookworm": "/etc/NetworkManager/system-connections",
    }
    wifi = site.root(name, f"cat {folder[name]}/*")
    assert re.search(r"^psk=[0-9a-f]{64}$", wifi, re.MULTILINE)
    assert f"ssid={WIFI['card_wifi_ssid']}" in wifi
    assert "passwordauthentication no" in site.root(name, "sshd -T").splitlines()
    assert site.root(name, "wc -l </boot/firmware/cmdline.txt").strip() == "1"
    assert "systemd." not in site.root(name, "cat /boot/firmware/cmdline.txt")
    assert "disabled" in site.ssh(name, "systemctl is-enabled regenerate_ssh_host_keys; true")


@pytest.mark.parametrize("name", SEEDED)
def test_no_secret_of_the_seed_is_left_where_it_does_not_belong(site: Site, name: str) -> None:
    """Every file of the device is read: a key is where sshd reads it, a hash where PAM does, the Wi-Fi's where it is.

    /run is left out: what cloud-init keeps there, for root alone, is in memory, and goes with the first boot.
    """
    body = site.private_keys()[name]
    every = "--exclude-dir=proc --exclude-dir=sys --exclude-dir=run -rls"
    assert site.root(name, f"grep {every} -F -- {body} / || true").split() == ["/etc/ssh/ssh_host_ed25519_key"]
    hashed = site.fleet.hosts()[name]["card_password_hash"].rpartition("$")[2]
    assert "/etc/shadow" in site.root(name, f"grep {every} -F -- {hashed} / || true").split()
    assert set(site.root(name, f"grep {every} -F -- {hashed} / || true").split()) <= {"/etc/shadow", "/etc/shadow-"}
    keys = site.root(name, 'grep -rlsE "(password|psk).*[0-9a-f]{64}" /boot /var /etc || true').split()
    assert (
        keys
        == {
            "pi-trixie": ["/etc/netplan/50-cloud-init.yaml"],
            "pi-bookworm": ["/etc/NetworkManager/system-connections/preconfigured.nmconnection"],
        }[name]
    )
    for key in keys:
        assert site.root(name, f"stat -c %a {key}") == "600\n"


def test_a_later_boot_changes_nothing(site: Site) -> None:
    """cloud-init finds what was left for it, and takes the device for the one that it has set up already."""
    before = site.root("pi-trixie", "cat /etc/ssh/ssh_host_ed25519_key.pub /etc/hostname /etc/shadow /etc/netplan/*")
    Engine.find("auto", Host.detect()).call("restart", f"{FLEET}-pi-trixie")
    deadline = time.monotonic() + 120
    while "done" not in site.attempt("pi-trixie", "cloud-init status --wait").stdout:
        assert time.monotonic() < deadline
        time.sleep(1)
    after = site.root("pi-trixie", "cat /etc/ssh/ssh_host_ed25519_key.pub /etc/hostname /etc/shadow /etc/netplan/*")
    assert after == before
    test_no_secret_of_the_seed_is_left_where_it_does_not_belong(site, "pi-trixie")


def test_playbooks_go_on_from_there(site: Site) -> None:
    """Role identity finds nothing to do, alone too; verify is content. What is left over is noticed, and removed."""
    limit = ("--limit", ",".join(SEEDED))
    become = ("-e", f"ansible_become_password='{PASSWORD}'")
    run = site.fleet.playbook("playbooks/site.yml", *limit, *become, "--tags", "identity")
    assert run.code == 0, run.output
    assert run.changed == dict.fromkeys(SEEDED, 0), run.output
    run = site.fleet.playbook(role_alone("identity", site.folder), *limit, *become)
    assert run.code == 0, run.output
    assert run.changed == dict.fromkeys(SEEDED, 0), run.output
    roles = ("-e", '{"verify_roles": ["identity"]}')
    verified = site.fleet.playbook("playbooks/verify.yml", *limit, *become, *roles)
    assert verified.code == 0, verified.output
    assert verified.output.count("ok    no secret of the first boot is left") == len(SEEDED)
    for name in SEEDED:
        site.root(name, "echo password: s3cret >/boot/firmware/user-data")
    wrong = site.fleet.playbook("playbooks/verify.yml", *limit, *become, *roles)
    assert wrong.code != 0
    assert wrong.output.count("WRONG no secret of the first boot is left") == len(SEEDED)
    assert "s3cret" not in wrong.output
    mended = site.fleet.playbook("playbooks/site.yml", *limit, *become, "--tags", "identity")
    assert mended.changed == dict.fromkeys(SEEDED, 1), mended.output
    assert site.fleet.playbook("playbooks/verify.yml", *limit, *become, *roles).code == 0


def fingerprint(site: Site) -> str:
    """Return the host key of the device without a card, as its screen would show it."""
    name = BLANK
    known = site.folder / "known_hosts"
    port = site.fleet.hosts()[name]["ansible_port"]
    (key,) = known_keys(known)[f"[127.0.0.1]:{port}"]
    return key.fingerprint


@pytest.mark.parametrize("playbook", ["site", "verify", "classify"])
def test_an_unknown_key_is_refused_by_every_playbook(site: Site, playbook: str) -> None:
    run = site.fleet.playbook(f"playbooks/{playbook}.yml", "--limit", BLANK)
    assert run.code != 0
    assert f"found is {fingerprint(site)}, wanted is one that you confirm" in sentence(run.output)
    assert "unreachable=1" in run.output
    assert not any(run.changed.values())


def bootstrap_at_a_terminal(site: Site, typed: str, *arguments: str) -> Run:
    """Run bootstrap.yml where a person sits, who types this when asked."""
    command = site.fleet.command("playbooks/bootstrap.yml", "--limit", BLANK, *arguments)
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(site.fleet.project)
        os.execvpe(command[0], command, site.fleet.environment())
    printed, answered = "", False
    while True:
        try:
            printed += os.read(terminal, 4096).decode(errors="replace")
        except OSError:
            break
        if not answered and "Type yes if you have compared them" in printed:
            time.sleep(1)
            os.write(terminal, f"{typed}\r".encode())
            answered = True
    os.close(terminal)
    return Run(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), printed.replace("\r\n", "\n"))


def test_first_contact_without_a_card(site: Site) -> None:
    """A key that nobody confirms is refused; a confirmed one is recorded once, and the password's login is over."""
    limit = ("--limit", BLANK)
    password = ("-e", f"ansible_password='{PASSWORD}'", "-e", f"ansible_become_password='{PASSWORD}'")
    key = ("-e", f"ansible_ssh_private_key_file={site.key}")
    # The virtual Pi knows the key of its making; the device of this test knows none.
    site.root_by_password(BLANK, "rm /home/pi/.ssh/authorized_keys")
    known_hosts = site.inventory / "known_hosts"
    recorded = known_hosts.read_text()
    unasked = site.fleet.playbook("playbooks/bootstrap.yml", *limit, *password)
    assert unasked.code != 0
    assert f"found is {fingerprint(site)}" in sentence(unasked.output)
    other = ("-e", f"bootstrap_fingerprint=SHA256:{'A' * 43}")
    wrong = site.fleet.playbook("playbooks/bootstrap.yml", *limit, *password, *other)
    assert "and bootstrap_fingerprint is SHA256:AAAA" in sentence(wrong.output)
    assert bootstrap_at_a_terminal(site, "no", *password, *key).code != 0
    assert known_hosts.read_text() == recorded
    # The fingerprint that was read on the device is asked for once, whatever stops the run then.
    right = ("-e", f"bootstrap_fingerprint={fingerprint(site)}")
    stopped = site.fleet.playbook("playbooks/bootstrap.yml", *limit, *key, "-e", "ansible_password=wrong", *right)
    assert "refuses the login of pi" in sentence(stopped.output)
    assert known_keys(known_hosts)[BLANK][0].fingerprint == fingerprint(site)
    known_hosts.write_text(recorded)
    run = bootstrap_at_a_terminal(site, "yes", *password, *key)
    assert run.code == 0, run.output
    assert fingerprint(site) in run.output
    assert not [secret for secret in (PASSWORD, *site.private_keys().values()) if secret in run.output]
    (known,) = known_keys(site.inventory / "known_hosts")[BLANK]
    assert known.fingerprint != fingerprint(site), "the identity's, not the image's"
    assert site.ssh(BLANK, "hostname") == f"{BLANK}\n"
    assert "passwordauthentication no" in site.root(BLANK, "sshd -T").splitlines()
    again = site.fleet.playbook("playbooks/bootstrap.yml", *limit, *password[2:], *key)
    assert (again.code, again.changed) == (0, {BLANK: 0}), again.output
    assert_identity_is_recorded(site)


def assert_identity_is_recorded(site: Site) -> None:
    """Want site.yml to have all other roles to run on a device that it has not provisioned yet."""
    become = ("--limit", BLANK, "-e", f"ansible_become_password='{PASSWORD}'")
    drift = site.fleet.playbook("playbooks/drift.yml", *become)
    assert "site.yml has something to do there, for swap, greengrass_user" in drift.output, drift.output


@pytest.mark.parametrize("spoil", ["rm {}", "echo PasswordAuthentication yes >{}"])
def test_a_login_by_password_that_somebody_opens_is_told_and_closed(site: Site, spoil: str) -> None:
    become = ("--limit", BLANK, "-e", f"ansible_become_password='{PASSWORD}'")
    site.root(BLANK, spoil.format("/etc/ssh/sshd_config.d/10-pi-fleet.conf"))
    assert "passwordauthentication yes" in site.root(BLANK, "sshd -T").splitlines()
    drift = site.fleet.playbook("playbooks/drift.yml", *become)
    assert "ssh logins: passwordauthentication is yes, was no" in drift.output, drift.output
    run = site.fleet.playbook("playbooks/site.yml", *become, "--tags", "identity")
    assert (run.code, run.changed) == (0, {BLANK: 1}), run.output
    assert "passwordauthentication no" in site.root(BLANK, "sshd -T").splitlines()
    assert_identity_is_recorded(site)


def test_rotation_and_a_lost_known_hosts_are_healed(site: Site) -> None:
    become = ("--limit", BLANK, "-e", f"ansible_become_password='{PASSWORD}'", "--tags", "identity")
    before = known_keys(site.inventory / "known_hosts")[BLANK]
    run = site.fleet.playbook("playbooks/site.yml", *become, "-e", "identity_rotate=true")
    assert run.code == 0, run.output
    after = known_keys(site.inventory / "known_hosts")[BLANK]
    assert after != before
    assert_identity_is_recorded(site)
    assert site.ssh(BLANK, "hostname") == f"{BLANK}\n"
    # As after a run that was killed when the device had the new key, and known_hosts had not.
    text = (site.inventory / "known_hosts").read_text()
    (site.inventory / "known_hosts").write_text(text.replace(after[0].line, before[0].line))
    healed = site.fleet.playbook("playbooks/site.yml", *become, "-e", "ansible_control_path=none")
    assert healed.code == 0, healed.output
    assert known_keys(site.inventory / "known_hosts")[BLANK] == after


@pytest.mark.parametrize("playbook", ["site", "verify", "classify", "bootstrap"])
def test_another_key_in_the_place_of_the_known_is_refused(site: Site, playbook: str) -> None:
    """A device that was written anew without a card, or somebody else: nothing tells them apart but a person."""
    kept = (site.inventory / "known_hosts").read_text()
    name, port = "pi-trixie", site.fleet.hosts()[BLANK]["ansible_port"]
    moved = ("--limit", name, "-e", f"ansible_port={port}", "-e", "ansible_control_path=none")
    owned = site.fleet.playbook(f"playbooks/{playbook}.yml", *moved)
    assert owned.code != 0
    assert f"and {BLANK} has the one found: correct ansible_host" in sentence(owned.output)
    lines = [line for line in kept.splitlines(keepends=True) if not line.startswith(f"{BLANK} ")]
    (site.inventory / "known_hosts").write_text("".join(lines))
    try:
        foreign = site.fleet.playbook(f"playbooks/{playbook}.yml", *moved)
    finally:
        (site.inventory / "known_hosts").write_text(kept)
    assert foreign.code != 0
    assert "if its card was written anew without playbooks/card.yml" in sentence(foreign.output)
    assert not any(foreign.changed.values())


@pytest.mark.parametrize(
    ("extra", "wanted"),
    [
        ({"card_path": "/no/such/folder"}, "card_path is '/no/such/folder', which is no folder here"),
        ({"card_user": "root"}, "card_user is 'root'"),
        ({"card_password_hash": "correct horse"}, "card_password_hash is not a hash as crypt writes it"),
        ({"card_authorized_keys": ["ssh-ed25519 -----BEGIN"]}, "1 of card_authorized_keys are no SSH public keys"),
        ({"card_authorized_keys": [], "card_password_hash": ""}, "so nobody could log in to pi-trixie"),
        ({"card_wifi_password": "short"}, "The Wi-Fi 'conveyor: hall 2' in the country 'DE' cannot be joined"),
        ({"card_wifi_country": "Germany"}, "in the country 'Germany' cannot be joined"),
        ({"card_wifi_ssid": "x" * 33}, "cannot be joined"),
        ({"card_locale": "english"}, "card_locale is 'english'"),
        ({"card_release": "buster"}, "card_release"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    site: Site, tmp_path: Path, extra: dict[str, object], wanted: str
) -> None:
    (tmp_path / "user-data").write_text("#cloud-config\n")
    variables = {"card_path": str(tmp_path), **extra}
    run = site.fleet.playbook("playbooks/card.yml", "--limit", "pi-trixie", "-e", json.dumps(variables))
    assert run.code != 0, run.output
    assert wanted in sentence(run.output), run.output
    assert "correct horse" not in run.output
    assert [path.name for path in tmp_path.iterdir()] == ["user-data"]


def test_one_card_is_one_devices(site: Site, tmp_path: Path) -> None:
    run = site.fleet.playbook("playbooks/card.yml", "--limit", ",".join(SEEDED), "-e", f"card_path={tmp_path}")
    assert "a card is one device's, so add --limit" in sentence(run.output)
    assert not list(tmp_path.iterdir())


def test_without_the_vaults_password_nothing_is_made(site: Site, tmp_path: Path) -> None:
    (tmp_path / "user-data").write_text("#cloud-config\n")
    bare = Fleet(str(site.inventory))
    run = bare.playbook("playbooks/card.yml", "--limit", "pi-trixie", "-e", f"card_path={tmp_path}")
    assert "no vault password was given: add --vault-password-file" in sentence(run.output)
    assert [path.name for path in tmp_path.iterdir()] == ["user-data"]
