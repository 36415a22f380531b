#!/usr/bin/python3
"""Talk to the broker of this device as its clients do, with mosquitto's own clients.

usage: talk.py certificates | loopback | gate | flood | bridge | cut | bare | nameless
Fails with the sentence of the first thing that is not so. certificates makes a CA, and prints as JSON what it signed.
"""

from __future__ import annotations

import json
import re
import resource
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

CA = Path("/root/ca")
DEVICE = socket.gethostname()
ASK, ANSWER = "/request/classify/beverage_container", "/response/prediction/beverage_container"
# Of the group: see the scenario's local_core_subscriptions.
FURTHER = "further/request"
ERRORS = f"pi-fleet/{DEVICE}/errors"
LOCAL = ["-h", "127.0.0.1", "-q", "1"]
GATE = ["-h", "localhost", "-p", "8883", "--cafile", f"{CA}/ca.pem", "-q", "1"]
KIOSK = [*GATE, "-u", "kiosk", "-P", "let me ask"]
# The cloud has a name that name servers know, like each: here it is a line of this file.
HOSTS, CLOUDS_LINE = Path("/etc/hosts"), "127.0.0.1 cloud.test\n"
NAME_SERVERS = ("127.0.0.2", "127.0.0.3")
CLOUD = ["-h", "127.0.0.1", "-p", "18884", "-q", "1"]
NAMES = "subjectAltName=DNS:localhost,DNS:cloud.test"
MOST_WAITING = 1000
# Who opens connections and then is silent, by how far each goes first. Nobody has a password for the first two.
IDLE = {"opened": 1200, "encrypted": 700, "logged in": 100}


