#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Write what devices said of drift, as JSON and as a page."""

from __future__ import annotations

DOCUMENTATION = r"""
module: drift_report
short_description: Write what devices said of drift, as JSON and as a page
version_added: 0.1.0
description:
  - Writes a JSON file for each device, and C(index.html), one page about all of them that needs no other file and no
    script. Both are their owner's alone to read.
  - What was asked of a device is its variable C(__drift), which role edge.pi_fleet.drift registers. One without it did
    not answer.
  - The free disk of the last 100 reports is kept in a device's file, for the page's line.
  - Runs on the control node alone.
options:
  path:
    description: Folder in which the files are written.
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
    description: Writes nothing.
    support: full
  diff_mode:
    description: A page is not shown as text.
    support: none
"""

EXAMPLES = r"""
- name: Write the report
  edge.pi_fleet.drift_report:
    path: "{{ inventory_dir }}/drift"
    hosts: "{{ ansible_play_hosts_all }}"
  run_once: true
"""

RETURN = r"""
page:
  description: The page that was written.
  type: str
  returned: success
"""
