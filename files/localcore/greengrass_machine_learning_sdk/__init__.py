"""The Machine Learning SDK of AWS IoT Greengrass V1 (1.1.0), written anew for pi-fleet.

Lambdas call `client('inference')` and get the predictions of a local inference service. The package can be
imported anywhere; a client needs the modules that a V1 core, or the local core, puts beside it.
"""

from __future__ import annotations

from greengrass_machine_learning_sdk.errors import GreengrassDependencyException, GreengrassInferenceException
from greengrass_machine_learning_sdk.inference import InferenceClient
from greengrass_machine_learning_sdk.streaming import StreamingBody

__all__ = ["GreengrassDependencyException", "GreengrassInferenceException", "StreamingBody", "client"]


def client(client_type: str) -> InferenceClient:
    """Return a client of the given type, of which 'inference' is the only one that pi-fleet serves."""
    if client_type == "inference":
        return InferenceClient()
    if client_type == "feedback":
        raise GreengrassDependencyException(
            "pi-fleet does not serve the 'feedback' client: field data stays on the device; use 'inference'."
        )
    raise ValueError(f"Client type {client_type!r} is not known; use 'inference'.")
