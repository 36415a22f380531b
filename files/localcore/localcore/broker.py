"""The local broker, which is the `cloud` of the group: messages from it to the router, and from the router to it.

paho-mqtt 1.6 and 2 both serve; their callbacks differ in their last arguments, which this module alone deals with.
paho has a thread of its own; what it calls here hands over to the asyncio loop, where all the rest runs.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import paho.mqtt.client as mqtt

from localcore.journal import Journal, Record
from localcore.queues import Queue

OUTGOING = "outgoing"
"""The state, in the journal, of a message that the broker has not acknowledged."""
QOS = 1
KEEPALIVE = 30
FIRST_RETRY = 0.1
"""Seconds; sooner than clients, which wait a second: what they send when the broker is back finds the core there."""
SLOWEST_RETRY = 2
SOON = 50
"""Tries after which a broker that is not there is looked for less often: a restart takes a second or two."""
SETTLE = 2.0
"""Seconds that messages wait once the broker is back: who asked is back later than the core, and may have lost its
session with the broker; an answer that is sent before would reach nobody."""
MOST_UNACKNOWLEDGED = 20
REFUSED_SUBSCRIPTION = 128

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Message:
    """A message to the broker; `sequence` is its place in the journal, None if there was no room."""

    topic: str
    payload: bytes = field(repr=False)
    sequence: int | None

    @property
    def size(self) -> int:
        return len(self.payload)


class Broker:
    """A connection that is kept up, and the messages that wait while it is down."""

    def __init__(
        self,
        host: str,
        port: int,
        client_id: str,
        filters: Iterable[str],
        journal: Journal,
        most_bytes: int,
        most_items: int,
    ) -> None:
        """Make a client that is to subscribe to the filters; the bounds are those of the messages that wait."""
        self._address = (host, port)
        self._filters = sorted(set(filters))
        self._journal = journal
        self._waiting: Queue[_Message] = Queue(most_bytes, most_items)
        self._unacknowledged: dict[int, _Message] = {}
        self._connected = False
        self._lost = False
        self._stopping = False
        self._tries = 0
        self._subscribed = False
        self._settling: asyncio.TimerHandle | None = None
        self._dropped = 0
        self._said = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._deliver: Callable[[str, bytes], None] | None = None
        self._client_id = client_id
        self._client = self._make_client()

    def _make_client(self) -> Any:
        """Make a client for one connection: in another, paho would at once send again what was not acknowledged."""
        options: dict[str, Any] = {"client_id": self._client_id, "clean_session": False, "protocol": mqtt.MQTTv311}
        options["reconnect_on_failure"] = False
        if hasattr(mqtt, "CallbackAPIVersion"):
            options["callback_api_version"] = mqtt.CallbackAPIVersion.VERSION2
        client: Any = mqtt.Client(**options)
        client.max_inflight_messages_set(MOST_UNACKNOWLEDGED)
        client.on_socket_open = _send_at_once
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        return client

    # --- called by the core, in the loop

    def restore(self, records: Iterable[Record]) -> None:
        """Take up the messages that had not reached the broker before a restart."""
        for record in records:
            self._waiting.put(_Message(str(record.fields.get("topic")), record.payload, record.sequence))

    async def start(self, deliver: Callable[[str, bytes], None]) -> None:
        """Connect as soon as the broker is there, and pass its messages to `deliver`."""
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._open()

    def _open(self) -> None:
        self._client.connect_async(*self._address, keepalive=KEEPALIVE)
        self._client.loop_start()

    async def stop(self) -> None:
        """Disconnect; the broker keeps the session, and the journal what it has not acknowledged."""
        self._stopping = True
        # In a thread, because paho's own may wait for the loop meanwhile.
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def has_room(self, size: int) -> bool:
        """Tell whether a message of this size can wait without pushing out another."""
        return self._waiting.has_room(size)

    def publish(self, topic: str, payload: bytes) -> None:
        """Send a message, now or when the broker is back; if too many wait, the oldest are dropped."""
        while not self._waiting.has_room(len(payload)):
            self._forget(self._waiting.take())
            self._dropped += 1
            if self._dropped == 1:
                log.warning("Too many messages wait for the broker; the oldest are dropped until it is back.")
        try:
            sequence = self._journal.add(OUTGOING, {"topic": topic}, payload)
        except OSError as error:
            log.error("A message to the broker cannot be journaled (%s); free some memory.", error.strerror)
            sequence = None
        self._waiting.put(_Message(topic, payload, sequence))
        self._send()

    # --- in the loop, after what paho says

    def _send(self) -> None:
        while self._may_send and self._waiting and len(self._unacknowledged) < MOST_UNACKNOWLEDGED:
            message = self._waiting.take()
            info = self._client.publish(message.topic, message.payload, qos=QOS)
            # Should the connection be lost just now, it waits again.
            self._unacknowledged[info.mid] = message

    @property
    def _may_send(self) -> bool:
        return self._connected and self._settling is None

    def _acknowledged(self, mid: int) -> None:
        message = self._unacknowledged.pop(mid, None)
        if message is not None:
            self._forget(message)
        self._send()

    def _forget(self, message: _Message) -> None:
        if message.sequence is not None:
            self._journal.remove(message.sequence, OUTGOING)

    def _now_connected(self, session: bool) -> None:
        self._connected = True
        self._tries = 0
        self._say(logging.INFO, "connected")
        if self._dropped:
            log.warning("%d messages were dropped while the broker was away.", self._dropped)
            self._dropped = 0
        # Subscribing anew would bring retained messages once more.
        if self._filters and not (session and self._subscribed):
            self._client.subscribe([(topic_filter, QOS) for topic_filter in self._filters])
        if (self._lost or not session) and self._loop is not None:
            self._settle()
            self._settling = self._loop.call_later(SETTLE, self._settled)
        self._send()

    def _settle(self) -> None:
        if self._settling is not None:
            self._settling.cancel()
        self._settling = None

    def _settled(self) -> None:
        self._settle()
        self._send()

    def _now_lost(self, client: Any, why: str, refused: bool) -> None:
        """Begin anew with another client: soon, unless the broker has been away for long or refuses."""
        if client is not self._client or self._loop is None or self._stopping:
            return
        self._lost = self._lost or self._connected
        self._connected = False
        self._settle()
        self._say(logging.WARNING, f"not connected ({why}); trying again")
        for message in reversed(self._unacknowledged.values()):
            self._waiting.put_back(message)
        self._unacknowledged.clear()
        self._client = self._make_client()
        self._tries += 1
        self._loop.call_later(SLOWEST_RETRY if refused or self._tries > SOON else FIRST_RETRY, self._reopen)

    def _reopen(self) -> None:
        if not self._stopping:
            self._open()

    def _now_subscribed(self, refused: bool) -> None:
        self._subscribed = not refused
        if refused:
            log.error("The broker refuses subscriptions; check its ACL for %s.", ", ".join(self._filters))

    def _say(self, level: int, what: str) -> None:
        """Log a change once, however often it is tried again."""
        if what != self._said:
            self._said = what
            log.log(level, "Broker %s:%d: %s.", *self._address, what)

    def _take(self, topic: str, payload: bytes, done: concurrent.futures.Future[None]) -> None:
        try:
            if self._deliver is not None:
                self._deliver(topic, payload)
        except Exception:
            log.exception("A message on %r could not be taken.", topic)
        finally:
            done.set_result(None)

    # --- called by paho, in its thread

    def _in_loop(self, call: Callable[..., None], *arguments: object) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(call, *arguments)

    def _on_connect(self, client: Any, _data: Any, flags: Any, code: Any, *_more: Any) -> None:
        if _is_failure(code, 1):
            self._end(client, str(code), refused=True)
            return
        session = flags["session present"] if isinstance(flags, dict) else flags.session_present
        self._in_loop(self._now_connected, bool(session))

    def _on_connect_fail(self, client: Any, *_more: Any) -> None:
        self._end(client, "it does not answer")

    def _on_disconnect(self, client: Any, *_more: Any) -> None:
        self._end(client, "the connection ended")

    def _end(self, client: Any, why: str, *, refused: bool = False) -> None:
        # It would try again by itself if this was its first try.
        client.disconnect()
        self._in_loop(self._now_lost, client, why, refused)

    def _on_subscribe(self, _client: Any, _data: Any, _mid: int, codes: Iterable[Any], *_more: Any) -> None:
        self._in_loop(self._now_subscribed, any(_is_failure(code, REFUSED_SUBSCRIPTION) for code in codes))

    def _on_publish(self, _client: Any, _data: Any, mid: int, *_more: Any) -> None:
        self._in_loop(self._acknowledged, mid)

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        """Wait until the router has the message in its journal: paho acknowledges it after this returns."""
        done: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._in_loop(self._take, message.topic, bytes(message.payload), done)
        done.result()


def _send_at_once(_client: Any, _data: Any, opened: socket.socket) -> None:
    """Keep the kernel from holding small packets back until the last one is acknowledged, which takes 40 ms."""
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _is_failure(code: Any, least: int) -> bool:
    """Tell whether a code of paho 1, which is a number, or of paho 2, which is an object, is that of a failure."""
    return bool(code.is_failure) if hasattr(code, "is_failure") else code >= least