def run(*argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command and wait for it."""
    return subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False, timeout=60)


def must(*argv: str, stdin: str = "") -> str:
    """Run a command that has to succeed, and return what it printed."""
    done = run(*argv, stdin=stdin)
    require(done.returncode == 0, f"{argv} failed: {done.stdout}{done.stderr}")
    return done.stdout


def require(truth: bool, sentence: str) -> None:
    """End with the sentence unless it is true."""
    if not truth:
        sys.exit(sentence)


def publish(where: list[str], topic: str, text: str, *options: str) -> None:
    """Publish a message that the broker has to take."""
    must("mosquitto_pub", *where, "-t", topic, "-m", text, *options)


@contextmanager
def reading(where: list[str], *topics: str) -> Iterator[list[str]]:
    """Subscribe, and gather what comes as `topic message` in the list, until a second after the end of the block."""
    gathered: list[str] = []
    options = [word for topic in topics for word in ("-t", topic)]
    argv = ["stdbuf", "-oL", "mosquitto_sub", *where, *options, "-F", "%t %p", "-d"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as reader:
        for line in reader.stdout or ():
            if "received SUBACK" in line:
                break
        try:
            yield gathered
            time.sleep(1)
        finally:
            reader.terminate()
            said = reader.communicate()[0].splitlines()
            gathered += [line for line in said if not line.startswith(("Client ", "Subscribed "))]


def until(truth: Callable[[], bool], sentence: str, seconds: float) -> float:
    """Wait until it is true and return how long that took; end with the sentence if it takes longer."""
    begun = time.monotonic()
    while not truth():
        require(time.monotonic() - begun < seconds, sentence)
        time.sleep(0.2)
    return time.monotonic() - begun


def waiting(where: list[str], client: str, seconds: int = 2) -> list[str]:
    """Come back as a client that was away, and return what waited."""
    return run("mosquitto_sub", *where, "-c", "-i", client, "-t", "unused", "-W", str(seconds)).stdout.splitlines()


def stay(where: list[str], client: str, topic: str) -> None:
    """Subscribe as a client that will be back."""
    must("mosquitto_sub", *where, "-c", "-i", client, "-t", topic, "-E")


def answers() -> bool:
    """Say whether the broker on loopback takes a message."""
    return run("mosquitto_pub", *LOCAL, "-t", "any", "-m", "one").returncode == 0


def certificate(name: str) -> list[str]:
    """Return the options by which a client presents a certificate."""
    return ["--cert", f"{CA}/{name}.pem", "--key", f"{CA}/{name}.key"]


def own_address() -> str:
    """Return the address that others reach this device at."""
    return must("hostname", "-I").split()[0]


def certificates() -> None:
    """Make a CA and what it signs: a broker's certificate and a device's; and have the cloud found by its name."""
    HOSTS.write_text(HOSTS.read_text() + CLOUDS_LINE)
    CA.mkdir(exist_ok=True)
    # A domain of its own in the subject: OpenSSL takes a certificate with its signer's subject for self-signed.
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    # Python 3.13 takes no CA that does not say what its key is for.
    usage = ["-addext", "keyUsage=critical,keyCertSign"]
    must(*new, "-subj", "/CN=test CA", *usage, "-keyout", f"{CA}/ca.key", "-out", f"{CA}/ca.pem")
    sign = [*new, "-CA", f"{CA}/ca.pem", "-CAkey", f"{CA}/ca.key", "-addext", "basicConstraints=critical,CA:FALSE"]
    for name, extension in (("broker", NAMES), ("device", "extendedKeyUsage=clientAuth")):
        files = ["-keyout", f"{CA}/{name}.key", "-out", f"{CA}/{name}.pem"]
        must(*sign, "-subj", f"/CN={name}", "-addext", extension, *files)
    # Nobody knows who signed it: it signed itself.
    impostor = ["-keyout", f"{CA}/impostor.key", "-out", f"{CA}/impostor.pem"]
    must(*new, "-subj", "/CN=impostor", "-addext", NAMES, *impostor)
    stranger = ["-CA", f"{CA}/impostor.pem", "-CAkey", f"{CA}/impostor.key", "-addext", "extendedKeyUsage=clientAuth"]
    must(*new, *stranger, "-subj", "/CN=stranger", "-keyout", f"{CA}/stranger.key", "-out", f"{CA}/stranger.pem")
    print(json.dumps({path.name: path.read_text() for path in CA.iterdir()}))


def loopback() -> None:
    """Whoever is on the device may publish and read; nobody else reaches the broker; what waits, waits, bounded."""
    with reading(LOCAL, "#") as seen:
        publish(LOCAL, ASK, "what is it?")
    require(seen == [f"{ASK} what is it?"], f"loopback gave {seen}")

    with socket.socket() as outside:
        require(outside.connect_ex((own_address(), 1883)) != 0, f"the broker answers at {own_address()}")

    stay(LOCAL, "localcore", ASK)
    publish(LOCAL, ASK, "first")
    must("systemctl", "restart", "mosquitto")
    publish(LOCAL, ASK, "second")
    found = waiting(LOCAL, "localcore")
    require(found == ["first", "second"], f"a restart of the broker left {found} for a client that was away")

    publish(LOCAL, ASK, "third")
    must("systemctl", "kill", "--signal=KILL", "mosquitto")
    took = until(answers, "the broker did not come back after kill -9", 5)
    print(f"back {took:.1f} s after kill -9")

    stay(LOCAL, "away", "many")
    must("mosquitto_pub", *LOCAL, "-t", "many", "-l", stdin="\n".join(map(str, range(1200))))
    found = waiting(LOCAL, "away", 5)
    require(found == [str(number) for number in range(MOST_WAITING)], f"{len(found)} of 1200 messages waited")

    done = run("mosquitto_pub", *LOCAL, "-t", "any", "-s", stdin="x" * 300_000)
    require(done.returncode != 0, "a message of 300 kB was taken")
    require(answers(), "the broker is gone after a message of 300 kB")


def gate() -> None:
    """A user may ask and read answers, over TLS and with the right password, and nothing else."""
    until(lambda: run("mosquitto_pub", *KIOSK, "-t", ASK, "-n").returncode == 0, "the gate does not open", 10)
    # The gate's own link to the broker is up when a question comes through.
    until(asks, "no question comes through the gate", 10)

    with reading(KIOSK, "#") as seen:
        for topic in (ANSWER, ERRORS, "other", f"pi-fleet/{DEVICE}/other", ASK):
            publish(LOCAL, topic, "from the device")
    wanted = [f"{topic} from the device" for topic in (ANSWER, ERRORS)]
    require(sorted(seen) == sorted(wanted), f"a user reads {seen}")

    with reading(LOCAL, "#") as on_device, reading(KIOSK, "#") as at_gate:
        for topic in (ANSWER, ERRORS, "other", "$SYS/other"):
            publish(KIOSK, topic, "forged")
        publish(KIOSK, ASK, "kept?", "--retain")
    require((on_device, at_gate) == ([f"{ASK} kept?"], []), f"forged: {on_device} on the device, {at_gate} at the gate")
    with reading(LOCAL, ASK) as seen:
        pass
    require(seen == [], "the device keeps a user's question for each who comes later")
    must("mosquitto_pub", *KIOSK, "-t", ASK, "-n", "--retain")

    wrong = [*GATE, "-u", "kiosk", "-P", "let me in"]
    refused = {
        "a wrong password": wrong,
        "another user": [*GATE, "-u", "visitor", "-P", "let me ask"],
        "no password": GATE,
        "no TLS": ["-h", "localhost", "-p", "8883", "-u", "kiosk", "-P", "let me ask"],
        "another CA's certificate with a wrong password": [*wrong, *certificate("stranger")],
        "another CA's certificate without a password": [*GATE, *certificate("stranger")],
        "its own CA's certificate without a password": [*GATE, *certificate("device")],
        "who trusts another CA alone": [*KIOSK, "--cafile", f"{CA}/impostor.pem"],
    }
    with reading(LOCAL, ASK) as seen:
        for how, where in refused.items():
            done = run("timeout", "5", "mosquitto_pub", *where, "-t", ASK, "-m", how)
            require(done.returncode != 0, f"the gate lets in {how}")
        # It asks for no certificate: with the password, another CA's is no hindrance.
        publish([*KIOSK, *certificate("stranger")], ASK, "allowed")
    require(seen == [f"{ASK} allowed"], f"who is refused at the gate asks {seen}")
    for version, spoken in (("tls1_3", True), ("tls1_2", True), ("tls1_1", False), ("tls1", False)):
        done = run("openssl", "s_client", "-connect", "localhost:8883", f"-{version}", "-cipher", "ALL:@SECLEVEL=0")
        require((done.returncode == 0) == spoken, f"{version} at the gate: {done.stderr}")
        # It is the gate that refuses, not this client.
        require(("alert protocol version" in done.stderr) != spoken, f"{version} at the gate: {done.stderr}")

    with reading([*LOCAL, "-i", "localcore"], ASK) as seen, reading([*KIOSK, "-i", "localcore"], ANSWER):
        publish(LOCAL, ASK, "still there?")
    require(seen == [f"{ASK} still there?"], "a client beyond the device takes the place of the local core")

    stay(KIOSK, "kiosk-1", ANSWER)
    publish(LOCAL, ANSWER, "while away")
    must("systemctl", "restart", "mosquitto", "mqtt-gate")
    until(asks, "no question comes through the gate after a restart", 10)
    found = waiting(KIOSK, "kiosk-1")
    require(found == ["while away"], f"a restart left {found} for a user that was away")


def connect(how: str, number: int) -> socket.socket:
    """Connect to the gate, and go as far as is said."""
    connection = socket.create_connection(("localhost", 8883), timeout=10)
    if how == "opened":
        return connection
    encrypted = ssl.create_default_context(cafile=f"{CA}/ca.pem").wrap_socket(connection, server_hostname="localhost")
    if how == "logged in":
        name, *words = (
            len(word).to_bytes(2, "big") + word for word in (b"MQTT", b"%d" % number, b"kiosk", b"let me ask")
        )
        # Version 3.1.1; user, password and a clean session; to be cut after 15 minutes.
        packet = name + b"\x04\xc2" + (600).to_bytes(2, "big") + b"".join(words)
        encrypted.sendall(b"\x10" + bytes([len(packet)]) + packet)
        require(encrypted.recv(4) == b"\x20\x02\0\0", "the gate refuses a user who will be silent")
    return encrypted


def flood() -> None:
    """Who sends 100 MB, or opens 2,000 connections and says nothing more, stops nobody."""
    processes = ["systemctl", "show", "--property=MainPID,NRestarts", "mqtt-gate", "mosquitto"]
    before = must(*processes)
    done = run("timeout", "20", "mosquitto_pub", *KIOSK, "-t", ASK, "-s", stdin="x" * 100_000_000)
    require(done.returncode != 0, "a message of 100 MB was taken")
    until(asks, "no question comes through the gate after a message of 100 MB", 10)

    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    idle: dict[str, list[socket.socket]] = {}
    with reading(KIOSK, ANSWER) as known:
        for how, count in IDLE.items():
            begun = time.monotonic()
            idle[how] = [connect(how, number) for number in range(count)]
            print(f"{count} {how} in {time.monotonic() - begun:.1f} s: {memory()} bytes of memory")
        took = until(asks, "no question comes through the gate beside idle connections", 10)
        require(answers(), "the broker does not answer beside idle connections at the gate")
        publish(LOCAL, ANSWER, "a mug")
    require(known == [f"{ANSWER} a mug"], f"a user who was there before idle connections reads {known}")
    for connection in idle["logged in"]:
        connection.sendall(b"\xc0\0")
        require(connection.recv(2) == b"\xd0\0", "a user who was silent is gone")
    # 8883 in the kernel's table of connections; 01 is an open one.
    held = len(re.findall(r"^ *\d+: \w+:22B3 \w+:\w+ 01 ", Path("/proc/net/tcp").read_text(), re.MULTILINE))
    require(held >= sum(IDLE.values()), f"the gate has cut idle connections before their time: {held} are left")
    print(f"a question {took:.1f} s after idle connections: {memory()} bytes of memory")
    require(must(*processes) == before, f"restarted: {before} is {must(*processes)}")


def memory() -> int:
    """Return the most bytes of memory that the gate ever took, which has to be less than it may."""
    pid, most = must("systemctl", "show", "--value", "--property=MainPID,MemoryMax", "mqtt-gate").split()
    # A container need not have systemd's own count.
    taken = 1024 * int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])
    require(taken < int(most), f"the gate takes {taken} bytes of memory, of the {most} that it may")
    return taken


def asks() -> bool:
    """Say whether a user's question arrives on the device."""
    with reading(LOCAL, ASK) as seen:
        publish(KIOSK, ASK, "anybody?")
    return bool(seen)


def start_cloud(name: str = "broker") -> None:
    """Start a second broker in the place of AWS IoT Core: mutual TLS for devices, and a door for the console."""
    (CA / "cloud.conf").write_text(
        f"user root\npersistence true\npersistence_location {CA}/\nmax_queued_messages 5000\nallow_anonymous true\n"
        "listener 18884 127.0.0.1\nlistener 18883 127.0.0.1\nrequire_certificate true\n"
        f"cafile {CA}/ca.pem\ncertfile {CA}/{name}.pem\nkeyfile {CA}/{name}.key\n"
    )
    must("systemd-run", "--unit=cloud", "mosquitto", "-c", f"{CA}/cloud.conf")
    until(lambda: run("mosquitto_pub", *CLOUD, "-t", "any", "-n").returncode == 0, "the cloud does not start", 10)


def arrives(prefix: str) -> bool:
    """Say whether what the cloud asks arrives on the device."""
    with reading(LOCAL, "#") as seen:
        publish(CLOUD, f"{prefix}{ASK}", "from the cloud")
    return bool(seen)


def exchange(prefix: str, slash: str) -> None:
    """Ask from the cloud, answer from the device: each arrives once where it should, and nothing comes back."""
    until(lambda: arrives(prefix), "the bridge does not come up", 60)
    with reading(CLOUD, "#") as in_cloud, reading(LOCAL, "#") as on_device:
        publish(CLOUD, f"{prefix}{ASK}", "what is it?")
        publish(CLOUD, "elsewhere/request/classify/beverage_container", "not yours")
        publish(LOCAL, ANSWER, "a mug")
        publish(LOCAL, ERRORS, "no camera")
        publish(LOCAL, "other", "stays")
        publish(LOCAL, ASK, "asked here")
        time.sleep(2)
    local = [f"{ASK} what is it?", f"{ANSWER} a mug", f"{ERRORS} no camera", "other stays", f"{ASK} asked here"]
    require(sorted(on_device) == sorted(local), f"the device saw {on_device}")
    cloud = [
        f"{prefix}{ASK} what is it?",
        "elsewhere/request/classify/beverage_container not yours",
        f"{prefix}{ANSWER} a mug",
        f"{prefix}{slash}{ERRORS} no camera",
    ]
    require(sorted(in_cloud) == sorted(cloud), f"the cloud saw {in_cloud}")


def bridge() -> None:
    """Below the device's name, which nobody else's questions have; nothing for a cloud that another CA vouches for."""
    start_cloud("impostor")
    must("systemctl", "restart", "mosquitto")
    with reading(CLOUD, "#") as in_cloud:
        publish(LOCAL, ANSWER, "for the cloud alone")
        time.sleep(15)
    require(in_cloud == [], f"a cloud with another CA's certificate saw {in_cloud}")
    must("systemctl", "stop", "cloud")
    start_cloud()
    with reading(CLOUD, "#") as in_cloud:
        must("systemctl", "restart", "mosquitto")
        until(lambda: arrives(DEVICE), "the bridge does not come up", 60)
    require(f"{DEVICE}{ANSWER} for the cloud alone" in in_cloud, f"what waited for the cloud is lost: {in_cloud}")
    exchange(DEVICE, "/")
    with reading(CLOUD, "#") as in_cloud:
        must("mosquitto_pub", *LOCAL, "-t", ANSWER, "-s", stdin="x" * 200_000)
        publish(LOCAL, ANSWER, "after it")
    found = [line[:80] for line in in_cloud]
    require(found == [f"{DEVICE}{ANSWER} after it"], f"after a message that is too large for the cloud it saw {found}")


def goes_on() -> None:
    """On the device messages pass as ever, while the link to the cloud is cut."""
    for number in range(20):
        begun = time.monotonic()
        with_answer = must("mosquitto_rr", *LOCAL, "-t", "ping", "-e", "ping", "-m", str(number), "-W", "5")
        took = time.monotonic() - begun
        require(with_answer.strip() == str(number) and took < 1, f"{took:.1f} s for a message while the link is cut")
        time.sleep(0.5)


def cut() -> None:
    """Without the cloud the device goes on; what is bound for it waits, bounded, also while the broker restarts."""
    stay(CLOUD, "console", f"{DEVICE}{ANSWER}")
    must("systemctl", "stop", "cloud")
    goes_on()
    must("mosquitto_pub", *LOCAL, "-t", ANSWER, "-l", stdin="\n".join(map(str, range(1200))))
    must("systemctl", "restart", "mosquitto")
    must("mosquitto_pub", *LOCAL, "-t", ANSWER, "-m", "one too many")
    start_cloud()
    took = until(lambda: arrives(DEVICE), "the bridge does not come back", 120)
    found = waiting(CLOUD, "console", 5)
    wanted = [str(number) for number in range(MOST_WAITING)]
    # After its restart the broker takes a few more: as many as may be under way.
    require(found[:MOST_WAITING] == wanted, f"{len(found)} of 1201 messages waited: {found[:3]} to {found[-3:]}")
    require(len(found) <= MOST_WAITING + 20, f"{len(found)} messages waited")
    print(f"back {took:.1f} s after the link")


def bare() -> None:
    """The article's own topics, and one that the group adds."""
    exchange("", "")
    with reading(LOCAL, FURTHER) as seen:
        publish(CLOUD, FURTHER, "and this?")
    require(seen == [f"{FURTHER} and this?"], f"of what the group adds the device saw {seen}")


@contextmanager
def silent_name_servers() -> Iterator[None]:
    """Have name servers that never say a word, as behind a link that swallows packets, and nobody else to ask."""
    with ExitStack() as stack:
        for address in NAME_SERVERS:
            stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)).bind((address, 53))
        lines = [*(f"nameserver {address}" for address in NAME_SERVERS), "search lan", ""]
        # Both are mounts of the container: they are written where they are.
        for path, text in (
            (Path("/etc/resolv.conf"), "\n".join(lines)),
            (HOSTS, HOSTS.read_text().replace(CLOUDS_LINE, "")),
        ):
            stack.callback(path.write_text, path.read_text())
            path.write_text(text)
        yield


def nameless() -> None:
    """A broker that starts while no name server answers is soon there for the device, and finds the cloud later."""
    with silent_name_servers():
        begun = time.monotonic()
        must("systemctl", "restart", "mosquitto")
        took = time.monotonic() - begun
        require(took < 20, f"{took:.1f} s for a start while no name server answers")
        goes_on()
    print(f"there {took:.1f} s after a start without a name server")
    until(lambda: arrives(""), "the bridge does not come up", 60)


if __name__ == "__main__":
    (stage,) = sys.argv[1:]
    {each.__name__: each for each in (certificates, loopback, gate, flood, bridge, cut, bare, nameless)}[stage]()
