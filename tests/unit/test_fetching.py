"""Wheels on the control node: fetched for whichever device needs them first, and never passed on unless whole."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WHEEL = b"a wheel \xff\x00"
FOUND = {"none": None, "cut off": WHEEL[:-1], "whole": WHEEL}


def play(folder: Path, role: str, task: dict[str, Any], pip: Path) -> dict[str, Any]:
    """Return a play of the task for three devices of which the first does not need it, with pip played."""
    command = {"argv": [str(pip), *task["ansible.builtin.command"]["argv"][1:]]}
    return {
        "hosts": "all",
        "gather_facts": False,
        "vars": {
            "ansible_python_interpreter": sys.executable,
            "role_path": str(pip.parent),
            f"{role}_cache": str(folder),
            f"__{role}_wheel": str(folder / "x.whl"),
        },
        "tasks": [
            {**task, "ansible.builtin.command": command, "when": ["inventory_hostname != 'a'", *task["when"]]},
        ],
    }


@pytest.mark.parametrize(("role", "tasks"), [("greengrass_sdk", "main"), ("pull", "present")])
def test_the_first_device_that_needs_a_wheel_fetches_it_unless_it_is_whole(
    tmp_path: Path, role: str, tasks: str
) -> None:
    (task, *_) = yaml.safe_load((ROOT / "roles" / role / "tasks" / f"{tasks}.yml").read_text())
    (tmp_path / "files").mkdir()
    pinned = f"x==1 --hash=sha256:{hashlib.sha256(WHEEL).hexdigest()}\n"
    (tmp_path / "files" / "requirements.txt").write_text(pinned)
    pip = tmp_path / "pip"
    pip.write_text(
        f"#!{sys.executable}\nimport pathlib, sys\nfolder = pathlib.Path(sys.argv[-1].removeprefix('--dest='))\n"
        f"(folder / 'x.whl').write_bytes({WHEEL!r})\n(folder / 'calls').open('a').write(sys.argv[3] + '\\n')\n"
    )
    pip.chmod(0o755)
    plays = []
    for name, found in FOUND.items():
        (tmp_path / name).mkdir()
        if found is not None:
            (tmp_path / name / "x.whl").write_bytes(found)
        plays.append(play(tmp_path / name, role, task, pip))
    (tmp_path / "play.yml").write_text(yaml.safe_dump(plays))
    done = subprocess.run(
        ["ansible-playbook", "-i", "a,b,c,", "-c", "local", str(tmp_path / "play.yml")],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {name: (tmp_path / name / "x.whl").read_bytes() for name in FOUND} == dict.fromkeys(FOUND, WHEEL)
    calls = {name: (tmp_path / name / "calls").read_text() for name in FOUND if (tmp_path / name / "calls").exists()}
    assert calls == {"none": "download\n", "cut off": "download\n"}
