# SPDX-License-Identifier: Apache-2.0
"""Reimaging: what a card holds is on the control node, verified, before it is written anew, and back on it afterwards.

The state of a device's reimaging is a file on the control node, so that a run killed anywhere is continued by the next.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ansible_collections.edge.pi_fleet.plugins.module_utils.collecting import (
    CollectError,
    Collector,
    Ledger,
    batches,
    lock,
)
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import read_text, write_text

ARCHIVE = "kept.tar"
READY, DONE = "ready", "done"


@dataclass
class State:
    """What a device's card held when it was given free to be written."""

    step: str
    card: str
    """Name of the old card."""
    moment: float
    """When that was known, in seconds since the epoch."""
    pictures: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the field data by name."""
    kept: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the files in the archive, by path."""

    @classmethod
    def load(cls, folder: Path) -> State | None:
        """Read the state; None where there is none."""
        path = folder / "state.json"
        text = read_text(path)
        try:
            return cls(**json.loads(text)) if text is not None else None
        except (ValueError, TypeError) as error:
            raise CollectError(
                f"{path} cannot be read ({error}): what is in {folder} is yours to look at; move it away, then begin"
                " with reimage_step=before."
            ) from None

    def save(self, folder: Path) -> None:
        """Write the state, whole or not at all."""
        write_text(folder / "state.json", json.dumps(asdict(self), indent=1, sort_keys=True) + "\n", mode=0o600)


def new_card() -> str:
    """Return a name that no card has."""
    return secrets.token_hex(16)


def begin(host: str, folder: Path, card: str) -> None:
    """Refuse to take another card for the old one: what is to go back would be forgotten."""
    state = State.load(folder)
    if state and state.step == READY and state.card != card:
        raise CollectError(
            f"{host} has another card than the one that {folder} is about: bring it to its end with reimage_step=after,"
            f" or move {folder} away, then run again."
        )


def finish(host: str, folder: Path, card: str) -> State:
    """Return the state of a device whose card was written anew; refuse one that was not, and one that is not ready."""
    state = State.load(folder)
    if state is None:
        raise CollectError(
            f"Nothing is known of the card that {host} had: run reimage_step=before, or reimage_step=lost if that"
            " card is dead."
        )
    if state.card == card:
        raise CollectError(f"{host} still has the card that it had: write the card anew, then run again.")
    return state


def rescued(collector: Collector) -> dict[str, str]:
    """Return the SHA-256 of all pictures that are on the device, each of which was read on the control node as well."""
    standing = Ledger.load(collector.folder).standing()
    left = dict(collector.report.left)
    left |= {name: "is not on the control node" for name, entry in standing.items() if not collector.holds(entry)}
    seen = collector.device.look()
    left |= {name: "is new" for name in seen.pictures if name not in standing}
    if left | seen.left:
        first = "; ".join(f"{name} {why}" for name, why in sorted((left | seen.left).items())[:3])
        raise CollectError(
            f"{collector.host} is not ready to be flashed, as {len(left | seen.left)} of its pictures are not here"
            f" ({first}): stop what writes them, then run again."
        )
    return {name: entry.sha256 for name, entry in standing.items()}


def lost(collector: Collector, folder: Path) -> tuple[State, str]:
    """Return the state of a device whose card is dead, by its last collection, and what can be said of it."""
    ledger = Ledger.load(collector.folder)
    former = State.load(folder)
    standing = ledger.standing()
    here = {name: entry.sha256 for name, entry in standing.items() if collector.holds(entry)}
    state = State(READY, new_card(), time.time(), here, former.kept if former else {})
    if ledger.looked is None:
        known = f"nothing was ever collected from {collector.host}"
    else:
        known = (
            f"of the {len(standing)} pictures that {collector.host} had at its last collection"
            f" ({datetime.fromtimestamp(ledger.looked, UTC):%Y-%m-%d %H:%M} UTC), {len(here)} are here and verified"
        )
    kept = (
        f"{len(state.kept)} files of reimage_keeps are from its last reimaging" if former else "no file was ever kept"
    )
    return state, f"{known}; {kept}. What came onto the card after that, nobody can know."


def put_back(
    collector: Collector, pictures: Mapping[str, str], put: Callable[[Mapping[str, Path]], dict[str, str]]
) -> tuple[int, dict[str, str]]:
    """Put back pictures that the new card lacks, have the device hash all of them, and write down that they are there.

    Return how many were moved, and why others are not back.
    """
    ledger = Ledger.load(collector.folder)
    there, _ = collector.device.sums(sorted(pictures))
    left: dict[str, str] = {}
    wanted: dict[str, Path] = {}
    moved = 0
    for name, digest in pictures.items():
        if name in there and there[name][0] == digest:
            continue
        entry = ledger.entries.get(name)
        path = collector.find(entry) if entry and entry.sha256 == digest else None
        if path is None:
            left[name] = "is not put back, as it is not on the control node any more"
        else:
            wanted[name] = path
    for batch in batches({name: path.stat().st_size for name, path in wanted.items()}):
        left |= put({name: wanted[name] for name in batch})
        moved += len(batch)
        collector.say(f"{collector.host}: {moved} of {len(wanted)} pictures put back")
    found, unread = collector.device.sums([name for name in pictures if name not in left])
    wrong = sorted({*unread, *(name for name, (digest, _) in found.items() if digest != pictures[name])})
    if wrong:
        raise CollectError(
            f"{collector.host}: {len(wrong)} pictures are not on the card as they were ({wrong[0]}): run again."
        )
    with lock(collector.folder, collector.host):
        ledger = Ledger.load(collector.folder)
        for name, (_, signature) in found.items():
            ledger.entries[name].signature = signature
        ledger.save()
    return len(wanted.keys() - left.keys()), left
