"""What the repository's parts promise each other."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.contract.repository import ROLES, ROOT, documents, files, plain, read, read_yaml

TOP = (
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "ansible.cfg", "pyproject.toml"),
    *("requirements.lock", ".ci/run", ".config/molecule/config.yml", "playbooks", "roles", "files", "plugins", "tools"),
    *("inventory/virtual", "inventory/example", "molecule/default", "tests/unit", "tests/contract", "docs/decisions"),
)
LINKS = ("README.md", "CHANGELOG.md", "LICENSE", "roles", "plugins", "playbooks", "files")
COLLECTION = "collections/ansible_collections/edge/pi_fleet"


def code(text: str) -> str:
    """Return what a Markdown text shows as code, fenced or in a line."""
    fenced = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)
    return "\n".join([*fenced, *re.findall(r"`([^`\n]+)`", re.sub(r"(?ms)^```.*?^```", "", text))])


def targets() -> dict[str, str]:
    """Return the Makefile's targets and their lines of help."""
    return dict(re.findall(r"^([a-z-]+):(?:.*## (.+))?", read("Makefile"), re.MULTILINE))


@pytest.mark.parametrize("name", TOP)
def test_the_repository_has(name: str) -> None:
    assert (ROOT / name).exists()


@pytest.mark.parametrize("name", LINKS)
def test_the_collections_links_lead_to_the_checkout(name: str) -> None:
    assert (ROOT / COLLECTION / name).resolve(strict=True) == ROOT / name


@pytest.mark.parametrize("path", documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_what_a_document_names_is_there(path: Path) -> None:
    text = path.read_text()
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)", code(text))) <= targets().keys()
    for name in re.findall(r"\bplaybooks/[\w-]+\.yml", text):
        assert (ROOT / name).is_file(), name
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / link).exists(), link


@pytest.mark.parametrize("target", ["demo", "test", "lint", "unit", "molecule", "clean"])
def test_make_explains(target: str) -> None:
    assert targets()[target]


def test_make_installs_what_is_pinned_and_runs_no_code_of_its_to_build_it() -> None:
    calls = re.findall(r"^.*\bpip install .*$", read("Makefile"), re.MULTILINE)
    assert len(calls) == 5
    assert not [call for call in calls if "--require-hashes" not in call or "--only-binary :all:" not in call]


