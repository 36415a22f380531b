"""Whatever a role is given changes its fingerprint, and nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.edge.pi_fleet.plugins.plugin_utils import fingerprint

READS = {
    "mxnet_dependencies": ["greengrass_sdk"],
    "greengrass_sdk": ["mxnet_dependencies"],
    "mqtt_broker": ["local_core", "image_classifier", "classifier_lambda"],
    "local_core": ["image_classifier", "classifier_lambda"],
    "image_classifier": ["local_core"],
    "classifier_lambda": ["local_core"],
}
SITE = yaml.safe_load((fingerprint.ROLES / "preflight" / "vars" / "main.yml").read_text())["__preflight_roles"]
NAMES = [role for role in SITE if role not in ("device_state", "preflight", "rollout")]
OTHER: dict[str, Any] = {"list": ["another"], "dict": {"another": "one"}, "bool": True}
LAMBDA = {"name": "mine", "src": "lambda", "handler": "lambda.handler"}


def options() -> list[Any]:
    """Return each option of each role with a value that is not its default."""
    found = []
    for role in NAMES:
        specs = yaml.safe_load((fingerprint.ROLES / role / "meta" / "argument_specs.yml").read_text())
        for name, spec in specs["argument_specs"]["main"]["options"].items():
            value = [LAMBDA] if name == "local_core_lambdas" else OTHER.get(spec["type"], "4711")
            found.append(pytest.param(role, name, value, id=name))
    return found


def prints(folder: Path, **variables: Any) -> dict[str, str]:
    """Return the fingerprints of all roles for a device with these variables."""
    roles = of_device(folder, **variables)
    return {name: roles.fingerprint(name) for name in NAMES}


def of_device(folder: Path, **variables: Any) -> fingerprint.Roles:
    """Return the roles for a device with these variables."""
    loader = DataLoader()
    base = {
        "inventory_dir": str(folder),
        "inventory_hostname": "kitchen",
        "playbook_dir": "/playbooks",
        "collect_key": str(folder / "collect"),
        # Their defaults look HOME up.
        "greengrass_sdk_cache": "cache",
        "image_classifier_cache": "cache",
    }
    return fingerprint.Roles({**base, **variables}, Templar(loader=loader), loader)


@pytest.fixture(scope="module")
def defaults() -> dict[str, str]:
    """Fingerprints of a device of which the inventory says nothing."""
    return prints(Path("/nowhere"))


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in NAMES if before[name] != after[name]}


def concerned(role: str) -> set[str]:
    return {role, *(name for name, read in READS.items() if role in read)}


def test_a_fingerprint_stays_as_long_as_nothing_changes(tmp_path: Path) -> None:
    assert prints(tmp_path) == prints(tmp_path)


def test_what_a_run_learned_on_its_way_changes_nothing(tmp_path: Path) -> None:
    group = {"requests": ["echo/+/request"], "responses": ["echo/answer"], "functions": ["echo"], "connectors": []}
    assert prints(tmp_path, local_core_group=group) == prints(tmp_path)


def test_what_was_asked_for_once_and_is_done_is_not_asked_for_again(tmp_path: Path) -> None:
    asked = of_device(tmp_path, identity_rotate=True)
    assert asked.fingerprint("identity") != prints(tmp_path)["identity"]
    assert asked.fingerprint("identity", done=True) == prints(tmp_path)["identity"]


def test_another_name_of_the_device_changes_all(defaults: dict[str, str]) -> None:
    assert changed(defaults, prints(Path("/nowhere"), inventory_hostname="bar")) == set(NAMES)


def test_other_words_at_the_head_of_what_is_written_change_all(
    defaults: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert changed(defaults, prints(Path("/nowhere"), ansible_managed="Ours")) == set(NAMES)
    monkeypatch.setattr("ansible.constants.config.get_config_value", lambda name: f"another {name}")
    assert changed(defaults, prints(Path("/nowhere"))) == set(NAMES)


@pytest.mark.parametrize(("role", "name", "value"), options())
def test_an_options_value_changes_its_roles_fingerprint_and_no_others(
    defaults: dict[str, str], role: str, name: str, value: Any
) -> None:
    assert changed(defaults, prints(Path("/nowhere"), **{name: value})) == concerned(role)


@pytest.mark.parametrize(
    ("role", "variables", "file"),
    [
        ("identity", {"identity_store": "HERE"}, "kitchen.yml"),
        ("offline", {"offline_packages": "HERE"}, "packages.json"),
        ("offline", {"offline_packages": "HERE"}, "offline.conf"),
        ("mxnet_dependencies", {"mxnet_dependencies_wheel": "HERE/mxnet-1.whl"}, "mxnet-1.whl"),
        ("camera", {"camera_directory": "HERE"}, "cup.jpg"),
        ("collect", {}, "collect.pub"),
        ("local_core", {"local_core_group_definition": "HERE/group.json"}, "group.json"),
        ("local_core", {"local_core_lambdas": [{**LAMBDA, "src": "HERE/mine"}]}, "mine/lambda.py"),
        # It goes to the device as all else does.
        ("local_core", {"local_core_lambdas": [{**LAMBDA, "src": "HERE/mine"}]}, "mine/README.md"),
        ("image_classifier", {"image_classifier_model": "HERE/model.onnx"}, "model.onnx"),
    ],
)
def test_a_file_that_an_option_names_changes_its_roles_fingerprint(
    tmp_path: Path, role: str, variables: dict[str, Any], file: str
) -> None:
    text = yaml.safe_dump(variables).replace("HERE", str(tmp_path))
    given = yaml.safe_load(text)
    path = tmp_path / file
    seen = []
    for content in (None, "one", "other"):
        if content:
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
        seen.append(prints(tmp_path, **given))
    assert changed(seen[0], seen[1]) == changed(seen[1], seen[2]) == concerned(role)


@pytest.mark.parametrize(
    ("file", "roles"),
    [
        ("roles/swap/defaults/main.yml", {"swap"}),
        ("roles/swap/tasks/main.yml", {"swap"}),
        ("roles/swap/README.md", set()),
        ("roles/collect/templates/authorized_keys.j2", {"collect"}),
        ("roles/local_core/templates/localcore.service.j2", concerned("local_core")),
        ("files/localcore/localcore/router.py", concerned("local_core")),
        ("files/camera/pi_camera.py", {"camera"} | concerned("classifier_lambda")),
        ("plugins/module_utils/device.py", set(NAMES)),
        ("docs/article.md", set()),
        ("roles/verify/tasks/main.yml", set()),
    ],
)
def test_a_byte_of_the_project_changes_the_fingerprints_of_the_roles_that_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, roles: set[str]
) -> None:
    real = fingerprint.of_file
    assert (fingerprint.PROJECT / file).is_file()
    before = prints(tmp_path)
    monkeypatch.setattr(
        fingerprint, "of_file", lambda path: real(path) + ("x" if path.resolve() == fingerprint.PROJECT / file else "")
    )
    fingerprint.code.cache_clear()
    fingerprint.plugins.cache_clear()
    after = prints(tmp_path)
    fingerprint.code.cache_clear()
    fingerprint.plugins.cache_clear()
    assert changed(before, after) == roles


def test_what_is_not_named_is_not_read() -> None:
    assert fingerprint.content("") == "absent"


@pytest.mark.parametrize(
    ("role", "folder"),
    # PYTHONPATH of each Lambda, and what the guard, a program of root's, looks at first.
    [("camera", "/opt/pi-fleet/lib"), ("field_data", "/opt/pi-fleet/bin"), ("local_core", "/opt/pi-fleet/localcore")],
)
def test_whatever_lies_where_python_imports_from_is_managed(role: str, folder: str) -> None:
    assert folder in of_device(Path("/nowhere")).manages(role)["trees"]
