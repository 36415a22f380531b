#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Install the Debian packages of roles in one call of apt."""

from __future__ import annotations

DOCUMENTATION = r"""
module: packages
short_description: Install the Debian packages of roles in one call of apt
version_added: 0.1.0
description:
  - Has M(ansible.builtin.apt) install the packages that roles name in their C(vars/main.yml), C(__ROLE_packages) (a
    list, or one for each release of Debian) and C(__ROLE_further_packages) (what the inventory adds to a list).
  - The device is not asked where role edge.pi_fleet.preflight saw all of them installed; asking apt costs a Pi seconds.
  - What an interrupted run left half-installed is finished first, where preflight told of it or did not look.
options:
  roles:
    description: Names of roles of this collection. Roles without packages are left out.
    type: list
    elements: str
    required: true
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Says whether apt would install any; that some are half-installed is not foreseen.
    support: partial
  diff_mode:
    description: Shows what apt says.
    support: full
"""

EXAMPLES = r"""
- name: Install the packages of the broker
  edge.pi_fleet.packages:
    roles: [mqtt_broker]
"""

RETURN = r""" # """
