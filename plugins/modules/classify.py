#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Ask a device what is in front of its camera."""

from __future__ import annotations

DOCUMENTATION = r"""
module: classify
short_description: Ask a device what is in front of its camera
version_added: 0.1.0
description:
  - Publishes a request to the device's own broker, as the article's test does, and waits for the prediction.
  - Measures from the request to the answer, on the device.
options:
  request_topic:
    description: Topic whose messages ask for a prediction.
    type: str
    required: true
  response_topic:
    description: Topic that predictions are published on.
    type: str
    required: true
  errors_topic:
    description: Topic that failures are published on.
    type: str
    required: true
  times:
    description: How often to ask, one question after the other.
    type: int
    default: 1
  timeout:
    description: Seconds to wait for each answer.
    type: float
    default: 15
  keep:
    description:
      - Whether the rule for field data applies to the pictures; otherwise only those whose handling fails are kept.
    type: bool
    default: true
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Asks in any mode, as a question changes nothing that is managed.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
"""

EXAMPLES = r"""
- name: What is in front of the camera?
  edge.pi_fleet.classify:
    request_topic: /request/classify/beverage_container
    response_topic: /response/prediction/beverage_container
    errors_topic: "pi-fleet/{{ inventory_hostname }}/errors"
"""

RETURN = r"""
answers:
  description: The answers, in order.
  type: list
  elements: dict
  returned: success
  contains:
    category:
      description: What the device takes it for.
      type: str
    confidence:
      description: How sure it is, 0 to 1.
      type: float
    milliseconds:
      description: From the request to the answer.
      type: int
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge.pi_fleet.plugins.module_utils.question import QuestionError, Topics, ask


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "request_topic": {"type": "str", "required": True},
            "response_topic": {"type": "str", "required": True},
            "errors_topic": {"type": "str", "required": True},
            "times": {"type": "int", "default": 1},
            "timeout": {"type": "float", "default": 15.0},
            "keep": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    given = module.params
    topics = Topics(given["request_topic"], given["response_topic"], given["errors_topic"])
    try:
        answers = [ask(topics, given["timeout"], given["keep"]) for _ in range(given["times"])]
    except QuestionError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, answers=[asdict(answer) for answer in answers])


if __name__ == "__main__":
    main()
