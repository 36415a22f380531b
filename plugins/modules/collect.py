#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Collect a device's field data."""

from __future__ import annotations

DOCUMENTATION = r"""
module: collect
short_description: Collect a device's field data
version_added: 0.1.0
description:
  - Copies what of a device's field data was not collected yet into a folder of the control node, by rsync over the
    connection's own ssh options and with strict host key checking, and verifies each picture by the SHA-256 that the
    device makes of its own.
  - A ledger in the hidden folder C(.collect) beside the pictures says what was collected; it is written after every
    batch, so that a run killed anywhere is continued by the next one. Nothing on the control node is replaced - a
    picture whose name another one has is kept beside it.
  - A picture that is being written, or younger than O(min_age), is left for the next time. One that is renamed on the
    device is renamed here, too.
  - Removes from the device only what is collected, still is on the control node byte for byte, and is older than
    O(keep_days).
  - Runs on the control node; M(edge.pi_fleet.field_data) is its half on the device.
options:
  path:
    description: Folder on the control node for the pictures of this device.
    type: path
    required: true
  labeled_path:
    description: Folder on the control node whose folders are categories; a picture that was moved there counts as kept.
    type: path
    required: true
  user:
    description: User on the device that rsync logs in as.
    type: str
    default: collect
  key:
    description: That user's private SSH key on the control node.
    type: path
    required: true
  min_age:
    description: Seconds; younger pictures are left for the next time.
    type: int
    default: 0
  keep_days:
    description: Days after which the device removes what was collected; 0 removes nothing.
    type: int
    default: 0
  again:
    description: Whether to collect again what was collected and is nowhere on the control node any more.
    type: bool
    default: false
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Says what it would collect.
    support: full
  diff_mode:
    description: The names that it returns are all there is to show.
    support: none
"""

EXAMPLES = r"""
- name: Collect the pictures
  edge.pi_fleet.collect:
    path: "{{ inventory_dir }}/field_data/{{ inventory_hostname }}"
    labeled_path: "{{ inventory_dir }}/labeled_field_data"
    key: "{{ inventory_dir }}/keys/collect"
    min_age: 60
"""

RETURN = r"""
collected:
  description: Names of the pictures that were collected, or would be in check mode.
  type: list
  elements: str
  returned: success
size:
  description: Bytes that were moved.
  type: int
  returned: success
renamed:
  description: How many pictures were renamed, as they were on the device.
  type: int
  returned: success
had:
  description: How many of the device's pictures had been collected before.
  type: int
  returned: success
beside:
  description: By name the other name that a picture got, as the control node has another picture of that name.
  type: dict
  returned: success
left:
  description: By name why a picture was not collected.
  type: dict
  returned: success
pruned:
  description: Names of the pictures that the device removed, or would in check mode.
  type: list
  elements: str
  returned: success
kept:
  description: By name why an old picture was not removed from the device.
  type: dict
  returned: success
"""