def test_shellcheck_sees_all_scripts_of_a_shell() -> None:
    told = ["make", "-s", "--eval", "scripts: ; @echo $(SCRIPTS)", "scripts"]
    seen = subprocess.run(told, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    first = {path: path.read_bytes().partition(b"\n")[0] for path in files()}
    scripts = {str(path.relative_to(ROOT)) for path, line in first.items() if re.match(rb"#!.*\b(ba|da)?sh\b", line)}
    assert "tools/offline/install" in scripts
    assert set(seen) == scripts


def test_versions_agree() -> None:
    project = tomllib.loads(read("pyproject.toml"))
    assert read_yaml(f"{COLLECTION}/galaxy.yml")["version"] == project["project"]["version"]


def test_other_control_nodes_are_as_this_one() -> None:
    """Devices that converge themselves have its ansible-core, and the container image has all that it has."""
    project = tomllib.loads(read("pyproject.toml"))["project"]
    core = project["dependencies"][0]
    assert f"ansible-core=={read_yaml('roles/pull/vars/main.yml')['__pull_version']}" == core
    (carried,) = re.findall(rf"^{core} --hash=(\S+)$", read("roles/pull/files/requirements.txt"), re.MULTILINE)
    assert carried in read("requirements.lock")
    image = read_yaml("execution-environment.yml")
    collection, *locks = [each["src"] for each in image["additional_build_files"]]
    assert collection == f"dist/edge-pi_fleet-{project['version']}.tar.gz"
    assert locks == ["requirements-run.lock", "tools/execution_environment/requirements.txt"]
    # By these alone, as ansible-builder would install what it is told itself without a hash.
    assert not {"ansible_core", "ansible_runner", "python"} & image["dependencies"].keys()
    copy, install = image["additional_build_steps"]["append_base"]
    assert "pip install --no-cache-dir --require-hashes" in install
    for lock, folder in zip(locks, ("run", "runner"), strict=True):
        assert f"_build/{folder}/{Path(lock).name}" in copy
        assert f"--requirement /tmp/python/{Path(lock).name}" in install


def test_the_image_has_one_version_of_what_both_its_locks_name() -> None:
    def pins(path: str) -> dict[str, str]:
        return dict(re.findall(r"^([\w.-]+)==(\S+)", read(path), re.MULTILINE))

    run, runner = pins("requirements-run.lock"), pins("tools/execution_environment/requirements.txt")
    assert {name: run[name] for name in run.keys() & runner.keys()} == {
        name: runner[name] for name in run.keys() & runner
    }
    assert "ansible-runner" in runner


def test_all_python_is_pinned_by_hash() -> None:
    locks = [path for path in files() if path.name == "requirements.txt" or path.suffix == ".lock"]
    assert len(locks) > 6
    for path in locks:
        words = re.sub(r"\s*#.*|\\\n", "", path.read_text())
        assert not [
            line for line in words.splitlines() if line and not re.match(r"\S+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)
        ]


def test_what_the_project_needs_is_locked() -> None:
    project = tomllib.loads(read("pyproject.toml"))
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    locked = {line.split()[0].lower() for line in read("requirements.lock").splitlines() if "==" in line}
    assert not [name for name in wanted if name.lower() not in locked]


def test_ansible_checks_host_keys_saves_connections_and_keeps_its_warnings() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "ansible.cfg")
    assert settings["defaults"]["host_key_checking"] == "True"
    assert settings["connection"]["pipelining"] == "True"
    assert settings["defaults"]["inject_facts_as_vars"] == "False"
    ssh = settings["ssh_connection"]["ssh_args"].split()
    assert {"ControlMaster=auto", "ControlPersist=120s"} <= set(ssh)
    assert "deprecation_warnings" not in read("ansible.cfg")


def test_no_key_of_virtual_pis_is_committed() -> None:
    """Else a fresh clone has half of a key, makes none, and collects nothing."""
    assert not files("inventory/virtual/keys")
    made = ["inventory/virtual/keys/collect", "inventory/virtual/keys/collect.pub"]
    ignored = subprocess.run(["git", "check-ignore", *made], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ignored.stdout.split() == made


def test_no_file_names_a_folder_of_the_machine_it_was_written_on() -> None:
    folder = ("/" + "work/").encode()
    assert not [str(path.relative_to(ROOT)) for path in files() if folder in path.read_bytes()]


def test_troubleshooting_quotes_what_is_printed() -> None:
    sources = " ".join(plain(path.read_text()) for path in files("plugins", "roles", "files") if is_source(path))
    rows = re.findall(r"^\| `([^`]+)` \|", read("docs/troubleshooting.md"), re.MULTILINE)
    assert len(rows) > 20
    quoted = [part.strip() for row in rows for part in row.split("…")]
    assert not [part for part in quoted if part not in sources]


def is_source(path: Path) -> bool:
    return path.suffix in (".py", ".yml")


def test_every_step_of_the_article_is_told() -> None:
    steps = re.findall(r"^\| (\d+) \| .+ \| (.+) \|$", read("docs/article.md"), re.MULTILINE)
    assert [int(step) for step, _ in steps] == list(range(1, 15))
    for name in re.findall(r"[Rr]ole `(\w+)`", read("docs/article.md")):
        assert name in ROLES


def test_the_example_inventory_opens_and_holds_inputs_only(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("example")
    arguments = ["-i", "inventory/example", "--list", "--vault-password-file", str(password)]
    listed = subprocess.run(["ansible-inventory", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(listed.stdout)["_meta"]["hostvars"]
    assert len({host["camera_source"] for host in found.values()}) == 2
    for host in found.values():
        assert host["ansible_become_password"] == "{{ vault_become_password }}"
        assert host["vault_become_password"]
        assert set(re.findall(r"StrictHostKeyChecking\W+(\w+)", str(host))) == {"yes"}
        assert re.search(r"UserKnownHostsFile={{ inventory_dir }}/known_hosts\b", host["ansible_ssh_common_args"])
    for path in files("inventory/example/group_vars"):
        if path.stem in ROLES:
            specs = read_yaml(f"roles/{path.stem}/meta/argument_specs.yml")["argument_specs"]["main"]
            assert read_yaml(str(path)).keys() <= specs["options"].keys()
        else:
            assert path.stem in ("connection", "vault")
    assert read("inventory/example/group_vars/devices/vault.yml").startswith("$ANSIBLE_VAULT;")
