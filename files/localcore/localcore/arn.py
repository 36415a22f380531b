"""ARNs of Lambda functions: `arn:aws:lambda:REGION:ACCOUNT:function:NAME[:QUALIFIER]`.

Region and account are empty in those of the core's own services; the account of an inference service is `aws`.
"""

from __future__ import annotations

import re

from localcore.errors import LocalCoreError

ROUTER = "arn:aws:lambda:::function:GGRouter"
SHADOW = "arn:aws:lambda:::function:GGShadowService"
SECRETS = "arn:aws:lambda:::function:GGSecretManager:1"

FUNCTION = re.compile(
    r"(?P<unqualified>arn:aws[a-z-]*:lambda:(?P<region>[a-z0-9-]*):(?P<account>[0-9]{12}|aws|)"
    r":function:(?P<name>[A-Za-z0-9_-]{1,128}))(:(?P<qualifier>[A-Za-z0-9_$-]{1,128}))?"
)


def function_name(arn: str) -> str:
    """Return the name in the ARN of a function, or raise LocalCoreError if it is none."""
    return _parse(arn)["name"]


def unqualified(arn: str) -> str:
    """Return the ARN of a function without its version or alias."""
    return _parse(arn)["unqualified"]


def region(arn: str) -> str:
    """Return the region in the ARN of a function, '' where it has none."""
    return _parse(arn)["region"]


def _parse(arn: str) -> re.Match[str]:
    match = FUNCTION.fullmatch(arn)
    if match is None:
        raise LocalCoreError(
            f"{arn[:200]!r} is no ARN of a Lambda function; write arn:aws:lambda:REGION:ACCOUNT:function:NAME:VERSION."
        )
    return match
