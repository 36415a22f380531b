#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Keep systemd units as they are written."""

from __future__ import annotations

DOCUMENTATION = r"""
module: units
short_description: Keep systemd units as they are written
version_added: 0.1.0
description:
  - Writes units below C(/etc/systemd/system), lets systemd read them, enables them and has them run what is written,
    in one module execution.
  - M(ansible.builtin.template) and M(ansible.builtin.systemd_service) take two and one a unit, lose the restart when a
    run is killed before its handlers, and fail in check mode on a unit that is not there yet.
options:
  files:
    description: Text of each file, by its name below C(/etc/systemd/system); drop-ins are C(UNIT.d/NAME.conf).
    type: dict
    required: true
  enable:
    description: Units that shall be enabled and active, and that are restarted when a file changes.
    type: list
    elements: str
    required: true
  retire:
    description:
      - Patterns of units below C(/etc/systemd/system), such as C(lambda@*). Those that match and are not in O(keep) are
        stopped, disabled and removed.
    type: list
    elements: str
    default: []
  keep:
    description: Names of units that O(retire) leaves alone.
    type: list
    elements: str
    default: []
  configuration:
    description:
      - Files that the units read. The units are restarted when one of them changes.
      - Their text is never shown, as it may hold secrets.
      - Each has C(path) and C(content), and may have C(owner) and C(group) (both V(root)) and C(mode) (V(0600)).
      - A list as JSON text. Of a list itself Ansible logs on the device what has more than one line.
    type: json
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Says whether it would write, enable, start or restart anything.
    support: full
  diff_mode:
    description: Shows the files' text before and after.
    support: full
"""

EXAMPLES = r"""
- name: Keep the guard looking
  edge.pi_fleet.units:
    files:
      field-data-guard.service: "{{ lookup('ansible.builtin.template', 'field-data-guard.service.j2') }}"
      field-data-guard.timer: "{{ lookup('ansible.builtin.template', 'field-data-guard.timer.j2') }}"
    enable: [field-data-guard.timer]
"""

RETURN = r"""
written:
  description: Files that were written, or would be in check mode.
  type: list
  elements: str
  returned: success
retired:
  description: Units that were removed, or would be in check mode.
  type: list
  elements: str
  returned: success
ansible_facts:
  description: C(pi_fleet_unproven), which is true, for M(edge.pi_fleet.prove) to prove what runs now.
  type: dict
  returned: where something was changed
"""

import json

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge.pi_fleet.plugins.module_utils import history
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, DeviceError, read_text
from ansible_collections.edge.pi_fleet.plugins.module_utils.files import File
from ansible_collections.edge.pi_fleet.plugins.module_utils.units import FOLDER, Units


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "dict", "required": True},
            "enable": {"type": "list", "elements": "str", "required": True},
            "retire": {"type": "list", "elements": "str", "default": []},
            "keep": {"type": "list", "elements": "str", "default": []},
            "configuration": {"type": "json", "no_log": True},
        },
        supports_check_mode=True,
    )
    device = Device(module.run_command)
    given = module.params
    configuration = [
        File(**{"owner": "root", "group": "root", **each, "mode": int(each.get("mode", "0600"), 8)})
        for each in json.loads(given["configuration"] or "[]")
    ]
    units = Units(device, given["files"], given["enable"], configuration, given["retire"], given["keep"])
    retired = units.retired()
    differing = units.differing()
    try:
        differing_configuration = units.differing_configuration()
    except DeviceError as error:
        module.fail_json(msg=str(error))
    restart = bool(differing or differing_configuration) or units.owed()
    diff = [
        {
            "before_header": f"{FOLDER}/{name}",
            "after_header": f"{FOLDER}/{name}",
            "before": read_text(device.path(f"{FOLDER}/{name}")) or "",
            "after": units.files[name],
        }
        for name in differing
    ]
    changed = bool(restart or retired or units.not_enabled() or units.not_active())
    try:
        if changed and not module.check_mode:
            units.remove(retired)
            units.write(differing, differing_configuration)
            units.activate(restart)
    except (DeviceError, OSError) as error:
        module.fail_json(msg=str(error))
    written = [*differing, *(each.path for each in differing_configuration)]
    facts = {"ansible_facts": history.FACT} if changed and not module.check_mode else {}
    module.exit_json(changed=changed, written=written, retired=retired, diff=diff, **facts)


if __name__ == "__main__":
    main()
