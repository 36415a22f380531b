"""A device that converges itself: real commits and signatures, and an ansible-pull that is played."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pull
import pytest
from ansible_collections.edge.pi_fleet.plugins.module_utils.pull import check_pull
from callback.pull_report import LONGEST, CallbackModule, sentence
from fake_device import FakeDevice

# Plays ansible-pull: clones what it is shown, tells what it was given, and ends as EXIT says.
ANSIBLE_PULL = """#!/bin/sh
url= directory=
for option in "$@"; do
  case $option in
    --url=*) url=${option#*=} ;;
    --directory=*) directory=${option#*=} ;;
  esac
done
git clone --quiet --depth 1 --branch verified "$url" "$directory" || exit 9
{ pwd; printf '%s\\n' "$@"; } > "$directory.called"
cp "$directory/report" "$PULL_REPORT" 2>/dev/null
cat "$directory/errors" >&2 2>/dev/null
exit "$(cat "$directory/exit" 2>/dev/null || echo 0)"
"""


class World:
    """A device in a folder, a repository beside it, and the keys of who signs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clone = folder, folder / "clone"
        self.paths = pull.Paths(folder / "device")
        self.paths.configuration.mkdir(parents=True)
        self.paths.state.mkdir(parents=True)
        self.paths.program.mkdir(parents=True)
        self.program = self.paths.program / "ansible-pull"
        self.program.write_text(ANSIBLE_PULL)
        self.program.chmod(0o755)
        for key in ("anna", "stranger"):
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", key, "-f", str(folder / key)]
            subprocess.run(argv, check=True)
        self.trust("anna")
        self.clone.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")

    def trust(self, key: str) -> None:
        line = f"{key} {(self.folder / key).with_suffix('.pub').read_text()}"
        (self.paths.configuration / "allowed_signers").write_text(line)

    def settings(self, rewind: str = "", repository: str = "", branch: str = "main") -> pull.Settings:
        return pull.Settings(
            device="pi-1",
            repository=repository or f"file://{self.clone}",
            branch=branch,
            inventory="inventory/site",
            playbook="playbooks/site.yml",
            rewind=rewind,
        )

    def git(self, *arguments: str, stdin: str = "") -> str:
        identity = ["-c", "user.name=Anna", "-c", "user.email=anna@example.org", "-c", "gpg.format=ssh"]
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"}
        done = subprocess.run(
            ["git", *identity, *arguments],
            cwd=self.clone,
            env=environment,
            input=stdin,
            text=True,
            check=True,
            capture_output=True,
        )
        return done.stdout.strip()

    def commit(self, key: str = "anna", **files: str) -> str:
        for name, text in files.items():
            (self.clone / name).write_text(text)
        self.git("add", "--all")
        signing = ["-c", f"user.signingkey={self.folder / key}"] if key else []
        self.git(*signing, "commit", "--quiet", "--allow-empty", "--message=Change", *(["-S"] if key else []))
        return self.git("rev-parse", "HEAD")

    def pull(self, **settings: str) -> pull.Result:
        return pull.pull(self.settings(**settings), self.paths)

    @property
    def called(self) -> list[str]:
        """What ansible-pull was called with in its last run: where, and its arguments."""
        path = self.paths.state / "checkout.called"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def fresh(world: World) -> None:
    """Let the next run of the played ansible-pull clone anew."""
    subprocess.run(["rm", "-rf", str(world.paths.state / "checkout"), str(world.paths.state / "checkout.called")])


def test_a_commit_of_a_trusted_key_is_converged_to(world: World) -> None:
    commit = world.commit(report='{"changed": ["Make it"], "task": "", "message": ""}')
    result = world.pull()
    assert (result.status, result.commit, result.converged) == ("converged", commit, commit)
    assert (result.device, result.changed, result.task, result.message) == ("pi-1", ["Make it"], "", "")
    assert datetime.now(UTC) - datetime.fromisoformat(result.time) < timedelta(minutes=1)
    configuration = world.paths.configuration
    assert world.called == [
        # Where no inventory of an earlier checkout is in the way.
        "/",
        f"--url=file://{world.paths.repository}",
        "--checkout=verified",
        f"--directory={world.paths.state}/checkout",
        "--clean",
        "--inventory=inventory/site",
        "--limit=pi-1",
        f"--extra-vars=@{configuration}/variables.json",
        "playbooks/site.yml",
    ]


def test_the_password_of_vaults_is_given_where_there_is_one(world: World) -> None:
    world.commit()
    (world.paths.configuration / "vault-password").write_text("secret\n")
    world.pull()
    assert f"--vault-password-file={world.paths.configuration}/vault-password" in world.called


def unsigned(world: World) -> str:
    return world.commit(key="", file="other")


def of_a_stranger(world: World) -> str:
    return world.commit(key="stranger", file="other")


def forged(world: World) -> str:
    """Put another tree below Anna's signature."""
    signed = world.git("cat-file", "commit", world.commit(file="of Anna"))
    tree, other = world.git("rev-parse", "HEAD^{tree}"), world.commit(key="", file="other")
    text = signed.replace(tree, world.git("rev-parse", f"{other}^{{tree}}"))
    commit = world.git("hash-object", "-t", "commit", "-w", "--stdin", stdin=f"{text}\n")
    world.git("update-ref", "refs/heads/main", commit)
    return commit


def of_another_kind(world: World) -> str:
    """Sign with OpenPGP, as far as the commit says."""
    unsigned_text = world.git("cat-file", "commit", world.commit(key=""))
    signature = "gpgsig -----BEGIN PGP SIGNATURE-----\n \n iQEzBAAB\n -----END PGP SIGNATURE-----"
    text = unsigned_text.replace("\n\n", f"\n{signature}\n\n", 1)
    commit = world.git("hash-object", "-t", "commit", "-w", "--stdin", stdin=f"{text}\n")
    world.git("update-ref", "refs/heads/main", commit)
    return commit


REFUSED: list[tuple[Callable[[World], str], str]] = [
    (unsigned, "is not signed with an SSH key: sign it with one of pull_allowed_signers"),
    (of_a_stranger, ", which is no key of pull_allowed_signers: sign it with one that is, or add this one"),
    (forged, "has a signature that does not hold ("),
    (of_another_kind, "is not signed with an SSH key"),
]


@pytest.mark.parametrize(("make", "why"), REFUSED, ids=[make.__name__ for make, _ in REFUSED])
def test_another_commit_is_refused_and_nothing_of_it_checked_out(
    world: World, make: Callable[[World], str], why: str
) -> None:
    good = world.commit()
    world.pull()
    fresh(world)
    commit = make(world)
    result = world.pull()
    assert (result.status, result.commit, result.converged, result.changed) == ("refused", commit, good, [])
    assert result.message.startswith(f"Commit {commit[:12]} of main ")
    assert why in result.message
    assert result.message.endswith("; the device stays as it is.")
    assert world.called == []
    assert pull.Gate(world.settings(), world.paths).commit("verified") == good


def test_a_key_that_is_trusted_no_longer_is_refused(world: World) -> None:
    world.commit()
    assert world.pull().status == "converged"
    world.trust("stranger")
    assert world.pull().status == "refused"


@pytest.mark.parametrize("how", ["rewound", "rewritten"])
def test_a_branch_that_goes_back_is_refused_unless_asked_for(world: World, how: str) -> None:
    first = world.commit()
    second = world.commit()
    world.pull()
    world.git("reset", "--hard", first)
    commit = first if how == "rewound" else world.commit(file="another second")
    result = world.pull()
    assert (result.status, result.commit, result.converged) == ("refused", commit, second)
    assert f"does not descend from {second[:12]}" in result.message
    assert f"pull_rewind={commit}" in result.message
    # Asked for another one, it is refused all the same.
    assert world.pull(rewind=second).status == "refused"
    fresh(world)
    assert world.pull(rewind=commit).converged == commit
    # From there it goes on as ever.
    fresh(world)
    assert world.pull(rewind=commit).status == "converged"


def test_a_commit_that_failed_may_be_given_up(world: World) -> None:
    """What a device descends from is what it converged to, not what it tried."""
    good = world.commit()
    world.pull()
    fresh(world)
    world.commit(exit="2")
    assert world.pull().status == "failed"
    world.git("reset", "--hard", good)
    fresh(world)
    assert world.pull().status == "converged"


def test_a_failure_says_where_and_why(world: World) -> None:
    commit = world.commit(
        report='{"changed": ["Make it"], "task": "Break it", "message": "It broke."}',
        exit="2",
        errors="[ERROR]: Other\n",
    )
    result = world.pull()
    assert (result.status, result.commit, result.converged) == ("failed", commit, "")
    assert (result.changed, result.task, result.message) == (["Make it"], "Break it", "It broke.")


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        ("[WARNING]: Odd\n[ERROR]: No hosts: pi-1\nmore\n", "No hosts: pi-1"),
        ("", "ansible-pull ended with exit code 4: 'journalctl -u pull' tells why."),
    ],
)
def test_a_failure_before_the_first_task_says_why(
    world: World, capfd: pytest.CaptureFixture[str], errors: str, message: str
) -> None:
    world.commit(exit="4", errors=errors)
    result = world.pull()
    assert (result.status, result.task, result.message) == ("failed", "", message)
    # The journal has all of it.
    assert capfd.readouterr().err.endswith(errors)


