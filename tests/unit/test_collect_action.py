"""The control node's half of collecting: whom rsync logs in as, how ssh checks, and what is said where it fails."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.edge.pi_fleet.plugins.action import collect
from ansible_collections.edge.pi_fleet.plugins.module_utils.collecting import CollectError
from ansible_collections.edge.pi_fleet.plugins.plugin_utils.collecting import RemoteFieldData
from fake_action import make

OPTIONS = {
    "host": "10.0.0.7",
    "port": 2222,
    "ssh_executable": "ssh",
    "ssh_args": "-C -o ControlMaster=auto",
    "ssh_common_args": "-o UserKnownHostsFile='/my fleet/known_hosts' -o ProxyJump=gate",
    "ssh_extra_args": None,
}
NOTHING: dict[str, Any] = {"pictures": {}, "left": {}}


def remote(tmp_path: Path, transport: str = "ssh", **options: Any) -> RemoteFieldData:
    action = make(collect.ActionModule, {})
    action._connection.transport = transport
    action._connection.get_option = lambda name: {**OPTIONS, **options}[name]
    given = {"user": "collect", "key": str(tmp_path / "keys" / "collect"), "min_age": 60}
    return RemoteFieldData(action, "roof-1", given, {})


@pytest.fixture
def rsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a program in the place of rsync that writes down how it was called, and ends as the file `end` says."""
    program = tmp_path / "bin" / "rsync"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\ncd {tmp_path}\nprintf "%s\\n" "$@" >arguments\ncat >input\n'
        "[ -e /proc/self/fd/$(cat lock) ] || exit 99\n. ./end\n"
    )
    program.chmod(0o755)
    (tmp_path / "end").write_text("exit 0\n")
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "collect").touch()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


def pull(tmp_path: Path, device: RemoteFieldData, *names: str) -> list[str]:
    handle = os.open(tmp_path / "handle", os.O_CREAT)
    (tmp_path / "lock").write_text(str(handle))
    try:
        device.pull(names, tmp_path / "incoming", handle)
    finally:
        os.close(handle)
    return (tmp_path / "arguments").read_text().splitlines()


@pytest.mark.usefixtures("rsync")
def test_rsync_goes_the_way_of_the_inventory_with_strict_checking(tmp_path: Path) -> None:
    arguments = pull(tmp_path, remote(tmp_path), "1.jpg", "belt/ä.jpg")
    assert arguments[-2:] == ["10.0.0.7:/", f"{tmp_path}/incoming/"]
    assert (tmp_path / "input").read_bytes() == "1.jpg\0belt/ä.jpg\0".encode()
    (shell,) = (argument.removeprefix("--rsh=") for argument in arguments if argument.startswith("--rsh="))
    # What ssh makes of it: the first of several values counts.
    told = subprocess.run(
        ["sh", "-c", f"exec {shell} -G 10.0.0.7"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for line in (
        "user collect",
        "port 2222",
        "stricthostkeychecking true",
        "batchmode yes",
        "identitiesonly yes",
        "controlmaster false",
        f"identityfile {tmp_path}/keys/collect",
        "proxyjump gate",
    ):
        assert line in told
    assert "userknownhostsfile /my fleet/known_hosts" in told


@pytest.mark.usefixtures("rsync")
def test_an_inventory_that_checks_no_keys_is_overruled(tmp_path: Path) -> None:
    device = remote(tmp_path, ssh_common_args="-o StrictHostKeyChecking=no", host="2001:db8::7", port=None)
    arguments = pull(tmp_path, device)
    assert arguments[-2] == "[2001:db8::7]:/"
    (shell,) = (argument.removeprefix("--rsh=") for argument in arguments if argument.startswith("--rsh="))
    told = subprocess.run(["sh", "-c", f"exec {shell} -G x"], capture_output=True, text=True, check=True).stdout
    assert "stricthostkeychecking true" in told


@pytest.mark.usefixtures("rsync")
@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        ("echo 'Host key verification failed.' >&2; exit 255", "answers collect with a host key that is not the known"),
        (
            "echo 'collect@10.0.0.7: Permission denied (publickey).' >&2; exit 255",
            "roof-1 refuses the login of collect",
        ),
        ("echo 'Timeout, server roof-1 not responding.' >&2; exit 255", r"was cut off \(Timeout, server roof-1"),
        ("exit 12", r"Collecting from roof-1 was cut off \(rsync ended with exit code 12\): run again, it continues"),
    ],
)
def test_what_ends_rsync_is_a_sentence(tmp_path: Path, end: str, sentence: str) -> None:
    (tmp_path / "end").write_text(end)
    with pytest.raises(CollectError, match=sentence):
        pull(tmp_path, remote(tmp_path), "1.jpg")


