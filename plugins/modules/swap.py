#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Give a device swap of a wanted size."""

from __future__ import annotations

DOCUMENTATION = r"""
module: swap
short_description: Give a device swap of a wanted size
version_added: 0.1.0
description:
  - Gives a device O(size) MiB of swap by the mechanism that it has, found by its files. C(rpi-swap) gets a
    drop-in of ours and acts at the next boot; C(dphys-swapfile) gets its two lines edited in the one file
    that it reads; a system with neither gets a file and a unit of ours.
  - The real state is probed (size and signature of the file, what the kernel swaps on), so a run that was
    killed at any point is healed by the next one.
  - Refuses, before anything is touched, what the disk cannot hold and what memory could not take back.
  - In a container only the configuration is written, since the kernel is the host's.
options:
  size:
    description:
      - MiB of swap.
      - With V(0) there is none. C(dphys-swapfile) has its unit disabled and its file removed, C(rpi-swap)
        is told V(none), and on other systems what is ours is removed.
    type: int
    required: true
  restore:
    description:
      - Put back what was configured before the first change, once. Nothing happens if nothing was changed.
    type: bool
    default: false
  restore_after_install:
    description:
      - Says that each run ends with O(restore). Once that has happened the former setting is what is
        wanted, so that later runs do not go back and forth.
    type: bool
    default: false
  validate_only:
    description:
      - Refuse what cannot be done, and change nothing.
    type: bool
    default: false
  stay_free:
    description:
      - MiB that a run needs on C(/) beside the swap. What would leave less there is refused, and so is what leaves less
        than 256 MiB wherever the swap file is.
    type: int
    default: 0
  state_path:
    description:
      - File on the device that keeps what was configured before.
    type: path
    default: /var/lib/pi-fleet/swap.json
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Says what it would change.
    support: full
  diff_mode:
    description: Shows the one file of configuration before and after.
    support: full
"""

EXAMPLES = r"""
- name: Have 1000 MiB of swap
  edge.pi_fleet.swap:
    size: 1000

- name: Have them during the installs only
  edge.pi_fleet.swap:
    size: 1000
    restore_after_install: true

- name: Go back to the former size at the end
  edge.pi_fleet.swap:
    size: 1000
    restore: true
"""

RETURN = r"""
mechanism:
  description: What the device has; C(rpi-swap), C(dphys-swapfile) or C(plain).
  returned: success
  type: str
  sample: dphys-swapfile
wanted_mib:
  description: MiB that are wanted; null where the mechanism works its former size out for itself.
  returned: success
  type: int
  sample: 1000
active_kib:
  description: KiB of the mechanism's swap file that the kernel uses; the file's header page is not counted.
  returned: success
  type: int
  sample: 1023996
activation:
  description: >-
    V(active); V(next_boot) where a boot is needed; V(waits) in a container, where it never comes.
  returned: success
  type: str
  sample: active
reboot_required:
  description: Whether what is configured starts with the next boot.
  returned: success
  type: bool
  sample: false
steps:
  description: What was done, or would be.
  returned: success
  type: list
  elements: str
  sample: ["keep the former size", "write /etc/rpi/swap.conf.d/80-pi-fleet.conf"]
message:
  description: All of it in one sentence.
  returned: success
  type: str
  sample: 1000 MiB of swap by rpi-swap from the next boot on
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, DeviceError
from ansible_collections.edge.pi_fleet.plugins.module_utils.swap import Request, make_plan, report


def main() -> None:
    """Plan, and carry the plan out unless only asked about it."""
    module = AnsibleModule(
        argument_spec={
            "size": {"type": "int", "required": True},
            "restore": {"type": "bool", "default": False},
            "restore_after_install": {"type": "bool", "default": False},
            "validate_only": {"type": "bool", "default": False},
            "stay_free": {"type": "int", "default": 0},
            "state_path": {"type": "path", "default": "/var/lib/pi-fleet/swap.json"},
        },
        supports_check_mode=True,
    )
    asked = {name: value for name, value in module.params.items() if name != "validate_only"}
    only_look = module.params["validate_only"] or module.check_mode
    try:
        plan = make_plan(Device(module.run_command), Request(**asked), dry=module.check_mode)
        if not only_look:
            plan.carry_out()
        stands = report(plan, done=not only_look or not plan.steps)
    except (DeviceError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=bool(plan.steps) and not module.params["validate_only"],
        diff=plan.diff(),
        steps=[step.what for step in plan.steps],
        **asdict(stands),
    )


if __name__ == "__main__":
    main()
