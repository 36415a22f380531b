#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Compare a device with what it should be."""

from __future__ import annotations

DOCUMENTATION = r"""
module: verify
short_description: Compare a device with what it should be
version_added: 0.1.0
description:
  - Carries out all checks in one module execution and changes nothing.
  - Does not fail where something is wrong; role M(edge.pi_fleet.verify) does, after it has shown the table.
options:
  checks:
    description:
      - What to look at. Each has C(role), C(check) (the text that is shown), C(kind), and what the kind asks for.
      - The kinds are C(path), C(user), C(group), C(sysctl), C(package), C(unit), C(import), C(release),
        C(distribution), C(units), C(swap), C(kernel_cmdline), C(memory_controller), C(camera), C(listening),
        C(loopback), C(host_key), C(hostname), C(first_boot), C(pull) and C(answer).
    type: list
    elements: dict
    required: true
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Changes nothing in any mode.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
"""

EXAMPLES = r"""
- name: Is the field data folder as it should be?
  edge.pi_fleet.verify:
    checks:
      - role: field_data
        check: folder of the field data
        kind: path
        path: /home/ggc_user/raw_field_data
        state: directory
        owner: ggc_user
        group: ggc_group
        mode: "2770"
"""

RETURN = r"""
rows:
  description: A row a check.
  type: list
  elements: dict
  returned: success
  contains:
    role:
      description: The role that leaves it behind.
      type: str
    check:
      description: What was looked at.
      type: str
    found:
      description: What is there.
      type: str
    wanted:
      description: What should be there.
      type: str
    ok:
      description: Whether the two agree.
      type: bool
table:
  description: The rows as lines of text.
  type: list
  elements: str
  returned: success
wrong:
  description: One sentence for each check that is not right.
  type: list
  elements: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device
from ansible_collections.edge.pi_fleet.plugins.module_utils.verify import CHECKS, table, verify


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={"checks": {"type": "list", "elements": "dict", "required": True}},
        supports_check_mode=True,
    )
    checks = module.params["checks"]
    unknown = sorted({check["kind"] for check in checks} - CHECKS.keys())
    if unknown:
        module.fail_json(msg=f"There is no check of the kind {', '.join(unknown)}: one of {', '.join(CHECKS)}.")
    rows = verify(Device(module.run_command), checks)
    wrong = [
        f"{row['role']}: {row['check']}: found {row['found']}, wanted {row['wanted']}" for row in rows if not row["ok"]
    ]
    module.exit_json(changed=False, rows=rows, table=table(rows), wrong=wrong)


if __name__ == "__main__":
    main()
