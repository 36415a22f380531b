"""The main job: a device is asked over MQTT and answers, whatever is thrown at it or killed under it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy
import onnxruntime
import pytest
from PIL import Image, ImageEnhance, ImageOps

from tests.e2e.conftest import HOSTS, ON_DEVICE, PROJECT, Fleet, on

PHOTOS = PROJECT / "files" / "photos"
MODELS = PROJECT / ".cache" / "models"
CATEGORIES = ("beer-mug", "clutter", "coffee-mug", "soda-can", "wine-bottle")
RESPONSE = "/response/prediction/beverage_container"
FIELD_DATA = Path("/home/ggc_user/raw_field_data")
TIMEOUT = 15
"""Seconds in which an answer or an error must come: the Lambda's timeout, and five."""


def ten_pictures() -> dict[str, bytes]:
    """Make ten different pictures of the two photographs, JPEG and PNG, of several sizes and modes."""
    coffee, rocket = Image.open(PHOTOS / "coffee.png").convert("RGB"), Image.open(PHOTOS / "rocket.jpg").convert("RGB")
    made = {
        "coffee.jpg": coffee,
        "coffee.png": coffee,
        "coffee-mirrored.jpg": ImageOps.mirror(coffee),
        "coffee-middle.png": coffee.crop((150, 50, 450, 350)),
        "coffee-dark.jpg": ImageEnhance.Brightness(coffee).enhance(0.4),
        "rocket.jpg": rocket,
        "rocket-small.png": rocket.resize((97, 61)),
        "rocket-grey.jpg": ImageOps.grayscale(rocket),
        "rocket-upside-down.png": ImageOps.flip(rocket),
        "both.png": Image.blend(coffee.resize((400, 400)), rocket.resize((400, 400)), 0.5),
    }
    pictures = {}
    for name, picture in made.items():
        stream = io.BytesIO()
        picture.save(stream, "PNG" if name.endswith(".png") else "JPEG", quality=90)
        pictures[name] = stream.getvalue()
    return pictures


def reference(model: Path, pictures: dict[str, bytes]) -> dict[str, list[float]]:
    """Return what a model says of pictures here, decoded and resized by hand."""
    session = onnxruntime.InferenceSession(str(model))
    (given,) = session.get_inputs()
    answers = {}
    for name, data in pictures.items():
        picture = Image.open(io.BytesIO(data)).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
        pixels = numpy.asarray(picture, numpy.float32).transpose(2, 0, 1)[None]
        (output,) = session.run(None, {given.name: pixels})
        answers[name] = [float(value) for value in numpy.asarray(output).reshape(-1)]
    return answers


def compare(fleet: Fleet, host: str, model: Path) -> float:
    """Ask a device about ten pictures; return the greatest difference of a probability from the reference."""
    pictures = ten_pictures()
    script = f"PICTURES = {pictures!r}\n" + (
        "print(json.dumps({name: infer(data, 'image/png' if name.endswith('png') else 'image/jpeg')"
        " for name, data in PICTURES.items()}))"
    )
    answers = on(fleet, host, script)
    worst = 0.0
    for name, wanted in reference(model, pictures).items():
        answer = answers[name]
        assert (answer["status"], answer["error"]) == (200, ""), answer
        found = json.loads(json.loads(answer["body"])["Body"])
        worst = max(worst, *(abs(one - other) for one, other in zip(found, wanted, strict=True)))
    return worst


def test_a_cup_of_coffee_and_clutter_are_told_apart(fleet: Fleet) -> None:
    run = fleet.playbook("playbooks/classify.yml", "--extra-vars", "classify_times=2")
    assert run.code == 0, run.output[-4000:]
    for host in fleet.hosts():
        rows = [line.split() for line in run.output.splitlines() if line.split()[:1] == [host]]
        said = {row[1]: float(row[2]) for row in rows if row[1] in CATEGORIES}
        assert said.keys() == {"coffee-mug", "clutter"}, run.output[-2000:]
        assert min(said.values()) > 0.5
    print("\n".join(line for line in run.output.splitlines() if "-mug" in line or "clutter" in line))


def test_verify_asks_and_leaves_no_picture(fleet: Fleet) -> None:
    look = "print(json.dumps(pictures()))"
    before = {host: on(fleet, host, look) for host in fleet.hosts()}
    run = fleet.playbook(
        "playbooks/verify.yml", "--extra-vars", json.dumps({"verify_ask": True, "verify_roles": ["classifier_lambda"]})
    )
    assert run.code == 0, run.output[-4000:]
    assert "an answer over MQTT" in run.output
    assert {host: on(fleet, host, look) for host in fleet.hosts()} == before


