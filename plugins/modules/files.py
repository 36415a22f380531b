#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Have files and folders as they shall be, many at once."""

from __future__ import annotations

DOCUMENTATION = r"""
module: files
short_description: Have files and folders as they shall be, many at once
version_added: 0.1.0
description:
  - Makes files and folders with their text, owner and mode, and removes what shall not be there, in one execution
    however many they are.
  - A file is replaced at once, so that a loss of power leaves the old one or the new one.
  - A link where a folder shall be is refused, not followed.
options:
  files:
    description: Files and folders, in the order in which they are made.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Where it is.
        type: str
        required: true
      state:
        description: Whether it is a file, a folder, or nothing, whatever was there.
        type: str
        choices: [file, directory, absent]
        default: file
      content:
        description: The text of a file, shown by C(--diff).
        type: str
        default: ""
      owner:
        description: Its owner.
        type: str
        default: root
      group:
        description: Its group.
        type: str
        default: root
      mode:
        description: Its mode, in octal digits; C(0644) for a file and C(0755) for a folder.
        type: str
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Says what it would make or remove.
    support: full
  diff_mode:
    description: Shows the files' text before and after.
    support: full
"""

EXAMPLES = r"""
- name: Make a folder, and a file in it
  edge.pi_fleet.files:
    files:
      - {path: /etc/pi-fleet, state: directory}
      - {path: /etc/pi-fleet/camera.json, content: "{}"}
"""

RETURN = r"""
made:
  description: Paths that were made otherwise or removed, or would be in check mode.
  type: list
  elements: str
  returned: success
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, DeviceError, read_text
from ansible_collections.edge.pi_fleet.plugins.module_utils.files import OPTIONS, Absent, File, Folder


def wanted(given: dict[str, Any]) -> File | Folder | Absent:
    """Return what an entry of the list describes."""
    path, owner, group = given["path"], given["owner"], given["group"]
    if given["state"] == "absent":
        return Absent(path)
    if given["state"] == "directory":
        return Folder(path, owner, group, int(given["mode"] or "0755", 8))
    return File(path, owner, group, int(given["mode"] or "0644", 8), given["content"])


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    **OPTIONS,
                    "state": {"type": "str", "choices": ["file", "directory", "absent"], "default": "file"},
                    "content": {"type": "str", "default": ""},
                    "mode": {"type": "str"},
                },
            }
        },
        supports_check_mode=True,
    )
    device = Device(module.run_command)
    made, diff = [], []
    try:
        differing = [each for each in map(wanted, module.params["files"]) if each.differs(device)]
        for each in differing:
            made.append(each.path)
            before = read_text(device.path(each.path)) or "" if isinstance(each, File) else ""
            after = each.content if isinstance(each, File) else ""
            if before != after:
                diff.append({"before_header": each.path, "after_header": each.path, "before": before, "after": after})
            if not module.check_mode:
                each.make(device)
    except (DeviceError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(made), made=made, diff=diff)


if __name__ == "__main__":
    main()
