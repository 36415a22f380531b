"""Devices that converge themselves: from commits that a trusted key signed alone, and without a control node.

The repository is a machine of its own. To push there is a developer's part; while devices pull, their SSH is off, so
that no control node can have had a hand in it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.contract.repository import ROOT, files
from tests.e2e.conftest import HOSTS, Fleet

Stands = dict[str, dict[str, str]]

LONGEST = 900
"""Seconds that a whole site.yml may take, three devices at once, on a machine of two cores."""

INVENTORY = {
    "devices": {
        "hosts": dict.fromkeys(HOSTS),
        "vars": {
            "camera_source": "directory",
            "camera_directory": "{{ playbook_dir }}/../files/photos",
            "image_classifier_model": "{{ playbook_dir }}/../artifacts/models/demonstration",
            "greengrass_sdk_cache": "{{ playbook_dir }}/../artifacts/wheels",
            # How a control node would reach devices, with secrets that they do not have.
            "ansible_host": "192.0.2.1",
            "ansible_connection": "ssh",
            "ansible_become_password": "{{ vault_become_password }}",
        },
    }
}

# Closes SSH until pull.json says of this commit what became of it, in a unit of its own: nobody is logged in meanwhile.
CLOSE = """
import subprocess
waiting = \'\'\'
sleep 3
systemctl stop ssh.socket ssh.service
loginctl kill-user --signal=KILL pi
for turn in $(seq {seconds}); do
  grep --quiet --no-messages '"commit": "{commit}"' /var/lib/pi-fleet/pull.json && break
  sleep 1
done
systemctl start ssh.service
\'\'\'
subprocess.run(["systemd-run", "--quiet", "--collect", "--unit=test-closed", "sh", "-c", waiting], check=True)
"""

RESULT = """
import json, subprocess
from pathlib import Path
from paho.mqtt import subscribe
kept = Path("/var/lib/pi-fleet/pull.json").read_text()
message = subscribe.simple("pi-fleet/{host}/pull", qos=1, hostname="127.0.0.1")
assert message.retain
# A pull may end between the two.
again = Path("/var/lib/pi-fleet/pull.json").read_text()
assert message.payload.decode() in (kept, again), message.payload
print(json.dumps(json.loads(again)))
"""

STATE = """
import json, subprocess
from pathlib import Path
print(json.dumps({
    "width": json.loads(Path("/etc/pi-fleet/camera.json").read_text())["width"],
    "onnx": subprocess.run(["/opt/pi-fleet/pull/venv/bin/python", "-c", "import onnx"], capture_output=True).returncode,
    "modes": sorted({oct(path.stat().st_mode & 0o777) for path in Path("/etc/pi-fleet/pull").iterdir()}),
}))
"""

LEFT = """
import json, queue
from pathlib import Path
from paho.mqtt import client as mqtt
paths = ["/etc/pi-fleet/pull", "/opt/pi-fleet/pull", "/var/lib/pi-fleet/pull", "/var/lib/pi-fleet/pull.json"]
paths += ["/etc/systemd/system/pull.service", "/etc/systemd/system/pull.timer"]
found = [path for path in paths if Path(path).exists()]
versions = getattr(mqtt, "CallbackAPIVersion", None)
client = mqtt.Client(versions.VERSION2) if versions else mqtt.Client()
messages = queue.Queue()
client.on_message = lambda _client, _data, message: messages.put(message.topic)
client.connect("127.0.0.1")
client.subscribe("pi-fleet/{host}/pull", 1)
client.loop_start()
try:
    found.append(messages.get(timeout=2))
except queue.Empty:
    pass
print(json.dumps(found))
"""


class Repository:
    """A developer's clone of the devices' repository."""

    def __init__(self, folder: Path, fleet: Fleet) -> None:
        host = fleet.hosts()["repository"]
        self.folder, self.keys = folder, Path(host["ansible_ssh_private_key_file"]).parent
        self.url = "repository:/home/pi/fleet.git"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
            "GIT_SSH_COMMAND": f"ssh -F {self.keys}/ssh_config -o BatchMode=yes",
            "GIT_CONFIG_GLOBAL": "/dev/null",
        }
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=Anna", "-c", "user.email=anna@example.org", "-c", "gpg.format=ssh"]
        return subprocess.run(
            ["git", *identity, *arguments],
            cwd=self.folder,
            env=self.environment,
            text=True,
            check=True,
            stdout=subprocess.PIPE,
        ).stdout.strip()

    def commit(self, message: str, key: str = "") -> str:
        """Commit all that is there, signed by one of the scenario's keys or not at all, and return its id."""
        self.git("add", "--all", "--force")
        signing = ["-c", f"user.signingkey={self.keys / key}"] if key else []
        self.git(*signing, "commit", "--quiet", "--allow-empty", f"--message={message}", *(["-S"] if key else []))
        return self.git("rev-parse", "HEAD")

    def push(self, commit: str) -> None:
        self.git("push", "--quiet", "--force", self.url, f"{commit}:refs/heads/main")

    def reset(self, commit: str) -> None:
        self.git("reset", "--quiet", "--hard", commit)


