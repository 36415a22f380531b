"""A question over MQTT and its answer, with the client played: that of paho-mqtt 1.6 (Bookworm) and of 2 (Trixie)."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.edge.pi_fleet.plugins.module_utils import question
from ansible_collections.edge.pi_fleet.plugins.module_utils.question import (
    Answer,
    QuestionError,
    Topics,
    ask,
    check_answer,
    parse,
)
from ansible_collections.edge.pi_fleet.plugins.modules import classify as module

TOPICS = Topics("ask", "answer", "pi-fleet/pi-1/errors")
SECONDS = 5.0  # nothing waits that long unless it fails
SOON = 0.02


def message(category: str = "coffee-mug", confidence: object = 0.75) -> bytes:
    return json.dumps({"message": f"Classified image as {category} with a confidence of {confidence}"}).encode()


@dataclass
class Broker:
    """What the played client speaks to: who is subscribed to what, and what is published then."""

    replies: list[tuple[str, bytes]] = field(default_factory=lambda: [(TOPICS.response, message())])
    """Messages that follow a question."""
    down: bool = False
    refuses_subscriptions: bool = False
    takes: float = 0.25
    """Seconds that pass until they come, on the clock."""
    now: float = 100.0
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    clients: list[Any] = field(default_factory=list)


class Client:
    """What both versions of paho's client have in common here: nothing is received before the loop runs."""

    broker: Broker

    def __init__(self) -> None:
        self.on_message: Callable[..., object] | None = None
        self.on_subscribe: Callable[..., object] | None = None
        self.topics: set[str] = set()
        self.connected = self.looping = False
        self.broker.clients.append(self)

    def connect(self, host: str, port: int) -> None:
        assert (host, port) == ("127.0.0.1", 1883)
        if self.broker.down:
            raise ConnectionRefusedError(111, "Connection refused")
        self.connected = True

    def loop_start(self) -> None:
        assert self.connected
        self.looping = True

    def subscribe(self, topics: list[tuple[str, int]]) -> None:
        assert self.looping
        if not self.broker.refuses_subscriptions:
            self.topics |= {topic for topic, _ in topics}
            self.acknowledge(len(topics))

    def acknowledge(self, topics: int) -> None:
        raise NotImplementedError

    def publish(self, topic: str, payload: str, qos: int) -> None:
        assert qos == 1
        self.broker.asked.append((topic, json.loads(payload)))
        self.broker.now += self.broker.takes
        for reply_topic, reply in self.broker.replies:
            if reply_topic in self.topics:
                assert self.on_message
                self.on_message(self, None, SimpleNamespace(topic=reply_topic, payload=reply))

    def disconnect(self) -> None:
        self.connected = False

    def loop_stop(self) -> None:
        assert not self.connected, "the loop of a client that is connected would not end"
        self.looping = False


class Client1(Client):
    """paho-mqtt 1.6.1: no question about the API's version, four arguments to on_subscribe."""

    def acknowledge(self, topics: int) -> None:
        assert self.on_subscribe
        self.on_subscribe(self, None, 1, (0,) * topics)


class Client2(Client):
    """paho-mqtt 2.1.0: the API's version first, five arguments to on_subscribe."""

    def __init__(self, callback_api_version: object) -> None:
        assert callback_api_version is VERSIONS.VERSION2
        super().__init__()

    def acknowledge(self, topics: int) -> None:
        assert self.on_subscribe
        self.on_subscribe(self, None, 1, [0] * topics, None)


VERSIONS = SimpleNamespace(VERSION1=object(), VERSION2=object())


