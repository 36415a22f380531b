"""Shadows: documents as the Device Shadow service makes them, and what survives."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from localcore.shadows import Reply, Shadows

PREFIX = "$aws/things/pi-1/shadow"


class Thing:
    """The shadow of one thing, asked as a client asks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shadows = Shadows(folder)

    def ask(self, operation: str, request: object = None, thing: str = "pi-1") -> Reply:
        payload = request if isinstance(request, bytes) else json.dumps(request or {}).encode()
        return self.shadows.request(f"$aws/things/{thing}/shadow/{operation}", payload)

    def update(self, **state: Any) -> Reply:
        return self.ask("update", {"state": state})

    def state(self) -> Any:
        return self.ask("get").document["state"]


@pytest.fixture
def thing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Thing:
    monkeypatch.setattr("time.time", lambda: 1543622400.9)
    return Thing(tmp_path / "shadows")


def test_an_update_is_answered_with_what_it_changed(thing: Thing) -> None:
    reply = thing.ask("update", {"state": {"desired": {"light": {"on": True}, "mode": [1, 2]}}, "clientToken": "t"})
    stamp = {"timestamp": 1543622400}
    assert reply.accepted
    assert reply.document == {
        "state": {"desired": {"light": {"on": True}, "mode": [1, 2]}},
        "metadata": {"desired": {"light": {"on": stamp}, "mode": [stamp, stamp]}},
        "version": 1,
        "timestamp": 1543622400,
        "clientToken": "t",
    }
    assert reply.delta == {
        "state": {"light": {"on": True}, "mode": [1, 2]},
        "metadata": {"light": {"on": stamp}, "mode": [stamp, stamp]},
        "version": 1,
        "timestamp": 1543622400,
        "clientToken": "t",
    }


def test_the_shadow_shows_what_is_desired_reported_and_left_to_do(thing: Thing) -> None:
    thing.update(desired={"a": 1, "b": {"c": 2, "d": 3}, "same": True})
    reply = thing.update(reported={"b": {"c": 2, "d": 4}, "same": True, "more": 0})
    assert reply.delta is not None
    assert reply.delta["state"] == {"a": 1, "b": {"d": 3}}
    document = thing.ask("get", {"clientToken": "g"}).document
    assert document["state"] == {
        "desired": {"a": 1, "b": {"c": 2, "d": 3}, "same": True},
        "reported": {"b": {"c": 2, "d": 4}, "same": True, "more": 0},
        "delta": {"a": 1, "b": {"d": 3}},
    }
    assert (document["version"], document["clientToken"]) == (2, "g")


def test_what_is_reported_as_desired_leaves_no_delta(thing: Thing) -> None:
    thing.update(desired={"a": 1})
    assert thing.update(reported={"a": 1}).delta is None
    assert "delta" not in thing.state()


def test_true_is_not_one(thing: Thing) -> None:
    reply = thing.update(desired={"a": True}, reported={"a": 1})
    assert reply.delta is not None
    assert reply.delta["state"] == {"a": True}


def test_null_deletes_a_key_a_section_and_what_was_said_of_them(thing: Thing) -> None:
    thing.update(desired={"a": 1, "b": {"c": 2, "d": 3}}, reported={"x": 1})
    thing.update(desired={"a": None, "b": {"c": None}}, reported=None)
    document = thing.ask("get").document
    assert document["state"] == {"desired": {"b": {"d": 3}}, "delta": {"b": {"d": 3}}}
    assert document["metadata"] == {"desired": {"b": {"d": {"timestamp": 1543622400}}}}


def test_a_value_takes_the_place_of_an_object_and_back(thing: Thing) -> None:
    thing.update(reported={"a": {"b": 1}})
    thing.update(reported={"a": 5})
    assert thing.state() == {"reported": {"a": 5}}
    thing.update(reported={"a": {"c": 1}})
    assert thing.state() == {"reported": {"a": {"c": 1}}}


def test_an_update_of_another_version_is_a_conflict(thing: Thing) -> None:
    thing.update(desired={"a": 1})
    reply = thing.ask("update", {"state": {"desired": {"a": 2}}, "version": 7, "clientToken": "t"})
    assert (reply.accepted, reply.document["code"], reply.document["message"]) == (False, 409, "Version conflict")
    assert reply.document["clientToken"] == "t"
    assert thing.ask("update", {"state": {"desired": {"a": 2}}, "version": 1}).accepted


def test_a_deleted_shadow_is_gone_and_its_version_goes_on(thing: Thing) -> None:
    thing.update(desired={"a": 1})
    assert thing.ask("delete").document == {"version": 1, "timestamp": 1543622400}
    assert thing.ask("get").document["code"] == 404
    assert thing.ask("delete").document["code"] == 404
    assert thing.update(desired={"b": 1}).document["version"] == 3
    assert thing.state()["desired"] == {"b": 1}


