"""Secrets: in the form that the SDK reads, to those alone who are granted them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from localcore.errors import LocalCoreError
from localcore.group import Group
from localcore.secrets import Secrets
from localcore.settings import parse_credentials

ARN = "arn:aws:secretsmanager:us-east-1:000000000000:secret:greengrass-Key-AbCdEf"
NAME = "greengrass-Key"
NAMES = ("beverage_classifier", "helper", "GG-ML-INF-image-classification-beverage-classifier")


def ask(group: Group, request: object, *, caller: str = "beverage_classifier", value: Any = None) -> dict[str, Any]:
    secrets = Secrets(group, {NAME: value or {"SecretString": "hush"}}, 1_543_622_400.5)
    payload = request if isinstance(request, bytes) else json.dumps(request).encode()
    reply: dict[str, Any] = json.loads(secrets.reply(caller, payload))
    return reply


@pytest.mark.parametrize("wanted", [NAME, ARN])
@pytest.mark.parametrize("stage", [{}, {"VersionStage": "AWSCURRENT"}, {"VersionStage": ""}])
def test_a_secret_is_found_by_name_or_arn(group: Group, wanted: str, stage: dict[str, str]) -> None:
    reply = ask(group, {"SecretId": wanted, **stage})
    version = reply.pop("VersionId")
    assert reply == {
        "ARN": ARN,
        "Name": NAME,
        "SecretString": "hush",
        "VersionStages": ["AWSCURRENT"],
        "CreatedDate": 1_543_622_400_500,
    }
    assert len(version) == 36


def test_a_binary_secret_stays_base64(group: Group) -> None:
    assert ask(group, {"SecretId": NAME}, value={"SecretBinary": "aHVzaA=="})["SecretBinary"] == "aHVzaA=="


def test_the_version_follows_the_value(group: Group) -> None:
    versions = [ask(group, {"SecretId": NAME}, value={"SecretString": text})["VersionId"] for text in ("a", "a", "b")]
    assert versions[0] == versions[1] != versions[2]


@pytest.mark.parametrize(
    ("request_", "caller", "status", "said"),
    [
        ({"SecretId": "other"}, "beverage_classifier", 404, "no secret 'other'"),
        ({"SecretId": NAME}, "helper", 403, "helper may not read greengrass-Key"),
        ({"SecretId": NAME}, "nobody", 403, "may not read"),
        ({"SecretId": NAME, "VersionStage": "AWSPREVIOUS"}, "beverage_classifier", 404, "AWSCURRENT alone"),
        ({"SecretId": NAME, "VersionId": "1"}, "beverage_classifier", 404, "AWSCURRENT alone"),
        ({}, "beverage_classifier", 400, "SecretId"),
        ({"SecretId": 1}, "beverage_classifier", 400, "SecretId"),
        (b"", "beverage_classifier", 400, "SecretId"),
        (b"\xff", "beverage_classifier", 400, "SecretId"),
    ],
)
def test_what_is_not_granted_is_refused(group: Group, request_: object, caller: str, status: int, said: str) -> None:
    reply = ask(group, request_, caller=caller)
    assert reply.keys() == {"Status", "Message"}
    assert reply["Status"] == status
    assert said in reply["Message"]
    assert "hush" not in json.dumps(reply)


def credentials(**changes: Any) -> bytes:
    tokens = {name: f"{number:064x}" for number, name in enumerate(NAMES)}
    return json.dumps({"tokens": tokens, "secrets": {NAME: {"SecretString": "hush"}}, **changes}).encode()


def test_credentials_are_read_and_never_shown(group: Group) -> None:
    assert parse_credentials(credentials(), group).client_id is None
    found = parse_credentials(credentials(client_id="localcore-1"), group)
    assert found.tokens["helper"] == f"{1:064x}"
    assert found.secrets == {NAME: {"SecretString": "hush"}}
    assert found.client_id == "localcore-1"
    assert "hush" not in repr(found)
    assert "0000" not in repr(found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"hush": ', "are no JSON"),
        (b"[]", "must have an object"),
        (credentials(tokens={}), "the token of beverage_classifier"),
        (credentials(tokens=dict.fromkeys(NAMES, "hush")), "not 64 hex digits"),
        (credentials(tokens=dict.fromkeys(NAMES, "a" * 64)), "one token twice"),
        (credentials(secrets={}), "the secret greengrass-Key"),
        (credentials(secrets={NAME: {"SecretString": "hush", "SecretBinary": "hush"}}), "either SecretString or"),
        (credentials(secrets={NAME: {"SecretBinary": "hush!"}}), "no base64"),
        (credentials(secrets={NAME: {"SecretString": 5}}), "no string"),
        (credentials(client_id=5), "a text as client_id"),
        (credentials(key="hush"), "unknown keys key"),
    ],
)
def test_wrong_credentials_are_one_sentence_without_them(group: Group, text: bytes, said: str) -> None:
    with pytest.raises(LocalCoreError, match=said) as refusal:
        parse_credentials(text, group)
    assert "hush" not in str(refusal.value)
    assert refusal.value.__cause__ is None
