#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Have flags on the kernel's command line."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kernel_cmdline
short_description: Have flags on the kernel's command line
version_added: 0.1.0
description:
  - Adds flags to the first line of the C(cmdline.txt) that the firmware reads
    (C(/boot/firmware/cmdline.txt), or C(/boot/cmdline.txt) on older images, never the file there that only
    points to the new place). All other text stays.
  - A system without that file, such as a plain Debian, is left alone and said so.
  - Fails if the line says the opposite of a flag, since that text is a user's.
options:
  flags:
    description:
      - Words that the line shall have. Those it lacks are added at its end.
    type: list
    elements: str
    required: true
  validate_only:
    description:
      - Refuse what cannot be done, and change nothing. On a device with a state record words that contradict a flag
        are no refusal, since site.yml takes away those that were added.
    type: bool
    default: false
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
- name: Have the memory controller on
  edge.pi_fleet.kernel_cmdline:
    flags: [cgroup_enable=memory, cgroup_memory=1]
"""

RETURN = r"""
path:
  description: The file; null where there is none.
  returned: not O(validate_only)
  type: str
  sample: /boot/firmware/cmdline.txt
activation:
  description: >-
    V(active); V(next_boot) where a boot is needed; V(waits) in a container;
    V(absent) without a cmdline.txt.
  returned: not O(validate_only)
  type: str
  sample: next_boot
flags_missing_at_boot:
  description: Flags that the running kernel was not started with.
  returned: not O(validate_only)
  type: list
  elements: str
  sample: [cgroup_memory=1]
memory_controller:
  description: Whether the kernel can limit the memory of a unit.
  returned: not O(validate_only)
  type: bool
  sample: false
reboot_required:
  description: Whether the flags wait for a boot, and the memory controller is off without them.
  returned: not O(validate_only)
  type: bool
  sample: true
message:
  description: All of it in one sentence.
  returned: not O(validate_only)
  type: str
  sample: the flags are on the line of /boot/firmware/cmdline.txt and act from the next boot on
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, DeviceError, write_text
from ansible_collections.edge.pi_fleet.plugins.module_utils.kernel_cmdline import message, validate, want


def main() -> None:
    """Compare, and write unless in check mode."""
    module = AnsibleModule(
        argument_spec={
            "flags": {"type": "list", "elements": "str", "required": True},
            "validate_only": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    device = Device(module.run_command)
    try:
        if module.params["validate_only"]:
            validate(device, module.params["flags"])
            module.exit_json(changed=False)
        wanted = want(device, module.params["flags"])
        changed = wanted.before != wanted.after
        if wanted.path is not None and changed and not module.check_mode:
            write_text(wanted.path, wanted.after)
    except (DeviceError, OSError) as error:
        module.fail_json(msg=str(error))
    if wanted.lost:
        module.warn(message(device, wanted))
    path = None if wanted.path is None else device.name(wanted.path)
    module.exit_json(
        changed=changed,
        diff={"before": wanted.before, "after": wanted.after, "before_header": path, "after_header": path},
        path=path,
        activation=wanted.activation,
        flags_missing_at_boot=wanted.missing_at_boot,
        memory_controller=wanted.controller,
        reboot_required=wanted.reboot_required,
        message=message(device, wanted),
    )


if __name__ == "__main__":
    main()
