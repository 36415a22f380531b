# SPDX-License-Identifier: Apache-2.0
"""Filters of role mqtt_broker: what is wrong with its inputs, mosquitto's users, what contradicts the role's file."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
import ssl
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations, product
from pathlib import Path
from typing import Any

LOOPBACK_PORT = 1883
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
HOST = r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*"

# As mosquitto_passwd writes them, and more rounds: a device checks a password in about 10 ms.
ROUNDS = 1000
SALT_BYTES = 12
HASH_BYTES = 64

# AWS IoT Core's limits of a topic (aws.amazon.com, "AWS IoT Core endpoints and quotas").
CLOUD_SLASHES = 7
CLOUD_BYTES = 256

CORRECT = "correct it in the inventory."

# What mosquitto.conf(5) has for listeners and for who may use them. All files are one to mosquitto.
OF_LISTENERS = re.compile(
    r"acl_file|allow_anonymous|allow_zero_length_clientid|auth_opt_\w+|auth_plugin\w*|auto_id_prefix|bind_address|"
    r"bind_interface|cafile|capath|certfile|ciphers(_tls1\.3)?|crlfile|dhparamfile|http_dir|keyfile|listener|"
    r"max_connections|max_qos|max_topic_alias|mount_point|password_file|per_listener_settings|plugin|plugin_opt_\w+|port|"
    r"protocol|psk_file|psk_hint|require_certificate|socket_domain|tls_\w+|use_identity_as_username|"
    r"use_subject_as_username|use_username_as_clientid|websockets_\w+"
)
# Where mosquitto may write, by what names a place for it.
WRITES = {"log_dest": "/var/log/mosquitto", "persistence_location": "/var/lib/mosquitto", "pid_file": "/run/mosquitto"}
VENDORS_FILE = "/etc/mosquitto/mosquitto.conf"
OWN_FOLDER = "/etc/mosquitto/conf.d"


def mqtt_broker_problems(inputs: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each input that the broker would not take: see DOCUMENTATION."""
    problems = [*_of_device(inputs), *_of_topics(inputs)]
    if inputs["listen"]:
        problems += [*_of_listener(inputs), *_of_users(inputs["users"])]
    if inputs["bridge"]:
        problems += [*_of_bridge(inputs["bridge"]), *_of_prefix(inputs)]
    return problems


def mqtt_broker_passwords(users: Iterable[Mapping[str, str]], device: str) -> list[str]:
    """Return the lines of mosquitto's password file: see DOCUMENTATION.

    The form is `name:$7$rounds$salt$hash`, PBKDF2 with SHA-512, salt and hash in base64 (mosquitto_passwd(1)). The salt
    is made of the device's name and the user's, so that a second run writes the same file, and no two users share one.
    """
    lines = []
    for user in users:
        salt = hashlib.sha256(f"{device}\0{user['name']}".encode()).digest()[:SALT_BYTES]
        key = password_hash(user["password"], salt, ROUNDS)
        lines.append(f"{user['name']}:$7${ROUNDS}${base64.b64encode(salt).decode()}${key}")
    return lines


def password_hash(password: str, salt: bytes, rounds: int) -> str:
    """Return the hash of a password as mosquitto compares it."""
    return base64.b64encode(hashlib.pbkdf2_hmac("sha512", password.encode(), salt, rounds, HASH_BYTES)).decode()


def mqtt_broker_conflicts(lines: Iterable[str]) -> list[str]:
    """Return a sentence for each setting of a user's own that contradicts the role's: see DOCUMENTATION.

    The broker on loopback asks for no password, so a further listener would let in everybody.
    """
    settings = [(path, text.split()) for path, _, text in (line.partition(":") for line in lines)]
    problems = [
        f"{path} says '{words[0]}', and who may use the broker is for mqtt_broker_listen and mqtt_broker_users to say: "
        "remove it, or give it to a mosquitto of its own."
        for path, words in settings
        if OF_LISTENERS.fullmatch(words[0])
    ]
    problems += [
        f"{path} is for {words[2]} alone (mode {words[1]}), and mosquitto runs as a user of its own from its start: "
        f"'chgrp mosquitto {path} && chmod 640 {path}'."
        for path, words in settings
        if words[0] == "mode" and not _is_readable(*words[1:4])
    ]
    problems += [
        f"{path} has mosquitto write to {words[-1]}, and it may write to {WRITES[words[0]]} alone: name a place there."
        for path, words in settings
        if words[0] in WRITES and words[-1].startswith("/") and not f"{words[-1]}/".startswith(f"{WRITES[words[0]]}/")
    ]
    problems += [
        f"{path} reads {words[-1]} too, at which nobody looks: move its files into {OWN_FOLDER}."
        for path, words in settings
        if words[0] == "include_dir" and words[-1].rstrip("/") != OWN_FOLDER
    ]
    vendors = [words for path, words in settings if path == VENDORS_FILE]
    if vendors and ["include_dir", OWN_FOLDER] not in vendors:
        problems.append(f"{VENDORS_FILE} does not read {OWN_FOLDER}: put 'include_dir {OWN_FOLDER}' at its end.")
    return problems


