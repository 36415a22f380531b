#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Keep the credentials of the local core."""

from __future__ import annotations

DOCUMENTATION = r"""
module: credentials
short_description: Keep the credentials of the local core
version_added: 0.1.0
description:
  - Leaves C(/etc/pi-fleet/private/localcore.json) (tokens, secrets, the core's name at the broker) and a file
    C(NAME.token) for each function, for root alone.
  - Tokens are made on the device and never leave it. A token that is there stays; that of a function which the group no
    longer has is removed.
  - Units that read what changed owe a restart, which M(edge.pi_fleet.units) carries out.
options:
  functions:
    description: The unit of each function, by the function's name.
    type: dict
    required: true
  secrets:
    description: What functions may read by V1's C(secretsmanager) client, by name.
    type: dict
    default: {}
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Says which files it would write or remove.
    support: full
  diff_mode:
    description: Shows nothing, as all of it is secret.
    support: none
"""

EXAMPLES = r"""
- name: Keep the credentials of the local core
  edge.pi_fleet.credentials:
    functions:
      beverage_classifier: lambda@beverage_classifier.service
    secrets: "{{ local_core_secrets }}"
"""

RETURN = r"""
written:
  description: Names of files that were written or removed, or would be in check mode.
  type: list
  elements: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge.pi_fleet.plugins.module_utils.credentials import Credentials, apply
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "functions": {"type": "dict", "required": True},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    credentials = Credentials(Device(module.run_command), wanted["functions"], wanted["secrets"])
    try:
        written = apply(credentials, module.check_mode)
    except OSError as error:
        module.fail_json(msg=f"The credentials of the local core cannot be written ({error}): mend it and run again.")
    module.exit_json(changed=bool(written), written=written)


if __name__ == "__main__":
    main()
