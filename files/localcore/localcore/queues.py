"""Bounded queues, and what V1's queueFullPolicy says about the full ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

BEST_EFFORT = ("", "BestEffort")
"""To as many targets as have room, without an error; V1's default."""
ALL_OR_ERROR = "AllOrError"
"""To all targets, or to none and an error to the caller. The SDK calls it AllOrException."""
POLICIES = (*BEST_EFFORT, ALL_OR_ERROR)


class Sized(Protocol):
    """What a queue holds: something that has a size in bytes, which does not change while it is in a queue."""

    @property
    def size(self) -> int:
        """Return the bytes that it counts as."""


Item = TypeVar("Item", bound=Sized)


class Queue(Generic[Item]):
    """A queue in order, bounded in bytes and in items."""

    def __init__(self, most_bytes: int, most_items: int) -> None:
        """Bound the queue; an empty one takes any single item, however big, or that would never get through."""
        self.most_bytes = most_bytes
        self.most_items = most_items
        self.bytes = 0
        self._items: deque[Item] = deque()

    def __len__(self) -> int:
        """Return how many items wait."""
        return len(self._items)

    def has_room(self, size: int) -> bool:
        """Tell whether an item of this size may be put now."""
        return not self._items or (len(self._items) < self.most_items and self.bytes + size <= self.most_bytes)

    def put(self, item: Item) -> None:
        """Add an item at the end. Whether there is room is for the caller to ask, and to answer for."""
        self._items.append(item)
        self.bytes += item.size

    def put_back(self, item: Item) -> None:
        """Add an item that was taken at the front, where it was."""
        self._items.appendleft(item)
        self.bytes += item.size

    def take(self) -> Item:
        """Remove and return the item that has waited longest."""
        item = self._items.popleft()
        self.bytes -= item.size
        return item


def admitted(policy: str, room: Sequence[bool]) -> list[bool] | None:
    """Say which targets get a message, given which have room; None if the policy makes that an error."""
    if policy == ALL_OR_ERROR and not all(room):
        return None
    return list(room)
