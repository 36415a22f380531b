"""MQTT topics and the filters that match them (MQTT 3.1.1, section 4.7)."""

from __future__ import annotations

LONGEST = 256
"""Bytes of UTF-8 in a topic or a filter, as in AWS IoT."""


def matches(topic_filter: str, topic: str) -> bool:
    """Tell whether a valid filter matches a topic.

    `+` stands for one level, a last `#` for all that is left, the level above it included. Neither stands for a first
    level that begins with `$`.
    """
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return False
    if wanted[-1] == "#":
        wanted.pop()
        levels = levels[: len(wanted)]
    return len(wanted) == len(levels) and all(
        level in ("+", given) for level, given in zip(wanted, levels, strict=True)
    )


def fault_of_filter(topic_filter: str) -> str:
    """Return what is wrong with a filter, '' if it is valid."""
    levels = topic_filter.split("/")
    if "#" in "/".join(levels[:-1]) or ("#" in levels[-1] and levels[-1] != "#"):
        return "'#' must be the last level, and alone in it"
    if any("+" in level and level != "+" for level in levels):
        return "'+' must be alone in its level"
    return _fault_of_text(topic_filter)


def fault_of_topic(topic: str) -> str:
    """Return what is wrong with a topic that something is published to, '' if it is valid."""
    if "+" in topic or "#" in topic:
        return "a topic to publish to must not contain '+' or '#'"
    return _fault_of_text(topic)


def _fault_of_text(text: str) -> str:
    if not text:
        return "it must not be empty"
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        return "it must be text without NUL characters"
    if len(text.encode()) > LONGEST:
        return f"it must not be longer than {LONGEST} bytes"
    return ""
