"""Bad input ends in one clear sentence before anything is touched."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import PROJECT, Fleet
from tests.e2e.make_wheels import make

MIPS = b"\x7fELF" + bytes([1, 1, 1]) + bytes(9) + (3).to_bytes(2, "little") + (8).to_bytes(2, "little") + bytes(32)
MESSAGE = re.compile(r"msg: (?P<text>(?:.+\n)(?:        .+\n)*)")


@pytest.fixture(scope="module", autouse=True)
def _untouched(fleet: Fleet) -> Iterator[None]:
    """Whatever was refused: what stands on the devices' disks is the same after all of it."""
    before = {host: fleet.manifest(host) for host in fleet.hosts()}
    yield
    assert {host: fleet.manifest(host) for host in before} == before


def sentence(output: str) -> str:
    """Return the message of the failed task, its lines joined, for one host."""
    found = MESSAGE.search(output)
    assert found, output
    return " ".join(found["text"].strip().strip("'\"").replace("''", "'").split())


TURNS = itertools.count()


def refused(fleet: Fleet, wanted: str, *arguments: str) -> None:
    """Assert that site.yml ends in a sentence like the wanted one, and changes nothing; devices take turns."""
    hosts = sorted(fleet.hosts())
    host = hosts[next(TURNS) % len(hosts)]
    run = fleet.playbook("playbooks/site.yml", "--limit", host, *arguments)
    assert run.code != 0, run.output
    assert re.search(wanted, sentence(run.output)), run.output
    assert "Traceback" not in run.output
    assert not any(run.changed.values())


@pytest.mark.parametrize(
    ("extra", "wanted"),
    [
        ("swap_size=lots", "swap_size is 'lots'; wanted is a whole number .*: correct it in the inventory"),
        ('{"swap_size": true}', "swap_size is True; wanted is a whole number .*: correct it in the inventory"),
        ("swap_size=-5", "swap_size is -5; wanted are MiB, or 0 for no swap: correct it in the inventory"),
        ("swap_size=10485760", "10485760 MiB.* MiB free|free.*10485760"),
        ("swap_size=10485760 preflight_install_free=1301", r"needs [0-9]+ MiB there \(1301 MiB stay free\)"),
        ('{"greengrass_user_memory_cgroup_flags": ["psi=1 quiet"]}', "The flag 'psi=1 quiet' is not one word"),
        ("camera_source=webcam", "camera_source is 'webcam'; wanted is one of auto, picamera2, v4l2, directory"),
        ("camera_directory=/no/such/folder", "camera_directory is '/no/such/folder'"),
        ("camera_device=video0", "camera_device is 'video0'"),
        ("camera_width=0", "camera_width and camera_height are 0 and 400"),
        ("field_data_min_free=some", "field_data_min_free is 'some'"),
        (
            "field_data_min_free=500000G",
            "MiB free for .* and field_data_min_free is 500000G, below which the guard stops",
        ),
        ("field_data_keep_days=-1", "field_data_keep_days is -1"),
        ("field_data_guard_interval=soon", "field_data_guard_interval is 'soon'"),
        ("reboot_timeout=0", "reboot_timeout is 0"),
        ('{"rollout_batches": [1, "half"]}', "rollout_batches is 1, half"),
        ('{"rollout_batches": []}', r"rollout_batches is \(wanted"),
        ("classifier_lambda_keep_below=7", "classifier_lambda_keep_below is 7"),
        ("classifier_lambda_service_name=-", "classifier_lambda_service_name is '-'"),
        ('{"classifier_lambda_categories": ["a", "a"]}', "classifier_lambda_categories is a, a"),
        ("image_classifier_model=/no/model.tar.gz", "image_classifier_model is '/no/model.tar.gz', which is no file"),
        (f"image_classifier_model={PROJECT}/LICENSE", "/LICENSE cannot be read"),
        (
            "image_classifier_model_sha256=0123",
            "has the sha256 [0-9a-f]{64}, and image_classifier_model_sha256 is '0123'",
        ),
        ('{"image_classifier_labels": ["one", "two"]}', "has 5 outputs and 2 labels were given"),
        ("image_classifier_service_name=a&b", "image_classifier_service_name is 'a&b'"),
        ("mqtt_broker_listen=0.0.0.0", "mqtt_broker_certificate"),
        ("local_core_group_definition=/no/group.json", "definition /no/group.json cannot be read as JSON"),
        ('{"local_core_subscriptions": [{"source": "cloud", "subject": "a", "target": "gone"}]}', "'gone'"),
        ('{"local_core_lambdas": [{"name": "f", "src": "/no", "handler": "a.b"}]}', "the folder /no of f is not there"),
        ("mxnet_dependencies_wheel=/no/such.whl", "/no/such.whl is not there"),
        ("collect_min_age=-1", "collect_min_age is -1; wanted are seconds, 0 or more"),
        ("offline_packages=/nowhere", "offline_packages is /nowhere, where no packages.json is"),
        ("preflight_install_free=99999999", "needs 99999999 MiB to install what is missing"),
        ("ansible_become_password=wrong", "sudo refuses the password that was given"),
        ("ansible_become_password=", "sudo asks for a password and none was given"),
        ("ansible_port=1", "does not answer at 127.0.0.1:1 .*check its power, network and address"),
        ("ansible_host=no-such.invalid", "does not answer at no-such.invalid.*check its power, network and address"),
        (
            "ansible_host=192.0.2.1 ansible_timeout=2",
            "does not answer at 192.0.2.1.*check its power, network and address",
        ),
        ("ansible_user=nobody", "refuses the login of nobody"),
    ],
)
def test_bad_input_is_refused(fleet: Fleet, extra: str, wanted: str) -> None:
    refused(fleet, wanted, "--extra-vars", extra)


