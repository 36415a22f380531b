"""The local core serves what a group grants, no more, and loses nothing: molecule/local_core has the group."""

from __future__ import annotations

import json
from typing import Any

from tests.e2e.conftest import PROJECT, Fleet, on, unwrapped

ECHO = "arn:aws:lambda:us-east-1:000000000000:function:echo:1"
LATER = "arn:aws:lambda:us-east-1:000000000000:function:later:1"
UNITS = ("localcore.service", "lambda@echo.service")


def echo(fleet: Fleet, host: str, *events: dict[str, Any]) -> list[Any]:
    """Publish events for the Lambda echo, one after the other, and return what comes back for each."""
    script = f"""
client = Client()
said = [client.ask("echo/a/request", json.dumps(event).encode()) for event in {list(events)!r}]
print(json.dumps(said))
"""
    said: list[Any] = on(fleet, host, script)
    return said


def test_messages_reach_a_lambda_in_order_and_its_answers_reach_the_broker(fleet: Fleet, host: str) -> None:
    script = """
client = Client()
for number in range(100):
    client.publish(f"echo/{number}/request", json.dumps({"number": number}).encode())
print(json.dumps([client.wait(time.monotonic()) for _ in range(100)]))
"""
    said = on(fleet, host, script)
    assert [each["message"]["number"] for each in said] == list(range(100))
    assert [each["message"]["subject"] for each in said] == [f"echo/{number}/request" for number in range(100)]
    assert len({each["message"]["pid"] for each in said}) == 1


def test_what_the_group_does_not_grant_goes_nowhere(fleet: Fleet, host: str) -> None:
    script = """
client = Client()
client.client.subscribe("other/topic", 1)
said = client.ask("echo/a/request", json.dumps({"number": 1, "elsewhere": "other/topic"}).encode())
print(json.dumps([said, client.wait(time.monotonic(), 2)]))
"""
    said, nothing = on(fleet, host, script)
    assert said["topic"] == "echo/answer"
    assert nothing["topic"] is None


def test_what_fails_is_reported_and_the_next_event_is_served(fleet: Fleet, host: str) -> None:
    failed, after, late, then, killed, last = echo(
        fleet,
        host,
        {"raise": "out of cups"},
        {"number": 1},
        {"sleep": 60},
        {"number": 2},
        {"kill": True},
        {"number": 3},
    )
    assert failed["topic"] == f"pi-fleet/{host}/errors"
    assert (failed["message"]["error"], failed["message"]["function"]) == ("Handled", "echo")
    assert "out of cups" in failed["message"]["message"]
    assert (late["message"]["error"], killed["message"]["error"]) == ("Unhandled", "Unhandled")
    assert 8 <= late["seconds"] < 8 + 5
    assert [each["message"]["number"] for each in (after, then, last)] == [1, 2, 3]


def test_lambdas_ask_each_other_and_one_that_is_asked_for_is_started(fleet: Fleet, host: str) -> None:
    look = """
import subprocess
asked = subprocess.run(["systemctl", "is-active", "lambda@later.service"], capture_output=True, text=True)
print(json.dumps(asked.stdout))
"""
    assert on(fleet, host, look).strip() == "inactive"
    (said,) = echo(fleet, host, {"invoke": LATER, "payload": {"a": 1}, "sleep": 0})
    assert said["message"]["invoke"]["error"] == ""
    answer = json.loads(said["message"]["invoke"]["payload"])
    assert answer["event"] == {"a": 1}
    assert (answer["uid"], answer["gid"]) == (5, 60)
    assert answer["greeting"] == 'say "hello" for $5 and 100 %'
    assert on(fleet, host, look).strip() == "active"
    wait = f"time.sleep(40)\n{look}"
    assert on(fleet, host, wait).strip() == "inactive"


def test_a_lambda_reads_the_secrets_that_it_was_granted_and_no_file_that_holds_them(fleet: Fleet, host: str) -> None:
    granted, refused, *files = echo(
        fleet,
        host,
        {"secret": "wifi"},
        {"secret": "other"},
        *(
            {"read": f"/etc/pi-fleet/{name}"}
            for name in ("private/localcore.json", "private/later.token", "group.json", "lambda/later.env")
        ),
        {"read": "/run/pi-fleet-localcore/wanted"},
        {"read": "/home/pi/.profile"},
    )
    assert granted["message"]["secret"] == "open sesame"
    assert "not for echo" not in json.dumps(refused)
    assert {each["message"]["read"] for each in files} <= {"PermissionError", "FileNotFoundError"}


def test_shadows_outlive_a_restart(fleet: Fleet, host: str) -> None:
    (said,) = echo(fleet, host, {"thing": "lamp", "shadow": {"state": {"desired": {"on": True}}}})
    assert said["message"]["shadow"]["state"]["desired"] == {"on": True}
    on(fleet, host, "import subprocess\nsubprocess.run(['systemctl', 'restart', 'localcore'], check=True)\nprint(1)")
    (again,) = echo(fleet, host, {"thing": "lamp", "shadow": {"state": {"reported": {"on": False}}}})
    assert again["message"]["shadow"]["state"] == {
        "desired": {"on": True},
        "reported": {"on": False},
        "delta": {"on": True},
    }


