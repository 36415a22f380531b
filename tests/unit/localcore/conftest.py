"""A group as V1 exported it, with one of everything that is served."""

from __future__ import annotations

import json
from typing import Any

import pytest
from localcore.group import Group, parse

ARN = "arn:aws:lambda:us-east-1:000000000000:function"


def _function(id_: str, name: str, *, pinned: bool = True, timeout: int = 10, **environment: Any) -> dict[str, Any]:
    return {
        "Id": id_,
        "FunctionArn": f"{ARN}:{name}:1",
        "FunctionConfiguration": {
            "Pinned": pinned,
            "MemorySize": 131072,
            "Timeout": timeout,
            "EncodingType": "json",
            "Executable": f"{name}.function_handler",
            "Environment": environment,
        },
    }


def _definition() -> dict[str, Any]:
    owner = {"AutoAddGroupOwner": True}
    secret_arn = "arn:aws:secretsmanager:us-east-1:000000000000:secret:greengrass-Key-AbCdEf"
    connector_arn = "arn:aws:greengrass:us-east-1::/connectors/ImageClassificationARMv7/versions/2"
    return {
        "Name": "pi-1",
        "Core": {"ThingName": "pi-1"},
        "FunctionDefinition": {
            "DefaultConfig": {"Execution": {"IsolationMode": "GreengrassContainer"}},
            "Functions": [
                _function(
                    "classifier",
                    "beverage_classifier",
                    Variables={"KEEP_BELOW": "0.6"},
                    AccessSysfs=False,
                    Execution={"RunAs": {"Uid": 1001, "Gid": 1002}},
                    ResourceAccessPolicies=[
                        {"ResourceId": "pictures", "Permission": "rw"},
                        {"ResourceId": "camera", "Permission": "rw"},
                        {"ResourceId": "key"},
                    ],
                ),
                _function("helper", "helper", pinned=False, timeout=3),
            ],
        },
        "ConnectorDefinition": {
            "Connectors": [
                {
                    "Id": "inference",
                    "ConnectorArn": connector_arn,
                    "Parameters": {
                        "MLModelDestinationPath": "/model",
                        "MLModelResourceId": "model",
                        "MLModelSageMakerJobArn": "arn:aws:sagemaker:us-east-1:000000000000:training-job/drinks",
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
                    "Id": "pictures",
                    "Name": "raw_field_data",
                    "ResourceDataContainer": {
                        "LocalVolumeResourceData": {
                            "SourcePath": "/home/ggc_user/raw_field_data",
                            "DestinationPath": "/raw_field_data",
                            "GroupOwnerSetting": {"AutoAddGroupOwner": False, "GroupOwner": "ggc_group"},
                        }
                    },
                },
                {
                    "Id": "camera",
                    "Name": "vchiq",
                    "ResourceDataContainer": {
                        "LocalDeviceResourceData": {"SourcePath": "/dev/vchiq", "GroupOwnerSetting": owner}
                    },
                },
                {
                    "Id": "key",
                    "Name": "api_key",
                    "ResourceDataContainer": {"SecretsManagerSecretResourceData": {"ARN": secret_arn}},
                },
                {
                    "Id": "model",
                    "Name": "drinks",
                    "ResourceDataContainer": {
                        "SageMakerMachineLearningModelResourceData": {
                            "DestinationPath": "/model",
                            "SageMakerJobArn": "arn:aws:sagemaker:us-east-1:000000000000:training-job/drinks",
                        }
                    },
                },
            ]
        },
        "SubscriptionDefinition": {
            "Subscriptions": [
                {"Id": "ask", "Source": "cloud", "Subject": "/request/#", "Target": f"{ARN}:beverage_classifier:1"},
                {"Id": "answer", "Source": f"{ARN}:beverage_classifier:1", "Subject": "/response/#", "Target": "cloud"},
                {"Id": "log", "Source": f"{ARN}:beverage_classifier:1", "Subject": "/response/+/x", "Target": "cloud"},
                {
                    "Id": "help",
                    "Source": f"{ARN}:beverage_classifier:1",
                    "Subject": "/+/both",
                    "Target": f"{ARN}:helper:1",
                },
                {"Id": "both", "Source": f"{ARN}:beverage_classifier:1", "Subject": "/+/both", "Target": "cloud"},
                {"Id": "set", "Source": "cloud", "Subject": "$aws/things/+/shadow/#", "Target": "GGShadowService"},
                {"Id": "tell", "Source": "GGShadowService", "Subject": "$aws/things/#", "Target": "cloud"},
                {"Id": "raw", "Source": "cloud", "Subject": "/infer", "Target": connector_arn},
            ]
        },
    }


@pytest.fixture(scope="session")
def exported() -> str:
    """Return the group as JSON."""
    return json.dumps(_definition())


@pytest.fixture
def definition(exported: str) -> dict[str, Any]:
    """Return the parsed JSON, for a test to spoil."""
    definition: dict[str, Any] = json.loads(exported)
    return definition


@pytest.fixture
def group(definition: dict[str, Any]) -> Group:
    """Return the group."""
    return parse(definition)
