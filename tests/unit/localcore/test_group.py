"""Groups: what of V1's definitions is read, and that all that cannot be served is refused by name."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from localcore.group import (
    DEEPEST,
    PRIVILEGED_GROUPS,
    Connector,
    DeviceNode,
    Function,
    Group,
    GroupError,
    Model,
    RunAs,
    Secret,
    Subscription,
    Volume,
    load,
    main,
    parse,
)

ARN = "arn:aws:lambda:us-east-1:000000000000:function"
CLASSIFIER = f"{ARN}:beverage_classifier:1"
CONNECTOR = "arn:aws:greengrass:us-east-1::/connectors/ImageClassificationARMv7/versions/2"
Json = dict[str, Any]


def function(definition: Json, number: int = 0) -> Json:
    found: Json = definition["FunctionDefinition"]["Functions"][number]
    return found


def configuration(definition: Json, number: int = 0) -> Json:
    found: Json = function(definition, number)["FunctionConfiguration"]
    return found


def resource(definition: Json, number: int) -> Json:
    found: Json = definition["ResourceDefinition"]["Resources"][number]
    return found


def data(definition: Json, number: int) -> Json:
    (found,) = resource(definition, number)["ResourceDataContainer"].values()
    assert isinstance(found, dict)
    return found


def subscription(definition: Json) -> Json:
    found: Json = definition["SubscriptionDefinition"]["Subscriptions"][0]
    return found


def parameters(definition: Json) -> Json:
    found: Json = definition["ConnectorDefinition"]["Connectors"][0]["Parameters"]
    return found


def problems(definition: object) -> tuple[str, ...]:
    with pytest.raises(GroupError) as refusal:
        parse(definition)
    return refusal.value.problems


# --- what is read


def test_all_of_a_group_is_read(group: Group) -> None:
    assert (group.name, group.thing) == ("pi-1", "pi-1")
    classifier, helper = group.functions
    assert classifier == Function(
        arn=CLASSIFIER,
        name="beverage_classifier",
        pinned=True,
        timeout=10,
        memory_kib=131072,
        encoding="json",
        handler="beverage_classifier.function_handler",
        variables={"KEEP_BELOW": "0.6"},
        run_as=RunAs(1001, 1002),
        access={"pictures": "rw", "camera": "rw", "key": "ro"},
        isolated=True,
        access_sysfs=False,
    )
    assert (helper.name, helper.pinned, helper.run_as, helper.access) == ("helper", False, None, {})
    assert group.connectors == (Connector("inference", CONNECTOR, "beverage-classifier", 10, 500000, "model"),)
    name = "GG-ML-INF-image-classification-beverage-classifier"
    assert group.connectors[0].function_name == name
    assert group.connectors[0].function_arn == f"arn:aws:lambda:us-east-1:aws:function:{name}"
    secret = "arn:aws:secretsmanager:us-east-1:000000000000:secret:greengrass-Key-AbCdEf"
    pictures = ("/home/ggc_user/raw_field_data", "/raw_field_data", "ggc_group", False)
    assert group.resources == {
        "pictures": Volume("pictures", "raw_field_data", *pictures),
        "camera": DeviceNode("camera", "vchiq", "/dev/vchiq", None, True),
        "key": Secret("key", "greengrass-Key", secret),
        "model": Model("model", "drinks", "/model"),
    }
    assert group.subscriptions[0] == Subscription("ask", "cloud", "/request/#", CLASSIFIER)
    assert [each.target for each in group.subscriptions[-3:]] == ["GGShadowService", "cloud", CONNECTOR]


def test_whole_replies_of_the_api_are_read(definition: Json, group: Group) -> None:
    for name in [name for name in definition if name.endswith("Definition")]:
        reply = {
            "Arn": "arn:aws:greengrass:...",
            "Id": "1",
            "Version": "2",
            "CreationTimestamp": "2018-12-01T00:00:00Z",
        }
        definition[name] = {**reply, "Definition": definition[name]}
    assert parse(definition) == group


def test_an_empty_group_needs_a_name_alone() -> None:
    empty = parse({"Core": {"ThingName": "pi-2"}})
    assert empty == Group("pi-2", "pi-2", (), (), {}, ())


def test_the_thing_is_that_of_the_core_definition() -> None:
    core = {"Id": "1", "CertificateArn": "x", "ThingArn": "arn:aws:iot:us-east-1:000000000000:thing/pi-3"}
    assert parse({"CoreDefinition": {"Cores": [core]}}).thing == "pi-3"


def test_v1s_defaults_are_known(definition: Json) -> None:
    function(definition, 1)["FunctionConfiguration"] = {"Executable": "a.b.handler", "MemorySize": 16384}
    helper = parse(definition).functions[1]
    assert (helper.pinned, helper.timeout, helper.encoding, helper.isolated) == (False, 3, "json", True)


def test_the_defaults_of_the_group_hold_for_its_functions(definition: Json) -> None:
    execution = {"IsolationMode": "NoContainer", "RunAs": {"Uid": 7, "Gid": 8}}
    definition["FunctionDefinition"]["DefaultConfig"] = {"Execution": execution}
    configuration(definition)["Environment"]["Execution"] = {"IsolationMode": "GreengrassContainer"}
    del configuration(definition, 1)["MemorySize"]
    classifier, helper = parse(definition).functions
    assert (classifier.isolated, classifier.run_as) == (True, RunAs(7, 8))
    assert (helper.isolated, helper.run_as, helper.memory_kib) == (False, RunAs(7, 8), 0)


def test_functions_are_found_in_subscriptions_whatever_their_version(definition: Json, group: Group) -> None:
    subscription(definition)["Target"] = f"{ARN}:beverage_classifier:PROD"
    assert parse(definition).subscriptions == group.subscriptions


@pytest.mark.parametrize(
    "kind", ["ImageClassificationARMv7", "ImageClassificationx86-64", "ImageClassificationaarch64"]
)
def test_image_classification_of_any_architecture_is_served(definition: Json, kind: str) -> None:
    arn = f"arn:aws:greengrass:eu-west-1::/connectors/{kind}/versions/1"
    definition["ConnectorDefinition"]["Connectors"][0]["ConnectorArn"] = arn
    definition["SubscriptionDefinition"]["Subscriptions"].pop()
    assert parse(definition).connectors[0].function_arn.startswith("arn:aws:lambda:eu-west-1:aws:function:GG-ML-INF-")


def test_local_loggers_are_served_by_the_journal(definition: Json) -> None:
    logger = {"Id": "1", "Component": "Lambda", "Level": "INFO", "Space": 1024, "Type": "FileSystem"}
    definition["LoggerDefinition"] = {"Loggers": [logger]}
    parse(definition)


@pytest.mark.parametrize(
    ("arn", "name"),
    [
        ("arn:aws:secretsmanager:us-east-1:000000000000:secret:greengrass-a-b-Ab12Cd", "greengrass-a-b"),
        ("arn:aws:secretsmanager:us-east-1:000000000000:secret:a/b+c=d.e@f_g-AAAAAA", "a/b+c=d.e@f_g"),
        ("arn:aws:secretsmanager:us-east-1:000000000000:secret:plain", "plain"),
    ],
)
def test_the_friendly_name_of_a_secret_is_without_the_random_characters(definition: Json, arn: str, name: str) -> None:
    data(definition, 2)["ARN"] = arn
    secret = parse(definition).resources["key"]
    assert isinstance(secret, Secret)
    assert secret.name == name


def test_paths_are_tidied(definition: Json) -> None:
    data(definition, 0)["SourcePath"] = "//home//x/./y/"
    volume = parse(definition).resources["pictures"]
    assert isinstance(volume, Volume)
    assert volume.source == "/home/x/y"


# --- what is refused


def spoiled(*path: str | int, value: object) -> Callable[[Json], None]:
    def spoil(definition: Json) -> None:
        place: Any = definition
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return spoil


FUNCTION = ("FunctionDefinition", "Functions", 0)
CONFIGURATION = (*FUNCTION, "FunctionConfiguration")
ENVIRONMENT = (*CONFIGURATION, "Environment")
RESOURCES = ("ResourceDefinition", "Resources")
VOLUME = (*RESOURCES, 0, "ResourceDataContainer", "LocalVolumeResourceData")
DEVICE = (*RESOURCES, 1, "ResourceDataContainer", "LocalDeviceResourceData")
SECRET = (*RESOURCES, 2, "ResourceDataContainer", "SecretsManagerSecretResourceData")
SUBSCRIPTION = ("SubscriptionDefinition", "Subscriptions", 0)
THE_CONNECTOR = ("ConnectorDefinition", "Connectors", 0)
PARAMETERS = (*THE_CONNECTOR, "Parameters")
THING = "arn:aws:iot:us-east-1:000000000000:thing/Thermometer"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoiled("Name", value=""), "must have a text as Name"),
        (spoiled("Core", value={}), "must have a text as ThingName"),
        (spoiled("Core", value={"ThingName": "a/b"}), "ThingName 'a/b'"),
        (spoiled("StreamDefinition", value={}), "'StreamDefinition', which is not served"),
        (spoiled("FunctionDefinition", value=[]), "FunctionDefinition must be an object"),
        (spoiled("FunctionDefinition", "Functions", value={}), "must have a list as Functions"),
        (spoiled("DeviceDefinition", value={"Devices": [{"ThingArn": THING}]}), "local devices speak to the broker"),
        (spoiled("LoggerDefinition", value={"Loggers": [{"Id": "l", "Type": "AWSCloudWatch"}]}), "logs to 'AWSC"),
        (spoiled("CoreDefinition", value={"Cores": [{"SyncShadow": True}]}), "asks for SyncShadow"),
        (spoiled("CoreDefinition", value={"Cores": [{}, {}]}), "has 2 cores"),
        # functions
        (spoiled(*FUNCTION, "FunctionArn", value="beverage_classifier"), "has no valid FunctionArn"),
        (spoiled(*FUNCTION, "FunctionArn", value="arn:aws:lambda:::function:GGStreamManager:1"), "the stream manager"),
        (spoiled(*FUNCTION, "FunctionArn", value="arn:aws:lambda:::function:GGIPDetector:1"), "function GGIPDetector"),
        (spoiled(*FUNCTION, "FunctionArn", value=f"{ARN}:GG-ML-INF-x:1"), "as connectors are"),
        (spoiled(*FUNCTION, "FunctionArn", value=f"{ARN}:-x:1"), "not '-' first"),
        (spoiled(*FUNCTION, "FunctionArn", value=f"{ARN}:helper:2"), "Function helper is there 2 times by its name"),
        (spoiled(*FUNCTION, "Id", value="helper"), "is there 2 times by its Id"),
        (spoiled(*FUNCTION, "Id", value=None), "Function 1 must have a text as Id"),
        (spoiled(*FUNCTION, "Alias", value="x"), "has 'Alias'"),
        (spoiled(*CONFIGURATION, "Executable", value="handler"), "as module.function"),
        (spoiled(*CONFIGURATION, "Executable", value="com.example.App::handle"), "as module.function"),
        (spoiled(*CONFIGURATION, "Executable", value="../x.handler"), "as module.function"),
        (spoiled(*CONFIGURATION, "Executable", value=None), "must have a text as Executable"),
        (spoiled(*CONFIGURATION, "ExecArgs", value="-x"), "executables are not served"),
        (spoiled(*CONFIGURATION, "FunctionRuntimeOverride", value="nodejs8.10"), "runtime nodejs8.10; port it"),
        (spoiled(*CONFIGURATION, "FunctionRuntimeOverride", value="python2.7"), "runtime python2.7; port it"),
        (spoiled(*CONFIGURATION, "EncodingType", value="xml"), "EncodingType 'xml'"),
        (spoiled(*CONFIGURATION, "Pinned", value="true"), "true or false as Pinned"),
        (spoiled(*CONFIGURATION, "MemorySize", value=128), "131072 for 128 MB"),
        (spoiled(*CONFIGURATION, "MemorySize", value=None), "as MemorySize, not nothing"),
        (spoiled(*CONFIGURATION, "MemorySize", value=131072.5), "as MemorySize"),
        (spoiled(*CONFIGURATION, "MemorySize", value=2**40), "as MemorySize"),
        (spoiled(*CONFIGURATION, "Timeout", value=0), "as Timeout, not 0"),
        (spoiled(*CONFIGURATION, "Timeout", value=True), "as Timeout, not true"),
        (spoiled(*CONFIGURATION, "Timeout", value=10**6), "as Timeout"),
        (spoiled(*CONFIGURATION, "Timeout", value=float("nan")), "as Timeout"),
        (spoiled(*ENVIRONMENT, "Variables", value={"MY_FUNCTION_ARN": "x"}), "belongs to the core"),
        (spoiled(*ENVIRONMENT, "Variables", value={"PYTHONPATH": "/x"}), "belongs to the core"),
        (spoiled(*ENVIRONMENT, "Variables", value={"A B": "x"}), "the variable 'A B'"),
        (spoiled(*ENVIRONMENT, "Variables", value={"A": 1}), "what is no text"),
        (spoiled(*ENVIRONMENT, "Variables", value={"A": "\0"}), "what is no text"),
        (spoiled(*ENVIRONMENT, "Execution", value={"IsolationMode": "VM"}), "IsolationMode 'VM'"),
        (spoiled(*ENVIRONMENT, "Execution", value={"RunAs": {"Uid": 1}}), "as RunAs Gid"),
        (spoiled(*ENVIRONMENT, "Execution", value={"RunAs": {"Uid": 0, "Gid": 0}}), "as RunAs Uid, not 0"),
        (spoiled(*ENVIRONMENT, "Execution", value={"IsolationMode": "NoContainer"}), "'camera' in NoContainer"),
        (spoiled(*ENVIRONMENT, "ResourceAccessPolicies", value=[{"ResourceId": "gpu"}]), "group does not define"),
        (spoiled(*ENVIRONMENT, "ResourceAccessPolicies", 0, "Permission", value="x"), "Permission 'x'"),
        (spoiled(*ENVIRONMENT, "ResourceAccessPolicies", 1, "ResourceId", value="pictures"), "two policies"),
        # resources
        (spoiled(*VOLUME, "SourcePath", value="home/x"), "without '..'"),
        (spoiled(*VOLUME, "SourcePath", value="/home/../etc"), "without '..'"),
        (spoiled(*VOLUME, "SourcePath", value="/home/x:y"), "has the SourcePath '/home/x:y'"),
        (spoiled(*VOLUME, "DestinationPath", value="/"), "has the DestinationPath '/'"),
        (spoiled(*VOLUME, "DestinationPath", value="/proc/x"), "has the DestinationPath '/proc/x'"),
        (spoiled(*VOLUME, "SourcePath", value="/sys"), "has the SourcePath '/sys'"),
        (spoiled(*VOLUME, "GroupOwnerSetting", value={"GroupOwner": "a b"}), "GroupOwner 'a b'"),
        (spoiled(*DEVICE, "SourcePath", value="/etc/shadow"), "under /dev"),
        (spoiled(*DEVICE, "SourcePath", value="/dev/../etc/shadow"), "without '..'"),
        (spoiled(*DEVICE, "SourcePath", value="/dev"), "under /dev"),
        (spoiled(*SECRET, "ARN", value="greengrass-Key"), "AWS Secrets Manager"),
        (spoiled(*SECRET, "AdditionalStagingLabelsToDownload", value=["AWSPREVIOUS"]), "staging labels"),
        (spoiled(*RESOURCES, 0, "ResourceDataContainer", value={}), "must have one of"),
        (spoiled(*RESOURCES, 0, "ResourceDataContainer", value={"GpuData": {}}), "'GpuData'"),
        (spoiled(*RESOURCES, 0, "Name", value="vchiq"), "Resource vchiq is there 2 times by its name"),
        # connectors
        (spoiled(*THE_CONNECTOR, "ConnectorArn", value=CONNECTOR.replace("ARMv7", "Z80")), "not served"),
        (spoiled(*PARAMETERS, "MLModelResourceId", value="pictures"), "no machine learning resource"),
        (spoiled(*PARAMETERS, "MLModelDestinationPath", value="model"), "without '..'"),
        (spoiled(*PARAMETERS, "LocalInferenceServiceName", value="-"), "LocalInferenceServiceName '-'"),
        (spoiled(*PARAMETERS, "LocalInferenceServiceTimeoutSeconds", value="0"), 'a number from "1"'),
        (spoiled(*PARAMETERS, "LocalInferenceServiceTimeoutSeconds", value=10), "must have a text as"),
        (spoiled(*PARAMETERS, "LocalInferenceServiceMemoryLimitKB", value="500 MB"), 'a number from "16384"'),
        (spoiled(*PARAMETERS, "MLFeedbackConnectorConfigId", value="x"), "feedback connector is not served"),
        # subscriptions
        (spoiled(*SUBSCRIPTION, "Source", value="clod"), "the Source 'clod', which is not known; name cloud, GGShadow"),
        (spoiled(*SUBSCRIPTION, "Target", value=f"{ARN}:other:1"), "which is not known"),
        (spoiled(*SUBSCRIPTION, "Target", value=THING), "name cloud: local devices speak to the broker"),
        (spoiled(*SUBSCRIPTION, "Target", value="cloud"), "goes from cloud to cloud"),
        (spoiled(*SUBSCRIPTION, "Subject", value="a/#/b"), "'#' must be the last level"),
        (spoiled(*SUBSCRIPTION, "Subject", value="a+/b"), "'+' must be alone in its level"),
        (spoiled(*SUBSCRIPTION, "Subject", value=""), "must have a text as Subject"),
        (spoiled(*SUBSCRIPTION, "Id", value="answer"), "Subscription answer is there 2 times by its Id"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_by_name(definition: Json, spoil: Callable[[Json], None], said: str) -> None:
    spoil(definition)
    found = problems(definition)
    assert any(said in problem for problem in found), found


NODES = (
    "mmcblk0 mmcblk0p2 mmcblk0boot0 sda sda1 hdb vda1 xvda nvme0n1 loop0 loop-control ram0 zram0 dm-0 md127 md/0 sr0 "
    "sg1 nbd0 mtd0 mtdblock0 mem kmem port kmsg core root disk/by-id/x mapper/root block/x cpu/0/msr shm/x raw/raw1"
)
OTHERS = (
    "vchiq vcsm-cma video0 media1 gpiomem gpiochip0 i2c-1 spidev0.0 ttyUSB0 ttyS0 ttyAMA0 serial0 serial/by-id/x "
    "snd/timer dri/card0 input/event0 bus/usb/001/002 hidraw0 raw1394 random null vcio rtc0 watchdog"
)


@pytest.mark.parametrize("node", NODES.split())
def test_no_function_is_given_what_makes_it_root(definition: Json, node: str) -> None:
    data(definition, 1)["SourcePath"] = f"/dev/./{node}"
    assert problems(definition) == (
        f"Resource camera has the SourcePath '/dev/{node}', and who has disks, memory or the kernel's log has the "
        "device; remove it, or name the one device node that the function needs.",
    )


@pytest.mark.parametrize("node", OTHERS.split())
def test_what_cameras_and_sensors_are_behind_is_given(definition: Json, node: str) -> None:
    data(definition, 1)["SourcePath"] = f"/dev/{node}"
    assert getattr(parse(definition).resources["camera"], "source", "") == f"/dev/{node}"


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("owner", PRIVILEGED_GROUPS)
def test_no_function_is_put_into_a_group_that_makes_it_root(definition: Json, number: int, owner: str) -> None:
    data(definition, number)["GroupOwnerSetting"] = {"GroupOwner": owner}
    assert problems(definition) == (
        f"Resource {resource(definition, number)['Id']} has the GroupOwner '{owner}', whose members can become "
        "root or read keys of others; give the resource a group of its own on the device, and name that.",
    )


@pytest.mark.parametrize(("name", "number"), [("disk", 6), ("kmem", 15), ("sudo", 27), ("shadow", 42)])
def test_no_function_runs_as_a_group_that_makes_it_root(definition: Json, name: str, number: int) -> None:
    environment = configuration(definition)["Environment"]
    environment["Execution"] = {"RunAs": {"Uid": number, "Gid": number}}
    assert problems(definition) == (
        f"Function classifier has the RunAs Gid {number}, the group {name}, whose members can become root or read "
        "keys of others; write the number of another group.",
    )
    del environment["Execution"]
    definition["FunctionDefinition"]["DefaultConfig"]["Execution"]["RunAs"] = {"Uid": 1001, "Gid": number}
    assert problems(definition)[0].startswith(f"DefaultConfig has the RunAs Gid {number}, the group {name}, ")


def test_what_is_nested_deeper_than_any_export_is_refused_where_nobody_looks_at_it_too(definition: Json) -> None:
    model = data(definition, 3)
    # It is in six lists and objects itself.
    model["OwnerSetting"] = nested(DEEPEST - 6)
    assert parse(definition).name == "pi-1"
    model["OwnerSetting"] = nested(DEEPEST - 5)
    assert problems(definition) == ("The group has more than 32 levels of lists and objects; export it again.",)
    model["OwnerSetting"] = nested(100_000)
    assert problems(definition) == ("The group has more than 32 levels of lists and objects; export it again.",)


def nested(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


def test_one_fault_is_one_problem(definition: Json) -> None:
    configuration(definition)["Timeout"] = -1
    assert problems(definition) == ("Function classifier must have from 1 to 86400 seconds as Timeout, not -1.",)


@pytest.mark.parametrize(
    "name",
    [
        "MLModelDestinationPath",
        "MLModelResourceId",
        "MLModelSageMakerJobArn",
        "LocalInferenceServiceName",
        "LocalInferenceServiceTimeoutSeconds",
        "LocalInferenceServiceMemoryLimitKB",
    ],
)
def test_each_parameter_of_a_connector_is_needed(definition: Json, name: str) -> None:
    del parameters(definition)[name]
    assert any(f"must have a text as {name}, not nothing" in problem for problem in problems(definition))


def test_two_volumes_cannot_be_in_one_place(definition: Json) -> None:
    twin = copy.deepcopy(resource(definition, 0))
    definition["ResourceDefinition"]["Resources"].append({**twin, "Id": "twin", "Name": "twin"})
    configuration(definition)["Environment"]["ResourceAccessPolicies"].append({"ResourceId": "twin"})
    assert "at one DestinationPath, /raw_field_data" in "".join(problems(definition))


def test_of_two_connectors_with_one_arn_neither_is_a_target(definition: Json) -> None:
    twin = copy.deepcopy(definition["ConnectorDefinition"]["Connectors"][0])
    twin["Id"] = twin["Parameters"]["LocalInferenceServiceName"] = "twin"
    definition["ConnectorDefinition"]["Connectors"].append(twin)
    assert problems(definition)[0].startswith("Subscription raw has the Target")
    definition["SubscriptionDefinition"]["Subscriptions"].pop()
    assert [connector.service for connector in parse(definition).connectors] == ["beverage-classifier", "twin"]


def test_the_list_is_complete(definition: Json) -> None:
    configuration(definition)["Timeout"] = 0
    data(definition, 0)["SourcePath"] = "x"
    subscription(definition)["Source"] = THING
    parameters(definition)["MLModelResourceId"] = "x"
    found = problems(definition)
    assert len(found) == 4
    with pytest.raises(GroupError) as refusal:
        parse(definition)
    assert str(refusal.value) == "\n".join(f"- {problem}" for problem in found)
    assert all(problem.endswith(".") for problem in found)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(seed=st.randoms(use_true_random=False), junk=JSON)
def test_whatever_stands_wherever_it_is_read_or_refused(exported: str, seed: Any, junk: object) -> None:
    definition: Any = json.loads(exported)
    place = definition
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = seed.choice(keys)
        if not isinstance(place[key], dict | list) or not place[key] or seed.random() < 0.2:
            break
        place = place[key]
    place[key] = junk
    try:
        parse(definition)
    except GroupError as error:
        assert error.problems
        str(error).encode()


# --- files


def test_a_group_is_loaded_from_a_file(tmp_path: Path, definition: Json, group: Group) -> None:
    path = tmp_path / "group.json"
    path.write_text(json.dumps(definition))
    assert load(path) == group


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot be read"), (b"{", "is no JSON"), (b"\xff", "is no JSON"), (b"[" * 100_000, "JSON")],
)
def test_a_file_that_cannot_be_read_is_one_problem(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "group.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GroupError, match=said) as refusal:
        load(path)
    assert len(refusal.value.problems) == 1


def test_a_file_is_checked_on_the_command_line(
    tmp_path: Path, definition: Json, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "group.json"
    path.write_text(json.dumps(definition))
    assert main([str(path)]) == 0
    assert capsys.readouterr().out == (
        "The group pi-1 can be served: 2 functions, 1 connectors, 4 resources, 8 subscriptions.\n"
    )
    path.write_text("[]")
    assert main([str(path)]) == 1
    assert "The group cannot be served:\n- The group must be an object" in capsys.readouterr().err
    assert main([]) == 2


def test_the_control_node_needs_the_standard_library_alone() -> None:
    package = Path(sys.modules["localcore"].__path__[0]).parent
    program = "import sys, localcore.group; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    result = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={"PYTHONPATH": str(package), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert {name for name in result.stdout.split() if name not in sys.stdlib_module_names} <= {"__main__", "localcore"}


def test_a_reply_that_is_not_the_last_page_is_refused(definition: Json) -> None:
    definition["FunctionDefinition"] = {"NextToken": "more", "Definition": definition["FunctionDefinition"]}
    with pytest.raises(GroupError, match="FunctionDefinition is one page of several"):
        parse(definition)
