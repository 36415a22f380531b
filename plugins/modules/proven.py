#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Remember which releases were proven."""

from __future__ import annotations

DOCUMENTATION = r"""
module: proven
short_description: Remember the releases that run now as those to go back to
version_added: 0.1.0
description:
  - Adds the current releases of Lambdas, models and the local core to the history in
    C(/var/lib/pi-fleet/releases.json), for M(edge.pi_fleet.rollback).
  - Reports no change, as what it remembers is what the run has changed.
options: {}
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Remembers nothing.
    support: full
  diff_mode:
    description: Changes nothing that is managed.
    support: none
"""

EXAMPLES = r"""
- name: Keep these releases as the ones to go back to
  edge.pi_fleet.proven:
"""

RETURN = r"""
releases:
  description: The current releases.
  type: dict
  returned: success
ansible_facts:
  description: C(pi_fleet_unproven), which is false now.
  type: dict
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge.pi_fleet.plugins.module_utils import history
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, DeviceError
from ansible_collections.edge.pi_fleet.plugins.module_utils.release import ReleaseError


def main() -> None:
    """Entry point."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    device = Device(module.run_command)
    try:
        releases = history.running(history.stores(device))
        if not module.check_mode:
            history.write(device, [*history.read(device), releases])
    except (DeviceError, ReleaseError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(
            msg=f"{history.FILE} could not be written: {error}; free space or mend the card, and run again."
        )
    module.exit_json(changed=False, releases=releases, ansible_facts=history.PROVEN)


if __name__ == "__main__":
    main()
