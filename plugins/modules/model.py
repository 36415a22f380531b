#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Convert an image classification model into the artifact that devices load."""

from __future__ import annotations

DOCUMENTATION = r"""
module: model
short_description: Convert an image classification model into the artifact that devices load
version_added: 0.1.0
description:
  - Turns what SageMaker's image classification wrote, or an ONNX file, into a folder with C(model.onnx) and
    C(model.json), which describes it. MXNet is not needed.
  - Runs on the control node, which prepares what devices only receive; needs numpy and onnx there.
  - Converts once. What stands in O(dest) is compared with the inputs and with its own sha256, and made again only if
    one of them differs.
options:
  src:
    description:
      - A C(model.tar.gz) of SageMaker's image classification, a folder with its files, or a file C(*.onnx).
      - Or a folder that this module made earlier. It is taken as it is, once its C(model.onnx) is seen to have the
        sha256 that C(model.json) names, and the labels to be those given. That needs neither numpy nor onnx, and writes
        nothing.
      - Of several C(.params) files the one of the highest epoch is taken.
      - An ONNX file is of opset 10 at most, takes float numbers of 1 x 3 x height x width (red, green, blue; 0 to 255)
        and makes 1 x classes. If it does not end in a softmax, one is added.
    type: path
    required: true
  dest:
    description: Folder for the artifact; made if it is not there. A O(src) that is one already is not copied.
    type: path
    required: true
  labels:
    description: Names of the classes, one for each output of the model, in the order of the training.
    type: list
    elements: str
    required: true
  source:
    description:
      - Where the model is from, in words, for whoever reads C(model.json). By default the name of O(src), or what a
        model of C(make model) says of itself.
    type: str
  sha256:
    description:
      - What the sha256 of O(src) must be, or it is not read; of a folder that this module made earlier, that of its
        C(model.onnx). Another folder has none, and is refused. Empty takes any.
    type: str
    default: ""
author:
  - pi-fleet contributors (@pi-fleet)
attributes:
  check_mode:
    description: Reads and converts in memory, says whether the artifact would be written, and writes nothing.
    support: full
  diff_mode:
    description: Shows C(model.json) before and after.
    support: full
"""

EXAMPLES = r"""
- name: Convert what SageMaker trained
  edge.pi_fleet.model:
    src: ~/Downloads/model.tar.gz
    dest: ~/.cache/pi-fleet/models/beverages
    labels: [beer-mug, clutter, coffee-mug, soda-can, wine-bottle]
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
dest:
  description: Folder of the artifact; that of O(src) where it was made earlier.
  type: str
  returned: success
sha256:
  description: The sha256 of C(model.onnx).
  type: str
  returned: success
labels:
  description: Names of the classes, in the order of the outputs.
  type: list
  elements: str
  returned: success
width:
  description: Width of the picture that the model takes, in pixels.
  type: int
  returned: success
height:
  description: Its height.
  type: int
  returned: success
"""

import sys
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edge.pi_fleet.plugins.module_utils.model_source import ModelError, read_source
from ansible_collections.edge.pi_fleet.plugins.module_utils.prepared_model import (
    DESCRIPTION,
    check_given,
    read_prepared,
)

try:
    from ansible_collections.edge.pi_fleet.plugins.module_utils import model as artifacts
except ImportError as error:
    missing: str | None = error.name
else:
    missing = None


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "src": {"type": "path", "required": True},
            "dest": {"type": "path", "required": True},
            "labels": {"type": "list", "elements": "str", "required": True},
            "source": {"type": "str"},
            "sha256": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    src, dest, labels = Path(module.params["src"]), Path(module.params["dest"]), module.params["labels"]
    try:
        if module.params["sha256"]:
            check_given(src, module.params["sha256"])
        prepared = read_prepared(src, labels)
    except (ModelError, OSError) as error:
        module.fail_json(msg=str(error))
    if prepared:
        module.exit_json(
            changed=False,
            dest=str(src),
            sha256=prepared.sha256,
            labels=list(prepared.labels),
            width=prepared.width,
            height=prepared.height,
            diff={"before": prepared.text, "after": prepared.text},
        )
    if missing:
        module.fail_json(
            msg=f"Python at {sys.executable} has no {missing}: run 'make tools' and delegate to localhost, or give a"
            " folder that this module made there."
        )
    try:
        given = read_source(src)
        source = module.params["source"] or artifacts.source_of(given)
        inputs = artifacts.inputs_hash(given.digest, labels, source)
        before = artifacts.text_found(dest)
        found = artifacts.find_artifact(dest, labels, source, inputs)
        artifact = found or artifacts.make_artifact(given, labels, source)
        if found is None and not module.check_mode:
            artifact.write(dest)
    except (ModelError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=found is None,
        dest=str(dest),
        sha256=artifact.sha256,
        labels=list(artifact.labels),
        width=artifact.network.width,
        height=artifact.network.height,
        diff={
            "before_header": f"{dest}/{DESCRIPTION}",
            "after_header": f"{dest}/{DESCRIPTION}",
            "before": before,
            "after": artifact.text,
        },
    )


if __name__ == "__main__":
    main()
