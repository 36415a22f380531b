#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Speak to a device for the first time."""

from __future__ import annotations

DOCUMENTATION = r"""
module: contact
short_description: Speak to a device for the first time
version_added: 0.1.0
description:
  - Opens the connection, and where that fails says in one sentence why, and what to do - a host key that is not the
    known one, a login or a password of sudo that is refused, a device that does not answer.
  - A host key that is that of the device's identity (M(edge.pi_fleet.identity_store)) and is not in the inventory's
    known_hosts is written there. No other key is taken.
options:
  by_key:
    description: Whether to log in anew, by key alone, whatever connection stands and whatever password was given.
    type: bool
    default: false
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Changes nothing on the device in any mode.
    support: full
  diff_mode:
    description: Changes nothing on the device.
    support: none
"""

EXAMPLES = r"""
- name: Speak to the device
  edge.pi_fleet.contact:
"""

RETURN = r"""
msg:
  description: Why it cannot be spoken to.
  type: str
  returned: failure
"""
