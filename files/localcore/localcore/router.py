"""The router: who may ask whom, what waits for which worker, and how each piece of work ends.

It knows neither HTTP nor MQTT. All of its methods are called from one asyncio loop; those that do not wait end at once.
What it accepts is in the journal before it says so.
"""

from __future__ import annotations

import asyncio
import enum
import json
import logging
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from localcore import arn as arns
from localcore import topics
from localcore.errors import LocalCoreError, RefusedError
from localcore.group import CLOUD, SHADOW, Group
from localcore.invocations import (
    DONE,
    EVENT,
    KINDS,
    REQUEST,
    STARTED,
    UNHANDLED,
    WAITING,
    Invocation,
    Lane,
    Question,
    Result,
)
from localcore.journal import Journal, Record
from localcore.queues import POLICIES, Queue, admitted

ROUTER = arns.function_name(arns.ROUTER)
SECRETS = arns.function_name(arns.SECRETS)
SERVICES = {SHADOW: arns.SHADOW, SECRETS: arns.SECRETS}
MOST_WARNINGS = 1000
LONGEST_SUBJECT = 500
"""Characters, in a report: what is too long to be served is reported too."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Bounds in bytes, items and seconds."""

    queue_bytes: int = 2621440
    queue_items: int = 1000
    payload: int = 6 * 1024 * 1024
    """Of an invocation and of its result."""
    cloud: int = 128 * 1024
    """Of a message to the cloud, which takes no bigger one."""
    poll: float = 50
    """How long a worker waits for work before it hears that there is none."""
    idle: float = 30
    """How long a worker that was started on demand waits before it is told to end."""
    absent: float = 60
    """How long work waits for a worker that is not there."""
    result: float = 60
    """How long a result waits for who asked."""
    results: int = 32 * 1024 * 1024
    """Of all results that wait; beyond it the oldest go."""
    service: float = 60
    """How long the core's own services may take."""


class Arrival(enum.Enum):
    """What a worker that waited for work hears."""

    WORK = enum.auto()
    NOTHING = enum.auto()
    NO_MORE = enum.auto()


class Cloud(Protocol):
    """Where messages to everybody outside the core go: the local broker."""

    def has_room(self, size: int) -> bool:
        """Tell whether a message of this size can wait without pushing out another."""

    def publish(self, topic: str, payload: bytes) -> None:
        """Send a message, now or as soon as possible."""


