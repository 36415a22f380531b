# SPDX-License-Identifier: Apache-2.0
"""Show what each device is doing and for how long, and at the end what took longest."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: progress
type: aggregate
short_description: Show what each device is doing and for how long, and at the end what took longest
version_added: 0.1.0
description:
  - On a terminal, the last lines of the screen say what each device is doing and for how long, the longest first; all
    other output goes on above them. Where devices are more than a third of the screen, the last line counts the others.
  - Without a terminal, a task that goes on for a minute is told in a plain line, and again each minute.
  - At the end of a run of more than half a minute, the three tasks that took longest are named, each with the slowest
    device.
requirements:
  - Enabled as C(edge.pi_fleet.progress) in C(callbacks_enabled), as the checkout's ansible.cfg does.
"""

REDRAW = 1.0
"""Seconds between two looks at the clock, on a terminal."""
TOLD = 60.0
"""Seconds after which a task is told in a plain line, and again."""
LONG = 30.0
"""Seconds from which on a run is long."""

SAVE, RESTORE, CLEAR = "\x1b7", "\x1b8", "\x1b[2K"


@dataclass
class Progress:
    """What devices are doing, and what took longest."""

    begun: float
    running: dict[str, tuple[str, float]] = field(default_factory=dict)
    """The task of each device that has one, and since when."""
    devices: int = 0
    slowest: dict[str, tuple[float, str]] = field(default_factory=dict)
    """How long each task took at most, and on which device."""

    def start(self, device: str, task: str, now: float) -> None:
        """Note that a device begins with a task."""
        self.running[device] = (task, now)

    def end(self, device: str, now: float) -> None:
        """Note that a device is done with its task."""
        task, since = self.running.pop(device, ("", now))
        if task:
            self.slowest[task] = max(self.slowest.get(task, (0.0, "")), (now - since, device))

    def rows(self, height: int, width: int, now: float) -> list[str]:
        """Return one row a device, the longest first, and one for those that have none."""
        longest = sorted(self.running.items(), key=lambda item: (item[1][1], item[0]))
        most = max(1, height // 3)
        fits = max(self.devices, len(longest)) <= most
        shown = longest if fits else longest[: most - 1]
        name = max((len(device) for device, _ in shown), default=0)
        rows = [f"{duration(now - since):>7}  {device:<{name}}  {task}" for device, (task, since) in shown]
        if not fits:
            working = len(longest) - len(shown)
            waiting = self.devices - len(longest)
            rows.append(f"{duration(now - self.begun):>7}  {working} more devices at work, {waiting} done or waiting")
        return [row[: width - 1] for row in rows]

    def told(self, before: float, now: float) -> list[str]:
        """Return plain lines for tasks that went on for another minute since `before`."""
        tasks: dict[str, list[tuple[float, str]]] = {}
        for device, (task, since) in self.running.items():
            tasks.setdefault(task, []).append((since, device))
        lines = []
        for task, at_work in tasks.items():
            since, _ = min(at_work)
            if (now - since) // TOLD > (before - since) // TOLD and now - since >= TOLD:
                names = [device for _, device in sorted(at_work)]
                others = f" and {len(names) - 3} more" if len(names) > 3 else ""
                lines.append(f"{duration(now - since)} so far: {task}: {', '.join(names[:3])}{others}")
        return lines

    def summary(self, now: float) -> list[str]:
        """Return the three slowest tasks, if the run was long."""
        if now - self.begun < LONG:
            return []
        slowest = sorted(((seconds, task, device) for task, (seconds, device) in self.slowest.items()), reverse=True)
        return [f"{duration(seconds):>7}  {task}: {device}" for seconds, task, device in slowest[:3] if seconds >= 1]


def duration(seconds: float) -> str:
    """Return what a person calls it."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"


@dataclass
class Screen:
    """The last lines of a terminal, which do not scroll with the others.

    Bytes go to the terminal in one write, past Python's buffers: whoever forks while this draws inherits no lock.
    """

    descriptor: int
    height: int = 0
    drawn: int = 0

    def draw(self, rows: Sequence[str], height: int) -> None:
        """Show these rows, and have all else scroll above them. There is always room for those that once were there."""
        wanted = max(len(rows), self.drawn)
        text = ""
        if (wanted, height) != (self.drawn, self.height):
            # Room for them, below where the cursor is; setting what scrolls moves it.
            room = wanted - self.drawn if height == self.height else wanted
            text += "\n" * room + f"\x1b[{room}A{SAVE}\x1b[1;{height - wanted}r{RESTORE}"
            self.drawn, self.height = wanted, height
        text += SAVE
        for number in range(wanted):
            row = rows[number] if number < len(rows) else ""
            text += f"\x1b[{height - wanted + 1 + number};1H{CLEAR}{row}"
        self._write(text + RESTORE)

    def clear(self) -> None:
        """Give the lines back."""
        if self.drawn:
            rows = "".join(f"\x1b[{self.height - number};1H{CLEAR}" for number in range(self.drawn))
            self._write(f"{SAVE}{rows}\x1b[r{RESTORE}")
            self.drawn = 0

    def _write(self, text: str) -> None:
        os.write(self.descriptor, text.encode())


class CallbackModule(CallbackBase):
    """See DOCUMENTATION."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "edge.pi_fleet.progress"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        """Begin a run."""
        super().__init__()
        self.progress = Progress(time.monotonic())
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.screen = Screen(sys.stdout.fileno()) if _terminal() else None
        self.clock = threading.Thread(target=self._tick, daemon=True, name="progress")

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Begin to look at the clock."""
        self.clock.start()
        atexit.register(self._end)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Count the devices."""
        variables: Mapping[str, Any] = play.get_variable_manager().get_vars(play=play)
        with self.lock:
            self.progress.devices = len(variables.get("ansible_play_hosts_all", []))

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Note that a device begins with a task."""
        with self.lock:
            name = task.get_name().removeprefix("edge.pi_fleet.")
            self.progress.start(host.get_name(), name, time.monotonic())

    def v2_runner_on_ok(self, result: Any) -> None:
        """Note that a device is done with its task."""
        self._done(result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        """Note that a device is done with its task."""
        self._done(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Note that a device is done with its task."""
        self._done(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Note that a device is done with its task."""
        self._done(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Say what took longest."""
        self._end()
        now = time.monotonic()
        lines = self.progress.summary(now)
        if lines:
            self._display.banner(f"SLOWEST OF {duration(now - self.progress.begun)}")
            self._display.display("\n".join(lines))

    def _done(self, result: Any) -> None:
        with self.lock:
            self.progress.end(result.host.get_name(), time.monotonic())

    def _tick(self) -> None:
        before = time.monotonic()
        while not self.ended.wait(REDRAW):
            now = time.monotonic()
            with self.lock:
                if self.screen:
                    size = os.get_terminal_size(self.screen.descriptor)
                    self.screen.draw(self.progress.rows(size.lines, size.columns, now), size.lines)
                else:
                    for line in self.progress.told(before, now):
                        os.write(sys.stdout.fileno(), f"{line}\n".encode())
            before = now

    def _end(self) -> None:
        self.ended.set()
        with self.lock:
            if self.screen:
                self.screen.clear()


def _terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
