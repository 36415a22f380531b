# SPDX-License-Identifier: Apache-2.0
"""Collect a device's field data: the control node's half of module field_data, and rsync; see module collect."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.edge.pi_fleet.plugins.module_utils.collecting import CollectError, Collector
from ansible_collections.edge.pi_fleet.plugins.module_utils.field_data import Listing, Signature, as_signature

PARTIAL = ".partial"
TIMEOUT = 60
"""Seconds without a byte, after which a link counts as cut."""

# What rsync says where pictures were renamed or discarded meanwhile; what arrived is verified anyhow.
WHOLE_OR_FEWER = (0, 23, 24)


class ActionModule(ActionBase):
    """See module collect."""

    _VALID_ARGS = frozenset(("path", "labeled_path", "user", "key", "min_age", "keep_days", "again"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Collect, then have the device remove what may go."""
        super().run(tmp, task_vars)
        _, given = self.validate_argument_spec(
            argument_spec={
                "path": {"type": "path", "required": True},
                "labeled_path": {"type": "path", "required": True},
                "user": {"type": "str", "required": True},
                "key": {"type": "path", "required": True},
                "min_age": {"type": "int", "default": 0},
                "keep_days": {"type": "int", "default": 0},
                "again": {"type": "bool", "default": False},
            }
        )
        host = (task_vars or {}).get("inventory_hostname", "The device")
        if shutil.which("rsync") is None:
            raise AnsibleActionFail("rsync is not on the control node: install it (apt install rsync) and run again.")
        device = _Device(self, host, given, task_vars)
        collector = Collector(
            host=host,
            folder=Path(given["path"]),
            labeled=Path(given["labeled_path"]),
            device=device,
            say=Display().display,
            again=given["again"],
            check_mode=self._task.check_mode,
        )
        try:
            report = collector.collect()
            if given["keep_days"]:
                report = collector.prune(given["keep_days"])
        except CollectError as error:
            raise AnsibleActionFail(str(error)) from error
        except OSError as error:
            raise AnsibleActionFail(
                f"What is collected from {host} cannot be kept ({error}): mend it and run again, it continues."
            ) from error
        return {"changed": bool(report.collected or report.renamed or report.pruned), **asdict(report)}


class _Device:
    """The device, asked by module field_data and copied from by rsync."""

    def __init__(self, action: ActionBase, host: str, given: Mapping[str, Any], task_vars: dict[str, Any] | None):
        self.action, self.host, self.given, self.task_vars = action, host, given, task_vars

    def look(self) -> Listing:
        found = self._ask({"min_age": self.given["min_age"]})
        return Listing({name: as_signature(each) for name, each in found["pictures"].items()}, found["left"])

    def sums(self, names: Sequence[str]) -> tuple[dict[str, tuple[str, Signature]], dict[str, str]]:
        found = self._ask({"sums": list(names)})
        return {name: (digest, as_signature(each)) for name, (digest, each) in found["sums"].items()}, found["left"]

    def remove(self, sums: Mapping[str, str]) -> tuple[Sequence[str], dict[str, str]]:
        found = self._ask({"remove": dict(sums)})
        return found["removed"], found["left"]

    def pull(self, names: Sequence[str], folder: Path, lock: int) -> None:
        connection = self.action._connection
        if connection.transport != "ssh":
            raise CollectError(f"{self.host} is reached by {connection.transport}: rsync collects over ssh alone.")
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
        done = subprocess.run(argv, input=names_given, capture_output=True, check=False, pass_fds=[lock])
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
        if "Permission denied" in said:
            return (
                f"{self.host} refuses the login of {self.given['user']} with {self.given['key']}: run"
                " playbooks/site.yml, which gives it the key, then collect again."
            )
        reason = next((line for line in said.strip().splitlines() if line), f"rsync ended with exit code {code}")
        return f"Collecting from {self.host} was cut off ({reason}): run again, it continues."
