# SPDX-License-Identifier: Apache-2.0
"""The group of a device, on the control node: composed from the inventory in the shape of V1's API, or taken from a
user's own export; and what units make of it.

What V1's shape means, and what of it is not served, is files/localcore/localcore/group.py's to say.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.parsing.convert_bool import boolean

if TYPE_CHECKING:
    from localcore.group import Connector, Function, Group

REGION = "us-east-1"
ACCOUNT = "000000000000"
"""Where nothing is in a cloud, an ARN still has these fields."""

CAMERA_NODES = ("/dev/vcsm", "/dev/vcsm-cma", "/dev/vchiq", "/dev/video")
"""Who is granted a node of a camera, as the article's Lambda is, gets those of today's camera stacks."""
CAMERA_DEVICES = ("char-video4linux rw", "char-media rw", "char-dma_heap rw", "char-drm rw")
SERVICE_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9-]{1,62}")
FIELD_DATA = "/home/ggc_user/raw_field_data"


class InventoryError(Exception):
    """What in the inventory cannot be served, a sentence each."""


def function_arn(name: str) -> str:
    """Return the ARN of a function of the inventory."""
    return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}:1"


def connector_arn() -> str:
    """Return the ARN of V1's connector for image classification on a Pi."""
    return f"arn:aws:greengrass:{REGION}::/connectors/ImageClassificationARMv7/versions/2"