def test_ten_pictures_are_answered_as_the_reference_does(fleet: Fleet, host: str) -> None:
    worst = compare(fleet, host, MODELS / "demonstration" / "model.onnx")
    print(f"{host}: ten pictures, the greatest difference from the reference is {worst:.1e}")
    assert worst <= 1e-4


def test_a_model_in_sagemakers_shape_is_converted_dropped_and_served(fleet: Fleet, tmp_path: Path) -> None:
    """As the article does it, and back."""
    archive = MODELS / "sagemaker" / "model.tar.gz"
    convert = f"src={archive} dest={tmp_path} labels={','.join(CATEGORIES)}"
    subprocess.run(
        ["ansible", "localhost", "-m", "edge.pi_fleet.model", "-a", convert],
        check=True,
        cwd=PROJECT,
        env=fleet.environment(),
        capture_output=True,
    )
    drop = ["playbooks/site.yml", "--tags", "image_classifier"]
    try:
        run = fleet.playbook(*drop, "--extra-vars", f"image_classifier_model={archive}")
        assert run.code == 0, run.output[-4000:]
        for host in fleet.hosts():
            worst = compare(fleet, host, tmp_path / "model.onnx")
            print(f"{host}: SageMaker's shape, ten pictures, the greatest difference from the reference is {worst:.1e}")
            assert worst <= 1e-4
    finally:
        run = fleet.playbook(*drop)
    assert run.code == 0, run.output[-4000:]


def measure(fleet: Fleet, host: str, benchmark: str, *options: str) -> None:
    """Run a benchmark on a device, and print what it says; its exit code is its verdict."""
    program = (PROJECT / "benchmarks" / benchmark).read_text()
    script = f"""
import subprocess, sys
done = subprocess.run([sys.executable, "-", *{options!r}], input={program!r}, capture_output=True, text=True)
print(json.dumps([done.returncode, done.stdout, done.stderr]))
"""
    code, output, errors = on(fleet, host, script)
    print(f"{host}:\n{output}")
    assert code == 0, output + errors


def test_the_lambda_fits_into_its_memory(fleet: Fleet, host: str) -> None:
    measure(fleet, host, "memory.py")


OTHERS = "arn:aws:lambda:eu-west-1:1:function:nobody"
BAD = {
    "a PNG of 40,000 x 40,000": "infer(bomb(), 'image/png')",
    "a truncated JPEG": "infer(photo()[:5000])",
    "no picture": "infer(b'hello')",
    "nothing": "infer(b'')",
    "a wrong type": "infer(photo(), 'text/plain')",
    "a wrong token": "infer(photo(), token='0' * 64)",
    "no token": "infer(photo(), token=None)",
    "an unknown function": f"invoke({OTHERS!r}, b'', {{}}, TOKENS['beverage_classifier'])",
    "another function's work": (
        "dict(zip(('status', 'headers', 'body'),"
        " map(str, call('GET', INFERENCE + '/work', None, TOKENS['beverage_classifier']))))"
    ),
    "a body of 1 GiB": "gibibyte()",
}
WANTED = {
    "a wrong token": 401,
    "no token": 401,
    "an unknown function": 404,
    "another function's work": 403,
    "a body of 1 GiB": 413,
}


def test_what_is_wrong_gets_a_clear_error_and_the_next_request_is_served(fleet: Fleet, host: str) -> None:
    asks = ", ".join(f"{name!r}: [{expression}, infer(photo())]" for name, expression in BAD.items())
    answers = on(fleet, host, f"print(json.dumps({{{asks}}}))")
    for name, (answer, after) in answers.items():
        assert (after["status"], after["error"]) == (200, ""), (name, after)
        if name in WANTED:
            assert int(answer["status"]) == WANTED[name], (name, answer)
        else:
            assert (answer["status"], answer["error"]) == (200, "Handled"), (name, answer)
        assert answer["body"].strip(), name
        assert "Traceback" not in answer["body"]
        print(f"{host}: {name}: {answer['body'][:150]}")


KILLS = {
    "router": "localcore.service",
    "worker": "lambda@beverage_classifier.service",
    "connector": "connector@beverage-classifier.service",
    "broker": "mosquitto.service",
}


