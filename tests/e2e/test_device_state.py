"""A provisioned fleet that was changed by hand, or is wanted otherwise: who says so, and which roles run."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.e2e.conftest import Fleet, unwrapped

# What people do to a device by hand, and whose it is.
BY_HAND = """
import os, subprocess
from pathlib import Path
os.chmod("/dev/raw1394", 0o600)
Path("/etc/pi-fleet/camera.json").write_text("{}")
os.unlink("/etc/tmpfiles.d/pi-fleet-raw1394.conf")
drop_in = Path("/etc/systemd/system/field-data-guard.timer.d/mine.conf")
drop_in.parent.mkdir()
drop_in.write_text("[Timer]\\nOnUnitActiveSec=1h\\n")
subprocess.run(["systemctl", "daemon-reload"], check=True)
subprocess.run(["usermod", "--shell", "/bin/bash", "ggc_user"], check=True, capture_output=True)
"""
TOUCHED = {
    "path /dev/raw1394": "raw1394",
    "path /etc/tmpfiles.d/pi-fleet-raw1394.conf": "raw1394",
    "path /etc/pi-fleet/camera.json": "camera",
    "unit field-data-guard.timer": "field_data",
    "path /etc/systemd/system/field-data-guard.timer.d/mine.conf": "field_data",
    "user ggc_user": "greengrass_user",
}


def test_what_changed_by_hand_is_named_and_mended_by_the_roles_concerned(fleet: Fleet, tmp_path: Path) -> None:
    hosts = fleet.hosts()
    before = {host: fleet.manifest(host) for host in hosts}
    drifted = next(iter(hosts))
    fleet.root(drifted, BY_HAND)
    report = ("--extra-vars", f"drift_report_path={tmp_path}")
    asked = fleet.playbook("playbooks/drift.yml", *report)
    assert asked.code == 2, asked.output[-4000:]
    assert not any(asked.changed.values())
    told = {host: json.loads((tmp_path / f"{host}.json").read_text()) for host in hosts}
    assert [host for host in hosts if told[host]["state"] == "drifted"] == [drifted]
    assert {each["entry"]: each["role"] for each in told[drifted]["differences"]} == TOUCHED
    for each in told[drifted]["differences"]:
        assert each["told"] in unwrapped(asked.output)
        assert each["since"] > told[drifted]["recorded_at"] or each["entry"].startswith(("unit", "user"))
    assert list(told[drifted]["roles"]) == [role for role in told[drifted]["roles"] if role in TOUCHED.values()]
    dry = fleet.playbook("playbooks/site.yml", "--check", "--limit", drifted)
    assert dry.code == 0, dry.output[-4000:]
    assert dry.changed[drifted] > 0
    run = fleet.playbook("playbooks/site.yml")
    assert run.code == 0, run.output[-4000:]
    assert run.changed == {host: run.changed[host] if host == drifted else 0 for host in hosts}
    after = {host: fleet.manifest(host) for host in hosts}
    aside = {path for path in after[drifted] if path.startswith("/var/lib/pi-fleet/set-aside")} - before[drifted].keys()
    assert {Path(path).name for path in aside} >= {"mine.conf"}
    assert {host: {path: after[host][path] for path in after[host].keys() - aside} for host in hosts} == before
    mended = fleet.playbook("playbooks/drift.yml", *report)
    assert mended.code == 0, mended.output[-4000:]
    assert f"To look at: {tmp_path}/index.html" in unwrapped(mended.output)
    found = json.loads((tmp_path / f"{drifted}.json").read_text())
    assert found["state"] == "converged"
    assert len(found["free_disk"]) == 2
    assert found["about"]["releases"].keys() >= {"localcore", "lambda/beverage_classifier", "model/beverage-classifier"}


def test_other_inputs_are_for_the_roles_that_take_them(fleet: Fleet) -> None:
    run = fleet.playbook("playbooks/site.yml", "--extra-vars", "field_data_min_free=201M")
    assert run.code == 0, run.output[-4000:]
    began = set(re.findall(r"^ +(\w+): its inputs are other ones$", run.output, re.MULTILINE))
    assert "field_data" in began
    assert not {"identity", "swap", "camera", "raw1394", "mxnet_dependencies"} & began
    again = fleet.playbook("playbooks/site.yml", "--extra-vars", "field_data_min_free=201M")
    assert again.output.count("converged, ") == len(fleet.hosts())
    former = fleet.playbook("playbooks/site.yml")
    assert former.code == 0, former.output[-4000:]


# As a run of another control node leaves it.
HELD = """
import json, time
from pathlib import Path
note = {"machine": "elsewhere", "boot": "", "pid": 1, "started": "1", "who": "ada@elsewhere", "by": None}
note["since"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
Path("/var/lib/pi-fleet/run.json").write_text(json.dumps(note))
"""
FREE = "import os; os.unlink('/var/lib/pi-fleet/run.json')"


def test_a_device_that_another_run_has_begun_with_is_left_to_it(fleet: Fleet) -> None:
    held, *others = fleet.hosts()
    fleet.root(held, HELD)
    given = ("--extra-vars", "field_data_min_free=202M")
    run = fleet.playbook("playbooks/site.yml", *given)
    said = unwrapped(run.output)
    assert run.code == 2, run.output[-4000:]
    assert f"{held}: ada@elsewhere (process 1 there) provisions it since 20" in said
    assert run.changed[held] == 0
    assert all(run.changed[host] > 0 for host in others)
    # Who only looks disturbs nobody.
    assert fleet.playbook("playbooks/site.yml", "--check", "--limit", held).code == 0
    asked = fleet.playbook("playbooks/drift.yml", "--limit", held, *given)
    assert asked.code == 0, asked.output[-4000:]
    assert "provisions it since" in unwrapped(asked.output)
    fleet.root(held, FREE)
    again = fleet.playbook("playbooks/site.yml", *given)
    assert again.code == 0, again.output[-4000:]
    # It is nobody's when a run has ended.
    assert "gone" in fleet.root(held, "import os; print(os.path.exists('/var/lib/pi-fleet/run.json') or 'gone')")
    assert fleet.playbook("playbooks/site.yml").code == 0


def test_the_former_swap_comes_back_also_where_the_role_is_named(fleet: Fleet) -> None:
    restored = "import json; print(json.load(open('/var/lib/pi-fleet/swap.json'))['restored'])"
    run = fleet.playbook("playbooks/site.yml", "--tags", "swap", "--extra-vars", "swap_restore_after_install=true")
    assert run.code == 0, run.output[-4000:]
    assert {fleet.root(host, restored).strip() for host in fleet.hosts()} == {"True"}
    back = fleet.playbook("playbooks/site.yml")
    assert back.code == 0, back.output[-4000:]
    assert {fleet.root(host, restored).strip() for host in fleet.hosts()} == {"False"}
