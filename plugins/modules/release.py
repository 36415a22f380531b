#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Drop a release on a device."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Drop files on a device as an immutable release
version_added: 0.1.0
description:
  - Drops files of the control node as C(PATH/releases/HASH) and points the link C(PATH/current) to it in one step.
  - HASH is of the content alone (names, executable bits, bytes). A release that is on the device already costs one
    module execution and no transfer; one that was damaged there is replaced, or removed if another one is current.
  - A run killed at any point leaves the former release or the new one in place, never a part of one.
options:
  path:
    description: Directory on the device that holds C(releases) and C(current).
    type: path
    required: true
  src:
    description:
      - Files and folders of the control node. A folder whose path ends in C(/) gives its content, another one itself.
    type: list
    elements: str
    required: true
  patterns:
    description: Names of the files to take.
    type: list
    elements: str
    default: ["*"]
  keep:
    description:
      - How many releases stay on the device, the current one included. Of the others those stay that ran last, to go
        back to, then the newest.
    type: int
    default: 5
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Says whether it would add a release or move the link.
    support: full
  diff_mode:
    description: Shows where the link points before and after.
    support: full
"""

EXAMPLES = r"""
- name: Drop the Lambda
  edge.pi_fleet.release:
    path: /opt/pi-fleet/lambda/beverage_classifier
    src:
      - files/beverage_classifier/beverage_classifier
      - files/camera/pi_camera.py
"""

RETURN = r"""
release:
  description: Name of the release.
  type: str
  returned: success
former:
  description: Name of the release that C(current) pointed to before; empty if there was none.
  type: str
  returned: success
ansible_facts:
  description: C(pi_fleet_unproven), which is true, for M(edge.pi_fleet.prove) to prove the release.
  type: dict
  returned: where the release answers somebody, and is not what was proven last
"""

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge.pi_fleet.plugins.module_utils import history
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, DeviceError
from ansible_collections.edge.pi_fleet.plugins.module_utils.release import ReleaseError, Store


def main() -> None:
    """Entry point. The action plugin of the same name has hashed the files and sends what is missing."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "release": {"type": "str", "required": True},
            "archive": {"type": "path"},
            "keep": {"type": "int", "default": 5},
        },
        supports_check_mode=True,
    )
    # Every user reads releases, whatever root's umask is.
    os.umask(0o022)
    path, release, archive = (module.params[name] for name in ("path", "release", "archive"))
    store = Store(Path(path))
    try:
        former = store.current_identifier() or ""
        missing = not store.holds(release)
        name = history.store_name(path)
        latest = history.latest(history.read(Device(module.run_command)), name) if name else []
        # A run killed before its end leaves no more to do than this.
        surplus = store.surplus(module.params["keep"], latest)
        result = {
            "changed": missing or former != release or bool(surplus),
            "release": release,
            "former": former,
            "diff": {"before": f"{store.current} -> {former}\n", "after": f"{store.current} -> {release}\n"},
        }
        if module.check_mode:
            module.exit_json(**result)
        if name and release not in latest[:1]:
            result["ansible_facts"] = history.FACT
        if missing and not archive:
            module.exit_json(**result, wants_archive=True)
        if missing:
            store.unpack(release, Path(archive))
        if former != release:
            store.switch(release)
        if result["changed"]:
            store.prune(module.params["keep"], latest)
        module.exit_json(**result)
    except (ReleaseError, DeviceError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{store.path} could not be written: {error}; free space or mend the card, and run again.")


if __name__ == "__main__":
    main()
