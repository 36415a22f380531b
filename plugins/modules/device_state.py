#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Ask a device once whether it still is what it was made, and record what it was made."""

from __future__ import annotations

DOCUMENTATION = r"""
module: device_state
short_description: Ask a device once whether it still is what it was made, and record what it was made
version_added: 0.1.0
description:
  - Keeps a record on the device, for root alone, of all that roles of this collection manage there, as they declare it
    in their C(vars/main.yml), and of what they were given, as a keyed hash. One question then tells whether anything is
    another one now.
  - A role has something to do if it was never recorded, if an earlier run began with it and did not come to its end, if
    its inputs are other ones (its code, templates, files, options, and the files of the control node that these name),
    or if something that it manages is not as it was recorded. Where the record is missing or damaged, all have.
  - A package that is newer than it was recorded is as it should be. Of one in the recorded version size, time, mode
    and owner of its files below C(/usr), but for documentation, are as they were.
  - From C(begun) or C(taken) to C(recorded) or C(released) the device is the run's that asked. Another one is refused
    in one sentence; a run that was killed does not count on its own control node, and on others for a quarter of an
    hour or more.
options:
  state:
    description:
      - C(probed) looks, and changes nothing.
      - C(begun) looks, notes which roles begin, and puts back what roles do not look at. That is modes, owners, ACLs,
        targets of links, drop-ins, masks and links of units, names, groups, comments, homes, shells, numbers and expiry
        of users, whether they need a password, names, numbers, members, administrators and passwords of groups, older
        packages and those whose programs are other ones, flags of the kernel. What stands where nothing was, in the
        place of something else, or before a package's Python modules, is moved to C(/var/lib/pi-fleet/set-aside),
        folders with all that is in them; only one that holds field data stays. Nodes of other devices are removed.
      - Services that may have been started with what differs owe a restart, and their roles run. That is the local
        core, Lambdas and connectors for anything below C(/opt/pi-fleet) and C(/etc/pi-fleet), a package, a user or a
        group, and any unit for a drop-in, for another file in the place of its own, or whose process a signal halted.
        A change of a user's home or number stops them first.
      - What cannot be put back is warned of, each with what to do, and stays told; what is immutable fails.
      - C(recorded) records what the roles left behind.
      - C(taken) has the device be the run's that asks, for what changes it and is no role of site.yml.
      - C(kept) has it go on being that run's after a reboot; nothing where it was not.
      - C(released) lets other runs have the device, after one that failed.
    type: str
    choices: [probed, begun, recorded, taken, kept, released]
    required: true
  roles:
    description: The roles, in the order in which they run.
    type: list
    elements: str
    required: true
  everything:
    description: >-
      Let all roles run, whatever is recorded. With I(state=begun), what they leave as they find it is accepted.
    type: bool
    default: false
  about:
    description: >-
      Tell also what a report shows of a device: its system, releases, disk, swap and the last picture that it kept.
    type: bool
    default: false
  thumbnail:
    description: Show that picture, small. Whoever reads the result sees it.
    type: bool
    default: false
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Looks, says what would be put back, and writes nothing.
    support: full
  diff_mode:
    description: What differs is returned.
    support: none
"""

EXAMPLES = r"""
- name: Is it still what it was made?
  edge.pi_fleet.device_state:
    state: probed
    roles: [swap, greengrass_user]
"""

RETURN = r"""
run:
  description: The roles that have something to do, each with the reason.
  type: dict
  returned: state is probed or begun
  sample: {swap: "swap: MiB is 100, was 1000"}
differences:
  description: What differs from the record, each once, with role, entry, attribute, found, wanted, since when as far as
    the device keeps it, and all of it in words, told.
  type: list
  elements: dict
  returned: success
restored:
  description: What was put back, one sentence each.
  type: list
  elements: str
  returned: state is probed or begun
checked:
  description: How many things were looked at.
  type: int
  returned: success
seconds:
  description: How long that took on the device.
  type: float
  returned: success
reboot_reasons:
  description: Why the device needs a reboot, one sentence each.
  type: list
  elements: str
  returned: state is probed or begun
held:
  description: Who else provisions the device, since when, and what to do, in one sentence; nothing if nobody does.
  type: str
  returned: state is probed, or the device is another run's
about:
  description: System, releases, disk, swap, and the last picture that was kept.
  type: dict
  returned: I(about) is true
recorded_at:
  description: When the device was recorded last, in UTC; nothing if it never was.
  type: str
  returned: state is probed or begun
"""

import time
from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge.pi_fleet.plugins.module_utils import run_lock
from ansible_collections.edge.pi_fleet.plugins.module_utils.about import about
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, DeviceError
from ansible_collections.edge.pi_fleet.plugins.module_utils.device_state import Begun, begin, probe, record, since


def main() -> None:
    """Entry point."""
    begun = time.monotonic()
    module = AnsibleModule(
        argument_spec={
            "state": {
                "type": "str",
                "choices": ["probed", "begun", "recorded", "taken", "kept", "released"],
                "required": True,
            },
            "everything": {"type": "bool", "default": False},
            "about": {"type": "bool", "default": False},
            "thumbnail": {"type": "bool", "default": False},
            # The action plugin makes both of the roles' names; there may be secrets in what was hashed.
            "fingerprints": {"type": "dict", "required": True, "no_log": True},
            "declared": {"type": "dict", "default": {}},
            # So does it say which run asks, and which one has ended.
            "run": {"type": "dict", "required": True},
            "ended": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    device = Device(module.run_command)
    given = module.params
    try:
        writes = given["state"] != "probed" and not module.check_mode
        ask = run_lock.take if writes and given["state"] in ("begun", "taken") else run_lock.holder
        other = ask(device, given["run"], given["ended"])
        if other is not None and writes and given["state"] != "released":
            module.fail_json(msg=run_lock.sentence(other), held=other)
        result: dict[str, Any] = {}
        if given["state"] == "kept" and writes:
            run_lock.keep(device, given["run"])
        elif given["state"] == "recorded":
            differences = [] if module.check_mode else record(device, given["fingerprints"], given["declared"])
            for each in differences:
                module.warn(f"{each}; no role mends it. Undo it on the device, or accept it by -e full=true.")
            result = {"differences": [asdict(each) for each in differences]}
        elif given["state"] in ("probed", "begun"):
            fingerprints, everything = given["fingerprints"], given["everything"]
            if given["state"] == "begun":
                begun_with = begin(device, fingerprints, everything, dry=module.check_mode)
            else:
                seen = probe(device)
                begun_with = Begun(seen, seen.to_run(fingerprints, everything), [], [])
            for sentence in begun_with.left:
                module.warn(sentence)
            result = {
                "run": begun_with.run,
                "differences": [
                    {**asdict(each), "told": str(each), "since": since(device, each)} for each in begun_with.seen.told
                ],
                "restored": begun_with.restored,
                "checked": begun_with.seen.checked,
                "reboot_reasons": begun_with.seen.reboot_reasons,
                "recorded_at": begun_with.seen.record.at,
                "held": other,
            }
            if given["about"]:
                result["about"] = about(device, given["thumbnail"])
        if writes and given["state"] not in ("taken", "kept") and not result.get("run"):
            run_lock.release(device, given["run"])
    except (DeviceError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(result.get("restored")), seconds=round(time.monotonic() - begun, 2), **result)


if __name__ == "__main__":
    main()
