#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Go back to former releases."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rollback
short_description: Have a device run former releases again
version_added: 0.1.0
description:
  - Points C(current) of Lambdas, models and the local core to releases that the device has run before and that were
    proven, as M(edge.pi_fleet.proven) remembers them, restarts the units that run them, and waits until their workers
    report that they are initialised.
  - A unit is known by its text, which names the releases that it runs; the text is changed too, so that the unit is as
    a run would have written it.
  - Settings are not changed. A later run of site.yml drops again what the inventory names.
  - A rollback that was killed is finished by the next one, which then goes no further back.
options:
  to:
    description:
      - V(former) goes to what was proven before the present releases, and refuses where there is nothing. Where the
        present ones are not proven, as a rollout was cut short, it goes to what was proven last. A second time goes
        one further back, never forward again.
      - V(proven) goes to what was proven last, and changes nothing where that runs or nothing was proven yet.
    type: str
    choices: [former, proven]
    default: former
  names:
    description:
      - Lambdas and models to go back alone, each to the release that it had before, as C(lambda/beverage_classifier),
        C(model/beverage-classifier) or C(localcore). Empty goes back with all that ran together.
    type: list
    elements: str
    default: []
  release:
    description: Release to go to, of the one that O(names) names.
    type: str
    default: ""
  timeout:
    description: Seconds to wait for the workers.
    type: float
    default: 60
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Says where it would go, and refuses what it would refuse.
    support: full
  diff_mode:
    description: Shows the current releases before and after.
    support: full
"""

EXAMPLES = r"""
- name: Undo the last rollout
  edge.pi_fleet.rollback:

- name: Go back with the model alone
  edge.pi_fleet.rollback:
    names: [model/beverage-classifier]
"""

RETURN = r"""
steps:
  description: What went back, or would, and where, as V(lambda/NAME from RELEASE to RELEASE).
  type: list
  elements: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, DeviceError
from ansible_collections.edge.pi_fleet.plugins.module_utils.release import ReleaseError
from ansible_collections.edge.pi_fleet.plugins.module_utils.rollback import Rollback, RollbackError
from ansible_collections.edge.pi_fleet.plugins.module_utils.workers import WorkerError


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "to": {"type": "str", "choices": ["former", "proven"], "default": "former"},
            "names": {"type": "list", "elements": "str", "default": []},
            "release": {"type": "str", "default": ""},
            "timeout": {"type": "float", "default": 60.0},
        },
        supports_check_mode=True,
    )
    given = module.params
    rollback = Rollback(Device(module.run_command))
    try:
        if given["names"] or given["release"]:
            entries = rollback.to_former_of(given["names"], given["release"])
        else:
            entries = rollback.to_proven() if given["to"] == "proven" else rollback.to_former()
        steps = rollback.steps(entries)
        changed = bool(steps or rollback.owing())
        if changed and not module.check_mode:
            rollback.go(entries, given["timeout"])
    except (DeviceError, ReleaseError, RollbackError, WorkerError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"The device could not go back: {error}; free space or mend the card, and run again.")
    before = {name: rollback.running[name] for name in steps}
    module.exit_json(
        changed=changed,
        steps=[f"{name} from {before[name]} to {steps[name]}" for name in steps],
        diff={
            "before": "".join(f"{name} {release}\n" for name, release in before.items()),
            "after": "".join(f"{name} {release}\n" for name, release in steps.items()),
        },
    )


if __name__ == "__main__":
    main()
