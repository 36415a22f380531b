#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Say which field data a device has, and remove what was collected."""

from __future__ import annotations

DOCUMENTATION = r"""
module: field_data
short_description: Say which field data a device has, and remove what was collected
version_added: 0.1.0
description:
  - Lists the pictures in the folder of the field data, says the SHA-256 of those that are named, or removes those whose
    SHA-256 still is the given one, or puts pictures back that a reimaged card lost.
  - Hidden files, which are pictures that are being written, are no field data yet. A picture that somebody has open for
    writing has no sum and is not removed. Links are not followed.
  - M(edge.pi_fleet.collect) asks it, on the control node's behalf.
options:
  min_age:
    description: Seconds; younger pictures are left out, as one of them may be about to be named or discarded.
    type: int
    default: 0
  sums:
    description: Names of the pictures whose SHA-256 is wanted, relative to the folder. Nothing is listed then.
    type: list
    elements: str
  remove:
    description: SHA-256 of the pictures that are to be removed, by name. Nothing is listed then.
    type: dict
  put:
    description: An archive on the device with pictures that are to be put back. Nothing is listed then.
    type: path
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Says what it would remove.
    support: full
  diff_mode:
    description: The names that it returns are all there is to show.
    support: none
"""

EXAMPLES = r"""
- name: List the field data
  edge.pi_fleet.field_data:
    min_age: 60
  register: field_data

- name: Ask for their sums
  edge.pi_fleet.field_data:
    sums: "{{ field_data.pictures.keys() | list }}"
"""

RETURN = r"""
pictures:
  description: By name a list of inode, bytes, and the nanoseconds of the last change to the content and to the inode.
  type: dict
  returned: when pictures are listed
sums:
  description: By name a list of the SHA-256 and what V(pictures) says of it.
  type: dict
  returned: when sums are asked for
done:
  description: Names of the pictures that were put back.
  type: list
  elements: str
  returned: when pictures are put back
removed:
  description: Names of the pictures that were removed, or would be in check mode.
  type: list
  elements: str
  returned: when pictures are to be removed
left:
  description: By name why a picture was left out.
  type: dict
  returned: success
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge.pi_fleet.plugins.module_utils.field_data import FieldData, FieldDataError


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "min_age": {"type": "int", "default": 0},
            "sums": {"type": "list", "elements": "str"},
            "remove": {"type": "dict"},
            "put": {"type": "path"},
        },
        mutually_exclusive=[("sums", "remove", "put")],
        supports_check_mode=True,
    )
    wanted, field_data = module.params, FieldData()
    result: dict[str, Any] = {}
    try:
        if wanted["remove"] is not None:
            result["removed"], result["left"] = field_data.remove(wanted["remove"], module.check_mode)
        elif wanted["sums"] is not None:
            result["sums"], result["left"] = field_data.sums(wanted["sums"])
        elif wanted["put"] is not None:
            result["done"], result["left"] = ([], {}) if module.check_mode else field_data.put(Path(wanted["put"]))
        else:
            found = field_data.find(wanted["min_age"])
            result["pictures"], result["left"] = found.pictures, found.left
    except FieldDataError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"The field data cannot be read ({error}): mend it and run again.")
    module.exit_json(changed=bool(result.get("removed") or result.get("done")), **result)


if __name__ == "__main__":
    main()
