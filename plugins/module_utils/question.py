# SPDX-License-Identifier: Apache-2.0
"""Ask a device what is in front of its camera, as any MQTT client of it would, and measure how long it takes."""

from __future__ import annotations

import json
import math
import queue
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ANSWER = re.compile(r"Classified image as (\S+) with a confidence of (\S+)")
BROKER = ("127.0.0.1", 1883)


class QuestionError(Exception):
    """One sentence: why there is no answer, and what to look at."""


@dataclass(frozen=True)
class Topics:
    """Where questions go, and where answers and failures come."""

    request: str
    response: str
    errors: str


@dataclass(frozen=True)
class Answer:
    """What a device says of a picture."""

    category: str
    confidence: float
    milliseconds: int


def parse(payload: bytes) -> tuple[str, float]:
    """Return category and confidence of the article's message; QuestionError if it is no such message."""
    try:
        found = ANSWER.fullmatch(json.loads(payload)["message"])
        confidence = float(found[2]) if found else math.nan
    except (ValueError, KeyError, TypeError):
        found, confidence = None, math.nan
    if not found or not 0 <= confidence <= 1:
        raise QuestionError(
            f"The answer {payload[:200]!r} is none of the beverage classifier's: look at what publishes it."
        )
    return found[1], confidence


def connect(received: queue.Queue[tuple[str, bytes]]) -> Any:
    """Return a client of the device's broker that puts what it receives into a queue."""
    try:
        from paho.mqtt import client as mqtt
    except ImportError as error:
        raise QuestionError(f"python3-paho-mqtt is not installed ({error}): run site.yml.") from None
    # Trixie's paho wants to be told which callbacks it meets, Bookworm's does not know the question.
    versions = getattr(mqtt, "CallbackAPIVersion", None)
    client = mqtt.Client(versions.VERSION2) if versions else mqtt.Client()
    client.on_message = lambda _client, _data, message: received.put((message.topic, message.payload))
    try:
        client.connect(*BROKER)
    except OSError as error:
        raise QuestionError(
            f"The broker at {BROKER[0]}:{BROKER[1]} does not answer ({error}): 'systemctl status mosquitto' tells why."
        ) from None
    return client


def ask(topics: Topics, timeout: float, keep: bool) -> Answer:
    """Publish one question and wait for its answer.

    `keep` is whether the picture may become field data; a picture whose handling fails always does.
    """
    received: queue.Queue[tuple[str, bytes]] = queue.Queue()
    client = connect(received)
    subscribed: queue.Queue[bool] = queue.Queue()
    client.on_subscribe = lambda *_: subscribed.put(True)
    client.loop_start()
    try:
        client.subscribe([(topics.response, 0), (topics.errors, 0)])
        try:
            subscribed.get(timeout=timeout)
        except queue.Empty:
            raise QuestionError("The broker takes no subscription: 'journalctl -u mosquitto' tells why.") from None
        begun = time.monotonic()
        client.publish(topics.request, json.dumps({} if keep else {"keep": False}), qos=1)
        payload = _await(received, topics, timeout)
        milliseconds = round((time.monotonic() - begun) * 1000)
    finally:
        client.disconnect()
        client.loop_stop()
    return Answer(*parse(payload), milliseconds)


def _await(received: queue.Queue[tuple[str, bytes]], topics: Topics, timeout: float) -> bytes:
    """Return the first answer; QuestionError for a failure that is reported of the request, or when time is over."""
    end = time.monotonic() + timeout
    while True:
        try:
            topic, payload = received.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            raise QuestionError(
                f"No answer on {topics.response} within {timeout:g} s: "
                "'journalctl -u localcore -u lambda@* -u connector@*' tells why."
            ) from None
        if topic == topics.response:
            return payload
        try:
            report = json.loads(payload)
            subject, said = report["subject"], f"{report['function']}: {report['message']}"
        except (ValueError, KeyError, TypeError):
            continue
        # Other functions report here, too.
        if subject == topics.request:
            raise QuestionError(f"The device reports: {said}")


def check_answer(wanted: Mapping[str, Any]) -> tuple[bool, str, str]:
    """Check, for verify, that a question is answered in time by one of the categories."""
    categories: Sequence[str] = wanted["categories"]
    text = f"one of {', '.join(categories)} within {wanted['timeout']} s"
    try:
        answer = ask(Topics(**wanted["topics"]), float(wanted["timeout"]), keep=False)
    except QuestionError as error:
        return False, str(error), text
    found = f"{answer.category} {answer.confidence:.2f} in {answer.milliseconds} ms"
    return answer.category in categories, found, text