def test_a_wheel_of_another_machine_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    wheel = make(tmp_path, "1.4.0", {"mxnet/libmxnet.so": MIPS})
    extra = f"mxnet_dependencies_wheel={wheel['path']} mxnet_dependencies_wheel_sha256={wheel['sha256']}"
    refused(fleet, "holds mxnet/libmxnet.so for .* and the device's userland is", "--extra-vars", extra)


def test_a_wheel_with_another_hash_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    wheel = make(tmp_path, "1.4.0", {})
    other = hashlib.sha256(b"").hexdigest()
    extra = f"mxnet_dependencies_wheel={wheel['path']} mxnet_dependencies_wheel_sha256={other}"
    refused(fleet, f"has the sha256 {wheel['sha256']}, and {other} was given", "--extra-vars", extra)


def test_a_key_to_collect_with_that_lacks_its_other_part_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    key = tmp_path / "collect"
    key.touch()
    refused(fleet, f"collect_key is '{key}', beside which there is no collect.pub", f"--extra-vars=collect_key={key}")


def test_an_unknown_host_key_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text("")
    extra = f"ansible_ssh_common_args='-o IdentitiesOnly=yes -o ControlPath=none -o UserKnownHostsFile={known}'"
    refused(fleet, "answers with a host key that is not the known one", "--extra-vars", extra)


@pytest.mark.parametrize(
    ("release", "wanted"),
    [
        ("VERSION_CODENAME=bullseye", "runs bullseye; supported are Bookworm"),
        ("VERSION_CODENAME=buster", "runs buster; supported are Bookworm"),
    ],
)
def test_an_unsupported_release_is_refused(fleet: Fleet, release: str, wanted: str) -> None:
    """The fixture: a device whose os-release says that it is older."""
    files = "from pathlib import Path\nfile = Path('/etc/os-release').resolve(); saved = Path('/root/os-release')\n"
    for host in fleet.hosts():
        fleet.root(host, f"{files}saved.write_text(file.read_text()); file.write_text('ID=debian\\n{release}\\n')")
    try:
        run = fleet.playbook("playbooks/site.yml")
        assert run.code != 0
        assert re.search(wanted, sentence(run.output)), run.output
        assert not any(run.changed.values())
    finally:
        for host in fleet.hosts():
            fleet.root(host, f"{files}file.write_text(saved.read_text()); saved.unlink()")


def test_a_kernel_command_line_that_says_the_opposite_is_refused(fleet: Fleet) -> None:
    files = "from pathlib import Path\nfile = Path('/boot/firmware/cmdline.txt'); saved = Path('/root/cmdline.txt')\n"
    spoil = "saved.write_text(file.read_text()); file.write_text(saved.read_text().rstrip() + ' cgroup_disable=memory')"
    for host in fleet.hosts():
        fleet.root(host, files + spoil)
    try:
        refused(fleet, "cmdline.txt says cgroup_disable=memory, which contradicts cgroup_enable=memory")
    finally:
        for host in fleet.hosts():
            fleet.root(host, f"{files}file.write_text(saved.read_text()); saved.unlink()")


def test_apt_that_somebody_holds_is_waited_for_and_named(fleet: Fleet) -> None:
    hold = """
import subprocess, sys
lock = 'import fcntl, time; held = open("/var/lib/dpkg/lock-frontend", "w"); fcntl.lockf(held, fcntl.LOCK_EX)'
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
subprocess.Popen([sys.executable, "-c", f"{lock}; time.sleep(60)"], start_new_session=True, **quiet)
"""
    for host in fleet.hosts():
        fleet.root(host, hold)
    run = fleet.playbook("playbooks/site.yml", "--extra-vars", "preflight_apt_timeout=2")
    assert run.code != 0
    assert re.search(r"apt is held by python3 \(process \d+\) after \d+ s of waiting", sentence(run.output)), run.output
    for host in fleet.hosts():
        fleet.root(host, "import subprocess; subprocess.run(['pkill', '-f', 'dpkg/lock-frontend'])")


def test_a_dry_run_without_package_lists_is_refused(fleet: Fleet) -> None:
    """A fresh card has none, and apt would say of the first package that there is no such thing."""
    hide = "import subprocess\nsubprocess.run({!r}, check=True)"
    for host in fleet.hosts():
        fleet.root(host, hide.format(["mount", "-t", "tmpfs", "tmpfs", "/var/lib/apt/lists"]))
    try:
        refused(fleet, "never fetched apt's package lists.* run 'sudo apt-get update'", "--check")
    finally:
        for host in fleet.hosts():
            fleet.root(host, hide.format(["umount", "/var/lib/apt/lists"]))
