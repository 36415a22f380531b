#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Say what a device can do for its camera."""

from __future__ import annotations

DOCUMENTATION = r"""
module: camera_probe
short_description: Say what a device can do for its camera
version_added: 0.1.0
description:
  - Says in one execution which packages apt has to install for a camera, and which it does not offer.
  - Takes one picture as the user of Lambdas and throws it away, if asked. A camera that a process holds is left
    alone, and the process is named instead.
  - Changes nothing.
options:
  packages:
    description:
      - What a camera needs. Each need is a list of packages of which any will do; the one that is installed already is
        preferred, then the first that apt offers.
    type: list
    elements: list
    default: []
  packages_if_offered:
    description: The same, but wanted only where all of it is on offer or installed.
    type: list
    elements: list
    default: []
  frame:
    description: Whether to take a picture. It fails with one sentence if the camera gives none.
    type: bool
    default: false
  user:
    description: Who takes the picture.
    type: str
    default: ggc_user
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Changes nothing in any mode. A picture that cannot be taken is a warning in check mode, since what
      comes before it in a role was not done.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
"""

EXAMPLES = r"""
- name: Ask what apt has for a camera
  edge.pi_fleet.camera_probe:
    packages:
      - [python3-picamera2]
      - [rpicam-apps-lite, rpicam-apps]
  register: camera_probe

- name: Take a picture as the user of Lambdas
  edge.pi_fleet.camera_probe:
    frame: true
"""

RETURN = r"""
known:
  description: Whether apt has package lists; without them it offers nothing.
  type: bool
  returned: success
install:
  description: Packages to install.
  type: list
  elements: str
  returned: success
not_offered:
  description: Needs that apt cannot serve.
  type: list
  elements: str
  returned: success
outcome:
  description: What became of the picture - C(taken), C(held) by a process, C(failed) or C(not_installed).
  type: str
  returned: when O(frame) is true
msg:
  description: The picture's size, who holds the camera, or what is wrong.
  type: str
  returned: when O(frame) is true
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge.pi_fleet.plugins.module_utils.camera_probe import (
    Outcome,
    find_packages,
    run_for_a_while,
    take_frame,
)
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, DeviceError


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "list", "default": []},
            "packages_if_offered": {"type": "list", "elements": "list", "default": []},
            "frame": {"type": "bool", "default": False},
            "user": {"type": "str", "default": "ggc_user"},
        },
        supports_check_mode=True,
    )
    device = Device(run_for_a_while)
    try:
        packages = find_packages(device, module.params["packages"], module.params["packages_if_offered"])
    except DeviceError as error:
        module.fail_json(msg=str(error))
    result: dict[str, Any] = {
        "changed": False,
        "known": packages.known,
        "install": packages.install,
        "not_offered": packages.not_offered,
    }
    if module.params["frame"]:
        frame = take_frame(device, module.params["user"])
        result |= {"outcome": frame.outcome.value, "msg": frame.text}
        if frame.outcome in (Outcome.FAILED, Outcome.NOT_INSTALLED) and not module.check_mode:
            module.fail_json(**result)
        if frame.outcome is Outcome.FAILED:
            module.warn(f"No frame was taken: {frame.text}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
