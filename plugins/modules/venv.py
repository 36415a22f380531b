#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Keep a virtual environment and the wheels in it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: venv
short_description: Keep a virtual environment and the wheels in it
version_added: 0.1.0
description:
  - Makes a virtual environment that sees the system's Python packages, and installs wheels into it from a folder on
    the device, without a network and without their dependencies.
  - Reads the file system where M(ansible.builtin.pip) starts pip, so a run that changes nothing costs a Pi one module
    execution of a few milliseconds; it needs no Python package on the device and is right in check mode before the
    environment exists.
  - An environment that is half-made, or of a Python that an upgrade of the release replaced, is made anew; files of a
    wheel that were changed are put back.
options:
  path:
    description: Directory of the environment.
    type: path
    required: true
  wheels:
    description: Folder on the device that holds the wheels.
    type: path
    required: true
  distributions:
    description: What shall be installed, by name to version.
    type: dict
    required: true
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Says whether it would make the environment or install a wheel.
    support: full
  diff_mode:
    description: Shows the versions before and after.
    support: full
"""

EXAMPLES = r"""
- name: Install the Greengrass SDK
  edge.pi_fleet.venv:
    path: /opt/pi-fleet/venv
    wheels: /opt/pi-fleet/wheels/greengrass_sdk/current
    distributions:
      greengrasssdk: 1.6.1
"""

RETURN = r"""
installed:
  description: Distributions that were installed by this run, or would be in check mode.
  type: list
  elements: str
  returned: success
"""

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge.pi_fleet.plugins.module_utils.venv import Venv, VenvError


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "wheels": {"type": "path", "required": True},
            "distributions": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    # Every user imports from the environment, whatever root's umask is.
    os.umask(0o022)
    venv, wheels = Venv(Path(module.params["path"])), Path(module.params["wheels"])
    wanted: dict[str, str] = module.params["distributions"]
    usable = venv.is_usable()
    problems = {name: venv.problem(name, version) for name, version in wanted.items()}
    if not usable:
        problems = {name: problem or "no environment" for name, problem in problems.items()}
    missing = [name for name, problem in problems.items() if problem]
    result = {
        "changed": not usable or bool(missing),
        "installed": missing,
        "diff": {
            "before": "".join(f"{name}: {problems[name] or version}\n" for name, version in wanted.items()),
            "after": "".join(f"{name}: {version}\n" for name, version in wanted.items()),
        },
    }
    if module.check_mode:
        module.exit_json(**result)
    try:
        if not usable:
            venv.create(module.run_command)
        for name in missing:
            venv.install(module.run_command, name, wanted[name], wheels)
            problem = venv.problem(name, wanted[name])
            if problem:
                raise VenvError(f"{name} {wanted[name]} was installed but is not whole: {problem}; run again.")
    except VenvError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
