#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Save files of a device into an archive, and put them back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kept
short_description: Save files of a device into an archive, and put them back
version_added: 0.1.0
description:
  - Writes files and folders, with owners, modes and times, into an archive on the device and says the SHA-256 of each,
    or puts back what an archive holds.
  - Putting back replaces nothing. What the new card has instead is kept beside it, as C(NAME.new-card).
  - M(edge.pi_fleet.reimage) asks it, on the control node's behalf.
options:
  archive:
    description: The archive, on the device; without it nothing is saved or put back.
    type: path
  paths:
    description: Files and folders to save.
    type: list
    elements: path
    default: []
  card:
    description: A name for this card, if it has none yet.
    type: str
    default: ""
  restore:
    description: SHA-256 of the files that the archive holds, by path; given, they are put back.
    type: dict
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Saves and puts back nothing.
    support: partial
  diff_mode:
    description: What is kept may be secret.
    support: none
"""

EXAMPLES = r"""
- name: Save what a user made
  edge.pi_fleet.kept:
    archive: /run/kept.tar
    paths: [/home/pi/notes]
"""

RETURN = r"""
files:
  description: SHA-256 by path of what was saved.
  type: dict
  returned: when files are saved
missing:
  description: Paths that are not there.
  type: list
  elements: str
  returned: when files are saved
restored:
  description: Paths that were put back.
  type: list
  elements: str
  returned: when files are put back
card:
  description: The name of this card; empty if it has none, as one that was written anew.
  type: str
  returned: success
"""

import tarfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device
from ansible_collections.edge.pi_fleet.plugins.module_utils.kept import KeptError, card, restore, save


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "archive": {"type": "path"},
            "paths": {"type": "list", "elements": "path", "default": []},
            "card": {"type": "str", "default": ""},
            "restore": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    wanted, device = module.params, Device(module.run_command)
    try:
        name = card(device, "" if module.check_mode else wanted["card"])
        result: dict[str, Any] = {"card": name}
        if wanted["archive"] and not module.check_mode:
            archive = Path(wanted["archive"])
            if wanted["restore"] is not None:
                result["restored"] = restore(device, archive, wanted["restore"])
            else:
                saved = save(device, wanted["paths"], archive)
                result["files"], result["missing"] = saved.files, saved.missing
    except KeptError as error:
        module.fail_json(msg=str(error))
    except (OSError, tarfile.TarError) as error:
        module.fail_json(msg=f"What reimage_keeps names cannot be read or written ({error}): mend it and run again.")
    module.exit_json(changed=bool(result.get("restored")), **result)


if __name__ == "__main__":
    main()
