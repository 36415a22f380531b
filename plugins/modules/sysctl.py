#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Have kernel settings now and after every boot."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sysctl
short_description: Have kernel settings now and after every boot
version_added: 0.1.0
description:
  - Owns one file for sysctl.d(5) and applies it if the kernel says something else now, so that a run killed
    between the two is healed by the next.
  - In a container only the file is written, since C(/proc/sys) is the host's.
options:
  path:
    description:
      - The file, all of it ours.
    type: path
    required: true
  settings:
    description:
      - Value of each setting by its dotted name.
    type: dict
    required: true
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Says what it would change.
    support: full
  diff_mode:
    description: Shows the file before and after.
    support: full
"""

EXAMPLES = r"""
- name: Protect links
  edge.pi_fleet.sysctl:
    path: /etc/sysctl.d/80-pi-fleet.conf
    settings:
      fs.protected_hardlinks: 1
      fs.protected_symlinks: 1
"""

RETURN = r"""
activation:
  description: V(active), or V(waits) in a container whose host says something else.
  returned: success
  type: str
  sample: active
differing:
  description: Value that the kernel had, for each setting that was not as wanted; null if it has no such one.
  returned: success
  type: dict
  sample: {}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import (
    Device,
    DeviceError,
    read_text,
    write_text,
)
from ansible_collections.edge.pi_fleet.plugins.module_utils.sysctl import differing, drop_in

APPLY = "/usr/lib/systemd/systemd-sysctl"


def main() -> None:
    """Write the file, apply it, and look again."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "settings": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    device = Device(module.run_command)
    settings = {name: str(value) for name, value in module.params["settings"].items()}
    path, after = device.path(module.params["path"]), drop_in(settings)
    try:
        before = read_text(path)
        found = differing(device, settings)
        container = bool(found) and device.is_container()
        apply = bool(found) and not container
        if before != after and not module.check_mode:
            write_text(path, after, mode=0o644)
        if apply and not module.check_mode:
            device.command(APPLY, device.name(path))
            left = differing(device, settings)
            if left:
                raise DeviceError(f"{path} was applied and the kernel says {left} all the same: remove what it lacks.")
    except (DeviceError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=before != after or apply,
        diff={
            "before": before or "",
            "after": after,
            "before_header": device.name(path),
            "after_header": device.name(path),
        },
        activation="waits" if container else "active",
        differing=found,
    )


if __name__ == "__main__":
    main()