def test_things_have_shadows_of_their_own(thing: Thing) -> None:
    thing.update(desired={"a": 1})
    assert thing.ask("get", thing="pi-2").document["message"] == "No shadow exists with name: 'pi-2'"


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (b"", 400, "Invalid JSON"),
        (b"{", 400, "Invalid JSON"),
        (b"[]", 400, "Invalid JSON"),
        (b'{"state": {"desired": {"a": NaN}}}', 400, "Invalid JSON"),
        (b"[" * 8000, 400, "Invalid JSON"),
        (b'{"state": {"desired": {"a": ' + b"[" * 3000 + b"]" * 3000 + b"}}}", 400, None),
        (b'{"state": "\xff"}', 415, "Unsupported documented encoding; supported encoding is UTF-8"),
        (
            b'{"state": {"desired": {"a": "\\ud800"}}}',
            415,
            "Unsupported documented encoding; supported encoding is UTF-8",
        ),
        (b" " * 8193, 413, "The payload exceeds the maximum size allowed"),
        ({}, 400, "Missing required node: state"),
        ({"state": None}, 400, "State node must be an object"),
        ({"state": {"desired": 1}}, 400, "Desired node must be an object"),
        ({"state": {"reported": []}}, 400, "Reported node must be an object"),
        ({"state": {"wanted": {}}}, 400, "State contains an invalid node"),
        ({"state": {"desired": nested(7)}}, 400, "JSON contains too many levels of nesting; maximum is 6"),
        ({"state": {}, "version": "1"}, 400, "Invalid version"),
        ({"state": {}, "version": True}, 400, "Invalid version"),
        ({"state": {}, "version": -1}, 400, "Invalid version"),
        ({"state": {}, "clientToken": 1}, 400, "Invalid clientToken"),
        ({"state": {}, "clientToken": "t" * 65}, 400, "Invalid clientToken"),
    ],
)
def test_what_cannot_be_done_is_said_as_the_service_says_it(
    thing: Thing, request_: object, code: int, message: str | None
) -> None:
    thing.update(desired={"before": 1})
    reply = thing.ask("update", request_)
    assert (reply.accepted, reply.document["code"]) == (False, code)
    assert message is None or reply.document["message"] == message
    assert thing.state()["desired"] == {"before": 1}


def test_the_state_stays_within_its_bound_however_it_grows(thing: Thing) -> None:
    for number in range(4):
        reply = thing.update(reported={str(number): "x" * 2500})
    assert (reply.accepted, reply.document["code"]) == (False, 413)
    assert sorted(thing.state()["reported"]) == ["0", "1", "2"]


@pytest.mark.parametrize("name", ["..", "a.b", "x" * 129, "a b", "é", "%2e"])
def test_a_name_that_is_none_never_reaches_the_disk(thing: Thing, name: str) -> None:
    assert thing.ask("update", {"state": {"desired": {"a": 1}}}, name).document["code"] == 400
    assert list(thing.folder.iterdir()) == []


@pytest.mark.parametrize(
    "topic", ["", "a/b", f"{PREFIX}/update/accepted", f"{PREFIX}/rename", "$aws/things/a/b/shadow/get"]
)
def test_a_topic_of_no_shadow_is_refused(thing: Thing, topic: str) -> None:
    assert thing.shadows.request(topic, b"{}").document["code"] == 400


def test_shadows_survive(thing: Thing) -> None:
    thing.update(desired={"a": "é"})
    assert Thing(thing.folder).state() == {"desired": {"a": "é"}, "delta": {"a": "é"}}


def test_a_shadow_is_on_the_disk_before_it_is_answered(thing: Thing, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(descriptor: int) -> None:
        steps.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real_fsync(descriptor)

    def rename(self: Path, target: Path) -> Path:
        steps.append("rename")
        return real_rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    thing.update(desired={"a": 1})
    assert steps == ["file", "rename", "directory"]


def test_a_full_disk_is_an_internal_failure_and_the_old_shadow_stays(
    thing: Thing, monkeypatch: pytest.MonkeyPatch
) -> None:
    thing.update(desired={"a": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert thing.update(desired={"a": 2}).document["code"] == 500
    assert thing.state()["desired"] == {"a": 1}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"other": 1}'])
def test_a_damaged_shadow_is_set_aside(thing: Thing, content: bytes) -> None:
    thing.update(desired={"a": 1})
    (path,) = thing.folder.iterdir()
    path.write_bytes(content)
    assert thing.ask("get").document["code"] == 404
    assert path.with_suffix(".damaged").read_bytes() == content
    assert thing.update(desired={"a": 2}).accepted


KEYS = st.sampled_from(["a", "b", "c"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.lists(st.integers(0, 1), max_size=2),
    lambda inner: st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
).filter(lambda value: not isinstance(value, dict) or json.dumps(value).count("{") < 5)
SECTION = st.dictionaries(KEYS, VALUES, max_size=3)


def merged(old: Any, change: Any) -> Any:
    """Merge as RFC 7396 says it."""
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value) if isinstance(value, dict) else value
    return result


@settings(deadline=None, max_examples=50)
@given(changes=st.lists(st.tuples(st.sampled_from(["desired", "reported"]), SECTION), max_size=6))
def test_updates_are_merge_patches_and_the_delta_is_what_is_missing(
    tmp_path_factory: Any, changes: list[tuple[str, Any]]
) -> None:
    thing = Thing(tmp_path_factory.mktemp("shadows"))
    model: dict[str, Any] = {"desired": {}, "reported": {}}
    for section, change in changes:
        model[section] = merged(model[section], change)
        reply = thing.update(**{section: change})
        assert reply.accepted
        state = thing.state()
        assert {key: state.get(key, {}) for key in model} == model
        assert (reply.delta is None) == ("delta" not in state)
        # Once the delta is reported too, nothing is left to be done.
        if reply.delta is not None:
            wanted = merged(model["reported"], reply.delta["state"])
            assert all(wanted[key] == value for key, value in model["desired"].items() if not isinstance(value, dict))
