"""The repository as the contract tests read it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import jinja2.nodes
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
ON_DEVICES = [role for role in ROLES if role not in ("card", "virtual_pi")]

# What a task may have besides its module.
KEYWORDS = {
    *("args", "async", "become", "become_user", "changed_when", "check_mode", "delay", "delegate_to", "diff"),
    *(
        "environment",
        "failed_when",
        "loop",
        "loop_control",
        "module_defaults",
        "name",
        "no_log",
        "notify",
        "poll",
        "register",
        "retries",
    ),
    *("run_once", "tags", "throttle", "until", "vars", "when", "block", "rescue", "always"),
}

CONDITIONS = {"when", "that", "until", "failed_when", "changed_when"}
FILE_LOOKUPS = ("ansible.builtin.file", "ansible.builtin.fileglob", "ansible.builtin.template")
# Tasks that other playbooks than site.yml take.
ELSEWHERE_THAN_SITE = ("verify.yml", "pull.yml")


def read(path: str) -> str:
    """Return the text of a file of the repository."""
    return (ROOT / path).read_text()


def read_yaml(path: str) -> Any:
    """Return what a YAML file of the repository holds."""
    return yaml.safe_load(read(path))


def files(*paths: str) -> list[Path]:
    """Return the files that are or could be committed, below these paths; links are left out."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in found if path.is_file() and not path.is_symlink()]


def documents() -> list[Path]:
    """Return all Markdown files."""
    return [path for path in files() if path.suffix == ".md"]


def tasks(role: str) -> Iterator[dict[str, Any]]:
    """Yield every task and handler of a role, blocks and what is in them included."""

    def walk(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for task in found:
            yield task
            for part in ("block", "rescue", "always"):
                yield from walk(task.get(part, []))

    for folder in ("tasks", "handlers"):
        for path in sorted((ROOT / "roles" / role / folder).glob("*.yml")):
            yield from walk(read_yaml(str(path)) or [])


def included_role(task: dict[str, Any]) -> str:
    """Return the role of this collection that a task includes, '' if it includes none."""
    included = task.get("ansible.builtin.include_role", task.get("ansible.builtin.import_role", {}))
    return str(included.get("name", "")).removeprefix("edge.pi_fleet.")


def inputs(role: str) -> dict[str, Any]:
    """Return the options of a role's entry point main."""
    found: dict[str, Any] = read_yaml(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    return found


def modules(task: dict[str, Any]) -> set[str]:
    """Return what a task names besides keywords: its module."""
    return {key for key in task if key not in KEYWORDS}


def site() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the plays of site.yml: the one that finds who answers, and the one that provisions them."""
    first, second = read_yaml("playbooks/site.yml")
    return first, second


def provisioning() -> dict[str, Any]:
    """Return the one block of site.yml: what provisions a device, and what has it go back."""
    (block,) = site()[1]["tasks"]
    found: dict[str, Any] = block
    return found


def provisioning_roles() -> list[dict[str, Any]]:
    """Return the tasks of site.yml that take a role as a whole."""
    imports = [task for task in provisioning()["block"] if "ansible.builtin.import_role" in task]
    return [task for task in imports if "tasks_from" not in task["ansible.builtin.import_role"]]


def site_roles() -> list[str]:
    """Return the roles of site.yml in their order."""
    names = [entry["role"] for entry in site()[0]["roles"]]
    names += [task["ansible.builtin.import_role"]["name"] for task in provisioning_roles()]
    return [name.removeprefix("edge.pi_fleet.") for name in names]


def strings(found: Any) -> Iterator[str]:
    """Yield all text that is in YAML, conditions as templates."""
    if isinstance(found, dict):
        for key, value in found.items():
            if key in CONDITIONS:
                yield from (f"{{{{ {each} }}}}" for each in strings(value))
            else:
                yield from strings(value)
    elif isinstance(found, list):
        for value in found:
            yield from strings(value)
    elif isinstance(found, str):
        yield found


def templates_of(role: str) -> Iterator[jinja2.nodes.Template]:
    """Yield what a role evaluates when site.yml takes it: its templates, and those in its YAML."""
    for path in files(f"roles/{role}"):
        if path.suffix == ".j2":
            texts = [path.read_text()]
        elif path.suffix == ".yml" and path.parent.name != "meta" and path.name not in ELSEWHERE_THAN_SITE:
            texts = list(strings(read_yaml(str(path))))
        else:
            continue
        yield from map(jinja2.Environment(autoescape=True).parse, texts)


def variables_of(role: str) -> set[str]:
    """Return the variables that a role reads."""
    found: set[str] = set()
    for template in templates_of(role):
        names = list(template.find_all(jinja2.nodes.Name))
        found |= {name.name for name in names if name.ctx == "load"}
        found -= {name.name for name in names if name.ctx == "store"}
    return found


def lookups_of(role: str) -> set[str]:
    """Return the lookups that a role makes; those that name no file with what they ask for, as far as it is written."""
    found = set()
    for template in templates_of(role):
        for call in template.find_all(jinja2.nodes.Call):
            if isinstance(call.node, jinja2.nodes.Name) and call.node.name in ("lookup", "query", "q"):
                words = [
                    each if isinstance(each, jinja2.nodes.Const) else each.find(jinja2.nodes.Const)
                    for each in call.args
                ]
                name, *asked = (str(word.value) if word else "?" for word in words)
                found.add(name if name in FILE_LOOKUPS else " ".join([name, *asked]))
    return found


def plain(text: str) -> str:
    """Return source text with adjacent string literals and folded lines joined, as they are printed."""
    return " ".join(re.sub(r"[\"']\s*\n\s*f?[\"']", "", text).split())