@pytest.fixture(scope="module")
def repository(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """This checkout with an inventory and what devices are given ready-made."""
    folder = tmp_path_factory.mktemp("repository")
    for path in files():
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    collection = "collections/ansible_collections/edge/pi_fleet"
    for link in (path for path in (ROOT / collection).iterdir() if path.is_symlink()):
        (folder / collection / link.name).symlink_to(link.readlink())
    (folder / "inventory/pull/keys").mkdir(parents=True)
    make_key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "inventory/pull/keys/collect")]
    subprocess.run(make_key, check=True)
    # The private one is the control node's.
    (folder / "inventory/pull/keys/collect").unlink()
    (folder / "inventory/pull/hosts.json").write_text(json.dumps(INVENTORY))
    shutil.copytree(ROOT / ".cache/models/demonstration", folder / "artifacts/models/demonstration")
    (folder / "artifacts/wheels").mkdir()
    for wheel in (Path.home() / ".cache/pi-fleet/wheels").glob("greengrasssdk-*.whl"):
        shutil.copy(wheel, folder / "artifacts/wheels")
    return Repository(folder, fleet)


def pull(fleet: Fleet, repository: Repository, commit: str) -> dict[str, dict[str, Any]]:
    """Push a commit with the devices' SSH closed; return what became of it once they say so and are open again."""
    for host in HOSTS:
        fleet.root(host, CLOSE.format(seconds=LONGEST, commit=commit))
    for host in HOSTS:
        await_closed(fleet, host)
    repository.push(commit)
    return {host: result(fleet, host) for host in HOSTS}


def await_closed(fleet: Fleet, host: str) -> None:
    """Wait until nobody can log in to a device."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            fleet.root(host, "print()")
        except AssertionError as error:
            if "Connection refused" in str(error):
                return
        time.sleep(1)
    raise AssertionError(f"{host} still lets people log in.")


def result(fleet: Fleet, host: str) -> dict[str, Any]:
    """Return what a device says of its last pull, in its file and in its broker, once it can be asked."""
    end = time.monotonic() + LONGEST
    while True:
        try:
            found: dict[str, Any] = json.loads(fleet.root(host, RESULT.format(host=host)))
        except AssertionError as error:
            if time.monotonic() > end or "Connection" not in str(error):
                raise
            time.sleep(2)
        else:
            return found


# The tests stand on each other in their order: a device converges first.


@pytest.fixture(scope="module")
def good(fleet: Fleet, repository: Repository) -> str:
    """The commit that devices are to converge to."""
    repository.commit("Begin", "signer")
    return repository.commit("Provision the fleet", "signer")


def tamper(repository: Repository, good: str, key: str) -> str:
    """Commit, on top of the good one, what would be noticed if a device ran any of it as its playbook or inventory."""
    repository.reset(good)
    (repository.folder / "playbooks/site.yml").write_text(
        "- hosts: devices\n  tasks: [{ansible.builtin.file: {path: /root/tampered, state: touch}}]\n"
    )
    script = repository.folder / "inventory/pull/hosts.json"
    script.write_text("#!/bin/sh\ntouch /root/tampered\n")
    script.chmod(0o755)
    return repository.commit("Tamper", key)


def standing(fleet: Fleet, host: str) -> dict[str, str]:
    """Return what stands on a device's disk beside what pulling keeps for itself."""
    return {path: what for path, what in fleet.manifest(host).items() if not path.startswith("/var/lib/pi-fleet/pull")}


@pytest.fixture(scope="module")
def stands(fleet: Fleet) -> Stands:
    """What stands on devices before the first commit that they refuse."""
    return {host: standing(fleet, host) for host in HOSTS}


def refused(fleet: Fleet, repository: Repository, stands: Stands, commit: str, good: str, why: str) -> None:
    """Push a commit; nothing of it may be anywhere but in the reports of all devices."""
    for host, told in pull(fleet, repository, commit).items():
        assert told["status"] == "refused"
        assert told["commit"] == commit
        assert told["converged"] == good
        assert told["changed"] == []
        assert why in told["message"]
        assert standing(fleet, host) == stands[host]


def test_devices_converge_with_the_control_node_switched_off(fleet: Fleet, repository: Repository, good: str) -> None:
    begun = time.monotonic()
    told = pull(fleet, repository, good)
    print(f"three devices converged {time.monotonic() - begun:.0f} s after the push")
    for host in HOSTS:
        assert told[host]["status"] == "converged", told[host]
        assert told[host]["converged"] == told[host]["commit"] == good
        assert len(told[host]["changed"]) > 20
        print(f"{host}: {len(told[host]['changed'])} tasks changed it in {told[host]['seconds']} s")


def test_what_was_pulled_is_what_a_push_would_have_made(fleet: Fleet, repository: Repository) -> None:
    # The key that collects is the repository's.
    key = f"collect_key={repository.folder}/inventory/pull/keys/collect"
    limit = f"--limit={','.join(HOSTS)}"
    run = fleet.playbook("playbooks/verify.yml", limit, "--extra-vars=verify_ask=true", f"--extra-vars={key}")
    assert run.code == 0, run.output[-4000:]


