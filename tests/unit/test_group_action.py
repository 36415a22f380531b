"""The group on the control node: composed or taken, parsed by the local core itself, and told to units."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleError
from ansible_collections.edge.pi_fleet.plugins.action.group import ActionModule
from ansible_collections.edge.pi_fleet.plugins.module_utils.group import CAMERA_DEVICES, environment_file
from fake_action import make
from hypothesis import example, given
from hypothesis import strategies as st
from localcore import group as core

ROOT = Path(__file__).resolve().parents[2]
DEVICE = "pi-1"
ASKED = "/request/classify/beverage_container"
ANSWERED = "/response/prediction/beverage_container"
FIELD_DATA = "/home/ggc_user/raw_field_data"
CLASSIFIER: dict[str, Any] = {
    "name": "beverage_classifier",
    "handler": "beverage_classifier.function_handler",
    "encoding": "binary",
    "timeout": 10,
    "memory": 128,
    "run_as": {},
    "variables": {"KEEP_BELOW": 0.6, "GREETING": 'say "hello"'},
    "volumes": [{"source": FIELD_DATA, "destination": "/raw_field_data", "permission": "rw"}],
    "devices": ["/dev/vchiq"],
}
INFERENCE = {"service": "beverage-classifier", "timeout": 10, "memory": 512}
SUBSCRIPTIONS = [
    {"source": "cloud", "subject": ASKED, "target": "beverage_classifier"},
    {"source": "beverage_classifier", "subject": ANSWERED, "target": "cloud"},
]
CLASSIFIER_ARN = "arn:aws:lambda:us-east-1:000000000000:function:beverage_classifier:1"


def run(**arguments: Any) -> dict[str, Any]:
    result: dict[str, Any] = make(ActionModule, {"device": DEVICE, **arguments}).run()
    return result


def compose(*functions: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    result = run(functions=list(functions), **arguments)
    assert not result.get("failed"), result["msg"]
    return result


def refuse(**arguments: Any) -> str:
    result = run(**arguments)
    assert result["failed"]
    assert result.keys() == {"failed", "msg"}
    message: str = result["msg"]
    assert message.endswith(".")
    return message


def function(name: str = "echo", **more: Any) -> dict[str, Any]:
    return {"name": name, "handler": f"{name}.handler", **more}


def valued(names: Iterable[str]) -> dict[str, dict[str, str]]:
    return {name: {"SecretString": f"the value of {name}"} for name in names}


def unit(result: dict[str, Any], name: str = "echo") -> dict[str, Any]:
    found: dict[str, Any] = result["functions"][name]
    return found


# --- composed from the inventory


def test_the_articles_group_is_one_that_the_local_core_serves() -> None:
    result = compose(CLASSIFIER, connectors=[INFERENCE], subscriptions=SUBSCRIPTIONS)
    assert not result["changed"]
    group = core.parse(json.loads(json.dumps(result["group"])))
    assert (group.name, group.thing) == (DEVICE, DEVICE)
    (found,) = group.functions
    assert found == core.Function(
        arn=CLASSIFIER_ARN,
        name="beverage_classifier",
        pinned=True,
        timeout=10,
        memory_kib=131072,
        encoding="binary",
        handler="beverage_classifier.function_handler",
        variables={"KEEP_BELOW": "0.6", "GREETING": 'say "hello"'},
        run_as=None,
        access=found.access,
        isolated=True,
        access_sysfs=False,
    )
    granted = {group.resources[key]: permission for key, permission in found.access.items()}
    assert {(type(each).__name__, getattr(each, "source", ""), right) for each, right in granted.items()} == {
        ("Volume", FIELD_DATA, "rw"),
        ("DeviceNode", "/dev/vchiq", "rw"),
    }
    (connector,) = group.connectors
    assert (connector.service, connector.timeout, connector.memory_kib) == ("beverage-classifier", 10, 524288)
    model = group.resources[connector.model]
    assert isinstance(model, core.Model)
    assert model.destination == "/opt/pi-fleet/model/beverage-classifier/current"
    assert [(each.source, each.subject, each.target) for each in group.subscriptions] == [
        ("cloud", ASKED, CLASSIFIER_ARN),
        (CLASSIFIER_ARN, ANSWERED, "cloud"),
    ]


@pytest.mark.parametrize(
    ("given", "network"),
    [
        ({}, False),
        ({"network": None}, False),
        ({"network": "false"}, False),
        ({"network": "yes"}, True),
        ({"network": True}, True),
    ],
)
def test_a_function_may_speak_to_others_only_if_that_is_said(given: dict[str, Any], network: bool) -> None:
    assert unit(compose(function(**given)))["network"] is network


def test_the_classifiers_unit_gets_what_it_needs() -> None:
    result = compose(CLASSIFIER, connectors=[INFERENCE], subscriptions=SUBSCRIPTIONS)
    assert unit(result, "beverage_classifier") == {
        "name": "beverage_classifier",
        "handler": "beverage_classifier.function_handler",
        "pinned": True,
        "unit": "lambda@beverage_classifier.service",
        "starts": "lambda@beverage_classifier.service",
        "run_as": False,
        "user": "ggc_user",
        "group": "ggc_group",
        "groups": ["ggc_group", "video"],
        "timeout": 10,
        "memory_kib": 131072,
        "isolated": True,
        "access_sysfs": False,
        "network": False,
        "binds": {"ro": [], "rw": [f"{FIELD_DATA}:/raw_field_data"]},
        "devices": [*CAMERA_DEVICES, "/dev/vchiq rw"],
        "environment": {
            "MY_FUNCTION_ARN": CLASSIFIER_ARN,
            "ROUTER_FUNCTION_ARN": "arn:aws:lambda:::function:GGRouter",
            "SHADOW_FUNCTION_ARN": "arn:aws:lambda:::function:GGShadowService",
            "SECRETS_MANAGER_FUNCTION_ARN": "arn:aws:lambda:::function:GGSecretManager:1",
            "GG_DAEMON_PORT": "8000",
            "GGC_MAX_INTERFACE_VERSION": "1.5",
            "GGC_VERSION": "1.11.6",
            "ENCODING_TYPE": "binary",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "GROUP_ID": DEVICE,
            "AWS_IOT_THING_NAME": DEVICE,
            "LAMBDA_HANDLER": "beverage_classifier.function_handler",
            "LAMBDA_TIMEOUT": "10",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
        },
        "settings": environment_file({"KEEP_BELOW": "0.6", "GREETING": 'say "hello"'}),
    }


def test_the_connectors_unit_gets_what_it_needs() -> None:
    result = compose(connectors=[INFERENCE])
    assert result["connectors"] == {
        "beverage-classifier": {
            "service": "beverage-classifier",
            "function": "GG-ML-INF-image-classification-beverage-classifier",
            "unit": "connector@beverage-classifier.service",
            "memory_kib": 524288,
            "environment": {
                "MY_FUNCTION_ARN": (
                    "arn:aws:lambda:us-east-1:aws:function:GG-ML-INF-image-classification-beverage-classifier"
                ),
                "GG_DAEMON_PORT": "8000",
                "CONNECTOR_TIMEOUT": "10",
                "CONNECTOR_MODEL": "/opt/pi-fleet/model/beverage-classifier/current",
            },
        }
    }


def test_each_token_has_one_unit_that_reads_it() -> None:
    assert compose(CLASSIFIER, function(pinned=False), connectors=[INFERENCE])["readers"] == {
        "beverage_classifier": "lambda@beverage_classifier.service",
        "echo": "lambda@echo.service",
        "GG-ML-INF-image-classification-beverage-classifier": "connector@beverage-classifier.service",
    }


def test_what_the_inventory_leaves_out_is_as_in_the_article() -> None:
    found = unit(compose(function()))
    assert (found["pinned"], found["timeout"], found["memory_kib"]) == (True, 10, 131072)
    assert found["environment"]["ENCODING_TYPE"] == "json"
    assert (found["user"], found["group"], found["groups"]) == ("ggc_user", "ggc_group", [])
    assert (found["binds"], found["devices"]) == ({"ro": [], "rw": []}, [])
    assert found["settings"] == environment_file({})


def test_a_function_on_demand_is_started_by_its_path() -> None:
    found = unit(compose(function(pinned=False)))
    assert not found["pinned"]
    assert (found["unit"], found["starts"]) == ("lambda@echo.service", "lambda@echo.path")


@pytest.mark.parametrize("run_as", [{"uid": 4711, "gid": 4712}, {"uid": "4711", "gid": "4712"}])
def test_a_function_may_run_as_somebody_else(run_as: dict[str, Any]) -> None:
    result = compose(function(run_as=run_as))
    assert (unit(result)["user"], unit(result)["group"]) == ("4711", "4712")
    assert core.parse(result["group"]).functions[0].run_as == core.RunAs(4711, 4712)


def test_numbers_from_the_command_line_are_texts_and_taken() -> None:
    found = unit(compose(function(timeout="20", memory="256")))
    assert (found["timeout"], found["memory_kib"]) == (20, 262144)


@pytest.mark.parametrize("node", ["/dev/vchiq", "/dev/vcsm", "/dev/vcsm-cma", "/dev/video0"])
def test_a_node_of_a_camera_brings_those_of_todays_cameras(node: str) -> None:
    found = unit(compose(function(devices=[node])))
    assert found["devices"] == [*CAMERA_DEVICES, f"{node} rw"]
    assert found["groups"] == ["video"]


def test_both_of_the_articles_nodes_bring_them_once() -> None:
    found = unit(compose(function(devices=["/dev/vcsm", "/dev/vchiq"])))
    assert sorted(found["devices"]) == sorted([*CAMERA_DEVICES, "/dev/vcsm rw", "/dev/vchiq rw"])


def test_any_other_node_is_itself_alone() -> None:
    found = unit(compose(function(devices=["/dev/gpiomem"])))
    assert (found["devices"], found["groups"]) == (["/dev/gpiomem rw"], [])


def test_volumes_are_read_only_unless_they_say_otherwise() -> None:
    volumes = [
        {"source": "/srv/maps", "destination": "/maps"},
        {"source": "/srv/notes", "destination": "/notes", "permission": "rw"},
    ]
    assert unit(compose(function(volumes=volumes)))["binds"] == {"ro": ["/srv/maps:/maps"], "rw": ["/srv/notes:/notes"]}


def test_functions_share_a_volume_and_each_has_its_own_right_to_it() -> None:
    volume = {"source": "/srv/maps", "destination": "/maps"}
    result = compose(function("a", volumes=[volume]), function("b", volumes=[{**volume, "permission": "rw"}]))
    assert len(result["group"]["ResourceDefinition"]["Resources"]) == 1
    assert unit(result, "a")["binds"] == {"ro": ["/srv/maps:/maps"], "rw": []}
    assert unit(result, "b")["binds"] == {"ro": [], "rw": ["/srv/maps:/maps"]}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"source": "/srv/a", "destination": "/data"}, {"source": "/srv/b", "destination": "/data"}),
        ({"source": "/srv/a", "destination": "/a-b"}, {"source": "/srv/b", "destination": "/a_b"}),
        ({"source": "/srv/a", "destination": "/x"}, {"source": "/srv/a", "destination": "/y"}),
    ],
)
def test_no_function_sees_the_volume_of_another(first: dict[str, str], second: dict[str, str]) -> None:
    result = compose(function("a", volumes=[first]), function("b", volumes=[second]))
    for name, volume in (("a", first), ("b", second)):
        assert unit(result, name)["binds"]["ro"] == [f"{volume['source']}:{volume['destination']}"]


def test_secrets_are_granted_by_their_names() -> None:
    secrets = ["wifi/home", "wifi-home"]
    result = compose(function("a", secrets=secrets), function("b", secrets=secrets[1:]), secrets=valued(secrets))
    group = core.parse(result["group"])
    names = {each.name: [group.resources[key].name for key in each.access] for each in group.functions}
    assert names == {"a": ["wifi/home", "wifi-home"], "b": ["wifi-home"]}
    assert all(isinstance(resource, core.Secret) for resource in group.resources.values())
    assert (unit(result, "a")["binds"], unit(result, "a")["devices"]) == ({"ro": [], "rw": []}, [])


def test_topics_that_reach_the_cloud_are_told_once_each() -> None:
    subscriptions = [
        *({"source": "cloud", "subject": "ask/#", "target": name} for name in ("a", "b")),
        {"source": "a", "subject": "inner", "target": "b"},
        {"source": "b", "subject": "$aws/things/pi-1/shadow/update", "target": "GGShadowService"},
        {"source": "b", "subject": "answer", "target": "cloud"},
    ]
    result = compose(function("a"), function("b"), subscriptions=subscriptions)
    assert result["topics"] == {"requests": ["ask/#"], "responses": ["answer"]}
    assert core.parse(result["group"]).subscriptions[3].target == "GGShadowService"


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)
variables = st.dictionaries(names.filter(lambda name: name not in core.OWN_VARIABLES), texts, max_size=4)
paths = st.from_regex(r"(/srv|/var/lib)(/[A-Za-z0-9._@+,=~-]{1,10}x){1,3}", fullmatch=True)
volumes = st.lists(
    st.fixed_dictionaries({"source": paths, "destination": paths, "permission": st.sampled_from(["ro", "rw"])}),
    unique_by=lambda volume: volume["destination"],
    max_size=3,
)
functions = st.lists(
    st.fixed_dictionaries(
        {
            "name": names.filter(lambda name: not name.startswith("GG")),
            "handler": st.just("module.function"),
            "pinned": st.booleans(),
            "timeout": st.integers(1, 86400),
            "memory": st.integers(16, 16384),
            "encoding": st.sampled_from(["json", "binary"]),
            "variables": variables,
            "volumes": volumes,
            "secrets": st.lists(st.sampled_from(["a", "b-c", "b_c", "b/c"]), unique=True),
        }
    ),
    unique_by=lambda each: each["name"],
    max_size=3,
)


@given(functions)
def test_whatever_the_inventory_may_hold_comes_out_as_it_went_in(wanted: list[dict[str, Any]]) -> None:
    result = compose(*wanted, secrets=valued(secret for each in wanted for secret in each["secrets"]))
    group = core.parse(json.loads(json.dumps(result["group"])))
    assert [each.name for each in group.functions] == [each["name"] for each in wanted]
    for put, found in zip(wanted, group.functions, strict=True):
        assert (found.pinned, found.timeout, found.encoding) == tuple(
            put[key] for key in ("pinned", "timeout", "encoding")
        )
        assert (found.memory_kib, found.variables) == (put["memory"] * 1024, put["variables"])
        binds = unit(result, found.name)["binds"]
        for permission in ("ro", "rw"):
            assert binds[permission] == [
                f"{each['source']}:{each['destination']}" for each in put["volumes"] if each["permission"] == permission
            ]
        secrets = [resource for key in found.access if isinstance(resource := group.resources[key], core.Secret)]
        assert [each.name for each in secrets] == put["secrets"]


# --- what of the inventory is refused


def test_what_the_local_core_does_not_serve_is_refused_all_of_it() -> None:
    subscriptions = [
        {"source": "cloud", "subject": "a/#/b", "target": "echo"},
        {"source": "echo", "subject": "a", "target": "nobody"},
    ]
    message = refuse(functions=[function(encoding="cbor")], subscriptions=subscriptions)
    assert len(message.splitlines()) == 3
    assert "the EncodingType 'cbor'" in message
    assert "the Subject 'a/#/b'" in message
    assert "the Target 'nobody', which is not known" in message


def test_an_argument_that_is_unknown_is_refused() -> None:
    with pytest.raises(AnsibleError, match="lambdas"):
        run(lambdas=[])


# --- a user's own export


def export(**more: Any) -> dict[str, Any]:
    arn = "arn:aws:lambda:eu-west-1:123456789012:function:greeter:7"
    configuration = {
        "Pinned": False,
        "MemorySize": 65536,
        "Timeout": 25,
        "EncodingType": "json",
        "Environment": {
            "AccessSysfs": True,
            "Execution": {"IsolationMode": "GreengrassContainer", "RunAs": {"Uid": 1001, "Gid": 1002}},
            "ResourceAccessPolicies": [
                {"ResourceId": "gpio", "Permission": "ro"},
                {"ResourceId": "camera", "Permission": "rw"},
                {"ResourceId": "data", "Permission": "rw"},
            ],
            "Variables": {"GREETING": "hello"},
        },
    }
    resources = {
        "gpio": {
            "LocalDeviceResourceData": {"SourcePath": "/dev/gpiomem", "GroupOwnerSetting": {"GroupOwner": "gpio"}}
        },
        "camera": {"LocalDeviceResourceData": {"SourcePath": "/dev/vchiq"}},
        "data": {"LocalVolumeResourceData": {"SourcePath": FIELD_DATA, "DestinationPath": "/raw_field_data"}},
    }
    return {
        "Name": 'The "old" group, 100 %',
        "CoreDefinition": {
            "Cores": [
                {
                    "Id": "core",
                    "CertificateArn": "arn:aws:iot:eu-west-1:123456789012:cert/1",
                    "ThingArn": "arn:aws:iot:eu-west-1:123456789012:thing/old_pi",
                    "SyncShadow": False,
                }
            ]
        },
        "FunctionDefinition": {
            "Functions": [{"Id": "greeter", "FunctionArn": arn, "FunctionConfiguration": configuration}]
        },
        "ResourceDefinition": {
            "Resources": [{"Id": key, "Name": key, "ResourceDataContainer": data} for key, data in resources.items()]
        },
        "SubscriptionDefinition": {
            "Subscriptions": [{"Id": "1", "Source": "cloud", "Subject": "greet/+", "Target": arn}]
        },
        **more,
    }


@pytest.fixture
def lambdas(tmp_path: Path) -> list[dict[str, Any]]:
    folder = tmp_path / "greeter"
    folder.mkdir()
    (folder / "lambda_function.py").write_text("def lambda_handler(event, context):\n    return event\n")
    return [{"name": "greeter", "src": str(folder), "handler": "lambda_function.lambda_handler"}]


@pytest.fixture
def definition(tmp_path: Path) -> Path:
    return tmp_path / "group.json"


def take(definition: Path, data: Any, lambdas: list[dict[str, Any]]) -> dict[str, Any]:
    definition.write_text(data if isinstance(data, str) else json.dumps(data))
    return run(definition=str(definition), functions=lambdas, subscriptions=SUBSCRIPTIONS, connectors=[INFERENCE])


def within_replies(data: dict[str, Any]) -> dict[str, Any]:
    """Return the group as the whole replies of `aws greengrass get-*-definition-version`."""
    reply = {"Arn": "arn:x", "CreationTimestamp": "2019-01-01T00:00:00.000Z", "Id": "1", "Version": "2"}
    return {key: {**reply, "Definition": value} if key.endswith("Definition") else value for key, value in data.items()}


@pytest.mark.parametrize("shape", [dict, within_replies])
def test_an_export_is_the_whole_group_and_the_inventory_gives_code_and_handlers(
    definition: Path, lambdas: list[dict[str, Any]], shape: Any
) -> None:
    result = take(definition, shape(export()), lambdas)
    assert not result.get("failed"), result
    assert result["connectors"] == {}
    assert result["topics"] == {"requests": ["greet/+"], "responses": []}
    found = unit(result, "greeter")
    assert (found["handler"], found["pinned"], found["timeout"]) == ("lambda_function.lambda_handler", False, 25)
    assert (found["memory_kib"], found["access_sysfs"]) == (65536, True)
    assert (found["user"], found["group"]) == ("1001", "1002")
    assert found["devices"] == ["/dev/gpiomem r", *CAMERA_DEVICES, "/dev/vchiq rw"]
    assert found["environment"]["AWS_REGION"] == "eu-west-1"
    assert found["environment"]["GROUP_ID"] == 'The "old" group, 100 %'
    assert found["environment"]["AWS_IOT_THING_NAME"] == "old_pi"
    # The file that devices get has the handler too.
    assert core.parse(result["group"]).functions[0].handler == "lambda_function.lambda_handler"


def test_a_groups_owner_is_added_where_v1_was_asked_to_and_nowhere_else(
    definition: Path, lambdas: list[dict[str, Any]]
) -> None:
    data = export()
    assert unit(take(definition, data, lambdas), "greeter")["groups"] == ["gpio"]
    for resource in data["ResourceDefinition"]["Resources"]:
        (container,) = resource["ResourceDataContainer"].values()
        if "GroupOwner" not in container.get("GroupOwnerSetting", {}):
            container["GroupOwnerSetting"] = {"AutoAddGroupOwner": True}
    assert unit(take(definition, data, lambdas), "greeter")["groups"] == ["ggc_group", "gpio", "video"]


def test_an_owner_that_only_the_device_knows_is_refused(definition: Path, lambdas: list[dict[str, Any]]) -> None:
    data = export()
    gpio = data["ResourceDefinition"]["Resources"][0]["ResourceDataContainer"]["LocalDeviceResourceData"]
    gpio["GroupOwnerSetting"] = {"AutoAddGroupOwner": True}
    assert_sentence(
        take(definition, data, lambdas),
        "The resource gpio asks for the group that owns /dev/gpiomem, which only the device knows: ",
        "set AutoAddGroupOwner to false and GroupOwner to that group.",
    )


def test_a_model_of_a_functions_own_is_refused(definition: Path, lambdas: list[dict[str, Any]]) -> None:
    data = export()
    model = {"DestinationPath": "/ml", "SageMakerJobArn": "arn:aws:sagemaker:eu-west-1:123456789012:training-job/x"}
    data["ResourceDefinition"]["Resources"].append(
        {"Id": "ml", "Name": "ml", "ResourceDataContainer": {"SageMakerMachineLearningModelResourceData": model}}
    )
    configuration = data["FunctionDefinition"]["Functions"][0]["FunctionConfiguration"]
    configuration["Environment"]["ResourceAccessPolicies"].append({"ResourceId": "ml", "Permission": "ro"})
    assert_sentence(
        take(definition, data, lambdas),
        "The function greeter is given the model ml, and pi-fleet gives models to connectors alone: ",
        "have it ask a connector, or put the model into its folder.",
    )


def test_a_service_that_no_lambda_could_ask_for_is_refused() -> None:
    assert refuse(connectors=[{**INFERENCE, "service": "a&b"}]) == (
        "image_classifier_service_name is 'a&b', not a name of letters, digits and '-': correct it in the inventory."
    )


def test_two_functions_of_one_name_are_refused() -> None:
    assert "beverage_classifier" in refuse(functions=[CLASSIFIER, CLASSIFIER], connectors=[INFERENCE])


def test_code_for_a_function_is_given_once(definition: Path, lambdas: list[dict[str, Any]]) -> None:
    assert_sentence(
        take(definition, export(), [*lambdas, *lambdas]),
        "Two functions of the inventory have the name greeter: ",
        "rename one in local_core_lambdas.",
    )


def test_a_connector_without_a_model_is_refused(definition: Path, lambdas: list[dict[str, Any]]) -> None:
    data = export(ConnectorDefinition=run(connectors=[INFERENCE])["group"]["ConnectorDefinition"])
    data["ResourceDefinition"]["Resources"] += run(connectors=[INFERENCE])["group"]["ResourceDefinition"]["Resources"]
    assert "failed" not in take(definition, data, lambdas)
    data["ConnectorDefinition"]["Connectors"][0]["Parameters"]["LocalInferenceServiceName"] = "other"
    assert_sentence(
        take(definition, data, lambdas),
        "The group's connector other has no model: ",
        "set image_classifier_service_name to it, or leave it out of the group; a device has one.",
    )


def test_a_secret_that_the_inventory_does_not_have_is_refused() -> None:
    functions = [{**CLASSIFIER, "secrets": ["wifi"]}]
    assert "failed" not in run(functions=functions, secrets=valued(["wifi"]))
    assert refuse(functions=functions) == (
        "The group has the secret wifi, and local_core_secrets does not: add it to the inventory's vault."
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            {"SecretNothing": "hush"},
            "local_core_secrets must have either SecretString or SecretBinary for the secret wifi",
        ),
        ({"SecretString": "hush", "SecretBinary": "aHVzaA=="}, "local_core_secrets must have either SecretString or"),
        ("hush", "local_core_secrets must have either SecretString or SecretBinary for the secret wifi; correct it."),
        ({"SecretString": 4711}, "local_core_secrets have a SecretString of wifi that is no string; correct it."),
        ({"SecretBinary": "hush!"}, "local_core_secrets have a SecretBinary of wifi that is no base64; correct it."),
    ],
)
def test_a_secret_that_the_local_core_would_not_take_is_refused(value: Any, said: str) -> None:
    message = refuse(secrets={"wifi": value})
    assert message.startswith(said)
    assert "hush" not in message
    assert "4711" not in message


def test_a_volume_of_the_inventory_may_name_a_group() -> None:
    volume = {"source": "/srv/data", "destination": "/data", "permission": "rw", "group": "data"}
    result = compose({**CLASSIFIER, "volumes": [volume], "devices": []})
    assert unit(result, "beverage_classifier")["groups"] == ["data"]


def test_what_makes_root_is_refused_of_the_inventory_and_of_an_export_alike(
    definition: Path, lambdas: list[dict[str, Any]]
) -> None:
    volume = {"source": "/srv/data", "destination": "/data", "group": "shadow"}
    run_as = {"uid": 1001, "gid": 6}
    message = refuse(functions=[function(devices=["/dev/mmcblk0"], volumes=[volume], run_as=run_as)])
    assert [line.partition(",")[0] for line in message.splitlines()] == [
        "- Resource /srv/data:/data has the GroupOwner 'shadow'",
        "- Resource /dev/mmcblk0 has the SourcePath '/dev/mmcblk0'",
        "- Function echo has the RunAs Gid 6",
    ]
    data = export()
    gpio = data["ResourceDefinition"]["Resources"][0]["ResourceDataContainer"]["LocalDeviceResourceData"]
    gpio.update(SourcePath="/dev/mmcblk0", GroupOwnerSetting={"GroupOwner": "disk"})
    message = take(definition, data, lambdas)["msg"]
    assert [line.partition(",")[0] for line in message.splitlines()] == [
        "- Resource gpio has the SourcePath '/dev/mmcblk0'",
        "- Resource gpio has the GroupOwner 'disk'",
    ]


@pytest.mark.parametrize(
    ("levels", "said"),
    [(100, "has more than 32 levels"), (100_000, "cannot be read as JSON (maximum recursion depth")],
)
def test_an_export_that_is_nested_too_deeply_is_refused(
    definition: Path, lambdas: list[dict[str, Any]], levels: int, said: str
) -> None:
    message = take(definition, '{"Name": ' + "[" * levels + "]" * levels + "}", lambdas)["msg"]
    assert said in message
    assert message.endswith(".")


def test_a_handler_of_the_export_stays(definition: Path, lambdas: list[dict[str, Any]]) -> None:
    data = export()
    data["FunctionDefinition"]["Functions"][0]["FunctionConfiguration"]["Executable"] = "lambda_function.other"
    assert unit(take(definition, data, lambdas), "greeter")["handler"] == "lambda_function.other"


def test_a_function_without_isolation_sees_the_device_as_it_is(definition: Path, lambdas: list[dict[str, Any]]) -> None:
    data = export()
    configuration = data["FunctionDefinition"]["Functions"][0]["FunctionConfiguration"]
    configuration["Environment"] = {"Execution": {"IsolationMode": "NoContainer"}}
    del configuration["MemorySize"]
    found = unit(take(definition, data, lambdas), "greeter")
    assert (found["isolated"], found["memory_kib"], found["user"]) == (False, 0, "ggc_user")


def test_an_export_is_found_in_the_users_home(
    definition: Path, lambdas: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(definition.parent))
    definition.write_text(json.dumps(export()))
    lambdas[0]["src"] = "~/greeter"
    assert not run(definition="~/group.json", functions=lambdas).get("failed")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "cannot be read as JSON ("),
        ("\udcff", "cannot be read as JSON ("),
        ("[]", "holds no JSON object with definitions: correct it."),
        ("null", "holds no JSON object with definitions: correct it."),
    ],
)
def test_what_is_no_json_object_is_one_sentence(definition: Path, text: str, told: str) -> None:
    definition.write_text(text, errors="surrogateescape")
    message = refuse(definition=str(definition))
    assert message.startswith(f"local_core_group_definition {definition} {told}")
    assert len(message.splitlines()) == 1


def test_an_export_that_is_not_there_is_one_sentence(definition: Path) -> None:
    message = refuse(definition=str(definition))
    assert message.startswith(f"local_core_group_definition {definition} cannot be read as JSON ([Errno 2]")


@pytest.mark.parametrize(
    "odd",
    [
        {"FunctionDefinition": 5},
        {"FunctionDefinition": []},
        {"FunctionDefinition": {"Functions": 5}},
        {"FunctionDefinition": {"Functions": {"a": 1}}},
        {"FunctionDefinition": {"Functions": [None]}},
        {"FunctionDefinition": {"Functions": [{"FunctionArn": None, "FunctionConfiguration": {}}]}},
        {"FunctionDefinition": {"Functions": [{"FunctionConfiguration": "x"}]}},
        {"FunctionDefinition": {"Definition": None}},
        {"FunctionDefinition": {"Definition": []}},
        {"Bulk": {}},
    ],
)
def test_an_export_of_another_shape_is_refused_by_the_local_cores_parser(
    definition: Path, lambdas: list[dict[str, Any]], odd: dict[str, Any]
) -> None:
    result = take(definition, export(**odd), lambdas)
    assert result["failed"]
    assert all(line.startswith("- ") and line.endswith(".") for line in result["msg"].splitlines())


# --- code


def check(folder: Path, handler: str = "main.handler", **more: Any) -> dict[str, Any]:
    return run(functions=[{"name": "echo", "src": str(folder), "handler": handler, **more}])


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    (folder / "package" / "inner").mkdir(parents=True)
    (folder / "main.py").write_text("def handler(event, context):\n    return event\n")
    for name in ("package/__init__.py", "package/inner/__init__.py", "package/inner/deep.py"):
        (folder / name).write_text("handler = None\n")
    return folder


@pytest.mark.parametrize("handler", ["main.handler", "package.handler", "package.inner.deep.handler"])
def test_a_handler_is_a_module_or_a_package_of_the_folder(code: Path, handler: str) -> None:
    assert not check(code, handler).get("failed")


@pytest.mark.parametrize("runtime", ["python3", "python3.7", "python3.8", "", None])
def test_python_3_is_served(code: Path, runtime: str | None) -> None:
    assert not check(code, runtime=runtime).get("failed")


def test_what_python_3_warns_of_is_served(code: Path) -> None:
    (code / "old.py").write_text('PATTERN = "\\d+"\nassert (PATTERN, "always true")\n')
    assert not check(code).get("failed")


def test_a_folder_named_as_a_module_is_no_code(code: Path) -> None:
    (code / "folder.py").mkdir()
    assert not check(code).get("failed")


def assert_sentence(result: dict[str, Any], start: str, end: str) -> None:
    assert result["failed"]
    assert "\n" not in result["msg"]
    assert result["msg"].startswith(start), result["msg"]
    assert result["msg"].endswith(end), result["msg"]


@pytest.mark.parametrize(
    "runtime", ["python2.7", "nodejs12.x", "java8", "arn:aws:greengrass:::runtime/function/executable"]
)
def test_another_runtime_is_refused(code: Path, runtime: str) -> None:
    assert_sentence(
        check(code, runtime=runtime),
        f"The function echo has the runtime {runtime}, and pi-fleet serves Python 3 alone: ",
        "port it, or leave it out of the group.",
    )


@pytest.mark.parametrize(("name", "handler"), [("other.py", "main.handler"), ("package/old.py", "package.handler")])
def test_python_2_code_is_refused_with_its_place(code: Path, name: str, handler: str) -> None:
    (code / name).write_text('import os\nprint "hello"\n')
    assert_sentence(
        check(code, handler),
        f"local_core_lambdas: the folder {code} of echo holds {name}, line 2, which is no Python 3 (",
        "): port it from Python 2, or mend it.",
    )


def test_packages_that_came_along_may_hold_files_for_other_pythons(code: Path) -> None:
    (code / "package" / "old.py").write_text('print "hello"\n')
    assert "failed" not in check(code)


@pytest.mark.parametrize(
    "damaged",
    [b"a = 1\0\n", "name = 'gr\xfcn'\n".encode("latin-1"), b"a = " + b"-" * 50_000 + b"1", b"a = b" + b".b" * 50_000],
    ids=["zero", "latin", "signs", "dots"],
)
def test_damaged_code_is_refused_likewise(code: Path, damaged: bytes) -> None:
    (code / "old.py").write_bytes(damaged)
    assert_sentence(
        check(code),
        f"local_core_lambdas: the folder {code} of echo holds old.py",
        "): port it from Python 2, or mend it.",
    )


@pytest.mark.parametrize("name", ["nowhere", "code/main.py"])
def test_a_folder_that_is_not_there_is_refused(code: Path, name: str) -> None:
    assert_sentence(
        check(code.parent / name),
        f"local_core_lambdas: the folder {code.parent / name} of echo is not there or no folder: ",
        "unpack the function's zip and name the folder.",
    )


@pytest.mark.parametrize("handler", ["mian.handler", "package.deep.handler", "main.inner.handler"])
def test_a_handler_whose_module_is_not_there_is_refused(code: Path, handler: str) -> None:
    assert_sentence(
        check(code, handler),
        f"local_core_lambdas: the folder {code} of echo holds no module for the handler {handler}: ",
        "correct handler or src.",
    )


def test_a_function_of_an_export_without_code_is_refused(definition: Path) -> None:
    data = export()
    data["FunctionDefinition"]["Functions"][0]["FunctionConfiguration"]["Executable"] = "lambda_function.handler"
    assert_sentence(
        take(definition, data, []),
        "The group's function greeter has no code: ",
        "name its folder in local_core_lambdas (name, src, handler).",
    )


def test_all_that_is_wrong_with_code_is_told_at_once(tmp_path: Path) -> None:
    message = refuse(functions=[function(name, src=str(tmp_path / name)) for name in ("a", "b")])
    assert "of a is not there" in message
    assert "of b is not there" in message


# --- the file that systemd reads a function's variables from


def read_environment_file(text: str) -> dict[str, str]:
    """Read a file as systemd does for EnvironmentFile=: parse_env_file_internal() in its src/basic/env-file.c."""
    found: dict[str, str] = {}
    characters = iter([*text, ""])  # the empty one is the end of the file
    character = next(characters)
    while character:
        if character in "#;":
            while character and character not in "\n\r":
                # A backslash would carry the comment on to the next line, on some of systemd's versions.
                assert character != "\\"
                character = next(characters)
        elif character in " \t\n\r":
            character = next(characters)
        else:
            key = ""
            while character and character not in "=\n\r":
                key, character = key + character, next(characters)
            if character == "=":
                found[key] = _read_value(characters)
            character = next(characters, "")
    return found


def _read_value(characters: Iterator[str]) -> str:
    """Return a value whose `=` was just read; what follows its line is left."""
    value, quote = "", ""
    for character in characters:
        if quote == "'":
            value, quote = (value, "") if character == "'" else (value + character, quote)
        elif quote == '"' and character == "\\":
            character = next(characters)
            # Of these four the backslash goes, and of an end of line both; else both stay.
            value += character if character in '"\\`$' else "" if character == "\n" else f"\\{character}"
        elif quote == '"':
            value, quote = (value, "") if character == '"' else (value + character, quote)
        elif character in "\n\r":
            return value
        elif character in "\"'":
            quote = character
        else:
            assert character in " \t", f"{character!r} beyond the quotes"
    assert not quote, "a quote that is not closed"
    return value


# A service of systemd 252 (Bookworm) and one of 257 (Trixie) were seen to get each of these as they stand here.
SEEN = {
    "A": 'a b"c\\d`e$f${HOME} %h %%',
    "B": "  lead and trail  ",
    "C": "line1\nline2\n",
    "D": "tab\there",
    "E": "carriage\r\nreturn",
    "F": "escape\x1b[0m",
    "G": "delete\x7f",
    "H": "",
    "I": "#no;comment",
    "J": "grün 🍺 \u0085 \u2028",
    "K": "a=b='c'",
    "L": "\\n\\t\\",
    "M": "\\\n",
    "N": "\n# x\nEVIL=1\n",
    "O": "'",
    "P": '"',
    "Q": "x\x01",
}


@given(st.dictionaries(names, texts, max_size=5))
@example(SEEN)
def test_systemd_reads_each_variable_as_it_was_meant(variables: Mapping[str, str]) -> None:
    assert read_environment_file(environment_file(variables)) == variables


def test_the_file_says_that_it_is_managed() -> None:
    assert environment_file({"A": "1", "B": 'say "hello" for $5'}) == (
        "# This file belongs to pi-fleet: the next run overwrites what is changed here.\n"
        'A="1"\n'
        'B="say \\"hello\\" for \\$5"\n'
    )
