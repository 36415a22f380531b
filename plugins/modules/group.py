#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Compose the group of a device."""

from __future__ import annotations

DOCUMENTATION = r"""
module: group
short_description: Compose the group of a device
version_added: 0.1.0
description:
  - Composes what Greengrass V1 called a group (functions, connectors, resources, subscriptions) from the inventory, in
    the shape of V1's API, or takes a user's own export of it.
  - Refuses, with the whole list, what the local core does not serve, functions without code, and code that is no
    Python 3.
  - Changes nothing. Runs on the control node alone.
options:
  device:
    description: Name of the device.
    type: str
    required: true
  definition:
    description:
      - A JSON file on the control node with V1's definitions, as C(aws greengrass get-function-definition-version) and
        its siblings print them. Then it alone is the group; functions give their code and handlers.
    type: str
    default: ""
  functions:
    description: Functions, each as an element of O(edge.pi_fleet.local_core#role:main:local_core_lambdas).
    type: list
    elements: dict
    default: []
  connectors:
    description: Connectors, with C(service), C(timeout) in seconds and C(memory) in MiB.
    type: list
    elements: dict
    default: []
  subscriptions:
    description: Subscriptions, with C(source), C(subject) and C(target); functions go by their names.
    type: list
    elements: dict
    default: []
  secrets:
    description: The secrets that the inventory has, by name, each with C(SecretString) or C(SecretBinary).
    type: dict
    default: {}
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
- name: Compose the group
  edge.pi_fleet.group:
    device: "{{ inventory_hostname }}"
    functions:
      - name: beverage_classifier
        handler: beverage_classifier.function_handler
    subscriptions:
      - source: cloud
        subject: /request/classify/beverage_container
        target: beverage_classifier
"""

RETURN = r"""
group:
  description: The group, in the shape of V1's API.
  type: dict
  returned: success
functions:
  description: What the unit of each function needs, by the function's name.
  type: dict
  returned: success
connectors:
  description: What the unit of each connector needs, by its service's name.
  type: dict
  returned: success
readers:
  description: The unit that reads each token, by its function's name.
  type: dict
  returned: success
topics:
  description: Topics of C(requests) from the cloud and of C(responses) to it.
  type: dict
  returned: success
"""
