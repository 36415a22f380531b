"""The connection to the broker, against a real mosquitto: what is lost when it is not there, and that nothing is."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from localcore.broker import OUTGOING, Broker
from localcore.journal import Journal
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

# Debian has it where only root looks.
MOSQUITTO = shutil.which("mosquitto") or "/usr/sbin/mosquitto"


class Mosquitto:
    """A broker on a port of its own, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.lines = ["allow_anonymous true"]

    def start(self) -> None:
        configuration = self.folder / "mosquitto.conf"
        # Started by root, it would become a user who cannot read what is here.
        lines = ["user root", f"listener {self.port} 127.0.0.1", "allow_duplicate_messages false"]
        lines += ["set_tcp_nodelay true"]
        lines += ["persistence true", f"persistence_location {self.folder}/", *self.lines]
        configuration.write_text("\n".join(lines) + "\n")
        self.process = subprocess.Popen(
            [MOSQUITTO, "-c", str(configuration)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.02)
        raise AssertionError("mosquitto does not listen")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop it; killed (SIGKILL), it forgets all sessions."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait()
            self.process = None


class Client:
    """Another client of the broker."""

    def __init__(self, port: int) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.ready = threading.Event()
        self.client = self._make()
        self.client.on_message = lambda _client, _data, message: self.messages.append((message.topic, message.payload))
        self.client.on_connect = lambda *_arguments: self.client.subscribe([("out/#", 1), ("pi-fleet/#", 1)])
        self.client.on_subscribe = lambda *_arguments: self.ready.set()
        self.client.reconnect_delay_set(1, 1)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self.ready.wait(10)

    def _make(self) -> Any:
        return mqtt.Client(CallbackAPIVersion.VERSION2, client_id="other", clean_session=False)

    def publish(self, topic: str, payload: bytes) -> None:
        self.client.publish(topic, payload, qos=1).wait_for_publish(10)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def client(mosquitto: Mosquitto) -> Iterator[Client]:
    client = Client(mosquitto.port)
    yield client
    client.close()


class Core:
    """What the router is to the broker."""

    def __init__(self, folder: Path, port: int, filters: list[str], name: str = "localcore") -> None:
        self.folder = folder
        self.journal = Journal(folder / "journal")
        records, _ = self.journal.load()
        self.broker = Broker("127.0.0.1", port, name, filters, self.journal, 1000, 5)
        self.broker.restore(record for record in records if record.state == OUTGOING)
        self.messages: list[tuple[str, bytes]] = []

    def deliver(self, topic: str, payload: bytes) -> None:
        self.messages.append((topic, payload))

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "journal").iterdir())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.01)


