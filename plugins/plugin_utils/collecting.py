# SPDX-License-Identifier: Apache-2.0
"""The field data of the device of a task: asked by module field_data, copied by rsync over the connection's ssh."""

from __future__ import annotations

import resource
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.edge.pi_fleet.plugins.module_utils.collecting import CollectError
from ansible_collections.edge.pi_fleet.plugins.module_utils.field_data import (
    LARGEST_FILE,
    Listing,
    Signature,
    as_signature,
)

PARTIAL = ".partial"
TIMEOUT = 60
"""Seconds without a byte, after which a link counts as cut."""

# What rsync says where pictures were renamed or discarded meanwhile; what arrived is verified anyhow.
WHOLE_OR_FEWER = (0, 23, 24)

COLLECTING = {
    "path": {"type": "path", "required": True},
    "labeled_path": {"type": "path", "required": True},
    "user": {"type": "str", "default": "collect"},
    "key": {"type": "path", "required": True},
    "min_age": {"type": "int", "default": 0},
}
"""What actions take that collect."""


def send(action: ActionBase, local: Path) -> str:
    """Copy a file of the control node to where modules of this task find it, until the task is over."""
    remote = remote_path(action, local.name)
    action._transfer_file(str(local), remote)
    action._fixup_perms2((remote.rpartition("/")[0], remote))
    return remote


def remote_path(action: ActionBase, name: str) -> str:
    """Return a path on the device in a folder of the login user, which Ansible removes when the task is over."""
    shell = action._connection._shell
    path: str = shell.join_path(shell.tmpdir or action._make_tmp_path(), name)
    return path


def _bound_files() -> None:
    """Have the kernel end who writes more into a file than a picture has."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, hard))


@dataclass(frozen=True)
class RemoteFieldData:
    """A device as collecting needs it: see Remote, which says what its methods return."""

    action: ActionBase
    host: str
    given: Mapping[str, Any]
    """What COLLECTING says."""
    task_vars: dict[str, Any] | None

    def look(self) -> Listing:
        """List the pictures."""
        found = self._ask({"min_age": self.given["min_age"]})
        pictures = {name: as_signature(each) for name, each in found["pictures"].items()}
        large = [name for name, (_, size, _, _) in pictures.items() if size > LARGEST_FILE]
        left = found["left"] | dict.fromkeys(large, f"is larger than the {LARGEST_FILE // 1024**2} MiB of a picture")
        return Listing({name: each for name, each in pictures.items() if name not in left}, left)

    def sums(self, names: Sequence[str]) -> tuple[dict[str, tuple[str, Signature]], dict[str, str]]:
        """Hash pictures."""
        found = self._ask({"sums": list(names)})
        return {name: (digest, as_signature(each)) for name, (digest, each) in found["sums"].items()}, found["left"]

    def remove(self, sums: Mapping[str, str]) -> tuple[Sequence[str], dict[str, str]]:
        """Remove pictures."""
        found = self._ask({"remove": dict(sums)})
        return found["removed"], found["left"]

    def put(self, pictures: Mapping[str, Path]) -> dict[str, str]:
        """Put pictures back, and return why some were not."""
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder, "pictures.tar")
            with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
                for name, path in pictures.items():
                    tar.add(path, arcname=name, recursive=False)
            left: dict[str, str] = self._ask({"put": send(self.action, archive)})["left"]
        return left

    def pull(self, names: Sequence[str], folder: Path, lock: int) -> None:
        """Copy pictures into a folder, from where an interrupted copy ended."""
        connection = self.action._connection
        if connection.transport != "ssh":
            raise CollectError(f"{self.host} is reached by {connection.transport}: rsync collects over ssh alone.")
        if shutil.which("rsync") is None:
            raise CollectError("rsync is not on the control node: install it (apt install rsync) and run again.")
        address = connection.get_option("host")
        argv = [
            "rsync",
            "--times",
            "--files-from=-",
            "--from0",
            f"--partial-dir={PARTIAL}",
            "--ignore-missing-args",
            f"--timeout={TIMEOUT}",
            f"--rsh={shlex.join(self._ssh())}",
            f"[{address}]:/" if ":" in address else f"{address}:/",
            f"{folder}/",
        ]
        names_given = b"".join(name.encode() + b"\0" for name in names)
        done = subprocess.run(
            argv, input=names_given, capture_output=True, check=False, pass_fds=[lock], preexec_fn=_bound_files
        )
        if done.returncode not in WHOLE_OR_FEWER:
            raise CollectError(self._cut_off(done.returncode, done.stderr.decode(errors="replace")))

    def _ssh(self) -> list[str]:
        """Return the ssh that Ansible uses for the device, but as another user, whose key alone is offered."""
        option = self.action._connection.get_option
        own = {
            "User": self.given["user"],
            "IdentityFile": self.given["key"],
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            # The connection that Ansible keeps is another user's.
            "ControlMaster": "no",
            "ControlPath": "none",
        }
        argv = [option("ssh_executable"), *(word for name, value in own.items() for word in ("-o", f"{name}={value}"))]
        if option("port"):
            argv += ["-p", str(option("port"))]
        for name in ("ssh_args", "ssh_common_args", "ssh_extra_args"):
            argv += shlex.split(option(name) or "")
        return argv

    def _ask(self, arguments: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self.action._execute_module(
            module_name="edge.pi_fleet.field_data", module_args=arguments, task_vars=self.task_vars
        )
        if found.get("failed"):
            raise CollectError(f"{self.host}: {found.get('msg', 'the module field_data failed')}")
        return found

    def _cut_off(self, code: int, said: str) -> str:
        if "Host key verification failed" in said:
            return (
                f"{self.host} answers {self.given['user']} with a host key that is not the known one: if it was"
                " reimaged, let playbooks/reimage.yml say so, else somebody else answers."
            )
        if "Permission denied" in said and not Path(self.given["key"]).exists():
            return (
                f"{self.host} refuses the login of {self.given['user']}, as there is no {self.given['key']} here: put"
                f" the private half of {self.given['key']}.pub there, or remove that file and run playbooks/site.yml,"
                " which makes a new key."
            )
        if "Permission denied" in said:
            return (
                f"{self.host} refuses the login of {self.given['user']} with {self.given['key']}: run"
                " playbooks/site.yml, which gives it the key, then collect again."
            )
        reason = next((line for line in said.strip().splitlines() if line), f"rsync ended with exit code {code}")
        return f"Collecting from {self.host} was cut off ({reason}): run again, it continues."