def test_what_an_earlier_run_reported_is_not_told_again(world: World) -> None:
    (world.paths.state / "report.json").write_text('{"changed": ["Old"], "task": "Old", "message": "Old"}')
    world.commit()
    assert world.pull().changed == []


def test_what_a_loss_of_power_left_is_healed(world: World) -> None:
    world.commit(report='{"changed": [], "task": "", "message": ""}')
    assert world.pull().status == "converged"
    commit = world.commit(file="next")
    fresh(world)
    for lock in ("refs/heads/candidate.lock", "refs/heads/verified.lock", "packed-refs.lock"):
        (world.paths.repository / lock).touch()
    assert world.pull().converged == commit


def test_a_checkout_that_cannot_be_used_is_made_anew(world: World) -> None:
    world.commit()
    world.paths.checkout.mkdir()
    (world.paths.checkout / "half").touch()
    # git clones into no folder that has something in it.
    assert world.pull().status == "failed"
    assert world.pull().status == "converged"


def test_a_repository_that_does_not_answer_is_no_reason_to_change_anything(world: World) -> None:
    result = world.pull(repository="file:///nowhere/fleet.git")
    assert (result.status, result.commit, result.converged) == ("unreachable", "", "")
    assert result.message.startswith("The branch main of file:///nowhere/fleet.git cannot be fetched (fatal: ")
    assert world.called == []


