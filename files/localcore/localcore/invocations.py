"""Invocations, their results, and the lanes in which each function's worker takes them one at a time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from localcore.queues import Queue

EVENT = "Event"
REQUEST = "RequestResponse"
KINDS = (EVENT, REQUEST)
HANDLED = "Handled"
UNHANDLED = "Unhandled"

# States, as the journal names them; a started one also says when, in milliseconds of the monotonic clock, which goes on
# over restarts of the router and is not set by anybody.
WAITING = "waiting"
STARTED = "started"
DONE = "done"


@dataclass(frozen=True)
class Result:
    """What an invocation came to; `error` is '', Handled or Unhandled."""

    payload: bytes
    error: str = ""

    @classmethod
    def unhandled(cls, sentence: str) -> Result:
        """Return the result of an invocation that the router itself ends, in the form of a handler's error."""
        return cls(json.dumps({"errorMessage": sentence}).encode(), UNHANDLED)

    def message(self) -> str:
        """Return what an error says, for people."""
        text = self.payload[:4096].decode("utf-8", "replace")
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            text = str(json.loads(self.payload)["errorMessage"])
        return text[:1000]


@dataclass(eq=False)
class Invocation:
    """One piece of work for a function; `caller` is the name of the function that asked, '' if none did."""

    function: str
    caller: str
    kind: str
    context: Mapping[str, Any]
    payload: bytes = field(repr=False)
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    sequence: int = 0
    state: str = WAITING
    size: int = field(init=False)

    def __post_init__(self) -> None:
        """Remember the size, which outlasts the payload."""
        self.size = len(self.payload)

    @property
    def subject(self) -> str:
        """The topic that this came from, '' if it came from none."""
        return str(self.context.get("custom", {}).get("subject", ""))

    def fields(self) -> dict[str, Any]:
        """Return what the journal keeps beside the payload."""
        return {
            "id": self.id,
            "function": self.function,
            "caller": self.caller,
            "kind": self.kind,
            "context": self.context,
        }


@dataclass
class Question:
    """A RequestResponse that somebody waits for; `ended` gives its result, None if the router closes before it."""

    invocation: Invocation
    ended: asyncio.Future[Result | None]
    size: int = 0
    expiry: asyncio.TimerHandle | None = None


class Lane:
    """A function's work: what waits, what its one worker does now, and whether that worker asks for more."""

    def __init__(self, arn: str, name: str, timeout: float, on_demand: bool, queue: Queue[Invocation]) -> None:
        """Make a lane without work; `timeout` is in seconds for one invocation."""
        self.arn = arn
        self.name = name
        self.timeout = timeout
        self.on_demand = on_demand
        self.queue = queue
        self.running: Invocation | None = None
        self.poll: asyncio.Future[bool] | None = None
        self.wanted = False
        self._timeout: asyncio.TimerHandle | None = None
        self._absence: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.queue) or self.running is not None

    @property
    def deserted(self) -> bool:
        """Whether work waits and no worker is known to be there."""
        return bool(self.queue) and self.running is None and self.poll is None

    def end_poll(self, *, work: bool) -> None:
        """Tell the worker that waits, if one does, whether there is work for it."""
        if self.poll is not None and not self.poll.done():
            self.poll.set_result(work)

    def set_timeout(self, timer: asyncio.TimerHandle | None) -> None:
        """Replace the timer that ends the running invocation."""
        if self._timeout is not None:
            self._timeout.cancel()
        self._timeout = timer

    @property
    def absence_timed(self) -> bool:
        """Whether the absence of a worker is being timed."""
        return self._absence is not None

    def set_absence(self, timer: asyncio.TimerHandle | None) -> None:
        """Replace the timer that gives up on a worker that does not come."""
        if self._absence is not None:
            self._absence.cancel()
        self._absence = timer

    def stop(self) -> None:
        """Let go of timers and of the worker that waits."""
        self.end_poll(work=False)
        self.set_timeout(None)
        self.set_absence(None)
