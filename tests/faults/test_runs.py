"""What happens to a run: its control node dies, its connection is cut, another one comes in between."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import kill_all, unwrapped
from tests.faults.conftest import Pi

FULL = ("--limit", "pi-trixie", "--extra-vars", '{"full": true, "camera_width": 500}')
# Roles are running when this is said.
BEGUN = "edge.pi_fleet.swap"


def start(pi: Pi, *prefix: str, **environment: str) -> subprocess.Popen[str]:
    """Start a run that changes something, and return when roles are running."""
    environment = {**pi.fleet.environment(), "PYTHONUNBUFFERED": "1", **environment}
    command = [*prefix, *pi.fleet.command("playbooks/site.yml", *FULL)]
    run = subprocess.Popen(
        command, cwd=pi.fleet.project, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert run.stdout
    said = ""
    for line in run.stdout:
        said += line
        if BEGUN in line:
            return run
    raise AssertionError(said)


def test_the_control_node_dies(pi: Pi) -> None:
    """ansible-playbook is killed in a run, with all that it started.

    The next run waits for nobody, and heals.
    """
    run = start(pi)
    time.sleep(4)
    kill_all(run)
    pi.heals()


def test_the_connection_is_cut(pi: Pi) -> None:
    """The SSH connection is cut in a run, and none is to be had for 20 seconds.

    The run names the device as left over, with the command that tries just this one again; that heals.
    """
    run = start(pi)
    cut = (
        "systemctl stop ssh.socket ssh.service; pkill -9 -f '^sshd(-session)?: '; sleep 20; systemctl start ssh.service"
    )
    pi.root(
        f"subprocess.run(['systemd-run', '--quiet', '--collect', '--on-active=2', 'sh', '-c', {cut!r}], check=True)"
    )
    said = unwrapped(run.communicate()[0])
    assert run.returncode != 0
    assert "UNREACHABLE!" in said
    assert "LEFT OVER" in said
    assert "site.yml" in said.partition("LEFT OVER")[2]
    deadline = time.monotonic() + 60
    while True:
        try:
            pi.root("")
            break
        except AssertionError:
            assert time.monotonic() < deadline
            time.sleep(1)
    pi.heals()


def test_there_are_two_runs(pi: Pi) -> None:
    """Another run of site.yml comes while one provisions the device.

    It is refused in one sentence that says whose run it is, since when, and what to do; the first one is not disturbed.
    """
    first = start(pi)
    said = pi.refuses("provisions it since", "wait until that run has ended")
    assert f"process {first.pid} there" in said
    assert "no release was to go back" not in said
    assert pi.play("drift.yml").code in (0, 2)
    said = first.communicate()[0]
    assert first.returncode == 0, said[-4000:]
    pi.heals()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[tuple[list[str], dict[str, str]]]:
    """What makes a process another control node's: it sees no other processes, and has connections of its own."""
    control = tmp_path / "cp"
    yield ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"], {"ANSIBLE_SSH_CONTROL_PATH_DIR": str(control)}
    for socket in control.glob("*"):
        subprocess.run(["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "device"], check=False)


def test_another_control_node_dies(pi: Pi, elsewhere: tuple[list[str], dict[str, str]]) -> None:
    """The run of another control node is killed, which this one cannot see.

    It counts until its connection is closed, as the sentence says; then the next run heals.
    """
    prefix, environment = elsewhere
    other = start(pi, *prefix, **environment)
    kill_all(other)
    pi.refuses("provisions it since", "until its SSH connection is closed")
    for socket in Path(environment["ANSIBLE_SSH_CONTROL_PATH_DIR"]).glob("*"):
        subprocess.run(["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "device"], check=True, env=dict(os.environ))
    pi.heals()
