"""What is wrong with messages: the broker restarts, a queue is full, the cloud is away."""

from __future__ import annotations

import json
from typing import Any

from tests.e2e.conftest import PROJECT, on
from tests.faults.conftest import Pi

RESTART = """
client = Client()
for _ in range(5):
    client.publish()
subprocess.run(["systemctl", "kill", "--signal=SIGKILL", "mosquitto"], check=True)
deadline = time.monotonic() + 60
while subprocess.call(["systemctl", "is-active", "--quiet", "mosquitto"]) and time.monotonic() < deadline:
    time.sleep(0.1)
time.sleep(3)
client.forget(20)
print(json.dumps(client.ask()))
"""
FLOOD = """
client = Client()
for number in range(3000):
    client.publish(payload=b"x" * 2000)
units = ["mosquitto", "localcore", "lambda@beverage_classifier", "connector@beverage-classifier"]
show = ["systemctl", "show", "--property=MainPID", *units]
before = subprocess.check_output(show, text=True)
answers, errors, quiet = 0, set(), 0
while quiet < 30 and answers < 3000:
    got = client.wait(time.monotonic(), 1)
    quiet = 0 if got["topic"] else quiet + 1
    answers += got["topic"] == RESPONSE
    if (got["topic"] or "").endswith("/errors"):
        errors.add(got["message"]["error"])
after = subprocess.check_output(show, text=True)
found = {"answers": answers, "errors": sorted(errors), "same": before == after, "next": client.ask()}
print(json.dumps(found))
"""


def test_the_broker_is_killed(pi: Pi) -> None:
    """The broker is killed while questions are on their way.

    systemd starts it again, all reconnect, and the next question is answered.
    """
    found: dict[str, Any] = on(pi.fleet, pi.name, f"import subprocess\n{RESTART}")
    assert found["topic"] == "/response/prediction/beverage_container", found
    pi.heals()


def test_queues_are_full(pi: Pi) -> None:
    """3,000 questions come at once, more than queues hold.

    What does not fit is dropped and told, nothing is restarted, and the next question is answered.
    """
    found = on(pi.fleet, pi.name, f"import subprocess\n{FLOOD}")
    print(found)
    assert found["same"]
    assert found["answers"] > 0
    assert found["errors"]
    assert found["next"]["topic"] == "/response/prediction/beverage_container", found
    pi.heals()


def talk(pi: Pi, *modes: str) -> str:
    """Have the device talk to its broker, as scenario mqtt_broker does."""
    text = (PROJECT / "molecule" / "mqtt_broker" / "files" / "talk.py").read_text()
    pi.root(f"Path('/root/talk.py').write_text({text!r})")
    said = ""
    for mode in modes:
        said = pi.root(f"subprocess.run(['python3', '/root/talk.py', {mode!r}], check=True)")
    return said


def test_the_cloud_is_away(pi: Pi) -> None:
    """The link to the cloud is cut for as many answers as an hour of one every four seconds has, and more.

    Questions are answered meanwhile. 1,000 answers wait, through a restart of the broker too, and come when the link is
    back; what is more is dropped.
    """
    pi.sh("rm -rf /root/ca")
    made = json.loads(talk(pi, "certificates"))
    bridge = {
        "endpoint": "localhost",
        "port": 18883,
        "certificate": made["device.pem"],
        "key": made["device.key"],
        "ca": made["ca.pem"],
    }
    linked = pi.play("site.yml", "--extra-vars", json.dumps({"mqtt_broker_bridge": bridge}))
    assert linked.code == 0, linked.output[-4000:]
    # Their answers would be among those that are counted.
    ours = "localcore lambda@beverage_classifier connector@beverage-classifier"
    pi.sh(f"systemctl stop {ours}")
    try:
        talk(pi, "bridge", "cut")
    finally:
        pi.sh("systemctl stop cloud", f"systemctl start {ours}")
    # The link is still cut.
    pi.answers()
    pi.heals()
