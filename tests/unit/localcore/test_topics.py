"""Topics and filters, against a second implementation that follows the standard's words."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from localcore import topics

LEVEL = st.sampled_from(["", "a", "b", "ab", "$SYS", "$aws", "é", "a b"])
TOPIC = st.lists(LEVEL, min_size=1, max_size=5).map("/".join).filter(bool)
FILTER = st.builds(
    lambda levels, rest: "/".join([*levels, *rest]),
    st.lists(LEVEL | st.just("+"), min_size=0, max_size=4),
    st.sampled_from([[], ["#"]]),
).filter(bool)


def reference(topic_filter: str, topic: str) -> bool:
    """Match by a regular expression that is written from the filter, character by character."""
    if topic[0] == "$" and topic_filter[0] in "+#":
        return False
    pattern = "".join("[^/]*" if character == "+" else re.escape(character) for character in topic_filter)
    if topic_filter == "#":
        pattern = ".*"
    elif topic_filter.endswith("/#"):
        pattern = pattern.removesuffix(re.escape("/#")) + "(/.*)?"
    return re.fullmatch(pattern, topic, re.DOTALL) is not None


@given(topic_filter=FILTER, topic=TOPIC)
def test_matching_is_that_of_the_standard(topic_filter: str, topic: str) -> None:
    assert topics.fault_of_filter(topic_filter) == ""
    assert topics.matches(topic_filter, topic) == reference(topic_filter, topic)


@given(topic=TOPIC)
def test_a_topic_matches_itself_and_what_it_is_made_from(topic: str) -> None:
    assert topics.fault_of_topic(topic) == ""
    assert topics.matches(topic, topic)
    levels = topic.split("/")
    for number in range(1, len(levels)):
        assert topics.matches("/".join([*levels[:number], "#"]), topic)
        assert topics.matches("/".join([*levels[:number], "+", *levels[number + 1 :]]), topic)


@pytest.mark.parametrize(
    ("topic_filter", "topic", "match"),
    [
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/#", "sport", True),
        ("sport/#", "sports", False),
        ("sport/tennis/+", "sport/tennis/player1", True),
        ("sport/tennis/+", "sport/tennis/player1/ranking", False),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        ("#", "/finance", True),
        ("#", "$SYS/broker", False),
        ("+/broker", "$SYS/broker", False),
        ("$SYS/#", "$SYS/broker", True),
        ("$aws/things/+/shadow/#", "$aws/things/pi/shadow/update", True),
        ("/request/#", "/request/classify/beverage_container", True),
        ("/Request", "/request", False),
    ],
)
def test_the_examples_of_the_standard(topic_filter: str, topic: str, match: bool) -> None:
    assert topics.matches(topic_filter, topic) is match


@pytest.mark.parametrize(
    ("topic_filter", "fault"),
    [
        ("", "empty"),
        ("a/#/b", "'#' must be the last"),
        ("a#", "'#' must be the last"),
        ("a/b#", "'#' must be the last"),
        ("##", "'#' must be the last"),
        ("#/", "'#' must be the last"),
        ("a+", "'+' must be alone"),
        ("++", "'+' must be alone"),
        ("a\0b", "NUL"),
        ("\ud800", "NUL"),
        ("a" * 257, "longer than 256"),
        ("é" * 129, "longer than 256"),
    ],
)
def test_a_wrong_filter_is_explained(topic_filter: str, fault: str) -> None:
    assert fault in topics.fault_of_filter(topic_filter)


@pytest.mark.parametrize("topic", ["a/+", "#", "a/#", "", "a\0", "a" * 257])
def test_a_wrong_topic_is_explained(topic: str) -> None:
    assert topics.fault_of_topic(topic)