def compose(
    device: str,
    functions: Sequence[Mapping[str, Any]],
    connectors: Sequence[Mapping[str, Any]],
    subscriptions: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    """Return the group that the inventory describes, in the shape of V1's definitions.

    Raises InventoryError for a service's name that no Lambda could ask for.
    """
    for connector in connectors:
        if not SERVICE_NAME.fullmatch(connector["service"]):
            raise InventoryError(
                f"image_classifier_service_name is '{connector['service']}', not a name of letters, digits and '-': "
                "correct it in the inventory."
            )
    resources: dict[str, dict[str, Any]] = {}
    names = {function["name"]: function_arn(function["name"]) for function in functions}
    return {
        "Name": device,
        "Core": {"ThingName": device},
        "FunctionDefinition": {"Functions": [_function(each, resources) for each in functions]},
        "ConnectorDefinition": {"Connectors": [_connector(each, resources) for each in connectors]},
        "SubscriptionDefinition": {
            "Subscriptions": [
                {
                    "Id": f"subscription-{number}",
                    "Source": names.get(each["source"], each["source"]),
                    "Subject": each["subject"],
                    "Target": names.get(each["target"], each["target"]),
                }
                for number, each in enumerate(subscriptions, 1)
            ]
        },
        "ResourceDefinition": {"Resources": list(resources.values())},
    }


def _function(given: Mapping[str, Any], resources: dict[str, dict[str, Any]]) -> dict[str, Any]:
    policies = []
    for volume in given.get("volumes") or []:
        owner = _owner(volume["source"], volume.get("group"))
        data = {"SourcePath": volume["source"], "DestinationPath": volume["destination"], "GroupOwnerSetting": owner}
        key = f"{volume['source']}:{volume['destination']}"
        policies.append(_policy(resources, key, "LocalVolumeResourceData", data, volume))
    for node in given.get("devices") or []:
        data = {"SourcePath": node, "GroupOwnerSetting": _owner(node, None)}
        policies.append(_policy(resources, node, "LocalDeviceResourceData", data, {"permission": "rw"}))
    for secret in given.get("secrets") or []:
        # V1's ARNs end in six characters that are no part of the name.
        data = {"ARN": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{secret}-000000"}
        policies.append(_policy(resources, f"secret:{secret}", "SecretsManagerSecretResourceData", data, {}))
    environment: dict[str, Any] = {
        "Variables": {name: str(value) for name, value in (given.get("variables") or {}).items()},
        "ResourceAccessPolicies": policies,
    }
    if given.get("run_as"):
        environment["Execution"] = {
            "IsolationMode": "GreengrassContainer",
            "RunAs": {"Uid": int(given["run_as"]["uid"]), "Gid": int(given["run_as"]["gid"])},
        }
    return {
        "Id": given["name"],
        "FunctionArn": function_arn(given["name"]),
        "FunctionConfiguration": {
            "Executable": given["handler"],
            "Pinned": given.get("pinned", True),
            "MemorySize": int(given.get("memory", 128)) * 1024,
            "Timeout": int(given.get("timeout", 10)),
            "EncodingType": given.get("encoding", "json"),
            "Environment": environment,
        },
    }


def _owner(source: str, group: str | None) -> dict[str, Any]:
    """Return who, beside its user, may use a resource: a group by name, or the one that is known to own it."""
    return (
        {"AutoAddGroupOwner": False, "GroupOwner": group}
        if group
        else {"AutoAddGroupOwner": _known_owner(source) != ""}
    )


def _known_owner(source: str) -> str:
    """Return the group that owns a path on every device, or nothing where only the device could tell."""
    return "video" if source.startswith(CAMERA_NODES) else "ggc_group" if source == FIELD_DATA else ""


def _policy(
    resources: dict[str, dict[str, Any]], key: str, kind: str, data: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, str]:
    """Add a resource, once for all functions that share it, and return a function's right to it."""
    resources[key] = {"Id": key, "Name": key, "ResourceDataContainer": {kind: dict(data)}}
    return {"ResourceId": key, "Permission": given.get("permission", "ro")}


def _connector(given: Mapping[str, Any], resources: dict[str, dict[str, Any]]) -> dict[str, Any]:
    service = given["service"]
    path = f"/opt/pi-fleet/model/{service}/current"
    model = {"DestinationPath": path, "SageMakerJobArn": f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:training-job/{service}"}
    data = {"SageMakerMachineLearningModelResourceData": model}
    resources[f"model-{service}"] = {"Id": f"model-{service}", "Name": service, "ResourceDataContainer": data}
    return {
        "Id": service,
        "ConnectorArn": connector_arn(),
        "Parameters": {
            "MLModelDestinationPath": path,
            "MLModelResourceId": f"model-{service}",
            "MLModelSageMakerJobArn": model["SageMakerJobArn"],
            "LocalInferenceServiceName": service,
            "LocalInferenceServiceTimeoutSeconds": str(given["timeout"]),
            "LocalInferenceServiceMemoryLimitKB": str(int(given["memory"]) * 1024),
        },
    }


def take(path: Path, functions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a user's own group, with the handlers that V1 kept in the cloud from the inventory.

    Raises InventoryError if it is not there or no JSON object.
    """
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InventoryError(
            f"local_core_group_definition {path} cannot be read as JSON ({error}): correct it."
        ) from None
    if not isinstance(data, dict):
        raise InventoryError(f"local_core_group_definition {path} holds no JSON object with definitions: correct it.")
    handlers = {each["name"]: each["handler"] for each in functions if each.get("handler")}
    definition = data.get("FunctionDefinition")
    definition = definition.get("Definition", definition) if isinstance(definition, dict) else {}
    found = definition.get("Functions") if isinstance(definition, dict) else []
    # What has another shape is for the local core's parser to refuse.
    for function in found if isinstance(found, list) else []:
        if isinstance(function, dict) and isinstance(function.get("FunctionConfiguration"), dict):
            name = str(function.get("FunctionArn", "")).partition(":function:")[2].partition(":")[0]
            if name in handlers and not function["FunctionConfiguration"].get("Executable"):
                function["FunctionConfiguration"]["Executable"] = handlers[name]
    return data


def check_inventory(
    group: Group,
    functions: Sequence[Mapping[str, Any]],
    connectors: Sequence[Mapping[str, Any]],
    secrets: Sequence[str],
) -> list[str]:
    """Return a sentence for each name that the group and the inventory do not agree on."""
    names = [each["name"] for each in functions]
    problems = [
        f"Two functions of the inventory have the name {name}: rename one in local_core_lambdas."
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    services = [each["service"] for each in connectors]
    problems += [
        f"The group's connector {each.service} has no model: set image_classifier_service_name to it, or leave it out "
        "of the group; a device has one."
        for each in group.connectors
        if each.service not in services
    ]
    granted: list[Any] = [group.resources[each] for function in group.functions for each in function.access]
    # Of resources only secrets have ARNs.
    wanted = {resource.name for resource in granted if hasattr(resource, "arn")}
    problems += [
        f"The group has the secret {name}, and local_core_secrets does not: add it to the inventory's vault."
        for name in sorted(wanted - set(secrets))
    ]
    return problems


def check_resources(group: Group) -> list[str]:
    """Return a sentence for each resource whose owner or use the control node cannot know or serve."""
    problems = []
    for function in group.functions:
        for identifier in function.access:
            resource: Any = group.resources[identifier]
            source = getattr(resource, "source", None)
            if source is None and getattr(resource, "destination", None):
                problems.append(
                    f"The function {function.name} is given the model {resource.name}, and pi-fleet gives models to "
                    "connectors alone: have it ask a connector, or put the model into its folder."
                )
            elif source and getattr(resource, "auto_group", False) and not _known_owner(source):
                problems.append(
                    f"The resource {resource.name} asks for the group that owns {source}, which only the device knows: "
                    "set AutoAddGroupOwner to false and GroupOwner to that group."
                )
    return list(dict.fromkeys(problems))


def check_code(group: Group, functions: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each function that has no code here, or code that no Python 3 runs."""
    known = {each["name"]: each for each in functions}
    problems = []
    for function in group.functions:
        given = known.get(function.name)
        if given is None:
            problems.append(
                f"The group's function {function.name} has no code: name its folder in local_core_lambdas "
                "(name, src, handler)."
            )
            continue
        runtime = str(given.get("runtime") or "python3")
        if not runtime.startswith("python3"):
            problems.append(
                f"The function {function.name} has the runtime {runtime}, and pi-fleet serves Python 3 alone: port it, "
                "or leave it out of the group."
            )
        elif given.get("src"):
            problems += _check_sources(function.name, Path(given["src"]).expanduser(), function.handler)
    return problems


def _check_sources(name: str, folder: Path, handler: str) -> list[str]:
    where = f"local_core_lambdas: the folder {folder} of {name}"
    if not folder.is_dir():
        return [f"{where} is not there or no folder: unpack the function's zip and name the folder."]
    module = folder.joinpath(*handler.rpartition(".")[0].split("."))
    if not module.with_suffix(".py").is_file() and not (module / "__init__.py").is_file():
        return [f"{where} holds no module for the handler {handler}: correct handler or src."]
    # The function's own code: packages that came along may hold files for other Pythons, which are never imported.
    own = [*folder.glob("*.py"), *(module.rglob("*.py") if module.is_dir() else [])]
    for path in sorted(path for path in own if path.is_file()):
        try:
            # What Python 3 merely warns of runs.
            with warnings.catch_warnings(action="ignore"):
                compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            # What is nested too deeply for the compiler has no words at times.
            why = error.args[0] if error.args else type(error).__name__
            line = getattr(error, "lineno", None)
            at = f"{path.relative_to(folder)}" + (f", line {line}," if line else "")
            return [f"{where} holds {at} which is no Python 3 ({why}): port it from Python 2, or mend it."]
    return []


def describe_functions(group: Group, functions: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return, for each function by its name, what its unit needs; V1's definitions know nothing of a network."""
    network = {each["name"]: boolean(each.get("network") or False) for each in functions}
    return {
        function.name: {**_describe(group, function), "network": network.get(function.name, False)}
        for function in group.functions
    }


def _describe(group: Group, function: Function) -> dict[str, Any]:
    binds: dict[str, list[str]] = {"ro": [], "rw": []}
    devices: list[str] = []
    groups: list[str] = []
    for identifier, permission in function.access.items():
        resource: Any = group.resources[identifier]
        source, destination = getattr(resource, "source", ""), getattr(resource, "destination", "")
        camera = not destination and source.startswith(CAMERA_NODES)
        if source and destination:
            binds[permission].append(f"{source}:{destination}")
        elif source:
            devices += CAMERA_DEVICES if camera else []
            devices.append(f"{source} {'rw' if permission == 'rw' else 'r'}")
        if getattr(resource, "auto_group", False):
            groups.append(_known_owner(source))
        groups.append(getattr(resource, "group_owner", None) or "")
    return {
        "name": function.name,
        "handler": function.handler,
        "pinned": function.pinned,
        "unit": f"lambda@{function.name}.service",
        "starts": f"lambda@{function.name}.{'service' if function.pinned else 'path'}",
        "run_as": function.run_as is not None,
        "user": str(function.run_as.uid) if function.run_as else "ggc_user",
        "group": str(function.run_as.gid) if function.run_as else "ggc_group",
        "groups": sorted({owner for owner in groups if owner}),
        "timeout": function.timeout,
        "memory_kib": function.memory_kib,
        "isolated": function.isolated,
        "access_sysfs": function.access_sysfs,
        "binds": binds,
        "devices": list(dict.fromkeys(devices)),
        "environment": _environment(group, function),
        "settings": environment_file(function.variables),
    }


def _environment(group: Group, function: Function) -> dict[str, str]:
    """Return the environment that V1 gave a function, and what our worker takes from it."""
    region = function.arn.split(":")[3] or REGION
    return {
        "MY_FUNCTION_ARN": function.arn,
        "ROUTER_FUNCTION_ARN": "arn:aws:lambda:::function:GGRouter",
        "SHADOW_FUNCTION_ARN": "arn:aws:lambda:::function:GGShadowService",
        "SECRETS_MANAGER_FUNCTION_ARN": "arn:aws:lambda:::function:GGSecretManager:1",
        "GG_DAEMON_PORT": "8000",
        "GGC_MAX_INTERFACE_VERSION": "1.5",
        "GGC_VERSION": "1.11.6",
        "ENCODING_TYPE": function.encoding,
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        "GROUP_ID": group.name,
        "AWS_IOT_THING_NAME": group.thing,
        "LAMBDA_HANDLER": function.handler,
        "LAMBDA_TIMEOUT": f"{function.timeout:g}",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_kib // 1024),
    }


def describe_connectors(group: Group) -> dict[str, dict[str, Any]]:
    """Return, for each connector by its service's name, what its unit needs."""
    return {connector.service: _describe_connector(connector) for connector in group.connectors}


def _describe_connector(connector: Connector) -> dict[str, Any]:
    return {
        "service": connector.service,
        "function": connector.function_name,
        "unit": f"connector@{connector.service}.service",
        "memory_kib": connector.memory_kib,
        "environment": {
            "MY_FUNCTION_ARN": connector.function_arn,
            "GG_DAEMON_PORT": "8000",
            "CONNECTOR_TIMEOUT": f"{connector.timeout:g}",
            "CONNECTOR_MODEL": f"/opt/pi-fleet/model/{connector.service}/current",
        },
    }


def environment_file(variables: Mapping[str, str]) -> str:
    """Return variables in the words of systemd's EnvironmentFile."""
    lines = ["# This file belongs to pi-fleet: the next run overwrites what is changed here.\n"]
    for name, value in variables.items():
        escaped = "".join(f"\\{letter}" if letter in '"\\`$' else letter for letter in value)
        lines.append(f'{name}="{escaped}"\n')
    return "".join(lines)


def cloud_topics(group: Group) -> dict[str, list[str]]:
    """Return the topics of subscriptions that reach the cloud: requests from there, responses to it."""
    return {
        "requests": _unique(each.subject for each in group.subscriptions if each.source == "cloud"),
        "responses": _unique(each.subject for each in group.subscriptions if each.target == "cloud"),
    }


def _unique(topics: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(topics))
