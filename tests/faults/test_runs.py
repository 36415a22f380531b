"""What happens to a run: its control node dies, its connection is cut, another one comes in between."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import Run, kill_all, unwrapped
from tests.faults.conftest import Pi

FULL = ("--limit", "pi-trixie", "--extra-vars", '{"full": true, "camera_width": 500}')
# Roles are running when this is said.
BEGUN = "edge.pi_fleet.swap : Have the swap"
NOTE = "/var/lib/pi-fleet/run.json"


class Started:
    """A run that goes on while others look."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said = ""
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.said += line

    def end(self) -> str:
        """Wait until it has ended, and return what it said."""
        self.process.wait()
        self.reader.join()
        assert self.process.stdout
        self.process.stdout.close()
        return self.said


def start(pi: Pi, *prefix: str, **environment: str) -> Started:
    """Start a run that changes something, and return when roles are running."""
    environment = {**pi.fleet.environment(), "PYTHONUNBUFFERED": "1", **environment}
    command = [*prefix, *pi.fleet.command("playbooks/site.yml", *FULL)]
    process = subprocess.Popen(
        command, cwd=pi.fleet.project, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    run = Started(process)
    while BEGUN not in run.said:
        assert process.poll() is None, run.said
        time.sleep(0.1)
    assert pi.root(f"print(Path({NOTE!r}).exists())").strip() == "True"
    return run


def test_the_control_node_dies(pi: Pi) -> None:
    """ansible-playbook is killed in a run, with all that it started on the control node.

    The next run waits until what it started on the device has ended, and heals.
    """
    run = start(pi)
    kill_all(run.process)
    pi.heals()


def test_the_connection_is_cut(pi: Pi) -> None:
    """The SSH connection is cut in a run, and none is to be had for 20 seconds.

    The run names the device as left over, with the command that tries just this one again; that heals.
    """
    run = start(pi)
    cut = (
        "systemctl stop ssh.socket ssh.service; pkill -9 -f '^sshd(-session)?: '; sleep 20; systemctl start ssh.service"
    )
    delayed = ["systemd-run", "--quiet", "--collect", "--on-active=1", "--timer-property=AccuracySec=100ms"]
    pi.root(f"subprocess.run({[*delayed, 'sh', '-c', cut]!r}, check=True)")
    said = unwrapped(run.end())
    assert run.process.returncode != 0
    assert "UNREACHABLE!" in said
    assert "Traceback" not in said
    assert f"--limit {pi.name}" in said.partition("LEFT OVER")[2]
    pi.fleet.await_boot(pi.name)
    pi.heals()


def test_there_are_two_runs(pi: Pi) -> None:
    """Another run of site.yml comes while one provisions the device.

    It is refused in one sentence that says whose run it is, since when, and what to do; the first one is not disturbed.
    """
    first = start(pi)
    said = pi.refuses("provisions it since", "wait until that run has ended")
    assert f"process {first.process.pid} there" in said
    assert pi.play("drift.yml").code in (0, 2)
    said = first.end()
    assert first.process.returncode == 0, said[-4000:]
    assert Run(0, said).changed[pi.name] > 0
    pi.heals()


@pytest.fixture
def elsewhere(tmp_path: Path) -> tuple[list[str], dict[str, str]]:
    """What makes a process another control node's: another machine's name, and connections of its own."""
    name = tmp_path / "machine-id"
    name.write_text("0123456789abcdef0123456789abcdef\n")
    control = tmp_path / "cp"
    mount = 'mount --bind "$0" /etc/machine-id && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", mount, str(name)], {"ANSIBLE_SSH_CONTROL_PATH_DIR": str(control)}


# As if a quarter of an hour had gone by, and a minute.
LATER = f"""
note = json.loads(Path({NOTE!r}).read_text())
note["since"] = note["seen"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 960))
Path({NOTE!r}).write_text(json.dumps(note))
"""


def test_another_control_node_dies(pi: Pi, elsewhere: tuple[list[str], dict[str, str]]) -> None:
    """The run of another control node is killed, which this one cannot see.

    It counts until its connection is closed, and for a quarter of an hour, as is said; then the next run heals.
    """
    prefix, environment = elsewhere
    other = start(pi, *prefix, **environment)
    kill_all(other.process)
    pi.refuses("provisions it since", f"sudo rm {NOTE}")
    (socket,) = Path(environment["ANSIBLE_SSH_CONTROL_PATH_DIR"]).iterdir()
    subprocess.run(["ssh", "-o", f"ControlPath={socket}", "-O", "exit", pi.name], check=True, capture_output=True)
    pi.refuses("provisions it since")
    pi.root(LATER)
    pi.heals()