@pytest.mark.parametrize("victim", KILLS)
def test_what_is_killed_in_mid_request_answers_or_reports_and_the_next_request_is_answered(
    fleet: Fleet, host: str, victim: str
) -> None:
    """Whatever the moment: five of them, spread over the time that an answer takes."""
    script = f"""
import subprocess
client = Client()
usual = client.ask()["seconds"]
rounds = []
for part in (0.05, 0.3, 0.5, 0.7, 0.95):
    before = set(pictures())
    begun = client.publish()
    time.sleep(usual * part)
    subprocess.run(["systemctl", "kill", "--signal=KILL", "--kill-who=main", {KILLS[victim]!r}], check=True)
    answer = client.wait(begun)
    client.forget()
    later = client.ask()
    if answer["topic"] == RESPONSE and later["topic"] not in (RESPONSE, None):
        # What was killed once it had published the answer, and had not said that it was done, is reported as well.
        later = client.wait(time.monotonic())
    if {victim!r} == "broker" and later["topic"] is None:
        # It has forgotten what it had not passed on: who asks while the core is about to be back asks again.
        later = client.ask()
    client.forget()
    rounds.append({{"answer": answer, "later": later, "kept": sorted(set(pictures()) - before)}})
print(json.dumps(rounds))
"""
    for number, each in enumerate(on(fleet, host, script)):
        answer = each["answer"]
        print(
            f"{host}: {victim} killed, {number}: {answer['topic']} after {answer['seconds']:.1f} s, kept {each['kept']}"
        )
        assert answer["topic"] is not None, each
        assert answer["seconds"] < TIMEOUT
        assert each["later"]["topic"] == RESPONSE, each
        answered = [said for said in (answer, each["later"]) if said["topic"].startswith("/response/")]
        # Both photographs are answered with so much confidence that the rule keeps each of them.
        assert len(each["kept"]) >= len(answered), each
        if answer not in answered:
            assert answer["message"]["error"] in ("Handled", "Unhandled")


def test_a_lambda_of_2018_runs_as_it_was_written(fleet: Fleet, host: str) -> None:
    script = """
before = set(pictures())
client = Client()
answer = client.ask("/article/request", b'{"message": "classify"}')
# It removes its picture after it has published.
time.sleep(1)
print(json.dumps([answer, sorted(set(pictures()) - before)]))
"""
    answer, left = on(fleet, host, script)
    assert answer["topic"] == "/article/response", answer
    assert answer["message"]["message"].startswith("Classified image as ")
    assert answer["message"]["subject"] == "/article/request"
    assert left == []


ARTICLE = "arn:aws:lambda:eu-west-1:123456789012:function:article:7"
RESOURCES = {
    "data": {"LocalVolumeResourceData": {"SourcePath": str(FIELD_DATA), "DestinationPath": "/raw_field_data"}},
    "vchiq": {"LocalDeviceResourceData": {"SourcePath": "/dev/vchiq"}},
    "model": {
        "SageMakerMachineLearningModelResourceData": {
            "DestinationPath": "/greengrass-machine-learning/mxnet/beverage",
            "SageMakerJobArn": "arn:aws:sagemaker:eu-west-1:123456789012:training-job/beverage",
        }
    },
}
OWNED = {"GroupOwnerSetting": {"AutoAddGroupOwner": True}}
EXPORT = {
    "Name": "recycling",
    "CoreDefinition": {"Cores": [{"Id": "0", "ThingArn": "arn:aws:iot:eu-west-1:123456789012:thing/old_pi"}]},
    "FunctionDefinition": {
        "Functions": [
            {
                "Id": "1",
                "FunctionArn": ARTICLE,
                "FunctionConfiguration": {
                    "Pinned": True,
                    "MemorySize": 131072,
                    "Timeout": 10,
                    "EncodingType": "json",
                    "Environment": {
                        "ResourceAccessPolicies": [
                            {"ResourceId": "data", "Permission": "rw"},
                            {"ResourceId": "vchiq", "Permission": "rw"},
                        ],
                        "Variables": {},
                    },
                },
            }
        ]
    },
    "ConnectorDefinition": {
        "Connectors": [
            {
                "Id": "2",
                "ConnectorArn": "arn:aws:greengrass:eu-west-1::/connectors/ImageClassificationARMv7/versions/2",
                "Parameters": {
                    "MLModelDestinationPath": "/greengrass-machine-learning/mxnet/beverage",
                    "MLModelResourceId": "model",
                    "MLModelSageMakerJobArn": "arn:aws:sagemaker:eu-west-1:123456789012:training-job/beverage",
                    "LocalInferenceServiceName": "beverage-classifier",
                    "LocalInferenceServiceTimeoutSeconds": "10",
                    "LocalInferenceServiceMemoryLimitKB": "500000",
                },
            }
        ]
    },
    "ResourceDefinition": {
        "Resources": [
            {
                "Id": key,
                "Name": key,
                "ResourceDataContainer": {kind: {**each, **({} if key == "model" else OWNED)}},
            }
            for key, data in RESOURCES.items()
            for kind, each in data.items()
        ]
    },
    "SubscriptionDefinition": {
        "Subscriptions": [
            {"Id": "3", "Source": "cloud", "Subject": "/article/request", "Target": ARTICLE},
            {"Id": "4", "Source": ARTICLE, "Subject": "/article/response", "Target": "cloud"},
        ]
    },
}
"""The article's group, as `aws greengrass get-*-definition-version` gave it in 2018."""


