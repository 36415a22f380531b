"""PyPI's greengrasssdk, unmodified, against the router: what V1's Lambdas call, and the errors that they catch."""

from __future__ import annotations

import asyncio
import base64
import importlib
import io
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_unit import ROUTER, SECRETS, SHADOW, Unit
from localcore import ipc
from localcore.group import Group
from localcore.journal import Journal
from localcore.router import Limits, Router
from localcore.secrets import Secrets
from localcore.services import serve_secrets, serve_shadows
from localcore.shadows import Shadows

LAMBDA = "arn:aws:lambda:us-east-1:000000000000:function:"
CALLER = LAMBDA + "beverage_classifier:1"
HELPER = LAMBDA + "helper:1"
CONNECTOR = "arn:aws:lambda:us-east-1:aws:function:GG-ML-INF-image-classification-beverage-classifier"
SLEEPY = "import time\ndef function_handler(event, context):\n    time.sleep(event)\n    return event\n"


class Cloud:
    """The broker's place."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []
        self.room = True

    def has_room(self, size: int) -> bool:
        return self.room

    def publish(self, topic: str, payload: bytes) -> None:
        self.published.append((topic, payload))


class Device:
    """A router with its services, in a thread of its own."""

    def __init__(self, group: Group, directory: Path, absent: float) -> None:
        self.cloud = Cloud()
        self.port = 0
        functions = [function.name for function in group.functions]
        names = [*functions, *(connector.function_name for connector in group.connectors)]
        self.tokens = {name: f"{number:064x}" for number, name in enumerate(names, 1)}
        self._group, self._directory, self._absent = group, directory, absent
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))

    async def _serve(self) -> None:
        limits = Limits(queue_items=2, queue_bytes=1000, poll=1.0, absent=self._absent)
        journal = Journal(self._directory / "journal")
        journal.load()
        router = Router(self._group, "pi-1", limits, journal, self._directory / "wanted", self.cloud)
        secrets = Secrets(self._group, {"greengrass-Key": {"SecretString": "s3cr3t"}}, 1_700_000_000.0)
        services = [
            asyncio.create_task(serve_shadows(router, Shadows(self._directory / "shadows"))),
            asyncio.create_task(serve_secrets(router, secrets)),
        ]
        runner = await ipc.serve(router, self.tokens, 0)
        self.port = runner.port
        self._ready.set()
        await self._stop.wait()
        router.close()
        await asyncio.gather(*services)
        await runner.cleanup()

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(20)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def device(request: pytest.FixtureRequest, group: Group, tmp_path: Path) -> Iterator[Device]:
    made = Device(group, tmp_path / "device", absent=getattr(request, "param", 20.0))
    made.start()
    yield made
    made.close()


@pytest.fixture
def sdk(device: Device, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The SDK as the Lambda beverage_classifier imports it."""
    environment = {
        "MY_FUNCTION_ARN": CALLER,
        "ROUTER_FUNCTION_ARN": ROUTER,
        "SHADOW_FUNCTION_ARN": SHADOW,
        "SECRETS_MANAGER_FUNCTION_ARN": SECRETS,
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": device.tokens["beverage_classifier"],
        "GG_DAEMON_PORT": str(device.port),
        "GGC_MAX_INTERFACE_VERSION": "1.5",
        "AWS_REGION": "us-east-1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for name in [name for name in sys.modules if name.startswith(("greengrasssdk", "greengrass_common.env_vars"))]:
        monkeypatch.delitem(sys.modules, name)
    made = importlib.import_module("greengrasssdk")
    names = {"Lambda": "Lambda", "data": "IoTDataPlane", "secrets": "SecretsManager"}
    modules = {key: importlib.import_module(f"greengrasssdk.{name}") for key, name in names.items()}
    return SimpleNamespace(client=made.client, **modules)


@pytest.fixture
def helper(device: Device, tmp_path: Path) -> Iterator[Unit]:
    """The worker of the function helper."""
    (tmp_path / "folder").mkdir()
    unit = Unit(SimpleNamespace(port=device.port), tmp_path / "folder")  # type: ignore[arg-type]
    unit.token = device.tokens["helper"]
    unit.environment |= {"MY_FUNCTION_ARN": HELPER, "LAMBDA_HANDLER": "sample.function_handler", "LAMBDA_TIMEOUT": "3"}
    yield unit
    unit.kill()


# --- publish


@pytest.mark.parametrize("policy", [{}, {"queueFullPolicy": "BestEffort"}, {"queueFullPolicy": "AllOrException"}])
@pytest.mark.parametrize("payload", ['{"message": "größer"}', b'{"message": "gr\xc3\xb6\xc3\x9fer"}'])
def test_publish(device: Device, sdk: SimpleNamespace, payload: bytes | str, policy: dict[str, str]) -> None:
    assert sdk.client("iot-data").publish(topic="/response/prediction", payload=payload, **policy) is None
    assert device.cloud.published == [("/response/prediction", '{"message": "größer"}'.encode())]


def test_publish_takes_a_file_and_nothing(device: Device, sdk: SimpleNamespace) -> None:
    client = sdk.client("iot-data")
    client.publish(topic="/response/a", payload=io.BytesIO(b"from a file"))
    client.publish(topic="/response/b")
    assert device.cloud.published == [("/response/a", b"from a file"), ("/response/b", b"")]


def test_publish_without_a_subscription_is_dropped_as_in_v1(device: Device, sdk: SimpleNamespace) -> None:
    sdk.client("iot-data").publish(topic="/elsewhere", payload="x")
    assert device.cloud.published == []


def test_full_queues_by_policy(device: Device, sdk: SimpleNamespace) -> None:
    client = sdk.client("iot-data")
    # /both goes to helper, which has no worker and room for two, and to the cloud.
    for _ in range(2):
        client.publish(topic="/x/both", payload="x")
    with pytest.raises(sdk.Lambda.InvocationException, match=r"queue of helper is full"):
        client.publish(topic="/x/both", payload="x", queueFullPolicy="AllOrException")
    assert len(device.cloud.published) == 2
    client.publish(topic="/x/both", payload="x", queueFullPolicy="BestEffort")
    assert [topic for topic, _ in device.cloud.published].count("/x/both") == 3


@pytest.mark.parametrize(("topic", "said"), [("/response/#", "cannot be published"), ("", "cannot be published")])
def test_a_topic_that_is_none_is_an_invocation_exception(
    device: Device, sdk: SimpleNamespace, topic: str, said: str
) -> None:
    with pytest.raises(sdk.Lambda.InvocationException, match=said):
        sdk.client("iot-data").publish(topic=topic, payload="x")


def test_a_message_that_is_too_big_for_the_cloud_is_an_invocation_exception(
    device: Device, sdk: SimpleNamespace
) -> None:
    with pytest.raises(sdk.Lambda.InvocationException, match="too big for the cloud"):
        sdk.client("iot-data").publish(topic="/response/x", payload=bytes(200_000))


def test_a_wrong_token_is_an_invocation_exception(sdk: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "0" * 64)
    with pytest.raises(sdk.Lambda.InvocationException, match=r"HTTP 401.*token in Authorization is not known"):
        sdk.client("iot-data").publish(topic="/response/x", payload="x")


# --- shadows and secrets


def test_shadows(sdk: SimpleNamespace) -> None:
    client = sdk.client("iot-data")
    with pytest.raises(sdk.data.ShadowError, match="error code 404"):
        client.get_thing_shadow(thingName="pi-1")
    update = json.dumps({"state": {"reported": {"category": "coffee-mug"}}}).encode()
    accepted = json.loads(client.update_thing_shadow(thingName="pi-1", payload=update)["payload"])
    assert accepted["state"]["reported"] == {"category": "coffee-mug"}
    shadow = json.loads(client.get_thing_shadow(thingName="pi-1")["payload"])
    assert (shadow["state"]["reported"], shadow["version"]) == ({"category": "coffee-mug"}, 1)
    with pytest.raises(sdk.data.ShadowError, match="error code 400"):
        client.update_thing_shadow(thingName="pi-1", payload=b"no JSON")
    client.delete_thing_shadow(thingName="pi-1")
    with pytest.raises(sdk.data.ShadowError, match="error code 404"):
        client.get_thing_shadow(thingName="pi-1")


def test_secrets(sdk: SimpleNamespace) -> None:
    client = sdk.client("secretsmanager")
    secret = client.get_secret_value(SecretId="greengrass-Key")
    assert (secret["SecretString"], secret["VersionStages"]) == ("s3cr3t", ["AWSCURRENT"])
    assert secret["CreatedDate"].timestamp() == 1_700_000_000
    with pytest.raises(sdk.secrets.SecretsManagerError, match="error code"):
        client.get_secret_value(SecretId="another")


# --- functions


def test_a_function_is_invoked(sdk: SimpleNamespace, helper: Unit) -> None:
    helper.start(
        "def function_handler(event, context):\n"
        "    if event == 'fail':\n        raise ValueError('no such drink')\n"
        "    custom = context.client_context.custom\n"
        "    return {'event': event, 'who': custom['source'], 'asked': custom.get('asked')}\n"
    )
    client = sdk.client("lambda")
    context = base64.b64encode(json.dumps({"custom": {"asked": "kindly", "source": "somebody else"}}).encode())
    result = client.invoke(FunctionName=HELPER, Payload='{"a": 1}', ClientContext=context)
    assert result["FunctionError"] == ""
    assert json.loads(result["Payload"].read()) == {"event": {"a": 1}, "who": CALLER, "asked": "kindly"}
    unqualified = client.invoke(FunctionName=HELPER.removesuffix(":1"), Qualifier="1")
    assert json.loads(unqualified["Payload"].read())["event"] == {}
    failed = client.invoke(FunctionName=HELPER, Payload=b'"fail"')
    assert (failed["FunctionError"], json.loads(failed["Payload"])["errorMessage"]) == ("Handled", "no such drink")
    assert client.invoke(FunctionName=HELPER, InvocationType="Event", Payload=b"1")["Payload"] == b""


def in_background(ask: Callable[[], Any]) -> Callable[[], Any]:
    """Begin to ask; what is returned waits for the answer."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(ask()))
    thread.start()

    def wait() -> Any:
        thread.join(20)
        return answers[0]

    return wait


def test_a_function_that_dies_is_unhandled_and_its_next_worker_goes_on(sdk: SimpleNamespace, helper: Unit) -> None:
    helper.environment["LAMBDA_TIMEOUT"] = "0.3"
    helper.start(SLEEPY)
    client = sdk.client("lambda")
    result = in_background(lambda: client.invoke(FunctionName=HELPER, Payload=b"60"))
    assert helper.end() == 1
    helper.start(SLEEPY)
    answer = result()
    assert answer["FunctionError"] == "Unhandled"
    # The core knows from the next worker, or, on a machine that is slow to start one, from its own clock.
    assert re.search(rb"ended while it handled this|did not answer within 3 s", answer["Payload"])
    assert client.invoke(FunctionName=HELPER, Payload=b"0")["Payload"].read() == b"0"


@pytest.mark.parametrize("device", [0.3], indirect=True)
def test_a_function_without_a_worker_is_unhandled(sdk: SimpleNamespace) -> None:
    result = sdk.client("lambda").invoke(FunctionName=HELPER, Payload=b"1")
    assert result["FunctionError"] == "Unhandled"
    assert b"No worker of helper asked for work" in result["Payload"]


def test_a_function_that_cannot_be_imported_is_unhandled_with_its_reason(sdk: SimpleNamespace, helper: Unit) -> None:
    result = in_background(lambda: sdk.client("lambda").invoke(FunctionName=HELPER, Payload=b"1"))
    helper.start("import boto3\n")
    assert result()["FunctionError"] == "Unhandled"
    assert b"needs the module boto3" in result()["Payload"]


def test_an_unknown_function_is_an_invocation_exception(sdk: SimpleNamespace) -> None:
    with pytest.raises(sdk.Lambda.InvocationException, match=r"HTTP 404.*no function other"):
        sdk.client("lambda").invoke(FunctionName=LAMBDA + "other:1", Payload=b"1")


# --- inference


@pytest.fixture
def inference(device: Device, helper: Unit) -> Unit:
    """A worker in the connector's place."""
    helper.token = device.tokens["GG-ML-INF-image-classification-beverage-classifier"]
    helper.environment |= {"MY_FUNCTION_ARN": CONNECTOR, "ENCODING_TYPE": "binary"}
    helper.start(
        "import json\ndef function_handler(event, context):\n"
        "    if not event:\n        raise ValueError('no picture')\n"
        "    kind = context.client_context.custom['Content-Type']\n"
        "    return json.dumps({'Body': str([len(event)]), 'ContentType': kind})\n"
    )
    return helper


def test_the_machine_learning_sdk_asks_an_inference_service(sdk: SimpleNamespace, inference: Unit) -> None:
    ml = importlib.import_module("greengrass_machine_learning_sdk")
    ask: dict[str, Any] = {"AlgoType": "image-classification", "ServiceName": "beverage-classifier"}
    client = ml.client("inference")
    reply = client.invoke_inference_service(**ask, Body=bytes(900), ContentType="image/jpeg")
    assert (reply["Body"].read(), reply["ContentType"]) == (b"[900]", "image/jpeg")
    with pytest.raises(ml.GreengrassInferenceException, match="no picture"):
        client.invoke_inference_service(**ask, Body=b"", ContentType="image/jpeg")
    with pytest.raises(ml.GreengrassDependencyException, match=r"HTTP 404.*image-classification-other"):
        client.invoke_inference_service(**{**ask, "ServiceName": "other"}, Body=b"x")