def test_a_branch_that_is_not_there_is_named(world: World) -> None:
    world.commit()
    result = world.pull(branch="stable")
    assert result.status == "unreachable"
    assert "(fatal: couldn't find remote ref refs/heads/stable)" in result.message


def test_what_somebody_elses_configuration_says_does_not_count(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of root's that trusts a stranger, or an environment that does."""
    world.commit(key="stranger")
    trusted = world.folder / "trusted"
    trusted.write_text(f"stranger {(world.folder / 'stranger.pub').read_text()}")
    configuration = world.folder / "gitconfig"
    configuration.write_text(f'[gpg "ssh"]\n\tallowedSignersFile = {trusted}\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(configuration))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "gpg.ssh.allowedSignersFile")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(trusted))
    assert world.pull().status == "refused"


def test_ssh_is_told_which_key_and_which_host_keys(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = world.folder / "bin"
    folder.mkdir()
    (folder / "ssh").write_text(f'#!/bin/sh\necho "$@" > {folder}/called\n')
    (folder / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    (world.paths.configuration / "key").write_text("key")
    assert world.pull(repository="ssh://git@git.example.org/fleet.git").status == "unreachable"
    called = (folder / "called").read_text()
    assert "-o StrictHostKeyChecking=yes" in called
    assert f"-o UserKnownHostsFile={world.paths.configuration}/known_hosts" in called
    assert f"-o IdentitiesOnly=yes -i {world.paths.configuration}/key" in called


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[str, str | None], dict[str, Any]]]:
    calls: list[tuple[tuple[str, str | None], dict[str, Any]]] = []
    monkeypatch.setattr("paho.mqtt.publish.single", lambda *given, **options: calls.append((given, options)))
    return calls


def configure(world: World) -> None:
    settings = vars(world.settings())
    (world.paths.configuration / "settings.json").write_text(json.dumps(settings))


def test_the_result_is_kept_and_published(world: World, published: list[Any]) -> None:
    configure(world)
    commit = world.commit()
    assert pull.main([], world.paths) == 0
    kept = world.paths.result.read_text()
    assert json.loads(kept)["commit"] == commit
    options = {"qos": 1, "retain": True, "hostname": "127.0.0.1"}
    assert published == [(("pi-fleet/pi-1/pull", kept), options)]


def test_what_is_refused_ends_with_an_error_in_the_journal(
    world: World, published: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    configure(world)
    world.commit(key="")
    assert pull.main([], world.paths) == 1
    message = json.loads(world.paths.result.read_text())["message"]
    assert capfd.readouterr().err == f"<3>{message}\n"
    assert json.loads(published[0][0][1])["status"] == "refused"


def test_a_broker_that_is_not_there_stops_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def single(*_: object, **__: object) -> None:
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr("paho.mqtt.publish.single", single)
    configure(world)
    world.commit()
    assert pull.main([], world.paths) == 0
    assert json.loads(world.paths.result.read_text())["status"] == "converged"
    assert capfd.readouterr().err.startswith("<4>The result could not be published (refused)")


def test_a_result_is_taken_back(world: World, published: list[Any]) -> None:
    configure(world)
    world.paths.result.write_text("{}")
    assert pull.main(["--withdraw"], world.paths) == 0
    assert not world.paths.result.exists()
    assert published[0][0] == ("pi-fleet/pi-1/pull", None)


def test_a_pull_that_systemd_stops_says_so(world: World, published: list[Any]) -> None:
    configure(world)
    world.commit()
    # Stops who called it, and itself lives on for as long as systemd would wait.
    world.program.write_text("#!/bin/sh\nkill -TERM $PPID\n")
    program = Path(pull.__file__)
    script = f"import sys; sys.path.insert(0, {str(program.parent)!r}); import pull, signal; from pathlib import Path\n"
    script += "signal.signal(signal.SIGTERM, pull.stop)\n"
    script += "pull.publish = lambda *_: None\n"
    script += f"sys.exit(pull.main([], pull.Paths(Path({str(world.paths.root)!r}))))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    result = json.loads(world.paths.result.read_text())
    assert (result["status"], result["message"]) == (
        "failed",
        "The pull was stopped, by a shutdown or after pull_timeout: the next one goes on.",
    )


def told(name: str, **result: Any) -> Any:
    """Return a task's result as callbacks get it."""
    return SimpleNamespace(task=SimpleNamespace(get_name=lambda: name), result=result)


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[CallbackModule, Any], dict[str, Any]]:
    def write(callback: CallbackModule, stats: Any) -> dict[str, Any]:
        monkeypatch.setenv("PULL_REPORT", str(tmp_path / "report"))
        callback.v2_playbook_on_stats(stats)
        found: dict[str, Any] = json.loads((tmp_path / "report").read_text())
        return found

    return write


WHOLE = SimpleNamespace(failures={}, dark={})


def test_a_report_names_what_changed(report: Callable[..., dict[str, Any]]) -> None:
    callback = CallbackModule()
    callback.v2_runner_on_ok(told("Make it", changed=True))
    callback.v2_runner_on_ok(told("Look at it", changed=False))
    assert report(callback, WHOLE) == {"changed": ["Make it"], "task": "", "message": ""}


@pytest.mark.parametrize(
    "stats", [SimpleNamespace(failures={"pi": 1}, dark={}), SimpleNamespace(failures={}, dark={"pi": 1})]
)
def test_a_report_names_the_last_failure(report: Callable[..., dict[str, Any]], stats: Any) -> None:
    callback = CallbackModule()
    callback.v2_runner_on_failed(told("Rescued", msg="It was mended."))
    (callback.v2_runner_on_failed if stats.failures else callback.v2_runner_on_unreachable)(
        told("Break it", msg="It broke.")
    )
    assert report(callback, stats) == {"changed": [], "task": "Break it", "message": "It broke."}


def test_what_was_rescued_is_no_failure(report: Callable[..., dict[str, Any]]) -> None:
    callback = CallbackModule()
    callback.v2_runner_on_failed(told("Rescued", msg="It was mended."))
    assert report(callback, WHOLE) == {"changed": [], "task": "", "message": ""}


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ({"msg": "It broke."}, "It broke."),
        ({}, "it did not say why"),
        (
            {"msg": "One or more items failed", "results": [{"msg": "fine"}, {"failed": True, "msg": "Second."}]},
            "Second.",
        ),
        ({"msg": "x" * (LONGEST + 1)}, "x" * LONGEST + " ..."),
    ],
)
def test_a_sentence_is_the_tasks_own(result: dict[str, Any], text: str) -> None:
    assert sentence(result) == text