@pytest.fixture(params=[1, 2], ids=["paho 1.6", "paho 2"])
def broker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Broker:
    found = Broker()
    client = ModuleType("paho.mqtt.client")
    kind: type[Client] = Client1 if request.param == 1 else Client2
    monkeypatch.setattr(kind, "broker", found, raising=False)
    vars(client)["Client"] = kind
    if request.param == 2:
        vars(client)["CallbackAPIVersion"] = VERSIONS
    for name in ("paho", "paho.mqtt"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", client)
    vars(sys.modules["paho.mqtt"])["client"] = client
    monkeypatch.setattr(question, "time", SimpleNamespace(monotonic=lambda: found.now))
    return found


def assert_gone(broker: Broker) -> None:
    """Nothing of a client stays, whatever came of it."""
    (client,) = broker.clients
    assert not client.connected
    assert not client.looping


# --- asking


def test_a_question_is_published_and_its_answer_measured(broker: Broker) -> None:
    assert ask(TOPICS, SECONDS, keep=True) == Answer("coffee-mug", 0.75, 250)
    assert broker.asked == [("ask", {})]
    assert_gone(broker)


def test_a_question_may_leave_no_picture_behind(broker: Broker) -> None:
    ask(TOPICS, SECONDS, keep=False)
    assert broker.asked == [("ask", {"keep": False})]


def test_what_others_say_is_no_answer(broker: Broker) -> None:
    broker.replies.insert(0, ("pi-fleet/pi-2/errors", b"{}"))
    assert ask(TOPICS, SECONDS, keep=True).category == "coffee-mug"


def test_the_first_of_several_answers_counts(broker: Broker) -> None:
    broker.replies.append((TOPICS.response, message("clutter")))
    assert ask(TOPICS, SECONDS, keep=True).category == "coffee-mug"


# --- refusals


def refusal(timeout: float = SECONDS) -> str:
    with pytest.raises(QuestionError) as refused:
        ask(TOPICS, timeout, keep=True)
    return str(refused.value)


def test_a_broker_that_is_not_there_is_told(broker: Broker) -> None:
    broker.down = True
    assert refusal() == (
        "The broker at 127.0.0.1:1883 does not answer ([Errno 111] Connection refused): "
        "'systemctl status mosquitto' tells why."
    )
    assert_gone(broker)


def test_a_broker_that_takes_no_subscription_is_told_and_nothing_is_asked(broker: Broker) -> None:
    broker.refuses_subscriptions = True
    assert refusal(SOON) == "The broker takes no subscription: 'journalctl -u mosquitto' tells why."
    assert broker.asked == []
    assert_gone(broker)


def test_no_answer_is_told_with_the_topic_and_the_time(broker: Broker) -> None:
    broker.replies = []
    begun = time.monotonic()
    assert refusal(SOON) == (
        "No answer on answer within 0.02 s: 'journalctl -u localcore -u lambda@* -u connector@*' tells why."
    )
    assert time.monotonic() - begun >= SOON
    assert_gone(broker)


def test_what_the_device_reports_of_the_request_is_told(broker: Broker) -> None:
    report = {"function": "beverage_classifier", "subject": TOPICS.request, "message": "No camera was found."}
    broker.replies = [(TOPICS.errors, json.dumps(report).encode())]
    assert refusal() == "The device reports: beverage_classifier: No camera was found."
    assert_gone(broker)


@pytest.mark.parametrize(
    "report", [b"{", b"[]", b"\xff", b'{"subject": "ask"}', b'{"subject": "other", "function": "f", "message": "m"}']
)
def test_what_is_reported_of_others_is_not_the_answer(broker: Broker, report: bytes) -> None:
    broker.replies = [(TOPICS.errors, report), (TOPICS.response, message())]
    assert ask(TOPICS, SECONDS, keep=True).category == "coffee-mug"


def test_without_paho_the_role_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("paho", "paho.mqtt"):
        monkeypatch.setitem(sys.modules, name, None)
    assert refusal().startswith("python3-paho-mqtt is not installed (")
    assert refusal().endswith("): run site.yml.")


# --- answers


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        (message(), ("coffee-mug", 0.75)),
        (message("soda-can", 1), ("soda-can", 1.0)),
        (message("clutter", 0.0), ("clutter", 0.0)),
        (message("wine-bottle", "3e-05"), ("wine-bottle", 0.00003)),
        (message("a.b_c-d", "0.5"), ("a.b_c-d", 0.5)),
    ],
)
def test_the_articles_message_is_read(payload: bytes, found: tuple[str, float]) -> None:
    assert parse(payload) == found


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"3",
        b"{}",
        b'{"message": null}',
        b'{"message": "Classified image as coffee-mug"}',
        message("coffee mug"),
        message(confidence=1.01),
        message(confidence=-0.01),
        message(confidence="nan"),
        message(confidence="inf"),
        message(confidence="high"),
        b'{"message": "x Classified image as a with a confidence of 0.5"}',
        b'{"message": "Classified image as a with a confidence of 0.5 x"}',
    ],
)
def test_what_is_no_such_message_is_told(payload: bytes) -> None:
    with pytest.raises(QuestionError) as refused:
        parse(payload)
    assert str(refused.value) == (
        f"The answer {payload!r} is none of the beverage classifier's: look at what publishes it."
    )


def test_a_long_answer_is_told_by_its_beginning() -> None:
    with pytest.raises(QuestionError) as refused:
        parse(b"x" * 100_000)
    assert len(str(refused.value)) < 400


def test_an_answer_of_somebody_else_is_told(broker: Broker) -> None:
    broker.replies = [(TOPICS.response, b"hello")]
    assert refusal().startswith("The answer b'hello' is none of the beverage classifier's")


# --- for verify


def wanted(timeout: float = 15) -> dict[str, Any]:
    topics = {"request": TOPICS.request, "response": TOPICS.response, "errors": TOPICS.errors}
    return {"topics": topics, "categories": ["clutter", "coffee-mug"], "timeout": timeout}


def test_verify_asks_without_leaving_a_picture(broker: Broker) -> None:
    text = "one of clutter, coffee-mug within 15 s"
    assert check_answer(wanted()) == (True, "coffee-mug 0.75 in 250 ms", text)
    assert broker.asked == [("ask", {"keep": False})]


def test_verify_knows_the_categories(broker: Broker) -> None:
    broker.replies = [(TOPICS.response, message("espresso"))]
    assert check_answer(wanted())[:2] == (False, "espresso 0.75 in 250 ms")


def test_verify_tells_why_there_is_no_answer(broker: Broker) -> None:
    broker.replies = []
    ok, found, _ = check_answer(wanted(SOON))
    assert not ok
    assert found.startswith("No answer on answer within 0.02 s")


# --- the module


def run_module(capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    topics = {"request_topic": TOPICS.request, "response_topic": TOPICS.response, "errors_topic": TOPICS.errors}
    with patch_module_args({**topics, **arguments}), pytest.raises(SystemExit):
        module.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_the_module_asks_as_often_as_it_is_told(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_module(capsys, times=3)
    assert not result["changed"]
    assert result["answers"] == [{"category": "coffee-mug", "confidence": 0.75, "milliseconds": 250}] * 3
    assert broker.asked == [("ask", {})] * 3


def test_the_module_may_keep_no_picture_and_asks_in_check_mode(
    broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_module(capsys, keep=False, _ansible_check_mode=True)
    assert len(result["answers"]) == 1
    assert broker.asked == [("ask", {"keep": False})]


def test_the_module_fails_with_the_sentence(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    broker.replies = []
    result = run_module(capsys, timeout=SOON)
    assert result["failed"]
    assert result["msg"].startswith("No answer on answer within 0.02 s")
    assert "answers" not in result
