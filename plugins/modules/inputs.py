#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Check the inputs of roles before anything is touched."""

from __future__ import annotations

DOCUMENTATION = r"""
module: inputs
short_description: Check the inputs of roles before anything is touched
version_added: 0.1.0
description:
  - Compares each variable that roles of this collection take with the type and the choices that they document, for
    all roles at once and before the first device is asked. Ansible itself checks a role's inputs when it comes to it.
  - Runs on the control node alone.
options:
  roles:
    description: Names of roles of this collection.
    type: list
    elements: str
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
- name: Check the inputs of swap and camera
  edge.pi_fleet.inputs:
    roles: [swap, camera]
"""

RETURN = r""" # """