def run(core: Core, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        await core.broker.start(core.deliver)
        try:
            await test()
        finally:
            await core.broker.stop()

    asyncio.run(main())


def test_messages_go_both_ways_in_order(tmp_path: Path, mosquitto: Mosquitto, client: Client) -> None:
    core = Core(tmp_path, mosquitto.port, ["in/#", "in/+"])

    async def test() -> None:
        await until(lambda: core.broker._subscribed)
        for number in range(50):
            await asyncio.to_thread(client.publish, f"in/{number}", bytes([number]))
        for number in range(50):
            await until(lambda: core.broker.has_room(1))
            core.broker.publish(f"out/{number}", bytes([number]))
        await until(lambda: not core.files)
        await until(lambda: client.messages == [(f"out/{number}", bytes([number])) for number in range(50)])
        # Filters that overlap bring a message once.
        assert core.messages == [(f"in/{number}", bytes([number])) for number in range(50)]

    run(core, test)


def test_small_packets_are_sent_at_once(tmp_path: Path, mosquitto: Mosquitto) -> None:
    core = Core(tmp_path, mosquitto.port, ["in/#"])

    async def test() -> None:
        await until(lambda: core.broker._subscribed)
        assert core.broker._client.socket().getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    run(core, test)


def test_a_message_is_acknowledged_only_when_it_was_taken(tmp_path: Path, mosquitto: Mosquitto, client: Client) -> None:
    core = Core(tmp_path, mosquitto.port, ["in/#"])
    acknowledged: list[bytes] = []

    def deliver(topic: str, payload: bytes) -> None:
        time.sleep(0.2)
        acknowledged.append(payload)
        raise ValueError("a failure must not stop what comes after")

    async def test() -> None:
        await until(lambda: core.broker._subscribed)
        real = core.broker._client._send_puback

        def send_puback(mid: int) -> Any:
            acknowledged.append(b"acknowledged")
            return real(mid)

        core.broker._client._send_puback = send_puback
        for payload in (b"1", b"2"):
            await asyncio.to_thread(client.publish, "in/x", payload)
        await until(lambda: len(acknowledged) == 4)

    core.deliver = deliver  # type: ignore[method-assign]
    run(core, test)
    assert acknowledged == [b"1", b"acknowledged", b"2", b"acknowledged"]


def test_what_is_published_while_the_broker_is_away_arrives_when_it_is_back(
    tmp_path: Path, mosquitto: Mosquitto, client: Client
) -> None:
    core = Core(tmp_path, mosquitto.port, ["in/#"])

    async def test() -> None:
        await until(lambda: core.broker._subscribed)
        mosquitto.stop()
        await until(lambda: not core.broker._connected)
        for number in range(8):
            core.broker.publish(f"out/{number}", b"")
        assert not core.broker.has_room(1)
        assert len(core.files) == 5
        # For longer than the first tries.
        await asyncio.sleep(1)
        mosquitto.start()
        await until(lambda: len(client.messages) == 5)
        assert [topic for topic, _ in client.messages] == [f"out/{number}" for number in range(3, 8)]
        await until(lambda: core.files == [])

    run(core, test)


def test_a_broker_that_forgot_its_sessions_is_told_again(tmp_path: Path, mosquitto: Mosquitto) -> None:
    core = Core(tmp_path, mosquitto.port, ["in/#"])

    async def test() -> None:
        await until(lambda: core.broker._subscribed)
        mosquitto.stop(signal.SIGKILL)
        await until(lambda: not core.broker._connected)
        core.broker._subscribed = False
        mosquitto.start()
        await until(lambda: core.broker._subscribed)

    run(core, test)


def test_two_routers_of_different_names_share_a_broker(tmp_path: Path, mosquitto: Mosquitto, client: Client) -> None:
    one = Core(tmp_path / "one", mosquitto.port, ["in/#"])
    other = Core(tmp_path / "other", mosquitto.port, ["in/#"], name="second")

    async def test() -> None:
        await other.broker.start(other.deliver)
        await until(lambda: one.broker._subscribed and other.broker._subscribed)
        await asyncio.to_thread(client.publish, "in/x", b"1")
        await until(lambda: one.messages == other.messages == [("in/x", b"1")])
        assert one.broker._connected
        await other.broker.stop()

    run(one, test)


def test_what_did_not_reach_the_broker_survives_the_router(
    tmp_path: Path, mosquitto: Mosquitto, client: Client
) -> None:
    killed = Core(tmp_path, 1, [])
    for number in range(3):
        killed.broker.publish(f"out/{number}", bytes([number]))
    core = Core(tmp_path, mosquitto.port, [])

    async def test() -> None:
        await until(lambda: core.files == [])
        await until(lambda: client.messages == [(f"out/{number}", bytes([number])) for number in range(3)])

    run(core, test)


def test_what_is_sent_while_the_router_is_away_waits_in_the_broker(
    tmp_path: Path, mosquitto: Mosquitto, client: Client
) -> None:
    first = Core(tmp_path, mosquitto.port, ["in/#"])

    async def subscribe() -> None:
        await until(lambda: first.broker._subscribed)

    run(first, subscribe)
    client.publish("in/x", b"meanwhile")
    second = Core(tmp_path, mosquitto.port, ["in/#"])

    async def take() -> None:
        await until(lambda: second.messages == [("in/x", b"meanwhile")])

    run(second, take)


def test_the_bound_is_in_bytes_too(tmp_path: Path) -> None:
    core = Core(tmp_path, 1, [])
    for _ in range(3):
        core.broker.publish("out/x", b"x" * 400)
    assert len(core.files) == 2


def test_a_full_journal_stops_no_message(
    tmp_path: Path, mosquitto: Mosquitto, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = Core(tmp_path, mosquitto.port, [])

    def full(*_arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "add", full)

    async def test() -> None:
        core.broker.publish("out/x", b"1")
        await until(lambda: client.messages == [("out/x", b"1")])

    run(core, test)


@pytest.mark.parametrize("codes", [[1, 128], [ReasonCode(PacketTypes.SUBACK, "Unspecified error")]])
def test_refused_subscriptions_are_said(
    tmp_path: Path, mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture, codes: list[Any]
) -> None:
    core = Core(tmp_path, mosquitto.port, ["in/#"])

    async def test() -> None:
        await until(lambda: core.broker._subscribed)
        # mosquitto's ACL lets everybody subscribe, so this is what another broker would have paho say.
        core.broker._on_subscribe(None, None, 1, codes)
        await until(lambda: "broker refuses subscriptions; check its ACL for in/#" in caplog.text)
        assert not core.broker._subscribed

    run(core, test)


def test_a_broker_that_starts_after_the_core_is_found(tmp_path: Path, mosquitto: Mosquitto) -> None:
    core = Core(tmp_path, mosquitto.port, ["in/#"])
    mosquitto.stop()

    async def test() -> None:
        await asyncio.sleep(1)
        mosquitto.start()
        await until(lambda: core.broker._subscribed)
        # One client alone: another of the same name would push it out.
        await asyncio.sleep(1)
        assert core.broker._connected
        assert threading.active_count() <= before + 1

    before = threading.active_count()
    run(core, test)


def test_a_stop_without_a_broker_is_quick(tmp_path: Path) -> None:
    core = Core(tmp_path, 1, [])

    async def test() -> None:
        await asyncio.sleep(0.1)

    begun = time.monotonic()
    run(core, test)
    assert time.monotonic() - begun < 5


def test_an_answer_waits_for_who_asked_when_the_broker_was_killed(
    tmp_path: Path, mosquitto: Mosquitto, client: Client
) -> None:
    """Both lose their sessions, and who asked is back a second later than the core."""
    core = Core(tmp_path, mosquitto.port, ["in/#"])

    async def test() -> None:
        await until(lambda: core.broker._subscribed)
        mosquitto.stop(signal.SIGKILL)
        await until(lambda: not core.broker._connected)
        core.broker.publish("out/answer", b"")
        mosquitto.start()
        await until(lambda: core.broker._connected)
        await until(lambda: client.messages == [("out/answer", b"")])

    run(core, test)


def test_an_answer_that_was_on_its_way_when_the_broker_ended_waits_too(
    tmp_path: Path, mosquitto: Mosquitto, client: Client
) -> None:
    """It was sent to a broker that never acknowledged it: one that stands still until it ends."""
    core = Core(tmp_path, mosquitto.port, ["in/#"])

    async def test() -> None:
        await until(lambda: core.broker._subscribed)
        client.close()
        assert mosquitto.process
        mosquitto.process.send_signal(signal.SIGSTOP)
        for each in range(3):
            core.broker.publish(f"out/{each}", b"")
        await until(lambda: len(core.broker._unacknowledged) == 3)
        mosquitto.stop(signal.SIGKILL)
        await until(lambda: not core.broker._connected)
        core.broker.publish("out/3", b"")
        mosquitto.start()
        await until(lambda: core.broker._connected)
        # Who asked is back after the core, and the broker keeps nothing for it meanwhile.
        await asyncio.sleep(0.5)
        late = await asyncio.to_thread(Client, mosquitto.port)
        await until(lambda: len(late.messages) == 4)
        assert [topic for topic, _ in late.messages] == [f"out/{each}" for each in range(4)]
        await until(lambda: core.files == [])
        late.close()

    run(core, test)


def test_a_broker_that_refuses_is_asked_again_and_not_in_haste(
    tmp_path: Path, mosquitto: Mosquitto, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = Core(tmp_path, mosquitto.port, ["in/#"])
    mosquitto.stop()
    mosquitto.lines = ["allow_anonymous false"]
    mosquitto.start()
    made = 0
    make = core.broker._make_client

    def count() -> Any:
        nonlocal made
        made += 1
        return make()

    monkeypatch.setattr(core.broker, "_make_client", count)

    async def test() -> None:
        await asyncio.sleep(3)
        assert 1 <= made <= 3
        mosquitto.stop()
        mosquitto.lines = ["allow_anonymous true"]
        mosquitto.start()
        await until(lambda: core.broker._subscribed)

    run(core, test)
