#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Ask who answers at a device's address."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_identity
short_description: Ask who answers at a device's address
version_added: 0.1.0
description:
  - Asks the SSH server at a device's address for its host key, without logging in, and compares it with what is known
    of the device - its line in the inventory's known_hosts, and its identity in the identity store.
  - Runs on the control node alone. It reaches the address directly; a device behind a jump host is unreachable for it.
options:
  address:
    description: Address to ask; C(ansible_host) of the device if not given.
    type: str
  port:
    description: Port of its SSH server; C(ansible_port) of the device if not given.
    type: int
  timeout:
    description: Seconds that it may take to answer.
    type: int
    default: 10
  record:
    description:
      - Whether to write the key into the inventory's known_hosts, if it is that of the device's identity, or has the
        I(fingerprint). Another device's key is never written.
    type: bool
    default: false
  fingerprint:
    description: The fingerprint that a person has confirmed, as C(ssh-keygen -l) prints it.
    type: str
    default: ""
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
    description: Asks, and says whether it would write.
    support: full
  diff_mode:
    description: Fingerprints are returned.
    support: none
"""

EXAMPLES = r"""
- name: Ask who answers
  edge.pi_fleet.host_identity:
  register: answer

- name: Go on with ours only
  ansible.builtin.assert:
    that:
      - answer.state in ['known', 'reimaged']
    fail_msg: "{{ answer.sentence }}"
"""

RETURN = r"""
state:
  description:
    - V(known) is the key in known_hosts.
    - V(reimaged) is that of the device's identity, which known_hosts does not have yet.
    - V(blank) is a key where none is known of the device, as that of a fresh image is.
    - V(foreign) is another key than the known one, or another device's.
    - V(unreachable) is no SSH server.
  type: str
  returned: success
key:
  description: The key that answers, type and base64.
  type: str
  returned: success
fingerprint:
  description: Its fingerprint; empty if nobody answers.
  type: str
  returned: success
wanted:
  description: The fingerprint of the key that is known; empty if none is.
  type: str
  returned: success
owner:
  description: The other device that known_hosts has this key for; empty if none.
  type: str
  returned: success
recorded:
  description: Whether known_hosts has the key that answers, or would have in check mode.
  type: bool
  returned: success
sentence:
  description: What was found, what was wanted, and how to decide.
  type: str
  returned: success
"""
