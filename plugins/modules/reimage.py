#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Rescue what a device's card holds, and put it back on the new one."""

from __future__ import annotations

DOCUMENTATION = r"""
module: reimage
short_description: Rescue what a device's card holds, and put it back on the new one
version_added: 0.1.0
description:
  - V(rescue) collects all field data and the files that O(keeps) names, and verifies each byte by SHA-256 on the
    control node, before it says that the card may be written anew. V(lost) goes by the last collection instead, without
    the device, and says what cannot be known.
  - V(recognise) refuses a device that still has its old card, by the name that V(rescue) gave it. V(put_back) puts
    field data and files back and has the device hash them. V(done) closes the matter.
  - The state is a file in O(state_path), so that what was killed is continued.
  - Runs on the control node; M(edge.pi_fleet.field_data) and M(edge.pi_fleet.kept) are its halves on the device.
options:
  step:
    description: What to do.
    type: str
    choices: [rescue, lost, recognise, put_back, done]
    required: true
  state_path:
    description: Folder on the control node for the state of this device's reimaging and for the files that are kept.
    type: path
    required: true
  keeps:
    description:
      - Files and folders of the device to keep besides its field data. An archive that holds anything else is refused,
        when it arrives and before it is put back.
    type: list
    elements: path
    default: []
  path:
    description: See M(edge.pi_fleet.collect).
    type: path
    required: true
  labeled_path:
    description: See M(edge.pi_fleet.collect).
    type: path
    required: true
  user:
    description: See M(edge.pi_fleet.collect).
    type: str
    default: collect
  key:
    description: See M(edge.pi_fleet.collect).
    type: path
    required: true
  min_age:
    description: See M(edge.pi_fleet.collect).
    type: int
    default: 0
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Says what it would collect; writes nothing.
    support: partial
  diff_mode:
    description: What is kept may be secret.
    support: none
"""

EXAMPLES = r"""
- name: Rescue what is on the card
  edge.pi_fleet.reimage:
    step: rescue
    state_path: "{{ inventory_dir }}/reimage/{{ inventory_hostname }}"
    keeps: [/home/pi/notes]
    path: "{{ inventory_dir }}/field_data/{{ inventory_hostname }}"
    labeled_path: "{{ inventory_dir }}/labeled_field_data"
    key: "{{ inventory_dir }}/keys/collect"
"""

RETURN = r"""
said:
  description: What is on the control node, and whether the card may be written anew.
  type: str
  returned: with V(rescue) and V(lost)
moved:
  description: How many pictures were put back.
  type: int
  returned: with V(put_back)
restored:
  description: Paths that were put back.
  type: list
  elements: str
  returned: with V(put_back)
left:
  description: By name why a picture was not put back.
  type: dict
  returned: with V(put_back)
"""