@pytest.mark.parametrize("result", [{"censored": "x"}, {"results": [{"failed": True, "censored": "x"}]}])
def test_what_may_be_secret_is_not_told(result: dict[str, Any]) -> None:
    assert sentence(result).startswith("Its result may hold secrets and is not shown")


NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "age", "message", "ok", "found"),
    [
        ("converged", 60, "", True, "converged 60 s ago, 0123456789ab"),
        ("converged", 101, "", False, "converged 101 s ago, 0123456789ab"),
        ("refused", 60, "It is not signed.", False, "refused 60 s ago, 0123456789ab: It is not signed."),
    ],
)
def test_verify_wants_a_pull_that_is_good_and_fresh(
    tmp_path: Path, status: str, age: int, message: str, ok: bool, found: str
) -> None:
    fake = FakeDevice(tmp_path)
    when = (NOW - timedelta(seconds=age)).isoformat(timespec="seconds")
    result = {"status": status, "time": when, "commit": "0123456789abcdef", "message": message}
    fake.write("/pull.json", json.dumps(result))
    assert check_pull(fake.device(), "/pull.json", 100, NOW.timestamp) == (ok, found, "converged within 100 s")


def test_verify_tells_that_nothing_was_pulled_yet_or_what_it_cannot_read(tmp_path: Path) -> None:
    fake = FakeDevice(tmp_path)
    assert check_pull(fake.device(), "/pull.json", 100)[:2] == (False, "it has not pulled yet")
    for text in ("", "{}", "[]", '{"time": "yesterday"}'):
        fake.write("/pull.json", text)
        assert check_pull(fake.device(), "/pull.json", 100)[:2] == (False, "/pull.json cannot be read")
