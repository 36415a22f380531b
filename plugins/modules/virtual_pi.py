#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Make and remove virtual Pis."""

from __future__ import annotations

DOCUMENTATION = r"""
module: virtual_pi
short_description: Make and remove virtual Pis
version_added: 0.1.0
description:
  - Makes containers that boot a Pi-like Debian with systemd and sshd and are reached over SSH as a device is.
    Runs on the control node.
  - Their images are built with mmdebstrap and named by the content of their recipe, so each is built once and again
    only when the recipe changes. It takes about a minute for the host's own architecture, 5 to 11 minutes for
    another one under qemu-user.
  - The fleet's virtual Pis are exactly those named; others of the same fleet are removed, and nothing else is touched.
  - One that exists, from the image that is wanted and for the key that may log in, is started if it is stopped, and
    otherwise left alone, failed units and all. One that still boots is waited for.
options:
  fleet:
    description: Name that ties virtual Pis together; the value of the label that they carry.
    type: str
    required: true
  instances:
    description: The virtual Pis that the fleet shall have. An empty list removes all of the fleet.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Host name; the container's name is the fleet's, a dash and this.
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
      image:
        description: Image to start from instead of a blank card, made by M(edge.pi_fleet.virtual_pi_snapshot).
        type: str
        default: ""
      files:
        description:
          - Folders to copy over its file system before its first start. With any, they are what lets the first user in;
            the module gives it neither I(password) nor key.
        type: list
        elements: dict
        default: []
        suboptions:
          src:
            description: Folder on the control node.
            type: path
            required: true
          dest:
            description: Folder of the virtual Pi.
            type: str
            required: true
  recipe:
    description: Folder of the images' recipe (packages.txt, customize.sh and the files to drop).
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
      - Required where there are instances.
    type: path
    default: ""
  boot_timeout:
    description: Seconds that one may take to boot; under emulation it takes a minute or two.
    type: int
    default: 300
  engine:
    description: Container engine; V(auto) is podman where it is installed, else Docker.
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
- name: Make a virtual Pi
  edge.pi_fleet.virtual_pi:
    fleet: try-out
    recipe: "{{ role_path }}/files/image"
    instances:
      - name: pi-trixie
        release: trixie
    password: "{{ password }}"
    private_key: id_ed25519
"""

RETURN = r"""
connections:
  description: Where each virtual Pi answers.
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
      description: Its SSH host key, read inside it.
      type: str
"""

import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge.pi_fleet.plugins.module_utils.host_key import HostKey
from ansible_collections.edge.pi_fleet.plugins.module_utils.virtual_pi import (
    INSTANCE,
    LABEL,
    OPTIONS,
    Connection,
    Engine,
    Host,
    Image,
    Instance,
    Snapshot,
    VirtualPiError,
    apt_sources,
    create,
    host_mirror,
    read_public_key,
    refuse_unbootable,
    wait_until_booted,
)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            **OPTIONS,
            "instances": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    **INSTANCE,
                    "image": {"type": "str", "default": ""},
                    "files": {
                        "type": "list",
                        "elements": "dict",
                        "default": [],
                        "options": {
                            "src": {"type": "path", "required": True},
                            "dest": {"type": "str", "required": True},
                        },
                    },
                },
            },
            "boot_timeout": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    try:
        host = Host.detect()
        converge(module, host, Engine.find(module.params["engine"], host))
    except VirtualPiError as error:
        module.fail_json(msg=str(error))


def wanted_images(module: AnsibleModule, host: Host) -> list[Image | Snapshot]:
    """Return the image of each instance that is asked for."""
    for item in module.params["instances"]:
        if not item["image"]:
            refuse_unbootable(item["release"], item["architecture"] or host.architecture, host.architecture)
    return [
        Snapshot(item["image"])
        if item["image"]
        else Image(
            recipe=Path(module.params["recipe"]),
            release=item["release"],
            architecture=item["architecture"] or host.architecture,
            mirror=module.params["mirror"] or host_mirror(apt_sources()),
            packages=tuple(item["packages"]),
        )
        for item in module.params["instances"]
    ]


def build(engine: Engine, images: Iterable[Image | Snapshot]) -> None:
    """Build images side by side; those on the same base one after the other, so that the first builds it."""
    by_base: dict[str, list[Image | Snapshot]] = {}
    for image in images:
        by_base.setdefault(image.base, []).append(image)
    with tempfile.TemporaryDirectory(prefix="pi-fleet-image-", dir="/var/tmp") as scratch:

        def build_all(same_base: list[Image | Snapshot]) -> None:
            for image in same_base:
                image.build(engine, Path(scratch))

        with ThreadPoolExecutor() as pool:
            list(pool.map(build_all, by_base.values()))


def as_lines(names: Iterable[str]) -> str:
    """Return names as lines, for a diff."""
    return "".join(f"{name}\n" for name in sorted(names))


def converge(module: AnsibleModule, host: Host, engine: Engine) -> None:
    """Bring the fleet to what is wanted."""
    fleet, limit = module.params["fleet"], module.params["boot_timeout"]
    images = wanted_images(module, host)
    key = Path(module.params["private_key"])
    public_key = read_public_key(module.params["private_key"], module.check_mode) if images else ""
    fingerprint = HostKey.parse(public_key).fingerprint if public_key else ""
    wanted = [
        Instance(
            fleet,
            item["name"],
            image.name,
            fingerprint,
            tuple((each["src"], each["dest"]) for each in item["files"]),
        )
        for item, image in zip(module.params["instances"], images, strict=True)
    ]

    def containers(*filters: str) -> set[str]:
        arguments = [argument for text in filters for argument in ("--filter", text)]
        return set(engine.call("ps", "--all", *arguments, "--format", "{{.Names}}").split())

    existing = containers(f"label={LABEL}={fleet}")
    running = containers(f"label={LABEL}={fleet}", "status=running")
    kept = {i.container for i in wanted if i.container in existing and engine.is_as_wanted(i)}
    removed = sorted(existing - kept)
    changed = bool(removed or len(kept) < len(wanted) or kept - running)
    diff = {"before": as_lines(existing), "after": as_lines(i.container for i in wanted)}
    if module.check_mode:
        module.exit_json(changed=changed, diff=diff)

    build(engine, images)
    if removed:
        engine.call("rm", "--force", "--volumes", *removed)

    def ensure(item: Instance) -> Connection:
        if item.container not in kept:
            create(engine, item, module.params["password"], public_key)
        runs = item.container in kept & running
        if not runs:
            engine.call("start", item.container)
        # It may be on its way: a run that was killed may have started it.
        return wait_until_booted(engine, item, key, limit, degraded=runs)

    with ThreadPoolExecutor(max_workers=4) as pool:
        connections = list(pool.map(ensure, wanted))
    module.exit_json(changed=changed, diff=diff, connections=[asdict(item) for item in connections])


if __name__ == "__main__":
    main()
