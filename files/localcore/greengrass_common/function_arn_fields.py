"""The parts of a Lambda function's ARN."""

from __future__ import annotations

import re

# The core's own functions (GGRouter ...) have no region and no account; inference services have the account "aws".
FUNCTION_ARN = re.compile(
    r"(?P<unqualified>arn:aws[a-z-]*:lambda:[a-z0-9-]*:(?:\d{12}|aws)?:function:[a-zA-Z0-9_-]+)"
    r"(?::(?P<qualifier>\$LATEST|[a-zA-Z0-9_-]+))?"
)


class FunctionArnFields:
    """An ARN with and without its qualifier (a version or an alias; '' when there is none)."""

    def __init__(self, function_arn_string: str) -> None:
        """Take the ARN apart; ValueError if it is none of a Lambda function."""
        match = FUNCTION_ARN.fullmatch(function_arn_string)
        if match is None:
            raise ValueError(
                f"{function_arn_string!r} is no ARN of a Lambda function; write it as "
                "arn:aws:lambda:REGION:ACCOUNT:function:NAME or with :VERSION at the end."
            )
        self.unqualified_arn: str = match["unqualified"]
        self.qualifier: str = match["qualifier"] or ""

    @staticmethod
    def build_function_arn(unqualified_arn: str, qualifier: str | None) -> str:
        """Return the ARN with the qualifier, or as it is where there is none."""
        return f"{unqualified_arn}:{qualifier}" if qualifier else unqualified_arn
