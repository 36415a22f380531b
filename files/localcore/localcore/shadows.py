"""Thing shadows, as the Device Shadow service of AWS IoT defines them, stored durably on the device.

Documents, replies and errors follow AWS IoT's developer guide ("Device Shadow service documents" and "Device Shadow
error messages").
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

LARGEST = 8 * 1024
"""Bytes of a request, and of the state that is kept."""
DEEPEST = 6
"""Levels of objects and arrays within desired and reported."""
LONGEST_TOKEN = 64
TOPIC = re.compile(r"\$aws/things/([^/]+)/shadow/(get|update|delete)")
THING = re.compile(r"[a-zA-Z0-9:_-]{1,128}")
SECTIONS = ("desired", "reported")

log = logging.getLogger(__name__)
Json = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """The answer to a request; `delta` is what an update leaves to be done, None if nothing."""

    accepted: bool
    document: Json
    delta: Json | None = None


class _RejectedError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class _Shadow:
    """A shadow as it is stored; a deleted one lives on by its version."""

    version: int = 0
    timestamp: int = 0
    state: Json = field(default_factory=dict)
    metadata: Json = field(default_factory=dict)
    exists: bool = False


class Shadows:
    """The shadows in a directory, one file a thing."""

    def __init__(self, directory: Path) -> None:
        """Use the directory, which is made if it is not there."""
        self.directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def request(self, topic: str, payload: bytes) -> Reply:
        """Answer a request on `$aws/things/NAME/shadow/{get,update,delete}`.

        A refused one is answered by `{"code", "message"}`; nothing is raised, whatever the payload or the disk.
        """
        token: Json = {}
        now = int(time.time())
        try:
            match = TOPIC.fullmatch(topic)
            if match is None:
                raise _RejectedError(400, f"{topic[:200]} is no topic of a shadow")
            thing, operation = match[1], match[2]
            if not THING.fullmatch(thing):
                raise _RejectedError(400, "Invalid thing name")
            request = _parse(payload, required=operation == "update")
            token = _client_token(request)
            if operation == "get":
                return Reply(True, self._get(thing) | token)
            if operation == "delete":
                return Reply(True, self._delete(thing, request, now) | token)
            return self._update(thing, request, now, token)
        except _RejectedError as error:
            return Reply(False, {"code": error.code, "message": str(error), "timestamp": now} | token)
        except RecursionError:
            # Parsed in C, but too deep to be walked.
            message = f"JSON contains too many levels of nesting; maximum is {DEEPEST}"
            return Reply(False, {"code": 400, "message": message, "timestamp": now} | token)
        except OSError as error:
            log.error("A shadow cannot be stored in %s (%s); free some space.", self.directory, error.strerror)
            return Reply(False, {"code": 500, "message": "Internal service failure", "timestamp": now} | token)

    def _get(self, thing: str) -> Json:
        shadow = self._existing(thing)
        state, metadata = dict(shadow.state), dict(shadow.metadata)
        if delta := _difference(shadow.state.get("desired", {}), shadow.state.get("reported", {})):
            state["delta"] = delta
        return {"state": state, "metadata": metadata, "version": shadow.version, "timestamp": shadow.timestamp}

    def _delete(self, thing: str, request: Json, now: int) -> Json:
        shadow = self._existing(thing)
        _check_version(request, shadow)
        # The version goes on after a deletion, so that a message of before is known to be old.
        self._store(thing, _Shadow(version=shadow.version + 1, timestamp=now))
        return {"version": shadow.version, "timestamp": now}

    def _update(self, thing: str, request: Json, now: int, token: Json) -> Reply:
        changes = _checked_state(request)
        shadow = self._load(thing)
        _check_version(request, shadow)
        state, metadata = dict(shadow.state), dict(shadow.metadata)
        for section, change in changes.items():
            state[section], metadata[section] = _merge(
                state.get(section, {}), metadata.get(section, {}), change if change is not None else None, now
            )
            if not state[section]:
                del state[section], metadata[section]
        if len(json.dumps(state, ensure_ascii=False).encode()) > LARGEST:
            raise _RejectedError(413, "The payload exceeds the maximum size allowed")
        updated = _Shadow(shadow.version + 1, now, state, metadata, exists=True)
        self._store(thing, updated)
        stamp = {"version": updated.version, "timestamp": now} | token
        changed = {name: _stamps(change, now) for name, change in changes.items() if change is not None}
        accepted = {"state": changes, "metadata": changed} | stamp
        delta = _difference(state.get("desired", {}), state.get("reported", {}))
        if not delta:
            return Reply(True, accepted)
        of_delta = {"state": delta, "metadata": _select(metadata.get("desired", {}), delta)}
        return Reply(True, accepted, of_delta | stamp)

    def _path(self, thing: str) -> Path:
        return self.directory / f"{thing}.json"

    def _existing(self, thing: str) -> _Shadow:
        shadow = self._load(thing)
        if not shadow.exists:
            raise _RejectedError(404, f"No shadow exists with name: '{thing}'")
        return shadow

    def _load(self, thing: str) -> _Shadow:
        path = self._path(thing)
        try:
            return _Shadow(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return _Shadow()
        except (ValueError, TypeError) as error:
            aside = path.with_suffix(".damaged")
            path.rename(aside)
            log.error("The shadow %s is damaged (%s) and was moved to %s; it begins anew.", path, error, aside)
            return _Shadow()

    def _store(self, thing: str, shadow: _Shadow) -> None:
        """Write the shadow so that a power cut leaves the old one or the new one."""
        path = self._path(thing)
        part = path.with_suffix(".part")
        with part.open("w", encoding="utf-8") as file:
            json.dump(vars(shadow), file)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _parse(payload: bytes, *, required: bool) -> Json:
    if len(payload) > LARGEST:
        raise _RejectedError(413, "The payload exceeds the maximum size allowed")
    if not payload and not required:
        return {}
    try:
        request = json.loads(payload.decode("utf-8"), parse_constant=_no_constant)
        # Escaped lone surrogates are no text, and could not be stored.
        json.dumps(request, ensure_ascii=False).encode("utf-8")
    except UnicodeError as error:
        raise _RejectedError(415, "Unsupported documented encoding; supported encoding is UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise _RejectedError(400, "Invalid JSON") from error
    if not isinstance(request, dict):
        raise _RejectedError(400, "Invalid JSON")
    return request


def _no_constant(name: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python reads and JSON does not know."""
    raise ValueError(f"{name} is no JSON")


