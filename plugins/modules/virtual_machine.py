#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Make and remove virtual Pis with a kernel of their own."""

from __future__ import annotations

DOCUMENTATION = r"""
module: virtual_machine
short_description: Make and remove virtual Pis with a kernel of their own
version_added: 0.1.0
description:
  - Makes machines that qemu emulates, from the images of M(edge.pi_fleet.virtual_pi), with Debian's kernel. Swap,
    devices, limits, reboots and power cuts are real there. Runs on the control node, as root, with qemu's own
    translator, which is ten times slower than the host.
  - The machines of a folder are exactly those named; others are removed. One that is there, of the image that is wanted
    and for the key that may log in, is started if it has no power, and otherwise left alone.
options:
  fleet:
    description: Name that ties virtual Pis together.
    type: str
    required: true
  instances:
    description: The machines that there shall be.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Host name.
        type: str
        required: true
      release:
        description: Debian release.
        type: str
        choices: [bookworm, trixie]
        required: true
      architecture:
        description: Debian's name of an architecture; empty is the host's own.
        type: str
        choices: ["", amd64, arm64, armhf]
        default: ""
      packages:
        description: Packages on top of a blank card, for tests that are not about installing them.
        type: list
        elements: str
        default: []
  recipe:
    description: Folder of the images' recipe (packages.txt, customize.sh and the files to drop).
    type: path
    required: true
  files:
    description: Folder of the files that a machine has and a container has not.
    type: path
    required: true
  power:
    description: Program that keeps a machine under power.
    type: path
    required: true
  directory:
    description: Folder of the machines.
    type: path
    required: true
  cards:
    description: Folder of the disks that they start from, each made once of what goes into it.
    type: path
    required: true
  mirror:
    description: Debian mirror that images are built from; empty is the one that this host's apt uses.
    type: str
    default: ""
  password:
    description: Password of the first user, C(pi), whose sudo asks for it.
    type: str
    default: ""
  private_key:
    description:
      - File of an SSH private key that may log in as C(pi); the public one lies beside it, with C(.pub) at its end.
    type: path
    default: ""
  boot_timeout:
    description: Seconds that one may take to boot.
    type: int
    default: 600
  engine:
    description: Container engine, which builds the images; V(auto) is podman where it is installed, else Docker.
    type: str
    choices: [auto, podman, docker]
    default: auto
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Says whether it would make, start or remove any.
    support: full
  diff_mode:
    description: Lists names before and after.
    support: full
"""

EXAMPLES = r"""
- name: Make a machine
  edge.pi_fleet.virtual_machine:
    fleet: try-out
    recipe: "{{ role_path }}/files/image"
    files: "{{ role_path }}/files/machine"
    power: "{{ role_path }}/files/power.sh"
    directory: "{{ playbook_dir }}/machines"
    cards: "{{ playbook_dir }}/cards"
    instances:
      - name: pi-bookworm
        release: bookworm
    password: "{{ password }}"
    private_key: id_ed25519
"""

RETURN = r"""
connections:
  description: Where each machine answers.
  type: list
  elements: dict
  returned: success, outside check mode
  contains:
    name:
      description: Its name.
      type: str
    port:
      description: Port of its sshd on 127.0.0.1.
      type: int
    host_key:
      description: Its SSH host key, as it wrote it on its console.
      type: str
"""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge.pi_fleet.plugins.module_utils.host_key import HostKey
from ansible_collections.edge.pi_fleet.plugins.module_utils.virtual_machine import (
    Card,
    Machine,
    has_power,
    remove,
    with_kernel,
)
from ansible_collections.edge.pi_fleet.plugins.module_utils.virtual_pi import (
    INSTANCE,
    OPTIONS,
    Connection,
    Engine,
    Host,
    Image,
    Instance,
    VirtualPiError,
    apt_sources,
    host_mirror,
    read_public_key,
    wait_until_booted,
)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            "instances": {"type": "list", "elements": "dict", "default": [], "options": INSTANCE},
            "files": {"type": "path", "required": True},
            "power": {"type": "path", "required": True},
            "directory": {"type": "path", "required": True},
            "cards": {"type": "path", "required": True},
            "boot_timeout": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    try:
        converge(module)
    except VirtualPiError as error:
        module.fail_json(msg=str(error))


def machines(module: AnsibleModule, host: Host, fingerprint: str) -> list[Machine]:
    """Return the machines that are wanted."""
    given = module.params
    found = []
    for item in given["instances"]:
        image = with_kernel(
            Image(
                recipe=Path(given["recipe"]),
                release=item["release"],
                architecture=item["architecture"] or host.architecture,
                mirror=given["mirror"] or host_mirror(apt_sources()),
                packages=tuple(item["packages"]),
            )
        )
        card = Card(image, Path(given["files"]), Path(given["cards"]))
        instance = Instance(given["fleet"], item["name"], image.name, fingerprint)
        found.append(Machine(instance, card, Path(given["directory"], item["name"]), Path(given["power"])))
    return found


def converge(module: AnsibleModule) -> None:
    """Bring the machines to what is wanted."""
    host = Host.detect()
    engine = Engine.find(module.params["engine"], host)
    given = module.params
    key = Path(given["private_key"])
    public_key = read_public_key(given["private_key"], module.check_mode) if given["instances"] else ""
    wanted = machines(module, host, HostKey.parse(public_key).fingerprint if public_key else "")
    existing = {path.name: path for path in Path(module.params["directory"]).glob("*")}
    kept = {machine.folder.name for machine in wanted if machine.is_as_wanted()}
    removed = [path for name, path in sorted(existing.items()) if name not in kept]
    started = [machine for machine in wanted if not has_power(machine.folder)]
    changed = bool(removed or started)
    diff = {
        "before": "".join(f"{name}\n" for name in sorted(existing)),
        "after": "".join(f"{machine.folder.name}\n" for machine in wanted),
    }
    if module.check_mode:
        module.exit_json(changed=changed, diff=diff)

    for path in removed:
        remove(path)
    with tempfile.TemporaryDirectory(prefix="pi-fleet-image-", dir="/var/tmp") as scratch:
        for machine in wanted:
            machine.card.build(engine, Path(scratch))

    def ensure(machine: Machine) -> Connection:
        if machine.folder.name not in kept:
            machine.create(engine, module.params["password"], public_key)
        if not has_power(machine.folder):
            machine.start()
        limit = module.params["boot_timeout"]
        return wait_until_booted(engine, machine.instance, key, limit, machine.connection)

    with ThreadPoolExecutor(max_workers=2) as pool:
        connections = list(pool.map(ensure, wanted))
    module.exit_json(changed=changed, diff=diff, connections=[asdict(item) for item in connections])


if __name__ == "__main__":
    main()
