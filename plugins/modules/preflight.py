#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Refuse a device that a run would fail on."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Refuse a device that a run would fail on
version_added: 0.1.0
description:
  - Changes nothing. Ends in sentences that say what stops the run, what was found, what was wanted and what to do.
  - First asks the device over SSH with a shell alone, so that an unreachable host, a wrong sudo password, a release
    that is too old for Ansible's modules, an ARMv6 board and a wrong clock are told apart; then looks at apt and the
    disk. Waits while apt is held, as it is on a card that updates itself after its first boot.
options:
  apt_timeout:
    description: Seconds to wait while somebody else holds apt.
    type: int
    default: 300
  disk_free:
    description: MiB that a provisioned device must have free.
    type: int
    default: 100
  field_data_min_free:
    description:
      - What the guard of field data keeps free, as role field_data takes it. While less is free, the guard would stop
        what a run starts.
      - The control node adds what that role is given.
    type: str
    default: ""
  install_free:
    description: MiB that it must have free while I(install_packages) are not all installed.
    type: int
    default: 1000
  install_packages:
    description: The packages that take the most room.
    type: list
    elements: str
    default: []
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Changes nothing in any mode. A dry run also needs the package lists, if anything is to be installed.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
"""

EXAMPLES = r"""
- name: Refuse what cannot be provisioned
  edge.pi_fleet.preflight:
    install_packages: [python3-opencv]
"""

RETURN = r"""
ansible_facts:
  description: C(pi_fleet_preflight), for the roles that follow.
  type: dict
  returned: success
  contains:
    pi_fleet_preflight:
      description: What the device is.
      type: dict
      contains:
        release:
          description: Code name of its Debian release.
          type: str
        architecture:
          description: Architecture of its userland, by Debian's name.
          type: str
        offline:
          description: The bundle of packages that its apt uses; empty where it uses archives.
          type: str
        needed:
          description: MiB that the run needs free on C(/), by O(install_free) or O(disk_free).
          type: int
        packages:
          description: >-
            Debian packages that are installed. None while one is half-installed, so that whoever installs any has apt
            finish it.
          type: list
          elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device
from ansible_collections.edge.pi_fleet.plugins.module_utils.preflight import (
    apt_holder,
    disk_refusal,
    guard_refusal,
    installed,
    lists_refusal,
    wait_for_apt,
)

MIB = 1024 * 1024


def main() -> None:
    """Entry point of the part that runs on the device; the action plugin of the same name has asked the rest."""
    module = AnsibleModule(
        argument_spec={
            "apt_timeout": {"type": "int", "default": 300},
            "disk_free": {"type": "int", "default": 100},
            "field_data_min_free": {"type": "str", "default": ""},
            "install_free": {"type": "int", "default": 1000},
            "install_packages": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    device = Device(module.run_command)
    packages, unfinished = installed(device)
    missing = bool(set(module.params["install_packages"]) - set(packages))
    if missing:
        needed, what = module.params["install_free"], "to install what is missing"
    else:
        needed, what = module.params["disk_free"], "to work"
    full = disk_refusal(device.free_bytes(device.path("/")) // MIB, needed, what)
    full = full or guard_refusal(device, module.params["field_data_min_free"])
    found = [
        full,
        # Who is refused anyhow is not kept waiting.
        None if full else wait_for_apt(lambda: apt_holder(device), module.params["apt_timeout"]),
        lists_refusal(device) if missing and module.check_mode else None,
    ]
    refused = [sentence for sentence in found if sentence]
    if refused:
        module.fail_json(msg=" ".join(refused))
    module.exit_json(changed=False, needed=needed, packages=[] if unfinished else packages)


if __name__ == "__main__":
    main()
