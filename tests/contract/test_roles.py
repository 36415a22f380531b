"""What every role has, and what its parts say of each other."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.contract.repository import ON_DEVICES, ROLES, ROOT, files, modules, read, read_yaml, site, site_roles, tasks
from tools import docs

RESTORE = "Put the former swap size back, now that the installs are over"


@pytest.mark.parametrize("role", ROLES)
def test_defaults_are_those_that_are_documented(role: str) -> None:
    options = read_yaml(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    documented = {name: option["default"] for name, option in options.items() if "default" in option}
    assert read_yaml(f"roles/{role}/defaults/main.yml") == documented


@pytest.mark.parametrize("role", ROLES)
def test_inputs_are_described_typed_and_carry_the_name_of_the_role(role: str) -> None:
    for name, option in read_yaml(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]["main"]["options"].items():
        assert name.startswith(f"{role}_")
        assert option["description"]
        assert option["type"]


@pytest.mark.parametrize("role", ROLES)
def test_every_default_has_a_comment(role: str) -> None:
    text = read(f"roles/{role}/defaults/main.yml")
    for block in text.removeprefix("---\n").split("\n\n"):
        assert block.startswith("# "), block


@pytest.mark.parametrize("role", ROLES)
def test_a_role_has_its_files(role: str) -> None:
    assert read_yaml(f"roles/{role}/meta/main.yml")["galaxy_info"]["description"]
    assert read(f"roles/{role}/README.md").startswith(f"# {role}\n")
    scenario = "default" if role == "virtual_pi" else role
    assert (ROOT / "molecule" / scenario / "molecule.yml").is_file()


def test_generated_documentation_is_fresh() -> None:
    assert not [str(path.relative_to(ROOT)) for path in docs.stale()], "run 'make docs'"


@pytest.mark.parametrize("path", [p for p in files("roles") if p.suffix == ".j2"], ids=lambda p: p.name)
def test_templates_say_first_that_they_are_managed(path: str) -> None:
    assert read(path).startswith("{{ ansible_managed | comment }}\n")


@pytest.mark.parametrize("role", ROLES)
def test_what_a_role_keeps_to_itself_carries_its_name(role: str) -> None:
    names = set(read_yaml(f"roles/{role}/vars/main.yml") if (ROOT / f"roles/{role}/vars/main.yml").exists() else {})
    for task in tasks(role):
        names |= {task["register"]} if "register" in task else set()
        names |= set(task.get("vars", {}))
        names |= {name for name in task.get("ansible.builtin.set_fact", {}) if name != f"{role}_checks"}
        if "loop" in task:
            names.add(task.get("loop_control", {}).get("loop_var", "item"))
    assert not [name for name in names if not name.startswith(f"__{role}_") and name != f"__{role}"]


@pytest.mark.parametrize("role", ROLES)
def test_tasks_use_what_ansible_core_and_this_collection_have(role: str) -> None:
    used = {name for task in tasks(role) for name in modules(task)}
    assert not [name for name in used if not re.fullmatch(r"(ansible\.builtin|edge\.pi_fleet)\.\w+", name)]
    assert "ansible.builtin.shell" not in used
    assert not [task["name"] for task in tasks(role) if "ignore_errors" in task]


@pytest.mark.parametrize("role", ROLES)
def test_a_role_reaches_beyond_itself_by_one_variable_only(role: str) -> None:
    texts = [path.read_text() for path in files(f"roles/{role}") if path.suffix in (".yml", ".j2")]
    beyond = [line.strip() for text in texts for line in text.splitlines() if "../" in line]
    assert beyond in ([], [f'__{role}_files: "{{{{ role_path }}}}/../../files"'])


def test_site_lists_roles_with_their_tags_and_one_task() -> None:
    for entry in site()["roles"]:
        name = entry["role"].removeprefix("edge.pi_fleet.")
        assert entry["role"] == f"edge.pi_fleet.{name}"
        assert entry["tags"] == (["always"] if name == "preflight" else [name])
        assert entry.keys() == {"role", "tags"}
    assert [task["name"] for task in site()["tasks"]] == [RESTORE]
    assert not {"pre_tasks", "post_tasks", "handlers", "vars"} & site().keys()


def test_preflight_knows_all_roles_of_site() -> None:
    assert read_yaml("roles/preflight/vars/main.yml")["__preflight_roles"] == site_roles()


def test_preflight_lets_every_role_validate_that_can() -> None:
    validating = [role for role in site_roles() if (ROOT / f"roles/{role}/tasks/validate.yml").exists()]
    assert read_yaml("roles/preflight/vars/main.yml")["__preflight_validating_roles"] == validating


def test_verify_looks_at_all_roles_that_leave_something_behind() -> None:
    verified = read_yaml("roles/verify/defaults/main.yml")["verify_roles"]
    assert verified == [role for role in site_roles() if role not in ("preflight", "reboot")]
    for role in verified:
        (facts,) = (task["ansible.builtin.set_fact"] for task in read_yaml(f"roles/{role}/tasks/verify.yml"))
        assert facts.keys() == {f"{role}_checks"}
        for name, checks in read_yaml(f"roles/{role}/vars/main.yml").items():
            if name.endswith("_checks"):
                assert {check["role"] for check in checks} == {role}


MODULES = sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_documents_itself(module: str) -> None:
    text = read(f"plugins/modules/{module}.py")
    found = dict(re.findall(r'^(DOCUMENTATION|EXAMPLES|RETURN) = r"""(.*?)"""', text, re.MULTILINE | re.DOTALL))
    assert f"edge.pi_fleet.{module}:" in found["EXAMPLES"]
    assert "RETURN" in found
    documentation = yaml.safe_load(found["DOCUMENTATION"])
    assert documentation["module"] == module
    assert documentation["attributes"]["check_mode"]["support"] in ("full", "partial", "none")


def test_roles_on_devices_do_not_take_the_one_that_makes_virtual_pis() -> None:
    assert "virtual_pi" not in site_roles()
    assert set(ON_DEVICES) == {*site_roles(), "verify"}
