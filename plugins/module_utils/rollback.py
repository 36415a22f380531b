# SPDX-License-Identifier: Apache-2.0
"""Go back to releases that a device has run before, and have them run.

The history is cut first, to end where the device goes. So a rollback that is killed anywhere is finished by the next
one, which goes no further back: what runs then is not yet what the history ends with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ansible_collections.edge.pi_fleet.plugins.module_utils import history, workers
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device
from ansible_collections.edge.pi_fleet.plugins.module_utils.history import Releases
from ansible_collections.edge.pi_fleet.plugins.module_utils.release import RELEASE, Store
from ansible_collections.edge.pi_fleet.plugins.module_utils.units import OWED, Units


class RollbackError(Exception):
    """One sentence: why there is no way back, and what to do."""


@dataclass(frozen=True)
class Rollback:
    """What a device runs and has run."""

    device: Device

    @cached_property
    def stores(self) -> Mapping[str, Store]:
        """The device's stores by name."""
        return history.stores(self.device)

    @cached_property
    def running(self) -> Releases:
        """What is current."""
        return history.running(self.stores)

    @cached_property
    def entries(self) -> Sequence[Releases]:
        """The history."""
        return history.read(self.device)

    def to_proven(self) -> Sequence[Releases]:
        """Return the history that ends with what was proven last: all of it."""
        return self.entries

    def to_former(self) -> Sequence[Releases]:
        """Return the history up to what was proven before the present releases.

        If what runs is not what was proven last, because a rollout or a rollback did not come to its end, that is it.
        """
        if self.entries and (self.steps(self.entries) or self.owing()):
            return self.entries
        before = list(self.entries[:-1])
        while before and not (self.steps(before) and self._is_there(before)):
            before.pop()
        if not before:
            raise RollbackError(
                "There is nothing to go back to: no release that ran here before the present ones is still on the "
                f"device. It has {self._offer()}; name one with its release, or let site.yml drop another."
            )
        return before

    def to_former_of(self, names: Sequence[str], release: str) -> Sequence[Releases]:
        """Return the history as if stores had never left the release that they had before, or the one that is named.

        Another release than the present one can be named for one store.
        """
        if unknown := [name for name in names if name not in self.running]:
            raise RollbackError(f"The device runs no {', '.join(unknown)}; it has {self._offer()}: name one of these.")
        if release and len(names) != 1:
            raise RollbackError(f"The release {release} is of one Lambda or model alone: name just that one.")
        if release and not RELEASE.fullmatch(release):
            raise RollbackError(f"'{release}' is no name of a release; the device has {self._offer()}: name one.")
        entries, target = list(self.entries), dict(self.running)
        for name in names:
            target[name] = release or self._former_of(name)
            at = [number for number, entry in enumerate(entries) if entry.get(name) == target[name]]
            if at:
                entries[at[-1] :] = [{**entry, name: target[name]} for entry in entries[at[-1] :]]
        return [*entries, target]

    def steps(self, entries: Sequence[Releases]) -> dict[str, str]:
        """Return the releases that going where a history ends takes, by store."""
        wanted = entries[-1] if entries else {}
        return {
            name: wanted[name] for name in self.running if wanted.get(name, self.running[name]) != self.running[name]
        }

    def owing(self) -> list[str]:
        """Return the stores whose releases do not run yet, as a run was killed after it had switched to them."""
        return [
            name
            for name in self.running
            if any(self.device.path(f"{OWED}/{unit}").exists() for unit in self.units([name]))
        ]

    def units(self, names: Sequence[str]) -> dict[str, str]:
        """Return the text of the units that run releases of these stores, the local core's first."""
        paths = {self.device.name(self.stores[name].path) for name in names}
        found = workers.texts(self.device, ["localcore.service", *workers.PATTERNS])
        concerned = {
            name: text for name, text in found.items() if paths & {store for store, _ in workers.RUNS.findall(text)}
        }
        return dict(sorted(concerned.items(), key=lambda unit: (unit[0] != "localcore.service", unit[0])))

    def go(self, entries: Sequence[Releases], timeout: float) -> None:
        """Go where a history ends, and wait until what runs there says that it is ready.

        Raises RollbackError before anything is touched if a release is not there, WorkerError if one does not start.
        """
        steps = self.steps(entries)
        if not self._is_there(entries):
            raise RollbackError(
                f"{self._show(steps)} is not whole on the device, which has {self._offer()}: name one of these."
            )
        names = [*steps, *self.owing()]
        releases = {self.device.name(self.stores[name].path): {**self.running, **steps}[name] for name in names}
        files = {unit: workers.renamed(text, releases) for unit, text in self.units(names).items()}
        on_demand = Units(self.device, {}, list(files)).not_enabled()
        units = Units(self.device, files, [unit for unit in files if unit not in on_demand])
        history.write(self.device, entries)
        units.write(list(files))
        for name, release in steps.items():
            self.stores[name].switch(release)
        if files:
            units.activate(restart=True)
        workers.wait_until_ready(self.device, [unit for unit in files if unit != "localcore.service"], timeout)

    def _former_of(self, name: str) -> str:
        before = history.latest(self.entries, name)
        if before[:1] == [self.running[name]] and name in self.owing():
            return self.running[name]
        for release in before:
            if release != self.running[name] and self.stores[name].holds(release):
                return release
        raise RollbackError(
            f"There is nothing to go back to: no release that {name} had before {self.running[name]} is still on the "
            f"device. It has {self._offer()}; name one with its release, or let site.yml drop another."
        )

    def _is_there(self, entries: Sequence[Releases]) -> bool:
        return all(self.stores[name].holds(release) for name, release in self.steps(entries).items())

    def _offer(self) -> str:
        found = {
            name: sorted(path.name for path in store.releases.iterdir() if RELEASE.fullmatch(path.name))
            for name, store in self.stores.items()
        }
        return "; ".join(f"{name}: {', '.join(releases)}" for name, releases in found.items()) or "no releases"

    @staticmethod
    def _show(releases: Releases) -> str:
        return ", ".join(f"{name} {release}" for name, release in releases.items())
