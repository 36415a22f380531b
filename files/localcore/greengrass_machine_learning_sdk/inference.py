"""The client of the local inference services."""

from __future__ import annotations

import base64
import importlib
import json
import os
import re
from typing import Any

from greengrass_machine_learning_sdk.errors import GreengrassDependencyException, GreengrassInferenceException
from greengrass_machine_learning_sdk.streaming import StreamingBody

NEEDED_INTERFACE = (1, 2)
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9-]{1,62}")
OPTIONAL = {"ContentType": "Content-Type", "Accept": "Accept"}


class InferenceClient:
    """Asks inference services, each found by its algorithm and name alone."""

    def __init__(self) -> None:
        """Connect to the core, or raise GreengrassDependencyException if there is none that fits."""
        _check_interface(os.environ.get("GGC_MAX_INTERFACE_VERSION", ""))
        self._region = os.environ.get("AWS_REGION", "")
        if not self._region:
            raise GreengrassDependencyException("AWS_REGION is not set; run this as a Lambda of a core.")
        # Imported now and not above: these belong to the core, and the package must load without one.
        try:
            ipc = importlib.import_module("greengrass_ipc_python_sdk.ipc_client")
        except ImportError as error:
            raise GreengrassDependencyException(
                f"The core's modules cannot be imported ({error}); run this as a Lambda of a core."
            ) from error
        self._ipc: Any = ipc.IPCClient(endpoint="localhost")
        self._ipc_exception: type[Exception] = ipc.IPCException

    def invoke_inference_service(self, **kwargs: Any) -> dict[str, Any]:
        """Send one input to an inference service and wait for its predictions.

        Keywords: `AlgoType` and `ServiceName` name the service; `Body` is the raw input (bytes);
        `ContentType` and `Accept` are optional and passed on. Returns the service's reply, whose `Body` is a
        StreamingBody and whose `ContentType` says what is in it.

        Raises ValueError for a wrong argument, GreengrassInferenceException for an error that the service
        reports, GreengrassDependencyException for everything else.
        """
        arn, context = _address(self._region, kwargs)
        body = kwargs.get("Body")
        if not isinstance(body, bytes | bytearray):
            raise ValueError("Body is required and must be bytes, such as the content of a JPEG file.")
        encoded_context = base64.b64encode(json.dumps({"custom": context}).encode())
        try:
            invocation = self._ipc.post_work(arn, bytes(body), encoded_context, "RequestResponse")
            result = self._ipc.get_work_result(arn, invocation)
        except self._ipc_exception as error:
            raise GreengrassDependencyException(
                f"The inference service {arn} cannot be reached ({error}); check that it runs."
            ) from error
        if result.func_err:
            message = _error_message(result.payload)
            if result.func_err == "Handled":
                raise GreengrassInferenceException(f"The inference service {arn} refused this: {message}")
            raise GreengrassDependencyException(
                f"The inference service {arn} broke down ({result.func_err}): {message}"
            )
        return _parse_reply(arn, result.payload)


def _check_interface(version: str) -> None:
    match = re.fullmatch(r"(\d+)\.(\d+)(\.\d+)*", version)
    needed = ".".join(map(str, NEEDED_INTERFACE))
    if match is None:
        raise GreengrassDependencyException(
            f"GGC_MAX_INTERFACE_VERSION is {version!r} where {needed} or later is needed; run this as "
            "a Lambda of a core."
        )
    major, minor = int(match[1]), int(match[2])
    if major != NEEDED_INTERFACE[0] or minor < NEEDED_INTERFACE[1]:
        raise GreengrassDependencyException(
            f"GGC_MAX_INTERFACE_VERSION is {version} where {needed} or later of the same major version is "
            "needed; use a core that offers it."
        )


def _address(region: str, arguments: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Return the ARN of the service and the custom client context of the request."""
    if unknown := sorted(arguments.keys() - {"AlgoType", "ServiceName", "Body", *OPTIONAL}):
        raise ValueError(f"{', '.join(unknown)} is no argument of invoke_inference_service.")
    for argument in ("AlgoType", "ServiceName"):
        value = arguments.get(argument)
        if not (isinstance(value, str) and NAME.fullmatch(value)):
            raise ValueError(f"{argument} is required and must match {NAME.pattern}, unlike {value!r}.")
    context = {}
    for argument, header in OPTIONAL.items():
        value = arguments.get(argument)
        if not (value is None or isinstance(value, str)):
            raise ValueError(f"{argument} must be a string such as 'image/jpeg', not {value!r}.")
        if value is not None:
            context[header] = value
    name = f"GG-ML-INF-{arguments['AlgoType']}-{arguments['ServiceName']}"
    return f"arn:aws:lambda:{region}:aws:function:{name}", context


def _error_message(payload: bytes) -> str:
    """Return the `errorMessage` of an error's payload, or the payload itself where there is none."""
    text = payload.decode("utf-8", "replace")
    try:
        return str(json.loads(text)["errorMessage"])
    except (ValueError, TypeError, KeyError):
        return text


def _parse_reply(arn: str, payload: bytes) -> dict[str, Any]:
    try:
        reply: Any = json.loads(payload)
    except ValueError as error:
        raise GreengrassDependencyException(f"The reply of {arn} is no JSON ({error}); update it.") from error
    if not isinstance(reply, dict) or not isinstance(reply.get("Body"), str):
        raise GreengrassDependencyException(f"The reply of {arn} has no string Body; update the service.")
    return {**reply, "Body": StreamingBody(reply["Body"].encode(errors="replace"))}
