"""The secrets that functions may read, answered as V1's secrets manager did.

Values come from the router's credentials and stay in its memory: they are neither logged nor written anywhere.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping

from localcore.group import CURRENT, Group, Secret


class Secrets:
    """Answers functions that ask for secrets."""

    def __init__(self, group: Group, values: Mapping[str, Mapping[str, str]], created: float) -> None:
        """Serve the group's secrets with the values, by friendly name; `created` is when they were set (epoch)."""
        self._granted = {
            function.name: {id_ for id_ in function.access if isinstance(group.resources[id_], Secret)}
            for function in group.functions
        }
        self._secrets = [resource for resource in group.resources.values() if isinstance(resource, Secret)]
        self._values = values
        self._created = int(created * 1000)

    def reply(self, caller: str, payload: bytes) -> bytes:
        """Answer the request `{"SecretId", "VersionStage"?}` of the function named `caller`.

        The answer is what the SDK's SecretsManager.py reads: the secret, or `{"Status", "Message"}`.
        """
        return json.dumps(self._reply(caller, payload)).encode()

    def _reply(self, caller: str, payload: bytes) -> dict[str, object]:
        try:
            request = json.loads(payload)
        except (ValueError, RecursionError):
            request = None
        wanted = request.get("SecretId") if isinstance(request, dict) else None
        if not isinstance(wanted, str):
            return _error(400, "The request must be JSON with a SecretId, the name or ARN of a secret.")
        found = next((secret for secret in self._secrets if wanted in (secret.name, secret.arn)), None)
        if found is None:
            return _error(404, f"The group has no secret {wanted[:200]!r}; add it to the resources.")
        if found.id not in self._granted.get(caller, ()):
            return _error(403, f"{caller} may not read {found.name}; add it to its ResourceAccessPolicies.")
        stage = request.get("VersionStage") or CURRENT
        if stage != CURRENT or request.get("VersionId"):
            return _error(404, f"Of {found.name} there is {CURRENT} alone; ask for no other stage or version.")
        value = self._values[found.name]
        return {
            "ARN": found.arn,
            "Name": found.name,
            "VersionId": _version(found.arn, value),
            **value,
            "VersionStages": [CURRENT],
            "CreatedDate": self._created,
        }


def _version(arn: str, value: Mapping[str, str]) -> str:
    """Return an id that changes with the value, of the shape of AWS's."""
    digest = hashlib.sha256(json.dumps([arn, dict(value)], sort_keys=True).encode()).digest()
    return str(uuid.UUID(bytes=digest[:16]))


def _error(status: int, message: str) -> dict[str, object]:
    return {"Status": status, "Message": message}
