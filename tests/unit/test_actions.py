"""The control node's halves of modules: inputs are checked, wheels are refused, releases are sent once."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from ansible_collections.edge.pi_fleet.plugins.action import inputs, release, wheel_fits
from ansible_collections.edge.pi_fleet.plugins.action.inputs import problem
from ansible_collections.edge.pi_fleet.plugins.module_utils.release import gather
from fake_action import make

SIZE = {"type": "int", "default": 1000, "description": ["MiB of swap. V(0) is no swap.", "More."]}
SOURCE = {"type": "str", "choices": ["auto", "csi"], "default": "auto", "description": "Where pictures are from."}
INSTANCES = {
    "type": "list",
    "elements": "dict",
    "description": ["The virtual Pis."],
    "options": {
        "name": {"type": "str", "required": True},
        "release": {"type": "str", "choices": ["bookworm", "trixie"], "required": True},
        "packages": {"type": "list", "elements": "str"},
    },
}


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (SIZE, 1000),
        (SIZE, "1000"),
        (SIZE, 0),
        (SOURCE, "csi"),
        ({"type": "bool", "description": "x"}, "yes"),
        ({"type": "bool", "description": "x"}, False),
        ({"type": "path", "description": "x"}, "~/models"),
        ({"type": "list", "elements": "str", "description": "x"}, ["a"]),
        ({"type": "dict", "description": "x"}, {"a": 1}),
        (INSTANCES, []),
        (INSTANCES, [{"name": "kitchen", "release": "trixie", "packages": ["mosquitto"]}]),
    ],
)
def test_good_values_say_nothing(spec: dict[str, Any], value: Any) -> None:
    assert problem("x", spec, value) == []


@pytest.mark.parametrize(
    ("spec", "value", "sentence"),
    [
        (SIZE, "lots", "x is 'lots'; wanted is a whole number (MiB of swap): correct it in the inventory."),
        (SIZE, 1.5, "x is 1.5; wanted is a whole number ("),
        (SIZE, None, "x is None; wanted is a whole number ("),
        (SIZE, [1], "x is [1]; wanted is a whole number ("),
        (
            SOURCE,
            "usb",
            "x is 'usb'; wanted is one of auto, csi (Where pictures are from): correct it in the inventory.",
        ),
        ({"type": "bool", "description": "On."}, "often", "x is 'often'; wanted is true or false (On): correct it"),
        ({"type": "int", "description": "On."}, True, "x is True; wanted is a whole number (On): correct it"),
        ({"type": "float", "description": "On."}, False, "x is False; wanted is a number (On): correct it"),
        ({"type": "float", "description": "On."}, "far", "x is 'far'; wanted is a number (On): correct it"),
        ({"type": "dict", "description": "On."}, [1], "x is [1]; wanted is a dict (On): correct it"),
        (
            {"type": "list", "elements": "int", "description": "On."},
            ["a"],
            "x is ['a']; wanted is a list (On): correct",
        ),
    ],
)
def test_a_wrong_value_is_told_with_what_is_wanted(spec: dict[str, Any], value: Any, sentence: str) -> None:
    (found,) = problem("x", spec, value)
    assert found.startswith(sentence)
    assert found.endswith("correct it in the inventory.")


@pytest.mark.parametrize(
    ("instance", "part"),
    [
        ({"name": "kitchen"}, "missing required arguments: release"),
        ({"name": "kitchen", "release": "sid"}, "value of release must be one of: bookworm, trixie, got: sid"),
        ({"name": "kitchen", "release": "trixie", "ram": 1}, "ram"),
        ("kitchen", "dict"),
    ],
)
def test_parts_of_parts_are_looked_at(instance: Any, part: str) -> None:
    (found,) = problem("virtual_pi_instances", INSTANCES, [{"name": "bar", "release": "trixie"}, instance])
    assert found.startswith("virtual_pi_instances is [{'name': 'bar', ")
    assert "; wanted is its parts as documented (" in found
    assert part in found


PASSWORD = {"type": "int", "no_log": True, "description": "A PIN."}
USERS = {
    "type": "list",
    "elements": "dict",
    "description": "Users.",
    "options": {"name": {"type": "str"}, "pin": {**PASSWORD, "choices": [1]}},
}


@pytest.mark.parametrize(
    ("spec", "value", "sentence"),
    [
        (PASSWORD, "s3cret", "x is a value that is not shown; wanted is a whole number (A PIN): correct it in the inv"),
        (
            USERS,
            [{"name": "a", "pin": "s3cret"}],
            "x is a value that is not shown; wanted is its parts as documented (",
        ),
        (USERS, [{"s3cret": 1}], "x is a value that is not shown; wanted is its parts as documented (Users): correct"),
    ],
)
def test_what_must_not_be_logged_is_not_told(spec: dict[str, Any], value: Any, sentence: str) -> None:
    (found,) = problem("x", spec, value)
    assert found.startswith(sentence)
    assert "s3cret" not in found


ROLES = sorted(path.parents[1].name for path in inputs.ROLES.glob("*/meta/argument_specs.yml"))


@pytest.mark.parametrize("role", ROLES)
def test_the_defaults_of_each_role_are_good_values(role: str) -> None:
    specs = yaml.safe_load((inputs.ROLES / role / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    for name, spec in specs["main"].get("options", {}).items():
        if "default" in spec:
            assert problem(name, spec, spec["default"]) == []


def check_inputs(variables: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = make(inputs.ActionModule, {"roles": ["swap"]}).run(task_vars=variables)
    return result


def test_inputs_of_roles_are_checked_without_a_device() -> None:
    assert check_inputs({"swap_size": 512, "somebody_elses": "lots"}) == {"changed": False}
    with pytest.raises(AnsibleActionFail) as refused:
        check_inputs({"swap_size": "lots", "swap_restore_after_install": "often"})
    sentences = str(refused.value)
    assert "swap_size is 'lots'; wanted is a whole number" in sentences
    assert "swap_restore_after_install is 'often'; wanted is true or false" in sentences


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "mxnet-1.9.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mxnet/libmxnet.so", b"\x7fELF" + bytes((1, 1, 1)) + bytes(9) + b"\x03\x00\x28\x00")
    return path


def fit(wheel: Path, reply: dict[str, Any]) -> dict[str, Any]:
    arguments = {"path": str(wheel), "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest()}
    result: dict[str, Any] = make(wheel_fits.ActionModule, arguments, reply).run()
    return result


def test_a_wheel_that_fits(wheel: Path) -> None:
    reply = {"rc": 0, "stdout": "Welcome to kitchen\narmhf\r\n3.11\r\n", "stderr": ""}
    assert fit(wheel, reply) == {"changed": False, "name": "mxnet", "version": "1.9.1"}


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (
            {"rc": 0, "stdout": "arm64\n3.11\n", "stderr": ""},
            "mxnet-1.9.1-py3-none-any.whl holds mxnet/libmxnet.so for armhf, and the device's userland is arm64:",
        ),
        (
            {"rc": 127, "stdout": "", "stderr": "no dpkg here\n"},
            "The device does not tell its architecture and Python: no dpkg here",
        ),
    ],
)
def test_a_wheel_that_does_not_fit_or_a_device_that_does_not_say(wheel: Path, reply: dict[str, Any], told: str) -> None:
    refused = fit(wheel, reply)
    assert refused["failed"]
    assert refused["msg"].startswith(told)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.py").write_text("a")
    (tmp_path / "source" / "b.txt").write_text("b")
    return tmp_path / "source"


def dropper(source: Path, *results: dict[str, Any]) -> Any:
    arguments = {"path": "/opt/thing", "src": [f"{source}/"], "patterns": ["*.py"]}
    return make(release.ActionModule, arguments, None, list(results))


def test_what_is_there_is_not_sent(source: Path) -> None:
    plugin = dropper(source, {"changed": False})
    assert plugin.run() == {"changed": False}
    (call,) = plugin._execute_module.call_args_list
    identifier = gather([f"{source}/"], ["*.py"]).identifier
    assert call.kwargs["module_args"] == {"path": "/opt/thing", "release": identifier, "keep": 5}
    plugin._transfer_file.assert_not_called()
    plugin._make_tmp_path.assert_not_called()


@pytest.mark.parametrize(("there", "made"), [(None, 1), ("/tmp/ansible-tmp-1", 0)])
def test_what_is_missing_is_sent_once_into_the_one_folder_that_ansible_removes(
    source: Path, there: str | None, made: int
) -> None:
    plugin = dropper(source, {"changed": True, "wants_archive": True}, {"changed": True})
    plugin._connection._shell.tmpdir = there
    names: list[str] = []

    def transfer(local: str, remote: str) -> None:
        with tarfile.open(local) as archive:
            names.extend(archive.getnames())

    plugin._transfer_file.side_effect = transfer
    assert plugin.run() == {"changed": True}
    assert names == ["a.py"]
    assert plugin._make_tmp_path.call_count == made
    assert plugin._fixup_perms2.call_args.args == (("/tmp/ansible-tmp-1", "/tmp/ansible-tmp-1/release.tar"),)
    archive = plugin._execute_module.call_args_list[1].kwargs["module_args"]["archive"]
    assert archive == "/tmp/ansible-tmp-1/release.tar"


def test_a_source_that_is_not_there_is_refused_before_the_device_is_asked(tmp_path: Path) -> None:
    plugin = dropper(tmp_path / "nowhere")
    with pytest.raises(AnsibleActionFail, match="is not there; name a file or folder of the control node"):
        plugin.run()
