#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Make an image of a virtual Pi's disk."""

from __future__ import annotations

DOCUMENTATION = r"""
module: virtual_pi_snapshot
short_description: Make an image of a virtual Pi's disk
version_added: 0.1.0
description:
  - Others start from the image as copies of the virtual Pi, so that many provisioned devices cost one provisioning.
    Runs on the control node.
  - A copy has an SSH host key, a machine id and a first user's password of its own; all else is as on the original,
    names and tokens of its services too.
  - An image of that name that is there already is left as it is. C(make clean) removes it.
options:
  fleet:
    description: Name that ties virtual Pis together, as in M(edge.pi_fleet.virtual_pi).
    type: str
    required: true
  name:
    description: The virtual Pi.
    type: str
    required: true
  image:
    description: Name of the image.
    type: str
    required: true
  engine:
    description: Container engine; V(auto) is podman where it is installed, else Docker.
    type: str
    choices: [auto, podman, docker]
    default: auto
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Says whether it would make the image.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Keep what provisioning took minutes to make
  edge.pi_fleet.virtual_pi_snapshot:
    fleet: try-out
    name: pi-trixie
    image: localhost/pi-fleet/virtual-pi:provisioned
"""

RETURN = r""" # """

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge.pi_fleet.plugins.module_utils.virtual_pi import (
    Engine,
    Host,
    Instance,
    VirtualPiError,
    take_snapshot,
)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "fleet": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "image": {"type": "str", "required": True},
            "engine": {"type": "str", "choices": ["auto", "podman", "docker"], "default": "auto"},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    try:
        engine = Engine.find(wanted["engine"], Host.detect())
        changed = not engine.image_exists(wanted["image"])
        if changed and not module.check_mode:
            take_snapshot(engine, Instance(wanted["fleet"], wanted["name"], ""), wanted["image"])
    except VirtualPiError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=changed)


if __name__ == "__main__":
    main()