def test_the_device_converted_nothing_and_keeps_its_secrets_for_root(fleet: Fleet) -> None:
    for host in HOSTS:
        state = json.loads(fleet.root(host, STATE))
        assert state["onnx"] != 0
        assert state["modes"] == ["0o600"]
        # pull_variables say so, and the repository says nothing.
        assert state["width"] == 320


def test_an_unsigned_commit_changes_nothing_and_is_told(
    fleet: Fleet, repository: Repository, stands: Stands, good: str
) -> None:
    refused(fleet, repository, stands, tamper(repository, good, key=""), good, "is not signed")


def test_a_commit_of_a_key_that_nobody_trusts_changes_nothing_and_is_told(
    fleet: Fleet, repository: Repository, stands: Stands, good: str
) -> None:
    refused(
        fleet,
        repository,
        stands,
        tamper(repository, good, key="stranger"),
        good,
        "which is no key of pull_allowed_signers",
    )


def test_a_commit_with_another_ones_signature_changes_nothing_and_is_told(
    fleet: Fleet, repository: Repository, stands: Stands, good: str
) -> None:
    tampered = tamper(repository, good, key="")
    signed = repository.git("cat-file", "commit", good)
    forged = signed.replace(
        repository.git("rev-parse", f"{good}^{{tree}}"), repository.git("rev-parse", f"{tampered}^{{tree}}")
    )
    (repository.folder / "forged").write_text(f"{forged}\n")
    commit = repository.git("hash-object", "-t", "commit", "-w", "forged")
    refused(fleet, repository, stands, commit, good, "has a signature that does not hold")


def test_an_older_commit_changes_nothing_and_is_told(
    fleet: Fleet, repository: Repository, stands: Stands, good: str
) -> None:
    older = repository.git("rev-parse", f"{good}^")
    refused(fleet, repository, stands, older, good, f"does not descend from {good[:12]}")


def test_verify_tells_what_was_refused(fleet: Fleet) -> None:
    run = fleet.playbook("playbooks/verify.yml", f"--limit={HOSTS[0]}")
    assert run.code != 0
    assert "pull: the last pull: found refused" in run.output


def test_a_run_that_fails_says_where_and_why(fleet: Fleet, repository: Repository, good: str) -> None:
    repository.reset(good)
    inventory = json.loads(json.dumps(INVENTORY))
    inventory["devices"]["vars"]["field_data_min_free"] = "plenty"
    (repository.folder / "inventory/pull/hosts.json").write_text(json.dumps(inventory))
    commit = repository.commit("Keep plenty free", "signer")
    for told in pull(fleet, repository, commit).values():
        assert told["status"] == "failed"
        assert (told["commit"], told["converged"]) == (commit, good)
        assert told["task"].endswith("Validate what the guard keeps free")
        assert told["message"].startswith("field_data_min_free is 'plenty'")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"pull_repository": "/srv/fleet.git"},
            "pull_repository is '/srv/fleet.git' (wanted ssh://, https://, git:// or",
        ),
        (
            {"pull_repository": "https://anna:secret@git.example.org/fleet.git"},
            "'https://...@git.example.org/fleet.git'",
        ),
        ({"pull_branch": "--upload-pack=x"}, "pull_branch is '--upload-pack=x' (wanted a branch's name)"),
        ({"pull_allowed_signers": []}, "pull_allowed_signers has 0 lines"),
        ({"pull_allowed_signers": ["ssh-ed25519 AAAA"]}, "('anna@example.org ssh-ed25519 AAAA...'): ssh-ed25519 AAAA;"),
        ({"pull_known_hosts": []}, "pull_known_hosts is empty and ssh://"),
        ({"pull_playbook": "../site.yml"}, "pull_playbook '../site.yml' (wanted paths inside the repository)"),
        ({"pull_rewind": "main"}, "pull_rewind 'main' (the full id of a commit, or empty)"),
    ],
)
def test_what_cannot_be_pulled_from_is_refused_before_anything_is_touched(
    fleet: Fleet, given: dict[str, Any], said: str
) -> None:
    run = fleet.playbook("playbooks/pull.yml", f"--limit={HOSTS[0]}", f"--extra-vars={json.dumps(given)}")
    assert run.code != 0
    assert said in " ".join(run.output.split())
    assert "secret" not in run.output
    assert run.changed == {HOSTS[0]: 0}


def test_pulling_is_taken_away_again(fleet: Fleet) -> None:
    run = fleet.playbook("playbooks/pull.yml", f"--limit={','.join(HOSTS)}", "--extra-vars=pull_enabled=false")
    assert run.code == 0, run.output[-4000:]
    for host in HOSTS:
        assert json.loads(fleet.root(host, LEFT.format(host=host))) == []
    again = fleet.playbook("playbooks/pull.yml", f"--limit={','.join(HOSTS)}", "--extra-vars=pull_enabled=false")
    assert again.changed == dict.fromkeys(HOSTS, 0)
