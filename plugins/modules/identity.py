#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Give a device its identity."""

from __future__ import annotations

DOCUMENTATION = r"""
module: identity
short_description: Give a device its identity
version_added: 0.1.0
description:
  - Installs the SSH host keys and the host name that the identity store on the control node has for the device, and
    then writes the keys into the inventory's known_hosts. Where the store has none, nothing is done.
  - sshd reads new keys only after C(sshd -t) has passed; if it does not pass, all is put back. Connections that stand
    are not touched.
  - Removes what a first boot left of the secrets of a seed that C(playbooks/card.yml) wrote, on the boot partition and
    in cloud-init's copies.
options:
  passwords:
    description: >-
      V(false) closes the login by password, by a drop-in of sshd; V(true) leaves it as it is, and closes it again where
      it was closed so, and somebody changed or removed the drop-in.
    type: bool
    default: true
  rotate:
    description: Whether to make new host keys first.
    type: bool
    default: false
  store:
    description: Folder of the identity store; C(identity_store), or C(identities) beside the inventory, if not given.
    type: path
  known_hosts:
    description: The inventory's known_hosts; C(identity_known_hosts), or the file beside the inventory, if not given.
    type: path
  hostname:
    description: Filled in by the action plugin of this name, from the store.
    type: str
    default: ""
  host_keys:
    description: Filled in by the action plugin of this name, from the store.
    type: dict
    default: {}
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Says what it would change.
    support: full
  diff_mode:
    description: Names what differs; keys are not shown.
    support: full
"""

EXAMPLES = r"""
- name: Give the device its identity
  edge.pi_fleet.identity:
"""

RETURN = r"""
differing:
  description: What was, or would be, changed on the device.
  type: list
  elements: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, DeviceError
from ansible_collections.edge.pi_fleet.plugins.module_utils.first_boot import FirstBoot
from ansible_collections.edge.pi_fleet.plugins.module_utils.identity import (
    PASSWORDS,
    HostKeyFile,
    Hostname,
    SshServer,
)
from ansible_collections.edge.pi_fleet.plugins.module_utils.state_observe import ABSENT
from ansible_collections.edge.pi_fleet.plugins.module_utils.state_record import load


def closed(device: Device) -> bool:
    """Say whether the login by password was closed before; of a drop-in that is gone the state record tells."""
    record, _ = load(device)
    known = record.roles["identity"].entries if "identity" in record.roles else {}
    return device.path(PASSWORDS).is_file() or known.get(f"path {PASSWORDS}", ABSENT) != ABSENT


def main() -> None:
    """Entry point of the part that runs on the device."""
    module = AnsibleModule(
        argument_spec={
            "passwords": {"type": "bool", "default": True, "no_log": False},
            "rotate": {"type": "bool", "default": False},
            "store": {"type": "path"},
            "known_hosts": {"type": "path"},
            "hostname": {"type": "str", "default": ""},
            "host_keys": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    device = Device(module.run_command)
    keys = {name: HostKeyFile(**key) for name, key in module.params["host_keys"].items()}
    server = SshServer(device, keys, module.params["passwords"] and not closed(device))
    hostname = Hostname(device, module.params["hostname"]) if module.params["hostname"] else None
    first_boot = FirstBoot(device)
    try:
        differing = [*server.differing(), *first_boot.left()]
        if hostname and hostname.differs():
            differing.append("host name")
        changed = bool(differing) or server.owed()
        if not module.check_mode:
            first_boot.clean()
            if server.differing() or server.owed():
                server.apply()
            if hostname and hostname.differs():
                hostname.apply()
    except (DeviceError, OSError) as error:
        module.fail_json(msg=str(error))
    diff = {"before": "", "after": "".join(f"{name}\n" for name in differing)}
    module.exit_json(changed=changed, differing=differing, diff=diff)


if __name__ == "__main__":
    main()