@pytest.mark.usefixtures("rsync")
def test_without_the_private_half_of_the_key_that_is_what_is_said(tmp_path: Path) -> None:
    (tmp_path / "end").write_text("echo 'collect@10.0.0.7: Permission denied (publickey).' >&2; exit 255")
    (tmp_path / "keys" / "collect").unlink()
    with pytest.raises(CollectError, match=rf"as there is no {tmp_path}/keys/collect here: put the private half of"):
        pull(tmp_path, remote(tmp_path), "1.jpg")


@pytest.mark.usefixtures("rsync")
@pytest.mark.parametrize("code", [0, 23, 24])
def test_pictures_that_are_gone_end_nothing(tmp_path: Path, code: int) -> None:
    (tmp_path / "end").write_text(f"exit {code}")
    assert pull(tmp_path, remote(tmp_path), "1.jpg")


@pytest.mark.usefixtures("rsync")
def test_what_arrives_is_bounded_in_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{RemoteFieldData.__module__}.LARGEST_FILE", 1024**2)
    (tmp_path / "end").write_text("head -c 1048576 /dev/zero >big && exit 0")
    pull(tmp_path, remote(tmp_path), "1.jpg")
    (tmp_path / "end").write_text("exec head -c 1048577 /dev/zero >big")
    with pytest.raises(CollectError, match=r"was cut off"):
        pull(tmp_path, remote(tmp_path), "1.jpg")
    assert (tmp_path / "big").stat().st_size == 1024**2


def test_what_is_larger_than_a_picture_is_left(tmp_path: Path) -> None:
    device = remote(tmp_path)
    listed = {"1.jpg": [1, 64 * 1024**2, 3, 4], "2.jpg": [2, 64 * 1024**2 + 1, 3, 4]}
    device.action._execute_module.return_value = {"pictures": listed, "left": {"3.jpg": "is gone"}}
    device.action._execute_module.side_effect = None
    found = device.look()
    assert found.pictures == {"1.jpg": (1, 64 * 1024**2, 3, 4)}
    assert found.left == {"2.jpg": "is larger than the 64 MiB of a picture", "3.jpg": "is gone"}


def test_without_rsync_or_ssh_nothing_is_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CollectError, match="rsync is not on the control node: install it"):
        remote(tmp_path).pull(["1.jpg"], tmp_path, 0)
    (tmp_path / "rsync").touch(mode=0o755)
    with pytest.raises(CollectError, match="roof-1 is reached by local: rsync collects over ssh alone"):
        remote(tmp_path, "local").pull(["1.jpg"], tmp_path, 0)


def arguments(tmp_path: Path) -> dict[str, Any]:
    return {"path": str(tmp_path / "here"), "labeled_path": str(tmp_path / "labeled"), "key": str(tmp_path / "key")}


def test_nothing_to_collect_is_one_module_execution_and_no_change(tmp_path: Path) -> None:
    plugin = make(collect.ActionModule, arguments(tmp_path), module=NOTHING)
    result = plugin.run(task_vars={"inventory_hostname": "roof-1"})
    assert (result["changed"], result["collected"], result["had"]) == (False, [], 0)
    assert plugin._execute_module.call_args.kwargs["module_name"] == "edge.pi_fleet.field_data"


def test_what_the_device_says_is_passed_on(tmp_path: Path) -> None:
    plugin = make(collect.ActionModule, arguments(tmp_path), module={"failed": True, "msg": "is no folder"})
    with pytest.raises(AnsibleActionFail, match="roof-1: is no folder"):
        plugin.run(task_vars={"inventory_hostname": "roof-1"})


def test_a_control_node_that_cannot_keep_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("a file")
    plugin = make(collect.ActionModule, arguments(tmp_path), module=NOTHING)
    with pytest.raises(AnsibleActionFail, match=r"What is collected from roof-1 cannot be kept \(.*\): mend it"):
        plugin.run(task_vars={"inventory_hostname": "roof-1"})
