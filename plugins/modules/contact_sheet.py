#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Make a contact sheet of what was collected."""

from __future__ import annotations

DOCUMENTATION = r"""
module: contact_sheet
short_description: Make a contact sheet of what was collected
version_added: 0.1.0
description:
  - Writes an HTML page with thumbnails of all collected pictures that no page shows yet, with their predictions,
    confidence, device and time. The page needs no other file and no script, and links to the pictures beside it.
  - More than 1000 pictures make several pages.
  - Runs on the control node alone, with Pillow.
options:
  path:
    description: Folder in which there is a folder of each device, and in which the page is written.
    type: path
    required: true
  hosts:
    description: Names of the devices.
    type: list
    elements: str
    required: true
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Makes no page.
    support: full
  diff_mode:
    description: A page is not shown as text.
    support: none
"""

EXAMPLES = r"""
- name: Make a contact sheet of what no sheet shows yet
  edge.pi_fleet.contact_sheet:
    path: "{{ inventory_dir }}/field_data"
    hosts: "{{ ansible_play_hosts_all }}"
  run_once: true
"""

RETURN = r"""
sheets:
  description: The pages that were written.
  type: list
  elements: str
  returned: success
"""
