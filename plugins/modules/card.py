#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Write what a first boot reads onto a card."""

from __future__ import annotations

DOCUMENTATION = r"""
module: card
short_description: Write what a first boot reads onto a card
version_added: 0.1.0
description:
  - Writes a seed into the boot partition of a freshly flashed card, mounted on the control node, or into a folder.
    Which one, depends on the image - cloud-init's where the image has cloud-init's files, else firstrun.sh.
  - Files that neither the image nor pi-fleet wrote are refused. C(cmdline.txt) stays one line.
  - Runs on the control node alone.
options:
  path:
    description: Where the boot partition is mounted, or a folder.
    type: path
    required: true
  release:
    description: The release that the image is of; V(auto) looks.
    type: str
    choices: [auto, bookworm, trixie]
    default: auto
  seeds:
    description: For each release the text of each file, by its name.
    type: dict
    required: true
  cmdline:
    description: Words that C(cmdline.txt) shall have, where firstrun.sh is used.
    type: str
    default: ""
  replace:
    description: Whether to replace files that somebody else wrote.
    type: bool
    default: false
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Says which files it would write.
    support: full
  diff_mode:
    description: Names the files; what is in them is secret.
    support: full
"""

EXAMPLES = r"""
- name: Write the seed
  edge.pi_fleet.card:
    path: /media/me/bootfs
    seeds:
      trixie:
        user-data: "{{ user_data }}"
        meta-data: "{{ meta_data }}"
      bookworm:
        firstrun.sh: "{{ firstrun }}"
"""

RETURN = r"""
release:
  description: The release whose seed was written.
  type: str
  returned: success
written:
  description: Names of the files that were written, or would be in check mode.
  type: list
  elements: str
  returned: success
"""
