"""What pi-fleet's record holds of a device, asked by pyinfra: an operation for each thing, one command for folders.

pyinfra has an operation for whatever is one thing: packages, units, users, settings, files. Folders with hundreds of
files are one command, as a question for each file would take a minute a device.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from pyinfra.context import host
from pyinfra.facts.server import Command
from pyinfra.operations import apt, files, server, systemd

CHECKS = json.loads(Path(os.environ["BENCH_CHECKS"]).read_text())


apt.packages(name="packages", packages=CHECKS["packages"])
for unit, enabled in CHECKS["units"]:
    systemd.service(name=unit, service=unit, enabled=enabled, running=True)
for user in CHECKS["users"]:
    server.user(
        name=user["name"],
        user=user["name"],
        group=user["group"],
        home=user["home"],
        shell=user["shell"],
        ensure_home=False,
    )
for group in CHECKS["groups"]:
    server.group(name=group, group=group)
for key, value in CHECKS["sysctls"]:
    server.sysctl(name=key, key=key, value=value)
for path in CHECKS["paths"]:
    if path["type"] == "directory":
        files.directory(name=path["path"], path=path["path"], user=path["user"], group=path["group"], mode=path["mode"])
    elif path["type"] == "link":
        files.link(name=path["path"], path=path["path"], target=path["target"])
    elif "copy" in path:
        files.put(
            name=path["path"],
            src=str(Path(CHECKS["copies"], host.name, path["copy"])),
            dest=path["path"],
            user=path["user"],
            group=path["group"],
            mode=path["mode"],
        )
    elif path["type"] == "file":
        files.file(name=path["path"], path=path["path"], user=path["user"], group=path["group"], mode=path["mode"])
if host.get_fact(Command, command=CHECKS["folders"]) != CHECKS["expected"][host.name]:
    server.shell(name="folders", commands=["false"])
