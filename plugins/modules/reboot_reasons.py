#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Say why a device needs a reboot."""

from __future__ import annotations

DOCUMENTATION = r"""
module: reboot_reasons
short_description: Say why a device needs a reboot
version_added: 0.1.0
description:
  - Compares what is configured on the device with what its kernel does, so the answer does not depend on
    the run that configured it. Changes nothing.
options:
  state_path:
    description:
      - File on the device that keeps what M(edge.pi_fleet.swap) found before its first change.
    type: path
    default: /var/lib/pi-fleet/swap.json
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Only reads.
    support: full
  diff_mode:
    description: Has nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Ask the device why it needs a reboot
  edge.pi_fleet.reboot_reasons:
  register: found

- name: Say so
  ansible.builtin.debug:
    msg: "{{ found.reasons }}"
"""

RETURN = r"""
reasons:
  description: One sentence for each thing that starts with the next boot.
  returned: success
  type: list
  elements: str
  sample: ["swap: 1000 MiB by rpi-swap are configured and start with the next boot"]
container:
  description: Whether the device is a container; then there are no reasons, since its boot starts no kernel.
  returned: success
  type: bool
  sample: false
waits:
  description: What is configured and can never act in a container.
  returned: success
  type: list
  elements: str
  sample: []
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, DeviceError
from ansible_collections.edge.pi_fleet.plugins.module_utils.kernel_cmdline import (
    cmdline_reboot_reason,
    cmdline_waits,
)
from ansible_collections.edge.pi_fleet.plugins.module_utils.swap import swap_reboot_reason, swap_waits


def main() -> None:
    """Ask each of the two that may need a boot."""
    module = AnsibleModule(
        argument_spec={"state_path": {"type": "path", "default": "/var/lib/pi-fleet/swap.json"}},
        supports_check_mode=True,
    )
    device = Device(module.run_command)
    try:
        reasons = [swap_reboot_reason(device, module.params["state_path"]), cmdline_reboot_reason(device)]
        waits = [swap_waits(device), cmdline_waits(device)]
        container = device.is_container()
    except (DeviceError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=False,
        reasons=[reason for reason in reasons if reason],
        container=container,
        waits=[wait for wait in waits if wait],
    )


if __name__ == "__main__":
    main()