def test_a_group_exported_from_greengrass_is_served_instead_of_the_inventorys(fleet: Fleet, tmp_path: Path) -> None:
    path = tmp_path / "my-group.json"
    path.write_text(json.dumps(EXPORT))
    site = ["playbooks/site.yml", "--tags", "local_core,image_classifier,classifier_lambda"]
    ask = """
import subprocess
units = subprocess.run(["systemctl", "is-active", "lambda@article", "lambda@beverage_classifier"],
                       capture_output=True, text=True).stdout.split()
print(json.dumps([Client().ask("/article/request", b"{}"), units]))
"""
    try:
        run = fleet.playbook(*site, "--extra-vars", f"local_core_group_definition={path}")
        assert run.code == 0, run.output[-4000:]
        for host in fleet.hosts():
            answer, units = on(fleet, host, ask)
            assert answer["topic"] == "/article/response", answer
            assert answer["message"]["message"].startswith("Classified image as ")
            # The group is the whole group: ours is not in it.
            assert (units[0], units[1] in ("active", "activating")) == ("active", False)
        given = {"local_core_group_definition": str(path), "verify_roles": ["classifier_lambda"]}
        run = fleet.playbook("playbooks/verify.yml", "--extra-vars", json.dumps(given))
        assert run.code == 0, run.output[-4000:]
    finally:
        run = fleet.playbook(*site)
    assert run.code == 0, run.output[-4000:]
    for host in fleet.hosts():
        assert on(fleet, host, "print(json.dumps(Client().ask()))")["topic"] == RESPONSE


@contextmanager
def unplugged(host: str) -> Iterator[list[str]]:
    """Take a virtual Pi's network away, all but loopback, from outside; its broker goes on looking for its cloud.

    Gives the command that runs another one among its files.
    """
    engine = "podman"
    name = f"{os.environ['E2E_FLEET']}-{host}"
    inspect = [engine, "inspect", "--format", "{{.State.Pid}}", name]
    pid = subprocess.run(inspect, check=True, capture_output=True, text=True).stdout.strip()
    enter = ["nsenter", f"--target={pid}", "--net", "ip"]
    routes = subprocess.run([*enter, "route", "show", "default"], check=True, capture_output=True, text=True).stdout
    subprocess.run([*enter, "link", "set", "eth0", "down"], check=True)
    try:
        yield ["nsenter", f"--target={pid}", "--mount"]
    finally:
        subprocess.run([*enter, "link", "set", "eth0", "up"], check=True)
        subprocess.run([*enter, "route", "replace", *routes.split()], check=True)


def test_it_answers_unplugged_from_everything_but_loopback(fleet: Fleet, host: str) -> None:
    script = """
time.sleep(3)
client = Client()
result = {}
result["up"] = Path("/sys/class/net/eth0/operstate").read_text().strip()
result["answers"] = [client.ask() for _ in range(3)]
Path("/run/unplugged.part").write_text(json.dumps(result))
Path("/run/unplugged.part").rename("/run/unplugged.json")
"""
    start = (
        "import subprocess, pathlib\n"
        f"pathlib.Path('/run/unplugged.py').write_text({ON_DEVICE + script!r})\n"
        "pathlib.Path('/run/unplugged.json').unlink(missing_ok=True)\n"
        "subprocess.run(['systemd-run', '--quiet', '--collect', '/usr/bin/python3', '/run/unplugged.py'], check=True)\n"
    )
    fleet.root(host, start)
    with unplugged(host) as among_its_files:
        deadline = time.monotonic() + 90
        while subprocess.run([*among_its_files, "test", "-e", "/run/unplugged.json"], check=False).returncode != 0:
            assert time.monotonic() < deadline
            time.sleep(0.5)
    result = json.loads(fleet.root(host, "print(open('/run/unplugged.json').read())"))
    assert result["up"] == "down"
    assert [answer["topic"] for answer in result["answers"]] == [RESPONSE] * 3


def test_little_is_added_to_an_inference_and_of_1000_requests_none_is_lost(fleet: Fleet) -> None:
    # Twice what its default is: the gate runs three scenarios at a time, on two processors.
    measure(fleet, HOSTS[-1], "overhead.py", "--most-added", "40")
