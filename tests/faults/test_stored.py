"""What is stored on a device and is damaged there: its model, and the record of what it was made."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import unwrapped
from tests.faults.conftest import Pi

RECORD = "/var/lib/pi-fleet/state.json"
MODEL = "/opt/pi-fleet/model/beverage-classifier/current/model.onnx"
FLIP = f"""
path = Path({MODEL!r}).resolve()
stat = path.stat()
content = bytearray(path.read_bytes())
content[len(content) // 2] ^= 1
path.chmod(0o644)
path.write_bytes(content)
path.chmod(stat.st_mode & 0o7777)
subprocess.run(["systemctl", "restart", "connector@beverage-classifier"], check=False)
"""


def test_the_model_is_damaged(pi: Pi) -> None:
    """One bit of the model is another one on the card.

    It is not loaded: questions are answered with the two hashes. verify.yml and drift.yml find it; the next run heals.
    """
    pi.root(FLIP)
    asked = pi.play("classify.yml")
    assert asked.code != 0
    assert "sha256" in unwrapped(asked.output), asked.output[-4000:]
    assert pi.play("verify.yml").code != 0
    assert pi.play("drift.yml").code == 2
    pi.heals()
    pi.answers()


DAMAGES = {
    "empty": "open(RECORD, 'w').close()",
    "zeros": "Path(RECORD).write_bytes(bytes(4096))",
    "half": "os.truncate(RECORD, os.path.getsize(RECORD) // 2)",
    "one byte": "text = Path(RECORD).read_text(); Path(RECORD).write_text(text.replace('enabled', 'disabled', 1))",
    "gone": "os.remove(RECORD)",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_the_record_is_damaged(pi: Pi, damage: str) -> None:
    """The state record is damaged.

    All roles run, none changes anything, and the record is there again.
    """
    pi.root(f"RECORD = {RECORD!r}\n{damage}")
    run = pi.play("site.yml")
    assert run.code == 0, run.output[-4000:]
    said = unwrapped(run.output)
    assert ("has no state record" if damage == DAMAGES["gone"] else "was changed or damaged") in said
    assert run.changed[pi.name] == 0, run.output[-4000:]
    pi.heals()
