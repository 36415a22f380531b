"""Queues: bounded, in order, and what each queueFullPolicy does to a message."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from localcore.queues import Queue, admitted


@dataclass(frozen=True)
class Thing:
    number: int
    size: int


class QueueMachine(RuleBasedStateMachine):
    """A queue and the plain list that it must behave like."""

    most_bytes = 100
    most_items = 4

    def __init__(self) -> None:
        super().__init__()
        self.queue: Queue[Thing] = Queue(self.most_bytes, self.most_items)
        self.model: list[Thing] = []
        self.number = 0

    @rule(size=st.integers(0, 120))
    def put(self, size: int) -> None:
        used = sum(thing.size for thing in self.model)
        room = not self.model or (len(self.model) < self.most_items and used + size <= self.most_bytes)
        assert self.queue.has_room(size) is room
        if room:
            self.number += 1
            self.queue.put(Thing(self.number, size))
            self.model.append(Thing(self.number, size))

    @precondition(lambda self: self.model)
    @rule()
    def take(self) -> None:
        assert self.queue.take() == self.model.pop(0)

    @precondition(lambda self: self.model)
    @rule()
    def take_and_put_back(self) -> None:
        self.queue.put_back(self.queue.take())

    @invariant()
    def bounds_hold(self) -> None:
        assert len(self.queue) == len(self.model) <= self.most_items
        assert self.queue.bytes == sum(thing.size for thing in self.model)
        assert self.queue.bytes <= self.most_bytes or len(self.queue) == 1


test_a_queue_is_a_bounded_list = QueueMachine.TestCase


ROOM = st.lists(st.booleans(), max_size=5)


@given(room=ROOM, policy=st.sampled_from(["", "BestEffort"]))
def test_by_best_effort_those_get_it_who_have_room(room: list[bool], policy: str) -> None:
    assert admitted(policy, room) == room


@given(room=ROOM)
def test_all_get_it_or_none_and_it_is_an_error(room: list[bool]) -> None:
    chosen = admitted("AllOrError", room)
    assert chosen is None if False in room else chosen == [True] * len(room)


def test_an_empty_queue_takes_what_is_too_big_for_it() -> None:
    queue: Queue[Thing] = Queue(10, 10)
    assert queue.has_room(11)
    queue.put(Thing(1, 11))
    assert not queue.has_room(0)


def test_nothing_can_be_taken_from_an_empty_queue() -> None:
    with pytest.raises(IndexError):
        Queue[Thing](10, 10).take()
