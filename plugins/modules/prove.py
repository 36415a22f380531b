#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Prove that a device works."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prove
short_description: Prove that Lambdas and connectors work, by a real question
version_added: 0.1.0
description:
  - Waits until each Lambda and connector that runs has reported that it is initialised, then asks the device one
    question over its own broker, if there is one to ask.
  - The picture that is taken for it is not kept, unless its handling fails.
options:
  question:
    description: What is asked; without it nothing is.
    type: dict
    suboptions:
      by:
        description: >-
          The Lambda that answers, as C(lambda/NAME). Where it was not dropped yet, as on a device that took only some
          roles so far, nothing is asked.
        type: str
        required: true
      topics:
        description: Topics by C(request), C(response) and C(errors).
        type: dict
        required: true
      categories:
        description: What may be answered.
        type: list
        elements: str
        required: true
      timeout:
        description: Seconds to wait for the answer.
        type: float
        required: true
  timeout:
    description: Seconds to wait until all that runs is initialised.
    type: float
    default: 120
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Asks nothing, as what would be proven is not there.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
"""

EXAMPLES = r"""
- name: What is in front of the camera?
  edge.pi_fleet.prove:
    question:
      by: lambda/beverage_classifier
      topics:
        request: /request/classify/beverage_container
        response: /response/prediction/beverage_container
        errors: "pi-fleet/{{ inventory_hostname }}/errors"
      categories: [coffee-mug, clutter]
      timeout: 15
"""

RETURN = r"""
answer:
  description: What was answered, how sure and how fast; empty if nothing was asked.
  type: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge.pi_fleet.plugins.module_utils import history, workers
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device
from ansible_collections.edge.pi_fleet.plugins.module_utils.question import check_answer


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "question": {
                "type": "dict",
                "options": {
                    "by": {"type": "str", "required": True},
                    "topics": {"type": "dict", "required": True},
                    "categories": {"type": "list", "elements": "str", "required": True},
                    "timeout": {"type": "float", "required": True},
                },
            },
            "timeout": {"type": "float", "default": 120.0},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=False, answer="")
    device, question = Device(module.run_command), module.params["question"]
    try:
        workers.wait_until_ready(device, workers.texts(device), module.params["timeout"])
    except workers.WorkerError as error:
        module.fail_json(msg=str(error))
    if not question or question.pop("by") not in history.running(history.stores(device)):
        module.exit_json(changed=False, answer="")
    right, found, wanted = check_answer(question)
    if not right:
        module.fail_json(msg=f"The device was asked what it sees and did not answer as wanted ({wanted}): {found}")
    module.exit_json(changed=False, answer=found)


if __name__ == "__main__":
    main()
