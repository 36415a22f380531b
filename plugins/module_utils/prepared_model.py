# SPDX-License-Identifier: Apache-2.0
"""An artifact that module model made earlier, perhaps elsewhere: what it is, by its hash, without numpy and onnx.

A device that converges itself takes models so: it converts nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.edge.pi_fleet.plugins.module_utils.kept import file_sha256
from ansible_collections.edge.pi_fleet.plugins.module_utils.model_source import ModelError

MODEL, DESCRIPTION = "model.onnx", "model.json"


@dataclass(frozen=True)
class Prepared:
    """What model.json says, which is true of the model.onnx beside it."""

    text: str
    sha256: str
    labels: tuple[str, ...]
    width: int
    height: int


def check_given(path: Path, sha256: str) -> None:
    """Raise ModelError unless what is given has the sha256: a file its own, an artifact's folder that of model.onnx."""
    file = path / MODEL if (path / DESCRIPTION).is_file() else path
    if not file.is_file():
        raise ModelError(
            f"{path} is no file, and image_classifier_model_sha256 is that of one: name a model.tar.gz, an ONNX file or"
            " the folder of a converted model, or leave image_classifier_model_sha256 out."
        )
    found = file_sha256(file)
    if found != sha256.lower():
        raise ModelError(
            f"{file} has the sha256 {found}, and image_classifier_model_sha256 is '{sha256}': fetch the model again, or"
            " correct image_classifier_model_sha256 if this is the right one."
        )


def read_prepared(folder: Path, labels: Sequence[str]) -> Prepared | None:
    """Return the artifact in a folder, None where there is none; raise ModelError where it is not whole.

    `labels` are the names of the classes that are expected of it, in their order; others raise ModelError as well.
    """
    if not (folder / MODEL).is_file() or not (folder / DESCRIPTION).is_file():
        return None
    try:
        text = (folder / DESCRIPTION).read_text()
        described = json.loads(text)
        found = Prepared(
            text=text,
            sha256=str(described["sha256"]),
            labels=tuple(map(str, described["labels"])),
            width=int(described["width"]),
            height=int(described["height"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ModelError(
            f"{folder}/{DESCRIPTION} is not what module model writes ({error}): convert the model again."
        ) from None
    sha256 = file_sha256(folder / MODEL)
    if sha256 != found.sha256:
        raise ModelError(
            f"{folder}/{MODEL} has the sha256 {sha256}, and {DESCRIPTION} says {found.sha256}: copy both again."
        )
    if list(found.labels) != list(labels):
        raise ModelError(
            f"{folder} was converted with the labels {', '.join(found.labels)}, and given are {', '.join(labels)}:"
            " correct image_classifier_labels, or convert the model again."
        )
    return found
