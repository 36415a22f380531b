"""The two exceptions of the V1 SDK's contract."""

from __future__ import annotations


# Lambdas catch both by these names, hence no common base and no suffix Error.
class GreengrassInferenceException(Exception):  # noqa: N818
    """The inference service handled the request and answered with an error."""


class GreengrassDependencyException(Exception):  # noqa: N818
    """The inference service, or what leads to it, is missing, does not fit or broke down."""
