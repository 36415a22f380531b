#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Keep the identity of a device on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: identity_store
short_description: Keep the identity of a device on the control node
version_added: 0.1.0
description:
  - The identity of a device is its host name, its SSH host keys, and credentials of its broker and bridge. It is one
    file, C(HOST.yml) in the store, encrypted whole by ansible-vault with the secret that the run was given, readable by
    this user alone, and made once.
  - Runs on the control node alone.
options:
  state:
    description: V(present) makes the identity if there is none; V(read) only reads.
    type: str
    choices: [read, present]
    default: read
  hostname:
    description: Host name of an identity that is made; C(identity_hostname), or that in the inventory, if not given.
    type: str
  credentials:
    description:
      - Dictionaries by name, such as C(broker) and C(bridge), which the identity shall hold; one that it has stays as
        it is.
    type: dict
    default: {}
  record:
    description: Whether the inventory's known_hosts shall have the identity's host keys.
    type: bool
    default: false
  secrets:
    description: Whether to return private keys and credentials; the result is then kept out of all output.
    type: bool
    default: false
  store:
    description: Folder of the identity store; C(identity_store), or C(identities) beside the inventory, if not given.
    type: path
  known_hosts:
    description: The inventory's known_hosts; C(identity_known_hosts), or the file beside the inventory, if not given.
    type: path
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Says whether it would write.
    support: full
  diff_mode:
    description: Shows nothing, as most of it is secret.
    support: none
"""

EXAMPLES = r"""
- name: Have an identity
  edge.pi_fleet.identity_store:
    state: present

- name: Keep the password that the broker of this device knows its users by
  edge.pi_fleet.identity_store:
    state: present
    credentials:
      broker:
        password: "{{ lookup('ansible.builtin.password', '/dev/null', length=32) }}"
    secrets: true
  register: identity
"""

RETURN = r"""
exists:
  description: Whether the device has an identity.
  type: bool
  returned: success
path:
  description: Its file.
  type: str
  returned: where the device has an identity
hostname:
  description: Its host name.
  type: str
  returned: where the device has an identity
host_keys:
  description: The public host keys, each with C(key) (type and base64) and C(fingerprint).
  type: list
  elements: dict
  returned: success
private_keys:
  description: The private host keys by name, such as C(ed25519).
  type: dict
  returned: with I(secrets)
credentials:
  description: The credentials.
  type: dict
  returned: with I(secrets)
"""
