"""What role mqtt_broker refuses, how it writes users, and what a port listens on."""

from __future__ import annotations

import base64
import datetime
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edge.pi_fleet.plugins.filter import mqtt_broker
from ansible_collections.edge.pi_fleet.plugins.filter.mqtt_broker import (
    FilterModule,
    mqtt_broker_conflicts,
    mqtt_broker_passwords,
    mqtt_broker_problems,
    mqtt_broker_remote_prefix,
    overlap,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

ASK, ANSWER = "/request/classify/beverage_container", "/response/prediction/beverage_container"
Pair = tuple[str, str]
Inputs = dict[str, Any]


def pem(noun: str, body: str = "bm9uZQ==") -> str:
    return f"-----BEGIN {noun}-----\n{body}\n-----END {noun}-----\n"


def make_pair(name: str) -> Pair:
    """Return a certificate that signed itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begin = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM).decode(), private.decode()


@pytest.fixture(scope="module")
def pairs() -> tuple[Pair, Pair]:
    return make_pair("one"), make_pair("other")


@pytest.fixture
def inputs(pairs: tuple[Pair, Pair]) -> Inputs:
    """Return inputs that are right, with all that can be asked for."""
    (certificate, key), _ = pairs
    return {
        "device": "pi-1",
        "request_topics": [ASK],
        "response_topics": [ANSWER],
        "listen": "0.0.0.0",
        "port": 8883,
        "certificate": certificate,
        "key": key,
        "users": [{"name": "kiosk", "password": "secret-of-kiosk"}],
        "bridge": {
            "endpoint": "abc123-ats.iot.eu-west-1.amazonaws.com",
            "certificate": certificate,
            "key": key,
            "ca": certificate,
        },
        "bridge_prefix": "pi-1",
    }


def test_what_is_right_is_taken(inputs: Inputs) -> None:
    assert mqtt_broker_problems(inputs) == []
    assert mqtt_broker_problems({**inputs, "bridge_prefix": "", "listen": "::", "port": "8884"}) == []


def test_nothing_is_asked_of_what_is_not_used(inputs: Inputs) -> None:
    closed = {**inputs, "listen": "", "port": 0, "certificate": "", "key": "", "users": []}
    assert mqtt_broker_problems({**closed, "bridge": {}, "bridge_prefix": "#"}) == []


REFUSED: list[tuple[Inputs, str]] = [
    ({"device": "pi/1"}, "The device is called 'pi/1' in the inventory, not a name"),
    ({"request_topics": [""]}, "mqtt_broker_request_topics has '', which is no topic"),
    ({"request_topics": ["a b"]}, "mqtt_broker_request_topics has 'a b', which is no topic"),
    ({"request_topics": ["a/#/b"]}, "mqtt_broker_request_topics has 'a/#/b', which is no topic"),
    ({"response_topics": ["a/b#"]}, "mqtt_broker_response_topics has 'a/b#', which is no topic"),
    ({"response_topics": ["a/+b"]}, "mqtt_broker_response_topics has 'a/+b', which is no topic"),
    ({"request_topics": ["/+/#"]}, f"mqtt_broker_request_topics has '/+/#', which also matches answers on '{ANSWER}'"),
    ({"request_topics": ["pi-fleet/+/errors"]}, "which also matches answers on 'pi-fleet/pi-1/errors'"),
    ({"request_topics": ["+/pi-1/pull"]}, "which also matches answers on 'pi-fleet/pi-1/pull'"),
    ({"listen": "eth0"}, "mqtt_broker_listen is 'eth0', not an address such as 0.0.0.0"),
    ({"port": 0}, "mqtt_broker_port is 0, not a port"),
    ({"port": 70000}, "mqtt_broker_port is 70000, not a port"),
    ({"port": 1883}, "mqtt_broker_port is 1883, which is the port on loopback"),
    ({"certificate": ""}, "mqtt_broker_certificate is no certificate in PEM form"),
    ({"certificate": "/etc/ssl/broker.pem"}, "mqtt_broker_certificate is no certificate in PEM form"),
    ({"key": ""}, "mqtt_broker_key is no private key in PEM form"),
    ({"key": pem("ENCRYPTED PRIVATE KEY")}, "mqtt_broker_key has a passphrase"),
    ({"key": pem("PRIVATE KEY")}, "mqtt_broker_certificate or mqtt_broker_key is damaged ("),
    ({"certificate": pem("CERTIFICATE")}, "mqtt_broker_certificate or mqtt_broker_key is damaged ("),
    ({"users": []}, "mqtt_broker_users is empty"),
    ({"users": [{"name": "kiosk"}]}, "mqtt_broker_users has no password for 'kiosk'"),
    ({"users": [{"name": "kiosk", "password": ""}]}, "mqtt_broker_users has no password for 'kiosk'"),
    ({"users": [{"password": "x"}]}, "mqtt_broker_users has the name ''"),
    ({"users": [{"name": "a:b", "password": "x"}]}, "mqtt_broker_users has the name 'a:b'"),
    ({"users": [{"name": "a", "password": "x"}] * 2}, "mqtt_broker_users has 'a' more than once"),
    ({"bridge_prefix": "pi-1/"}, "mqtt_broker_bridge_prefix is 'pi-1/', not levels"),
    ({"bridge_prefix": "pi/+"}, "mqtt_broker_bridge_prefix is 'pi/+', not levels"),
    ({"bridge_prefix": "pi/#"}, "mqtt_broker_bridge_prefix is 'pi/#', not levels"),
    ({"bridge_prefix": "$aws"}, "mqtt_broker_bridge_prefix is '$aws', not levels"),
    ({"bridge_prefix": "pi 1"}, "mqtt_broker_bridge_prefix is 'pi 1', not levels"),
    ({"request_topics": ["/ask", "ask"]}, "'/ask' and 'ask' are one topic below mqtt_broker_bridge_prefix"),
]


@pytest.mark.parametrize(("change", "sentence"), REFUSED, ids=[sentence[:60] for _, sentence in REFUSED])
def test_what_is_wrong_is_refused_by_one_sentence(inputs: Inputs, change: Inputs, sentence: str) -> None:
    (problem,) = mqtt_broker_problems({**inputs, **change})
    assert sentence in problem
    assert problem.endswith(("inventory.", "ansible-vault.", "rename it there."))


BRIDGE_REFUSED: list[tuple[Inputs, str]] = [
    ({"endpoint": None}, "mqtt_broker_bridge.endpoint is '', not a host name alone"),
    ({"endpoint": "mqtts://host.example"}, "mqtt_broker_bridge.endpoint is 'mqtts://host.example', not"),
    ({"endpoint": "host.example:8883"}, "mqtt_broker_bridge.endpoint is 'host.example:8883', not"),
    ({"endpoint": "host.example\ntopic # both"}, "mqtt_broker_bridge.endpoint is"),
    ({"port": 0}, "mqtt_broker_bridge.port is 0, not a port"),
    ({"certificate": None}, "mqtt_broker_bridge.certificate is no certificate in PEM form"),
    ({"key": None}, "mqtt_broker_bridge.key is no private key in PEM form"),
    ({"ca": None}, "mqtt_broker_bridge.ca is no certificate in PEM form"),
    ({"ca": pem("CERTIFICATE")}, "mqtt_broker_bridge.ca is no certificate in PEM form"),
]


@pytest.mark.parametrize(("change", "sentence"), BRIDGE_REFUSED, ids=[sentence[:60] for _, sentence in BRIDGE_REFUSED])
def test_what_is_wrong_with_a_bridge_is_refused_by_one_sentence(inputs: Inputs, change: Inputs, sentence: str) -> None:
    (problem,) = mqtt_broker_problems({**inputs, "bridge": {**inputs["bridge"], **change}})
    assert sentence in problem


@pytest.mark.parametrize("place", ["", "bridge"])
def test_a_key_of_another_certificate_is_refused(inputs: Inputs, pairs: tuple[Pair, Pair], place: str) -> None:
    other = {"key": pairs[1][1]}
    change = {"bridge": {**inputs["bridge"], **other}} if place else other
    (problem,) = mqtt_broker_problems({**inputs, **change})
    name = "mqtt_broker_bridge." if place else "mqtt_broker_"
    assert problem == f"{name}key is not the key of {name}certificate: correct it in the inventory."


def test_keys_and_passwords_are_never_quoted_nor_left_behind(
    inputs: Inputs, pairs: tuple[Pair, Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    wrong = {**inputs, "key": pairs[1][1], "port": 0, "listen": "x", "bridge_prefix": "#", "device": "-"}
    wrong["users"] = [{"name": ":", "password": "secret-of-kiosk"}] * 2
    text = " ".join(mqtt_broker_problems(wrong))
    assert text.count("correct it in the inventory") > 4
    assert "secret-of-kiosk" not in text
    assert pairs[1][1].splitlines()[1] not in text
    assert list(tmp_path.iterdir()) == []


def test_topics_that_the_cloud_does_not_take_are_refused(inputs: Inputs) -> None:
    assert mqtt_broker_problems({**inputs, "bridge_prefix": "a/b/c/d/e"}) == []
    deep = mqtt_broker_problems({**inputs, "bridge_prefix": "a/b/c/d/e/f"})
    long = mqtt_broker_problems({**inputs, "bridge_prefix": "x" * 250})
    assert [len(deep), len(long)] == [4, 4]
    assert deep[0].startswith(f"mqtt_broker_bridge would use the topic 'a/b/c/d/e/f{ASK}', and AWS IoT Core takes 7 sl")


def test_users_are_written_as_mosquitto_passwd_writes_them() -> None:
    # Written by 'mosquitto_passwd -b' of mosquitto 2.0.11, with rounds and a salt of its own.
    theirs = (
        "kiosk:$7$101$6CeaxHWs9z04IBAJ$"
        "Wr91fmVxx+XhcQrt5odVi93tdhg2jnx5ZZ022nfYam4tS/wdb/hSOYXWMRi4C1KfVeQFu4Mh9BgIdLeTWjphAw=="
    )
    name, _, rest = theirs.partition(":")
    _, kind, rounds, salt, key = rest.split("$")
    assert (name, kind) == ("kiosk", "7")
    assert mqtt_broker.password_hash("let me ask", base64.b64decode(salt), int(rounds)) == key


def test_the_same_users_make_the_same_lines_and_no_two_share_a_salt() -> None:
    users = [{"name": "kiosk", "password": "one"}, {"name": "till", "password": "one"}]
    lines = mqtt_broker_passwords(users, "pi-1")
    assert lines == mqtt_broker_passwords(users, "pi-1")
    for line, user in zip(lines, users, strict=True):
        name, _, rest = line.partition(":")
        empty, kind, rounds, salt, key = rest.split("$")
        assert (name, empty, kind, rounds) == (user["name"], "", "7", "1000")
        assert [len(base64.b64decode(part)) for part in (salt, key)] == [12, 64]
    other = mqtt_broker_passwords(users, "pi-2")
    changed = mqtt_broker_passwords([{"name": "kiosk", "password": "two"}], "pi-1")
    assert len({line.split("$")[3] for line in [*lines, *other]}) == 4
    assert len({line.split("$")[4] for line in [*lines, *other, *changed]}) == 5


VENDORS = [
    "/etc/mosquitto/mosquitto.conf:persistence true",
    "/etc/mosquitto/mosquitto.conf:log_dest file /var/log/mosquitto/mosquitto.log",
    "/etc/mosquitto/mosquitto.conf:include_dir /etc/mosquitto/conf.d",
]
MINE = "/etc/mosquitto/conf.d/mine.conf"


def test_the_vendors_settings_and_a_users_bridge_stay() -> None:
    assert mqtt_broker_conflicts([]) == []
    bridge = ["connection home", "address home.example", "topic # both 1", "bridge_cafile /etc/ca", "remote_password x"]
    assert mqtt_broker_conflicts([*VENDORS, *(f"{MINE}:  {line}" for line in [*bridge, "log_type all"])]) == []


@pytest.mark.parametrize(
    "setting",
    [
        "listener 1884 0.0.0.0",
        "port 1883",
        "per_listener_settings true",
        "allow_anonymous false",
        "plugin_opt_x secret",
    ],
)
def test_settings_of_who_may_use_the_broker_are_refused_and_not_quoted(setting: str) -> None:
    (problem,) = mqtt_broker_conflicts([*VENDORS, f"{MINE}:\t{setting}"])
    assert problem.startswith(
        f"{MINE} says '{setting.split()[0]}', and who may use the broker is for mqtt_broker_listen"
    )
    assert "secret" not in problem


@pytest.mark.parametrize("owners", ["644 root root", "640 root mosquitto", "600 mosquitto root", "444 root root"])
def test_what_mosquitto_can_read_is_fine(owners: str) -> None:
    assert mqtt_broker_conflicts([*VENDORS, f"{MINE}:mode {owners}"]) == []


@pytest.mark.parametrize("owners", ["600 root root", "640 root adm", "660 root root", "600 root mosquitto"])
def test_what_mosquitto_cannot_read_is_refused(owners: str) -> None:
    (problem,) = mqtt_broker_conflicts([*VENDORS, f"{MINE}:mode {owners}"])
    assert problem.startswith(f"{MINE} is for root alone (mode {owners[:3]}), and mosquitto runs as a user of its own")
    assert problem.endswith(f"'chgrp mosquitto {MINE} && chmod 640 {MINE}'.")


@pytest.mark.parametrize(
    ("setting", "place"),
    [
        ("log_dest file /data/mosquitto.log", "/var/log/mosquitto"),
        ("persistence_location /data/", "/var/lib/mosquitto"),
        ("persistence_location /var/lib/mosquitto-other/", "/var/lib/mosquitto"),
        ("pid_file /data/pid", "/run/mosquitto"),
    ],
)
def test_places_that_mosquitto_may_not_write_to_are_refused(setting: str, place: str) -> None:
    (problem,) = mqtt_broker_conflicts([*VENDORS, f"{MINE}:{setting}"])
    assert f"has mosquitto write to {setting.split()[-1]}, and it may write to {place} alone" in problem
    fine = [f"{MINE}:{setting.rpartition(' ')[0]} {place}/mine", f"{MINE}:log_dest syslog", f"{MINE}:pid_file {place}"]
    assert mqtt_broker_conflicts([*VENDORS, *fine[:2]]) == []


def test_a_vendors_file_that_reads_no_others_is_refused() -> None:
    (problem,) = mqtt_broker_conflicts(VENDORS[:2])
    assert problem == (
        "/etc/mosquitto/mosquitto.conf does not read /etc/mosquitto/conf.d: "
        "put 'include_dir /etc/mosquitto/conf.d' at its end."
    )


def test_a_further_folder_of_settings_is_refused() -> None:
    further = "include_dir /etc/mosquitto/mine"
    for path in (VENDORS[0].partition(":")[0], MINE):
        (problem,) = mqtt_broker_conflicts([*VENDORS, f"{path}:{further}"])
        assert problem == (
            f"{path} reads /etc/mosquitto/mine too, at which nobody looks: move its files into /etc/mosquitto/conf.d."
        )
    assert mqtt_broker_conflicts([*VENDORS, f"{MINE}:include_dir /etc/mosquitto/conf.d/"]) == []


@pytest.mark.parametrize(
    ("topic", "prefix", "remote"),
    [("/ask", "pi-1", "pi-1"), ("ask", "pi-1", "pi-1/"), ("/ask", "", ""), ("ask", "", ""), ("+/ask", "a/b", "a/b/")],
)
def test_a_topic_gets_one_slash_after_the_prefix(topic: str, prefix: str, remote: str) -> None:
    assert mqtt_broker_remote_prefix(topic, prefix) == remote


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/c", False),
        ("a/b", "a", False),
        ("a/#", "a", True),
        ("a/#", "b", False),
        ("#", "/a/b", True),
        ("+/b", "a/+", True),
        ("+", "/a", False),
        ("a/+/c", "a/b/#", True),
        ("/a", "a", False),
    ],
)
def test_filters_overlap(one: str, other: str, meet: bool) -> None:
    assert overlap(one, other) == overlap(other, one) == meet


FILTERS = st.builds(
    lambda levels, last: "/".join([*levels, *last]),
    st.lists(st.sampled_from(["", "a", "b", "+"]), min_size=1, max_size=3),
    st.sampled_from([[], ["#"]]),
)


def matches(pattern: str, topic: str) -> bool:
    """Say whether a topic filter matches a topic, as MQTT 3.1.1 has it in 4.7."""
    wanted, found = pattern.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted.pop()
        found = found[: len(wanted)]
    return len(wanted) == len(found) and all(a in ("+", b) for a, b in zip(wanted, found, strict=True))


TOPICS = ["/".join(levels) for length in range(1, 5) for levels in product(["", "a", "b"], repeat=length)]


@given(one=FILTERS, other=FILTERS)
def test_filters_overlap_where_a_topic_matches_both(one: str, other: str) -> None:
    assert overlap(one, other) == any(matches(one, topic) and matches(other, topic) for topic in TOPICS)


def test_ansible_finds_the_filters() -> None:
    folder = Path(mqtt_broker.__file__).parent
    assert sorted(FilterModule().filters()) == sorted(path.stem for path in folder.glob("mqtt_broker_*.yml"))