def _is_readable(mode: str, user: str, group: str) -> bool:
    """Say whether mosquitto may read a file of this mode (640) and these owners."""
    bits = int(mode, 8)
    return bool(bits & 0o004 or (group == "mosquitto" and bits & 0o040) or (user == "mosquitto" and bits & 0o400))


def mqtt_broker_remote_prefix(topic: str, prefix: str) -> str:
    """Return what mosquitto puts before a topic on its way to the cloud: see DOCUMENTATION."""
    return prefix if not prefix or topic.startswith("/") else f"{prefix}/"


def overlap(one: str, other: str) -> bool:
    """Say whether a topic can match both of two topic filters."""
    left, right = one.split("/"), other.split("/")
    for a, b in zip(left, right, strict=False):
        if "#" in (a, b):
            return True
        if "+" not in (a, b) and a != b:
            return False
    # 'a/#' matches 'a' as well.
    rest = left[len(right) :] or right[len(left) :]
    return rest in ([], ["#"])


def _of_device(inputs: Mapping[str, Any]) -> Iterator[str]:
    if not re.fullmatch(NAME, inputs["device"]):
        yield (
            f"The device is called '{inputs['device']}' in the inventory, not a name of up to 64 letters, digits, '.', "
            "'_' and '-', which topics can have as a level: rename it there."
        )


def _of_topics(inputs: Mapping[str, Any]) -> Iterator[str]:
    asked, answered = inputs["request_topics"], inputs["response_topics"]
    for name, topics in (("mqtt_broker_request_topics", asked), ("mqtt_broker_response_topics", answered)):
        for topic in topics:
            if not _is_filter(topic):
                yield (
                    f"{name} has '{topic}', which is no topic: wanted are levels parted by '/', without spaces, '+' "
                    f"only as a whole level and '#' only as the last one: {CORRECT}"
                )
    # On loopback nothing is passed on by topic.
    passed_on = product(asked, [*answered, *_reports(inputs)]) if inputs["listen"] or inputs["bridge"] else []
    for one, other in passed_on:
        if overlap(one, other):
            yield (
                f"mqtt_broker_request_topics has '{one}', which also matches answers on '{other}', so that each answer "
                f"would be a question: {CORRECT}"
            )


def _of_listener(inputs: Mapping[str, Any]) -> Iterator[str]:
    try:
        ipaddress.ip_address(inputs["listen"])
    except ValueError:
        yield f"mqtt_broker_listen is '{inputs['listen']}', not an address such as 0.0.0.0 or 192.168.1.20: {CORRECT}"
    yield from _of_port("mqtt_broker_port", inputs["port"])
    if str(inputs["port"]) == str(LOOPBACK_PORT):
        yield f"mqtt_broker_port is {LOOPBACK_PORT}, which is the port on loopback, without TLS: {CORRECT}"
    yield from _of_pair("mqtt_broker_certificate", "mqtt_broker_key", inputs["certificate"], inputs["key"])


def _of_users(users: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    names = [str(user.get("name") or "") for user in users]
    if not names:
        yield f"mqtt_broker_users is empty, and mqtt_broker_listen lets in nobody else: {CORRECT}"
    for name in names:
        if not re.fullmatch(NAME, name):
            yield (
                f"mqtt_broker_users has the name '{name}', not one of up to 64 letters, digits, '.', '_' and '-': "
                f"{CORRECT}"
            )
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        yield f"mqtt_broker_users has '{name}' more than once: {CORRECT}"
    for user in users:
        if not user.get("password"):
            yield f"mqtt_broker_users has no password for '{user.get('name')}': {CORRECT}"


def _of_bridge(bridge: Mapping[str, Any]) -> Iterator[str]:
    endpoint = str(bridge.get("endpoint") or "")
    if not re.fullmatch(HOST, endpoint):
        yield (
            f"mqtt_broker_bridge.endpoint is '{endpoint}', not a host name alone, such as "
            f"abc123-ats.iot.eu-west-1.amazonaws.com without 'mqtts://' and port: {CORRECT}"
        )
    yield from _of_port("mqtt_broker_bridge.port", bridge.get("port", 8883))
    names = ("mqtt_broker_bridge.certificate", "mqtt_broker_bridge.key")
    yield from _of_pair(*names, bridge.get("certificate") or "", bridge.get("key") or "")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=bridge.get("ca") or "")
    except (ssl.SSLError, ValueError):
        yield f"mqtt_broker_bridge.ca is no certificate in PEM form, such as AmazonRootCA1.pem: {CORRECT}"


