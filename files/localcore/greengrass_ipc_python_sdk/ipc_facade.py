"""Requests to services of the core, in the form that AWS's own Machine Learning SDK asks for.

Many a Lambda of Greengrass V1 brings that SDK along in its folder.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from greengrass_ipc_python_sdk.ipc_client import IPCClient, IPCException, Payload


# Lambdas catch it by this name, hence no suffix Error.
class GreengrassRuntimeException(Exception):  # noqa: N818
    """The service, or what leads to it, is missing or broke down."""


class GreengrassServiceMessage(NamedTuple):
    """A client context (base64 of JSON, or empty) and a payload."""

    context: bytes | str
    payload: Payload


class GreengrassServiceCallOutput(NamedTuple):
    """The service's response, or what it said when it refused the request (a Handled error)."""

    response: GreengrassServiceMessage | None
    error_response: str | None


class GreengrassServiceClient:
    """Asks services by their address, an ARN."""

    def __init__(self) -> None:
        """Connect to the core of this function."""
        self._ipc = IPCClient()

    def call(self, address: str, message: GreengrassServiceMessage) -> GreengrassServiceCallOutput:
        """Send a request and wait for what comes of it; GreengrassRuntimeException for all but a Handled error."""
        try:
            invocation_id = self._ipc.post_work(address, message.payload, message.context, "RequestResponse")
            result = self._ipc.get_work_result(address, invocation_id)
        except IPCException as error:
            raise GreengrassRuntimeException(f"{address} cannot be reached ({error}).") from error
        if not result.func_err:
            return GreengrassServiceCallOutput(GreengrassServiceMessage("", result.payload), None)
        reason = _error_message(result.payload)
        if result.func_err != "Handled":
            raise GreengrassRuntimeException(f"{address} broke down ({result.func_err}): {reason}")
        return GreengrassServiceCallOutput(None, reason or "Handled")


def _error_message(payload: bytes) -> str:
    """Return the `errorMessage` of an error's payload, or the payload itself where there is none."""
    text = payload.decode("utf-8", "replace")
    try:
        return str(json.loads(text)["errorMessage"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return text