class Router:
    """The state of all functions of a group."""

    def __init__(self, group: Group, device: str, limits: Limits, journal: Journal, wanted: Path, cloud: Cloud) -> None:
        """Serve the group; `wanted` is the directory that says which workers are to be started on demand."""
        self.limits = limits
        self.errors_topic = f"pi-fleet/{device}/errors"
        self._journal = journal
        self._wanted = wanted
        self._cloud = cloud
        self._lanes: dict[str, Lane] = {}
        for function in group.functions:
            self._add_lane(function.arn, function.name, function.timeout, not function.pinned)
        for connector in group.connectors:
            self._add_lane(connector.function_arn, connector.function_name, connector.timeout, False)
        for name, arn in SERVICES.items():
            self._add_lane(arn, name, limits.service, False)
        self._may_invoke = {function.name for function in group.functions}
        ends = {CLOUD: CLOUD, SHADOW: SHADOW}
        ends |= {function.arn: function.name for function in group.functions}
        ends |= {connector.arn: connector.function_name for connector in group.connectors}
        self._subscriptions: dict[str, list[tuple[str, str]]] = {}
        for subscription in group.subscriptions:
            of_source = self._subscriptions.setdefault(ends[subscription.source], [])
            of_source.append((subscription.subject, ends[subscription.target]))
        self._asked: dict[str, Question] = {}
        self._unfetched = 0
        self._closed = False
        self._warned: set[tuple[str, str]] = set()
        self._prepare_wanted()

    def _add_lane(self, arn: str, name: str, timeout: float, on_demand: bool) -> None:
        queue: Queue[Invocation] = Queue(self.limits.queue_bytes, self.limits.queue_items)
        self._lanes[name] = Lane(arn, name, timeout, on_demand, queue)

    # --- start and end

    def restore(self, records: Iterable[Record], damaged: Iterable[str]) -> None:
        """Take up what was accepted before a restart, and report what of it is lost."""
        for record in records:
            try:
                self._restore(record)
            except (KeyError, TypeError, ValueError):
                self._journal.remove(record.sequence, record.state)
                self._report("", "", "", UNHANDLED, f"The journal's record {record.sequence} cannot be understood.")
        for name in damaged:
            self._report("", "", "", UNHANDLED, f"The journal's file {name} was damaged; what it held is lost.")
        for lane in self._lanes.values():
            self._watch(lane)

    def _restore(self, record: Record) -> None:
        fields = dict(record.fields)
        error = str(fields.pop("error", ""))
        invocation = Invocation(**fields, payload=record.payload, sequence=record.sequence, state=record.state)
        lane = self._lanes.get(invocation.function)
        if invocation.kind == REQUEST:
            self._expect(invocation)
        if record.state == DONE:
            self._answer(invocation, Result(record.payload, error))
        elif lane is None:
            self._end(invocation, Result.unhandled(f"{invocation.function} is no longer in the group."))
        elif record.state == WAITING or lane.name in SERVICES:
            # The core's own services ended with the router, before they answered: they begin again.
            self._journal.move(record.sequence, record.state, WAITING)
            invocation.state = WAITING
            lane.queue.put(invocation)
        else:
            elapsed = time.monotonic() - int(record.state.partition("-")[2]) / 1000
            invocation.payload = b""
            lane.running = invocation
            self._start_timeout(lane, max(0.0, lane.timeout - elapsed))

    def close(self) -> None:
        """Send home whoever waits; what is in the journal stays for the next start."""
        self._closed = True
        for lane in self._lanes.values():
            lane.stop()
        for question in self._asked.values():
            if not question.ended.done():
                question.ended.set_result(None)
            if question.expiry is not None:
                question.expiry.cancel()

    # --- those who ask

    def name_of(self, arn: str) -> str:
        """Return the name of a function that is served, whatever region, account and version the ARN says."""
        try:
            name = arns.function_name(arn)
        except LocalCoreError as error:
            raise RefusedError(404, str(error)) from error
        if name not in self._lanes and name != ROUTER:
            raise RefusedError(404, f"The group has no function {name}; add it, or correct the ARN {arn[:200]}.")
        return name

    def post_work(self, caller: str, function: str, kind: str, context: Mapping[str, Any], payload: bytes) -> str:
        """Accept work for a function from the function named `caller`, and return the id of the invocation.

        `context` is the client context; what it says of its source is replaced by what is true.
        """
        if kind not in KINDS:
            raise RefusedError(400, f"The invocation type {kind[:50]!r} is not known; use Event or RequestResponse.")
        context = {**context, "custom": {**context.get("custom", {}), "source": self._lanes[caller].arn}}
        if function == ROUTER:
            return self._publish(caller, kind, context, payload)
        if caller not in self._may_invoke:
            raise RefusedError(403, f"{caller} may not invoke functions; only the group's Lambdas may.")
        lane = self._lanes[function]
        if not lane.queue.has_room(len(payload)):
            raise RefusedError(503, f"The queue of {function} is full; try again later.")
        invocation = Invocation(function, caller, kind, context, payload)
        self._accept(invocation)
        return invocation.id

    async def result(self, caller: str, function: str, id_: str) -> Result | None:
        """Wait for the result of an invocation that `caller` posted; None if the router closes before."""
        question = self._asked.get(id_)
        if question is None or (question.invocation.caller, question.invocation.function) != (caller, function):
            raise RefusedError(404, f"{caller} waits for no result {id_[:50]!r} of {function}; post the work first.")
        return await asyncio.shield(question.ended)

    def fetched(self, id_: str) -> None:
        """Forget a result that has arrived where it belongs, or that nobody came for."""
        question = self._asked.pop(id_, None)
        if question is not None:
            self._unfetched -= question.size
            self._journal.remove(question.invocation.sequence, question.invocation.state)
            if question.expiry is not None:
                question.expiry.cancel()

    def _publish(self, caller: str, kind: str, context: Mapping[str, Any], payload: bytes) -> str:
        topic = context["custom"].get("subject")
        policy = context["custom"].get("queueFullPolicy", "")
        if kind != EVENT:
            raise RefusedError(400, "A message is published as an Event; there is no result to wait for.")
        if not isinstance(topic, str):
            raise RefusedError(400, "A message needs a topic, as the subject in the client context.")
        if fault := topics.fault_of_topic(topic):
            raise RefusedError(400, f"A message cannot be published to {topic[:200]!r}: {fault}.")
        if policy not in POLICIES:
            raise RefusedError(
                400, f"The queueFullPolicy {str(policy)[:50]!r} is not known; use AllOrError or BestEffort."
            )
        self.route(caller, topic, payload, policy)
        return str(uuid.uuid4())

    # --- messages

    def deliver(self, topic: str, payload: bytes) -> None:
        """Take a message from the cloud: nobody hears of a refusal, so it is reported."""
        try:
            if fault := topics.fault_of_topic(topic):
                raise RefusedError(400, f"The topic {topic[:100]!r} is not served: {fault}.")
            if len(payload) > self.limits.payload:
                raise RefusedError(413, f"A message of {len(payload)} bytes is over {self.limits.payload}; send less.")
            self.route(CLOUD, topic, payload)
        except RefusedError as error:
            self._report("", topic, "", UNHANDLED, str(error))

    def route(self, source: str, topic: str, payload: bytes, policy: str = "") -> None:
        """Pass a message to each target that the subscriptions name, once; none at all is no error, as in V1."""
        found = [target for subject, target in self._subscriptions.get(source, ()) if topics.matches(subject, topic)]
        targets = list(dict.fromkeys(found))
        if not targets and source != SHADOW:
            self._warn_of_no_target(source, topic)
        if CLOUD in targets and len(payload) > self.limits.cloud:
            raise RefusedError(
                413, f"A message of {len(payload)} bytes is too big for the cloud; {self.limits.cloud} are allowed."
            )
        room = [self._has_room(target, len(payload)) for target in targets]
        chosen = admitted(policy, room)
        if chosen is None:
            full = ", ".join(target for target, has_room in zip(targets, room, strict=True) if not has_room)
            raise RefusedError(503, f"The queue of {full} is full; try again later.")
        context = {"custom": {"source": source if source == CLOUD else self._lanes[source].arn, "subject": topic}}
        for target, is_chosen in zip(targets, chosen, strict=True):
            caller = "" if source == CLOUD else source
            if target == CLOUD:
                # A full outbox makes room by itself: what is old is of least use to those who are cut off.
                self._cloud.publish(topic, payload)
            elif is_chosen:
                self._accept(Invocation(target, caller, EVENT, context, payload))
            else:
                self._report(target, topic, "", UNHANDLED, f"The queue of {target} is full; the message is dropped.")

    def _has_room(self, target: str, size: int) -> bool:
        return self._cloud.has_room(size) if target == CLOUD else self._lanes[target].queue.has_room(size)

    def _warn_of_no_target(self, source: str, topic: str) -> None:
        if (source, topic) not in self._warned and len(self._warned) < MOST_WARNINGS:
            self._warned.add((source, topic))
            log.warning("No subscription takes %r from %s; such messages are dropped.", topic, source)

    # --- workers

    async def work_arrives(self, function: str, *, for_ever: bool = False) -> Arrival:
        """Wait until there is work for the worker of a function, or it has waited long enough.

        A worker that asks while its last work is not answered has been restarted. One that waited before it is gone, or
        of no use any more: there is one worker a function.
        """
        lane = self._lanes[function]
        self._end_running(lane, f"The worker of {function} ended while it handled this.")
        lane.end_poll(work=False)
        if self._closed:
            return Arrival.NOTHING
        if lane.queue:
            return Arrival.WORK
        seconds = None if for_ever else self.limits.idle if lane.on_demand else self.limits.poll
        in_vain = Arrival.NOTHING
        poll = lane.poll = asyncio.get_running_loop().create_future()
        self._watch(lane)
        try:
            async with asyncio.timeout(seconds):
                wanted = await poll
        except TimeoutError:
            wanted = True
            in_vain = Arrival.NO_MORE if lane.on_demand else Arrival.NOTHING
        finally:
            if lane.poll is poll:
                lane.poll = None
                self._watch(lane)
        # Another worker may have come meanwhile and taken what arrived.
        return Arrival.WORK if wanted and lane.queue and lane.running is None else in_vain

    def take(self, function: str) -> Invocation:
        """Start the work that has waited longest; to be called without a wait after WORK arrived."""
        lane = self._lanes[function]
        invocation = lane.queue.take()
        started = f"{STARTED}-{int(time.monotonic() * 1000)}"
        self._journal.move(invocation.sequence, invocation.state, started)
        invocation.state = started
        lane.running = invocation
        self._start_timeout(lane, lane.timeout)
        self._watch(lane)
        return invocation

    def handed(self, invocation: Invocation) -> None:
        """Note that the worker has the work: its payload is needed no more."""
        invocation.payload = b""

    def put_back(self, invocation: Invocation) -> None:
        """Note that the work could not be handed to the worker: it waits again, first in its queue."""
        lane = self._lanes[invocation.function]
        if lane.running is invocation:
            self._journal.move(invocation.sequence, invocation.state, WAITING)
            invocation.state = WAITING
            lane.running = None
            lane.set_timeout(None)
            lane.queue.put_back(invocation)
            self._watch(lane)

    def post_result(self, function: str, id_: str, result: Result) -> None:
        """End the invocation that the worker of a function was given; a late result is refused."""
        lane = self._lanes[function]
        if lane.running is None or lane.running.id != id_:
            raise RefusedError(404, f"{function} has no work {id_[:50]!r}; it may have timed out or been answered.")
        self._finish(lane, result)

    def initialized(self, function: str, success: bool, message: str) -> None:
        """Note that a worker was started and whether its handler could be imported; if not, no work waits for it."""
        lane = self._lanes[function]
        self._end_running(lane, f"The worker of {function} ended while it handled this.")
        if not success:
            log.error("%s could not be initialised: %s", function, message[:1000])
            self._end_waiting(lane, f"{function} could not be initialised: {message[:1000]}")

    # --- how work begins and ends

    def _accept(self, invocation: Invocation) -> None:
        try:
            invocation.sequence = self._journal.add(WAITING, invocation.fields(), invocation.payload)
        except OSError as error:
            raise RefusedError(
                503, f"Work for {invocation.function} cannot be accepted ({error.strerror}); free some memory."
            ) from error
        if invocation.kind == REQUEST:
            self._expect(invocation)
        lane = self._lanes[invocation.function]
        lane.queue.put(invocation)
        self._watch(lane)

    def _expect(self, invocation: Invocation) -> None:
        self._asked[invocation.id] = Question(invocation, asyncio.get_running_loop().create_future())

    def _start_timeout(self, lane: Lane, seconds: float) -> None:
        sentence = f"{lane.name} did not answer within {lane.timeout:g} s."
        lane.set_timeout(asyncio.get_running_loop().call_later(seconds, self._end_running, lane, sentence))

    def _end_running(self, lane: Lane, sentence: str) -> None:
        if lane.running is not None:
            self._finish(lane, Result.unhandled(sentence))

    def _end_waiting(self, lane: Lane, sentence: str) -> None:
        while lane.queue:
            self._end(lane.queue.take(), Result.unhandled(sentence))
        self._watch(lane)

    def _finish(self, lane: Lane, result: Result) -> None:
        invocation, lane.running = lane.running, None
        lane.set_timeout(None)
        if invocation is not None:
            self._end(invocation, result)
        self._watch(lane)

    def _end(self, invocation: Invocation, result: Result) -> None:
        """Answer who asked; report what failed and was asked by nobody."""
        invocation.payload = b""
        if invocation.kind == EVENT:
            if result.error:
                self._report(invocation.function, invocation.subject, invocation.id, result.error, result.message())
            self._journal.remove(invocation.sequence, invocation.state)
            return
        if invocation.function != SECRETS:
            try:
                fields = {**invocation.fields(), "error": result.error}
                self._journal.replace(invocation.sequence, invocation.state, DONE, fields, result.payload)
                invocation.state = DONE
            except OSError as error:
                log.error("A result cannot be journaled (%s); free some memory.", error.strerror)
        self._answer(invocation, result)

    def _answer(self, invocation: Invocation, result: Result) -> None:
        """Hold a result for who asked, within the bounds for results that nobody fetches."""
        question = self._asked[invocation.id]
        question.size = len(result.payload)
        question.expiry = asyncio.get_running_loop().call_later(self.limits.result, self.fetched, invocation.id)
        self._unfetched += question.size
        if not question.ended.done():
            question.ended.set_result(result)
        while self._unfetched > self.limits.results:
            self.fetched(next(id_ for id_, other in self._asked.items() if other.size))

    def _report(self, function: str, subject: str, id_: str, error: str, message: str) -> None:
        """Publish a failure that nobody waits for; not one of handling such reports, which would never end."""
        if subject == self.errors_topic:
            return
        report = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "function": function,
            "subject": subject[:LONGEST_SUBJECT],
            "id": id_,
            "error": error,
            "message": message,
        }
        self._cloud.publish(self.errors_topic, json.dumps(report).encode())

    # --- what follows from a lane's state

    def _watch(self, lane: Lane) -> None:
        """Wake the worker if there is work, have one started, or begin to count how long none comes."""
        if lane.on_demand:
            self._want(lane)
        if lane.queue and lane.running is None:
            lane.end_poll(work=True)
        if not lane.deserted:
            lane.set_absence(None)
        elif not lane.absence_timed:
            sentence = f"No worker of {lane.name} asked for work within {self.limits.absent:g} s."
            timer = asyncio.get_running_loop().call_later(self.limits.absent, self._give_up, lane, sentence)
            lane.set_absence(timer)

    def _give_up(self, lane: Lane, sentence: str) -> None:
        log.error("%s Is its unit running?", sentence)
        self._end_waiting(lane, sentence)

    def _prepare_wanted(self) -> None:
        self._wanted.mkdir(mode=0o755, parents=True, exist_ok=True)
        for path in self._wanted.iterdir():
            path.unlink()

    def _want(self, lane: Lane) -> None:
        if lane.wanted == lane.busy:
            return
        path = self._wanted / lane.name
        try:
            if lane.busy:
                path.touch()
            else:
                path.unlink(missing_ok=True)
            lane.wanted = lane.busy
        except OSError as error:
            log.error("%s cannot be made or removed (%s); free some memory.", path, error.strerror)
