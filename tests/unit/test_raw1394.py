"""What /dev/raw1394 is, and the kernel settings beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.edge.pi_fleet.plugins.module_utils import raw1394, sysctl
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import MANAGED, DeviceError
from ansible_collections.edge.pi_fleet.plugins.modules import raw1394 as module
from fake_device import FakeDevice


@pytest.fixture
def fake(tmp_path: Path) -> FakeDevice:
    (tmp_path / "dev").mkdir()
    return FakeDevice(tmp_path)


def node(monkeypatch: pytest.MonkeyPatch, kind: int, device: tuple[int, int] = (1, 3), owner: int = 0) -> None:
    """Nodes need root to be made, so what lstat says is played."""
    real = os.lstat
    answer = os.stat_result((kind, 1, 1, 1, owner, 0, 0, 0, 0, 0), {"st_rdev": os.makedev(*device)})
    monkeypatch.setattr(os, "lstat", lambda path: answer if Path(path).name == "raw1394" else real(path))


def test_absent(fake: FakeDevice) -> None:
    assert raw1394.probe(fake.device()) == "absent"


def test_the_node_of_dev_null(fake: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    node(monkeypatch, 0o020666)
    assert raw1394.probe(fake.device()) == "null"


@pytest.mark.parametrize(("kind", "owner"), [(0o020600, 0), (0o020666, 7)])
def test_other_rights(fake: FakeDevice, monkeypatch: pytest.MonkeyPatch, kind: int, owner: int) -> None:
    node(monkeypatch, kind, owner=owner)
    assert raw1394.probe(fake.device()) == "null with other rights"


def test_real_hardware(fake: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    node(monkeypatch, 0o020660, (171, 0))
    assert raw1394.probe(fake.device()) == "real"


@pytest.mark.parametrize(
    ("kind", "device", "kept", "right", "found"),
    [
        (0o020666, (1, 3), True, True, "null, made at boot"),
        (0o020666, (1, 3), False, False, "null, not made at boot"),
        (0o020600, (1, 3), True, False, "null with other rights, made at boot"),
        (0o020660, (171, 0), False, True, "real, not made at boot"),
    ],
)
def test_verify_wants_the_node_now_and_after_a_boot_but_where_there_is_hardware(
    fake: FakeDevice,
    monkeypatch: pytest.MonkeyPatch,
    kind: int,
    device: tuple[int, int],
    kept: bool,
    right: bool,
    found: str,
) -> None:
    if kept:
        fake.write(raw1394.CONFIG, raw1394.TEXT)
    node(monkeypatch, kind, device)
    assert raw1394.check_raw1394(fake.device())[:2] == (right, found)


def test_the_module_leaves_real_hardware_alone(
    fake: FakeDevice, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    node(monkeypatch, 0o020660, (171, 0))
    monkeypatch.setattr(module, "Device", lambda run: fake.device())
    with patch_module_args({}), pytest.raises(SystemExit):
        module.main()
    said = json.loads(capsys.readouterr().out)
    assert (said["changed"], said["found"]) == (False, "real")
    assert not (fake.root / raw1394.CONFIG.lstrip("/")).exists()


def test_what_a_rootless_container_cannot_make_waits_and_the_file_is_written(
    fake: FakeDevice, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "Device", lambda run: fake.device())

    def have() -> dict[str, object]:
        with patch_module_args({}), pytest.raises(SystemExit):
            module.main()
        said: dict[str, object] = json.loads(capsys.readouterr().out)
        return said

    fake.write("/proc/self/uid_map", "         0       1000          1\n         1     100000      65536\n")
    assert not raw1394.check_raw1394(fake.device())[0]
    said = have()
    assert (said["changed"], said["found"]) == (True, "activation waits: container")
    assert fake.read(raw1394.CONFIG) == raw1394.TEXT
    assert not have()["changed"]
    assert raw1394.check_raw1394(fake.device())[:2] == (True, "activation waits: container, made at boot")
    # A container of root makes it, and says so if it could not.
    fake.write("/proc/self/uid_map", "         0          0 4294967295\n")
    assert raw1394.check_raw1394(fake.device())[:2] == (False, "absent, made at boot")
    monkeypatch.setattr(fake, "run", lambda argv: (0, "", ""))
    assert str(have()["msg"]).startswith("/dev/raw1394 was to be made by ")


def test_a_file_is_not_ours_to_replace(fake: FakeDevice) -> None:
    fake.write("/dev/raw1394", "")
    with pytest.raises(DeviceError, match="no character device"):
        raw1394.probe(fake.device())


def test_the_line_for_tmpfiles() -> None:
    assert raw1394.TEXT.startswith(MANAGED)
    assert raw1394.TEXT.endswith("\nc /dev/raw1394 0666 root root - 1:3\n")


def test_settings_of_the_kernel(fake: FakeDevice) -> None:
    settings = {"fs.protected_hardlinks": "1", "fs.protected_symlinks": "1"}
    assert sysctl.drop_in(settings) == f"{MANAGED}fs.protected_hardlinks = 1\nfs.protected_symlinks = 1\n"
    fake.write("/proc/sys/fs/protected_hardlinks", "0\n")
    wanted: dict[str, str | None] = {"fs.protected_hardlinks": "0", "fs.protected_symlinks": None}
    assert sysctl.differing(fake.device(), settings) == wanted
    for name in ("hardlinks", "symlinks"):
        fake.write(f"/proc/sys/fs/protected_{name}", "1\n")
    assert sysctl.differing(fake.device(), settings) == {}
