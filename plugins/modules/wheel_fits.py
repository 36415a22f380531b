#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Refuse a wheel that a device cannot import."""

from __future__ import annotations

DOCUMENTATION = r"""
module: wheel_fits
short_description: Refuse a wheel that a device cannot import
version_added: 0.1.0
description:
  - Compares a wheel on the control node with the device - its sha256, its Python, and the ELF machine of each binary
    inside, since some wheels are tagged for any machine and hold binaries of one.
  - Changes nothing. Runs on the control node; the device is asked for its architecture and Python alone.
options:
  path:
    description: The wheel, on the control node.
    type: str
    required: true
  sha256:
    description: What its sha256 must be.
    type: str
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
- name: Refuse a wheel of another architecture
  edge.pi_fleet.wheel_fits:
    path: wheels/mxnet-1.9.1-cp311-cp311-linux_armv7l.whl
    sha256: "{{ mxnet_dependencies_wheel_sha256 }}"
"""

RETURN = r"""
name:
  description: The distribution's name, from the wheel's.
  type: str
  returned: success
version:
  description: Its version.
  type: str
  returned: success
"""
