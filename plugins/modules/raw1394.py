#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Have /dev/raw1394 as a second /dev/null."""

from __future__ import annotations

DOCUMENTATION = r"""
module: raw1394
short_description: Have /dev/raw1394 as a second /dev/null
version_added: 0.1.0
description:
  - Owns a file in C(/etc/tmpfiles.d) that makes C(/dev/raw1394) at every boot, and makes it now if it is
    not right. In a rootless container nobody can make it; there the file alone is written.
  - A device with real FireWire hardware there is left alone.
options: {}
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
- name: Have /dev/raw1394 after every boot
  edge.pi_fleet.raw1394:
"""

RETURN = r"""
found:
  description: >-
    What was at C(/dev/raw1394); V(absent), V(null), V(null with other rights), V(real) hardware, or
    V(activation waits: container) where nobody can make it.
  returned: success
  type: str
  sample: absent
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import (
    Device,
    DeviceError,
    read_text,
    write_text,
)
from ansible_collections.edge.pi_fleet.plugins.module_utils.raw1394 import CONFIG, NODE, TEXT, WAITS, probe


def main() -> None:
    """Write the file, apply it, and look again."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    device = Device(module.run_command)
    path = device.path(CONFIG)
    try:
        found = probe(device)
        if found == "real":
            module.exit_json(changed=False, found=found)
        before = read_text(path)
        if before != TEXT and not module.check_mode:
            write_text(path, TEXT, mode=0o644)
        right = found in ("null", WAITS)
        if not right and not module.check_mode:
            device.command("systemd-tmpfiles", "--create", CONFIG)
            if probe(device) != "null":
                raise DeviceError(f"{NODE} was to be made by {CONFIG} and is {probe(device)}: look at the journal.")
    except (DeviceError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=before != TEXT or not right,
        diff={"before": before or "", "after": TEXT, "before_header": CONFIG, "after_header": CONFIG},
        found=found,
    )


if __name__ == "__main__":
    main()
