"""What every role has, and what its parts say of each other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from ansible_collections.edge.pi_fleet.plugins.module_utils.state_observe import KINDS

from tests.contract.repository import (
    ELSEWHERE_THAN_SITE,
    FILE_LOOKUPS,
    ON_DEVICES,
    ROLES,
    ROOT,
    files,
    included_role,
    inputs,
    lookups_of,
    modules,
    provisioning,
    provisioning_roles,
    read,
    read_yaml,
    site,
    site_roles,
    tasks,
    variables_of,
)
from tools import docs

RESTORE = "Put the former swap size back, now that the installs are over"

# Roles that speak to a device before all others, whatever tags are asked for.
FIRST = ("device_state", "preflight", "rollout", "contact")

# What a role tells others of itself, in a file of its own that does nothing else.
FACTS = {"verify.yml": "checks", "group.yml": "group"}


# Roles that a scenario of another name is about: playbooks whose work is one story.
ELSEWHERE = {
    "virtual_pi": "default",
    "contact": "preflight",
    "identity": "firstboot",
    "card": "firstboot",
    "bootstrap": "firstboot",
    "rollback": "rollout",
    "device_state": "verify",
}


@pytest.mark.parametrize("role", ROLES)
def test_defaults_are_those_that_are_documented(role: str) -> None:
    documented = {name: option["default"] for name, option in inputs(role).items() if "default" in option}
    assert read_yaml(f"roles/{role}/defaults/main.yml") == documented


@pytest.mark.parametrize("role", ROLES)
def test_inputs_are_described_typed_and_carry_the_name_of_the_role(role: str) -> None:
    for name, option in inputs(role).items():
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
    scenario = ELSEWHERE.get(role, role)
    assert (ROOT / "molecule" / scenario / "molecule.yml").is_file()


def test_the_table_of_roles_has_each_once() -> None:
    assert sorted(re.findall(r"^\| \[(\w+)\]", docs.roles(), re.MULTILINE)) == ROLES


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
        names |= set(task.get("vars", {})) - taken_by(included_role(task))
        names |= set(task.get("ansible.builtin.set_fact", {})) - {f"{role}_{fact}" for fact in FACTS.values()}
        if "loop" in task:
            names.add(task.get("loop_control", {}).get("loop_var", "item"))
    assert not [name for name in names if not name.startswith(f"__{role}_") and name != f"__{role}"]


def taken_by(role: str) -> set[str]:
    """Return what a role takes from whoever includes it: its inputs, and variables of its own that it does not set."""
    if role not in ROLES:
        return set()
    used = " ".join(path.read_text() for path in files(f"roles/{role}") if path.suffix in (".yml", ".j2"))
    path = f"roles/{role}/vars/main.yml"
    given = set(re.findall(rf"\b__{role}_\w+", used)) - set(read_yaml(path) if (ROOT / path).exists() else {})
    return given | inputs(role).keys()


@pytest.mark.parametrize(
    "path",
    [path for name in FACTS for path in sorted((ROOT / "roles").glob(f"*/tasks/{name}"))],
    ids=lambda path: str(path.relative_to(ROOT / "roles")),
)
def test_what_a_role_tells_of_itself_is_one_fact_and_nothing_is_done(path: Path) -> None:
    role = path.parents[1].name
    *before, fact = read_yaml(str(path))
    # What a fact is composed from may have to be asked for first, as at the start of the role or in a group.
    composed = {"name": "edge.pi_fleet.local_core", "tasks_from": "validate"}
    asked = [task.get("ansible.builtin.import_tasks", task.get("ansible.builtin.include_role")) for task in before]
    assert asked in ([], ["validate.yml"], [composed])
    assert fact.keys() == {"name", "ansible.builtin.set_fact"}
    assert fact["ansible.builtin.set_fact"].keys() == {f"{role}_{FACTS[path.name]}"}


def test_the_group_is_asked_of_all_roles_that_add_to_it() -> None:
    adding = [role for role in ROLES if (ROOT / f"roles/{role}/tasks/group.yml").exists()]
    (asked,) = (task for task in tasks("local_core") if task.get("ansible.builtin.include_role"))
    assert asked["ansible.builtin.include_role"]["tasks_from"] == "group"
    assert sorted(asked["loop"]) == adding
    text = read("roles/local_core/tasks/validate.yml")
    for role in adding:
        told = read_yaml(f"roles/{role}/vars/main.yml")[f"__{role}_group"]
        assert told.keys() <= {"functions", "connectors", "subscriptions"}
        assert not [part for part in told if f"{role}_group.{part}" not in text]


@pytest.mark.parametrize("role", ROLES)
def test_tasks_use_what_ansible_core_and_this_collection_have(role: str) -> None:
    used = {name for task in tasks(role) for name in modules(task)}
    assert not [name for name in used if not re.fullmatch(r"(ansible\.builtin|edge\.pi_fleet)\.\w+", name)]
    assert "ansible.builtin.shell" not in used
    assert not [task["name"] for task in tasks(role) if "ignore_errors" in task]


def test_no_task_is_the_first_devices_alone_where_site_leaves_roles_out_by_device() -> None:
    """Else nobody does it where the first of a batch does not need the role."""
    for role in changing():
        for path in files(f"roles/{role}/tasks"):
            if path.name not in ELSEWHERE_THAN_SITE:
                assert "run_once" not in path.read_text(), path


@pytest.mark.parametrize("role", ROLES)
def test_a_role_reaches_beyond_itself_by_one_variable_only(role: str) -> None:
    texts = [path.read_text() for path in files(f"roles/{role}") if path.suffix in (".yml", ".j2")]
    beyond = [line.strip() for text in texts for line in text.splitlines() if "../" in line]
    assert beyond in ([], [f'__{role}_files: "{{{{ role_path }}}}/../../files"'])


def test_site_takes_roles_with_their_tags_then_proves_or_goes_back() -> None:
    taken = provisioning_roles()
    for task in taken:
        name = task["ansible.builtin.import_role"]["name"].removeprefix("edge.pi_fleet.")
        assert task == {
            "name": f"Role {name}",
            "ansible.builtin.import_role": {"name": f"edge.pi_fleet.{name}"},
            "when": [f"'{name}' in ansible_facts.pi_fleet_run | default(['{name}'])"],
            "tags": [name],
        }
    block = provisioning()
    begin, *roles, prove, restore, record = block["block"]
    (packages,) = (task for task in roles if task not in taken)
    assert packages["edge.pi_fleet.packages"] == {"roles": "{{ __device_state_begun.run | default([]) | list }}"}
    assert packages["tags"] == ["packages"]
    # Behind the role that says where packages come from, before the first that has any.
    at = roles.index(packages)
    assert roles[at - 1]["name"] == "Role offline"
    assert roles[:at] + roles[at + 1 :] == taken
    assert restore["name"] == RESTORE
    (back,) = block["rescue"]
    for task, role, part in (
        (begin, "device_state", "begin"),
        (prove, "rollout", "prove"),
        (record, "device_state", "record"),
        (back, "rollout", "back"),
    ):
        assert task["ansible.builtin.import_role"] == {"name": f"edge.pi_fleet.{role}", "tasks_from": part}
        assert task["tags"] == ["always"]
    first, second = site()
    # In the order of the inventory, whoever answered first.
    assert second["hosts"].startswith("{{ groups.devices | select('in', groups.rollout_devices ")
    assert second["max_fail_percentage"] == 0
    for play in (first, second):
        assert not {"pre_tasks", "post_tasks", "handlers"} & play.keys()
        assert play["vars"] == {"device_state_full": "{{ full | default(false) }}"}


@pytest.mark.parametrize("path", sorted((ROOT / "playbooks").glob("*.yml")), ids=lambda path: path.name)
def test_plays_list_roles_each_with_the_tag_of_its_name(path: Path) -> None:
    plays = [play for play in read_yaml(str(path)) if play != site()[1]]
    for play in plays:
        assert play["roles"]
        for entry in play["roles"]:
            name = entry["role"].removeprefix("edge.pi_fleet.")
            assert name in ROLES
            assert entry == {"role": f"edge.pi_fleet.{name}", "tags": ["always" if name in FIRST else name]}


def test_preflight_knows_all_roles_of_site() -> None:
    assert read_yaml("roles/preflight/vars/main.yml")["__preflight_roles"] == site_roles()


def test_reimaging_takes_all_roles_of_site() -> None:
    # A device that is written anew is no canary.
    wanted = [role for role in site_roles() if role not in ("device_state", "rollout")]
    assert read_yaml("roles/reimage/vars/main.yml")["__reimage_roles"] == wanted


def test_preflight_lets_every_role_validate_that_can() -> None:
    validating = [role for role in site_roles() if (ROOT / f"roles/{role}/tasks/validate.yml").exists()]
    assert read_yaml("roles/preflight/vars/main.yml")["__preflight_validating_roles"] == validating


def test_verify_looks_at_all_roles_that_leave_something_behind() -> None:
    verified = read_yaml("roles/verify/defaults/main.yml")["verify_roles"]
    assert verified == [role for role in changing() if role != "reboot"]
    for role in verified:
        fact = read_yaml(f"roles/{role}/tasks/verify.yml")[-1]["ansible.builtin.set_fact"][f"{role}_checks"]
        told = {
            name: checks
            for name, checks in read_yaml(f"roles/{role}/vars/main.yml").items()
            if name.endswith("_checks")
        }
        assert set(re.findall(r"\w+_checks", fact)) == told.keys()
        for checks in told.values():
            # A list that depends on the inventory is a template.
            named = re.findall(r"'role': '(\w+)'", checks) if isinstance(checks, str) else [c["role"] for c in checks]
            assert set(named) == {role}


@pytest.mark.parametrize("role", [role for role in ON_DEVICES if role != "camera"])
def test_packages_are_named_where_bundles_for_sites_without_internet_read_them(role: str) -> None:
    assert not [task["name"] for task in tasks(role) if "name" in task.get("ansible.builtin.apt", {})]
    for task in tasks(role):
        if "edge.pi_fleet.packages" in task:
            assert task["edge.pi_fleet.packages"] == {"roles": [role]}
            assert read_yaml(f"roles/{role}/vars/main.yml")[f"__{role}_packages"]


def test_roles_that_name_packages_install_them() -> None:
    naming = {
        path.parents[1].name
        for path in ROOT.glob("roles/*/vars/main.yml")
        if f"\n__{path.parents[1].name}_packages:" in path.read_text()
    }
    assert naming == {role for role in ROLES if any("edge.pi_fleet.packages" in task for task in tasks(role))}


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


def test_roles_on_devices_do_not_take_those_of_the_control_node() -> None:
    assert not {"card", "virtual_pi"} & set(site_roles())
    assert set(ON_DEVICES) == {
        *site_roles(),
        *("bootstrap", "contact", "drift", "verify", "classify", "reimage", "rollback", "pull"),
    }


def changing() -> list[str]:
    """Return the roles of site.yml that change devices, in its order."""
    return [task["ansible.builtin.import_role"]["name"].removeprefix("edge.pi_fleet.") for task in provisioning_roles()]


def test_devices_are_asked_for_all_that_roles_of_site_change() -> None:
    assert read_yaml("roles/device_state/vars/main.yml")["__device_state_roles"] == changing()
    assert read_yaml("roles/drift/defaults/main.yml")["drift_roles"] == changing()


@pytest.mark.parametrize("role", changing())
def test_a_role_declares_what_it_manages(role: str) -> None:
    variables = read_yaml(f"roles/{role}/vars/main.yml")
    assert variables[f"__{role}_manages"].keys() <= KINDS.keys()
    assert set(variables.get(f"__{role}_reads", [])) <= set(site_roles())


# What roles read that no inventory says: Ansible's own words, the functions of templates, and where files are.
GIVEN = {
    *("lookup", "query", "role_path", "playbook_dir", "inventory_dir", "inventory_hostname"),
    # Who else answered, where collect.yml says so.
    *("ansible_play_hosts_all", "hostvars"),
    *("ansible_check_mode", "ansible_facts", "ansible_managed", "ansible_playbook_python"),
}


# Where caches are, and whether what is in one is what was pinned.
LOOKUPS = ("ansible.builtin.env HOME", "ansible.builtin.pipe sha256sum ")


@pytest.mark.parametrize("role", changing())
def test_a_role_reads_what_its_fingerprint_knows_and_nothing_else(role: str) -> None:
    """Else somebody may change what a role is given, and site.yml would find nothing to do."""
    reads = read_yaml(f"roles/{role}/vars/main.yml").get(f"__{role}_reads", [])
    known = {name for each in (role, *reads) for name in inputs(each)} | {f"{each}_group" for each in reads}
    found = {name for name in variables_of(role) if not name.startswith(f"__{role}_") and name != f"__{role}"}
    assert found - known - GIVEN == set()
    # By these it could read whatever else there is; collect.yml alone asks for other devices.
    assert lookups_of(role) - {*FILE_LOOKUPS, *LOOKUPS} == set()
    assert "hostvars" not in found or role == "collect"