def _of_prefix(inputs: Mapping[str, Any]) -> Iterator[str]:
    prefix = inputs["bridge_prefix"]
    if not re.fullmatch(r"([^$+#\s\0][^+#\s\0]*)?(?<!/)", prefix):
        yield (
            f"mqtt_broker_bridge_prefix is '{prefix}', not levels of a topic without spaces, '+', '#', a '$' at the "
            f"beginning and a '/' at the end: {CORRECT}"
        )
        return
    topics = [*inputs["request_topics"], *inputs["response_topics"], *_reports(inputs)]
    remote = {topic: mqtt_broker_remote_prefix(topic, prefix) + topic for topic in topics}
    for topic in remote.values():
        if topic.count("/") > CLOUD_SLASHES or len(topic.encode()) > CLOUD_BYTES:
            yield (
                f"mqtt_broker_bridge would use the topic '{topic}', and AWS IoT Core takes {CLOUD_SLASHES} slashes and "
                f"{CLOUD_BYTES} bytes at most: shorten mqtt_broker_bridge_prefix or the topic in the inventory."
            )
    for one, other in combinations(remote, 2):
        if remote[one] == remote[other]:
            yield f"'{one}' and '{other}' are one topic below mqtt_broker_bridge_prefix: rename one in the inventory."


def _of_port(name: str, port: Any) -> Iterator[str]:
    if not re.fullmatch(r"[1-9][0-9]{0,4}", str(port)) or int(port) > 65535:
        yield f"{name} is {port}, not a port from 1 to 65535: {CORRECT}"


def _of_pair(certificate_name: str, key_name: str, certificate: str, key: str) -> Iterator[str]:
    if "-----BEGIN CERTIFICATE-----" not in certificate:
        yield f"{certificate_name} is no certificate in PEM form: {CORRECT}"
    if "PRIVATE KEY-----" not in key:
        yield f"{key_name} is no private key in PEM form: {CORRECT}"
    elif "ENCRYPTED" in key:
        yield (
            f"{key_name} has a passphrase, which nobody types when a device boots: take it off "
            "('openssl pkey -in FILE') and encrypt the result with ansible-vault."
        )
    elif "-----BEGIN CERTIFICATE-----" in certificate:
        yield from _mismatch(certificate_name, key_name, certificate, key)


def _mismatch(certificate_name: str, key_name: str, certificate: str, key: str) -> Iterator[str]:
    # Python's ssl reads files only; the folder is for this user alone and gone at once.
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "certificate.pem"), Path(folder, "key.pem")
        for path, text in zip(files, (certificate, key), strict=True):
            path.touch(mode=0o600)
            path.write_text(text)
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*files)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                yield f"{key_name} is not the key of {certificate_name}: {CORRECT}"
            else:
                yield f"{certificate_name} or {key_name} is damaged ({error.reason or error}): {CORRECT}"


def _reports(inputs: Mapping[str, Any]) -> list[str]:
    return [f"pi-fleet/{inputs['device']}/{kind}" for kind in ("errors", "pull")]


def _is_filter(topic: str) -> bool:
    levels = topic.split("/")
    return (
        bool(re.fullmatch(r"[^\s\0]+", topic))
        and all(level == "+" or "+" not in level for level in levels)
        and all("#" not in level for level in levels[:-1])
        and (levels[-1] == "#" or "#" not in levels[-1])
    )


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "mqtt_broker_problems": mqtt_broker_problems,
            "mqtt_broker_passwords": mqtt_broker_passwords,
            "mqtt_broker_conflicts": mqtt_broker_conflicts,
            "mqtt_broker_remote_prefix": mqtt_broker_remote_prefix,
        }