def test_a_stop_leaves_no_trace(fleet: Fleet, host: str) -> None:
    """Lambdas ask for work again and again, also while it stops."""
    script = """
import subprocess
for _ in range(5):
    subprocess.run(["systemctl", "restart", "localcore"], check=True)
    time.sleep(1)
said = ["journalctl", "--unit=localcore", "--output=cat", "--since=-10min"]
print(json.dumps(subprocess.run(said, capture_output=True, text=True, check=True).stdout))
"""
    said = on(fleet, host, script)
    assert said.count("Stopping localcore.service") >= 5
    assert "Traceback" not in said, said


def test_accepted_work_outlives_the_router(fleet: Fleet, host: str) -> None:
    script = """
import subprocess
client = Client()
for number in range(20):
    client.publish(f"echo/{number}/request", json.dumps({"number": number, "sleep": 0.2}).encode())
time.sleep(1)
subprocess.run(["systemctl", "kill", "--signal=KILL", "--kill-who=main", "localcore.service"], check=True)
print(json.dumps([client.wait(time.monotonic(), 20) for _ in range(20)]))
"""
    said = on(fleet, host, script)
    answered = [each["message"]["number"] for each in said if each["topic"] == "echo/answer"]
    reported = [each for each in said if each["topic"] == f"pi-fleet/{host}/errors"]
    print(f"{host}: {len(answered)} answered, {len(reported)} reported")
    assert len(answered) + len(reported) == 20
    assert answered == sorted(set(answered))


CONFINED = {
    "MemoryMax": "134217728",
    "MemorySwapMax": "0",
    "ProtectSystem": "strict",
    "NoNewPrivileges": "yes",
    "ProtectProc": "invisible",
    "DevicePolicy": "closed",
}


def test_units_confine_lambdas_and_hide_their_tokens(fleet: Fleet, host: str) -> None:
    script = f"""
import subprocess
properties = ",".join({list(CONFINED)!r})
shown = subprocess.run(["systemctl", "show", "lambda@echo.service", f"--property={{properties}},MainPID"],
                       capture_output=True, text=True, check=True).stdout
found = dict(line.split("=", 1) for line in shown.splitlines())
process = Path("/proc") / found.pop("MainPID")
# As another Lambda of the same user would look.
look = ["runuser", "-u", "ggc_user", "--", "python3", "-c", f"open('{{process}}/environ').read()"]
found["environ"] = subprocess.run(look, capture_output=True, text=True).stderr.splitlines()[-1]
found["token"] = (process / "environ").read_bytes().find(TOKENS["echo"].encode())
found["modes"] = sorted({{oct(path.stat().st_mode & 0o777) for path in Path("/etc/pi-fleet/private").iterdir()}})
found["listening"] = sorted(line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
                            if line.split()[3] == "0A" and line.split()[1].endswith((":1F40", ":075B")))
found["tcp6"] = [line for line in Path("/proc/net/tcp6").read_text().splitlines() if ":1F40" in line or ":075B" in line]
print(json.dumps(found))
"""
    found = on(fleet, host, script)
    assert {name: found[name] for name in CONFINED} == CONFINED
    assert "PermissionError" in found["environ"]
    assert found["token"] == -1
    assert found["modes"] == ["0o600"]
    assert found["listening"] == ["0100007F:075B", "0100007F:1F40"]
    assert [line for line in found["tcp6"] if " 0A " in line] == []


def test_a_group_that_is_not_served_is_refused_as_a_whole_list(fleet: Fleet, tmp_path: Any) -> None:
    group = {
        "FunctionDefinition": {"Functions": []},
        "SubscriptionDefinition": {
            "Subscriptions": [
                {"Id": "1", "Source": "arn:aws:lambda:eu-west-1:1:function:gone:1", "Subject": "a", "Target": "cloud"},
                {"Id": "2", "Source": "cloud", "Subject": "a/#/b", "Target": "arn:aws:iot:eu-west-1:1:thing/lamp"},
            ]
        },
        "ConnectorDefinition": {
            "Connectors": [
                {
                    "Id": "3",
                    "ConnectorArn": "arn:aws:greengrass:eu-west-1::/connectors/SNS/versions/1",
                    "Parameters": {},
                }
            ]
        },
    }
    path = tmp_path / "group.json"
    path.write_text(json.dumps(group))
    before = {name: fleet.manifest(name) for name in fleet.hosts()}
    run = fleet.playbook(
        str(PROJECT / "molecule" / "local_core" / "refused.yml"), "--extra-vars", f"local_core_group_definition={path}"
    )
    assert run.code != 0
    for word in ("gone", "a/#/b", "lamp", "SNS"):
        assert word in run.output, run.output[-3000:]
    assert {name: fleet.manifest(name) for name in fleet.hosts()} == before


def test_a_lambda_of_a_user_who_is_not_there_is_refused(fleet: Fleet, host: str) -> None:
    known = fleet.hosts()[host]["local_core_lambdas"]
    stranger = {**known[0], "name": "stranger", "secrets": [], "run_as": {"uid": 54321, "gid": 60}}
    role = (str(PROJECT / "molecule" / "local_core" / "refused.yml"), "--limit", host)
    run = fleet.playbook(*role, "--extra-vars", json.dumps({"local_core_lambdas": [*known, stranger]}))
    assert run.code != 0
    assert "stranger is to run as the user 54321, who is not there: make the user" in unwrapped(run.output)
    assert fleet.playbook(*role).code == 0