def _client_token(request: Json) -> Json:
    token = request.get("clientToken")
    if token is None:
        return {}
    if not isinstance(token, str) or len(token.encode()) > LONGEST_TOKEN:
        raise _RejectedError(400, "Invalid clientToken")
    return {"clientToken": token}


def _check_version(request: Json, shadow: _Shadow) -> None:
    version = request.get("version")
    if version is None:
        return
    if not isinstance(version, int) or isinstance(version, bool) or version < 0:
        raise _RejectedError(400, "Invalid version")
    if version != shadow.version:
        raise _RejectedError(409, "Version conflict")


def _checked_state(request: Json) -> dict[str, Json | None]:
    """Return the sections of a request's state; None stands for a section to be removed."""
    if "state" not in request:
        raise _RejectedError(400, "Missing required node: state")
    state = request["state"]
    if not isinstance(state, dict):
        raise _RejectedError(400, "State node must be an object")
    if state.keys() - set(SECTIONS):
        raise _RejectedError(400, "State contains an invalid node")
    for section, change in state.items():
        if not isinstance(change, dict | None):
            raise _RejectedError(400, f"{section.capitalize()} node must be an object")
        if _depth(change) > DEEPEST:
            raise _RejectedError(400, f"JSON contains too many levels of nesting; maximum is {DEEPEST}")
    return state


def _depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


def _merge(old: Json, stamps: Json, change: Json | None, now: int) -> tuple[Json, Json]:
    """Return an object with the changes made, and when each of its values changed; null removes a key."""
    if change is None:
        return {}, {}
    merged, when = dict(old), dict(stamps)
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
            when.pop(key, None)
        elif isinstance(value, dict):
            before = merged.get(key)
            inner = before if isinstance(before, dict) else {}
            merged[key], when[key] = _merge(inner, when.get(key, {}) if inner else {}, value, now)
        else:
            merged[key], when[key] = value, _stamps(value, now)
    return merged, when


def _stamps(value: Any, now: int) -> Any:
    """Return metadata of the shape of a value, with the time at each of its leaves."""
    if isinstance(value, dict):
        return {key: _stamps(inner, now) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_stamps(inner, now) for inner in value]
    return {"timestamp": now}


def _difference(desired: Json, reported: Json) -> Json:
    """Return what is desired and not, or differently, reported."""
    delta: Json = {}
    for key, value in desired.items():
        other = reported.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            if inner := _difference(value, other):
                delta[key] = inner
        elif key not in reported or not _same(value, other):
            delta[key] = value
    return delta


def _same(one: object, other: object) -> bool:
    """Compare as JSON does: true is not 1, as it is in Python."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _select(stamps: Json, delta: Json) -> Json:
    """Return the metadata of what is in the delta."""
    return {
        key: _select(stamps[key], value) if isinstance(value, dict) else stamps[key]
        for key, value in delta.items()
        if key in stamps
    }
