"""The probe of the camera: packages as apt-cache reports them, holders in /proc, frames by a played program."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.edge.pi_fleet.plugins.module_utils import camera_probe
from ansible_collections.edge.pi_fleet.plugins.module_utils.camera_probe import Outcome, Package, take_frame
from ansible_collections.edge.pi_fleet.plugins.module_utils.device import Device, Runner

POLICY = """\
python3-opencv:
  Installed: 4.6.0+dfsg-12
  Candidate: 4.6.0+dfsg-12
  Version table:
 *** 4.6.0+dfsg-12 500
        500 http://mirror.example/debian bookworm/main arm64 Packages
        100 /var/lib/dpkg/status
v4l-utils:
  Installed: (none)
  Candidate: 1.22.1-5
  Version table:
     1.22.1-5 500
rpicam-apps:
  Installed: 1.7.0-1
  Candidate: 1.7.0-1
retired:
  Installed: (none)
  Candidate: (none)
"""
FRAME = '{"source": "v4l2", "bytes": 12345, "milliseconds": 678}\n'
WANTED = "a frame for ggc_user"


def answer(code: int = 0, output: str = "", errors: str = "") -> Runner:
    return lambda argv: (code, output, errors)


def refuse(argv: list[str]) -> tuple[int, str, str]:
    raise AssertionError(f"{argv} must not run")


def write(root: Path, name: str, text: str) -> Path:
    path = root / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def hold(tmp_path: Path) -> Callable[..., None]:
    """Make a process that has files open."""

    def make(pid: int, cgroup: str, *targets: str) -> None:
        write(tmp_path, f"/proc/{pid}/comm", "python3\n")
        write(tmp_path, f"/proc/{pid}/cgroup", cgroup)
        descriptors = tmp_path / f"proc/{pid}/fd"
        descriptors.mkdir()
        for number, target in enumerate(targets):
            (descriptors / str(number)).symlink_to(target)

    return make


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, camera_probe.PROGRAM, "")
    write(tmp_path, camera_probe.CONFIG, '{"source": "auto"}')
    (tmp_path / "proc").mkdir()
    return tmp_path


def test_policy_tells_what_is_installed_and_what_is_offered() -> None:
    assert camera_probe.parse_policy(POLICY) == {
        "python3-opencv": Package(installed=True, offered=True),
        "v4l-utils": Package(installed=False, offered=True),
        "rpicam-apps": Package(installed=True, offered=True),
        "retired": Package(installed=False, offered=False),
    }


@pytest.mark.parametrize(
    ("needs", "install", "not_offered"),
    [
        ([["python3-opencv"], ["v4l-utils"]], ["v4l-utils"], []),
        ([["rpicam-apps-lite", "rpicam-apps"]], [], []),
        ([["unknown", "v4l-utils"]], ["v4l-utils"], []),
        ([["retired"], ["unknown", "other"]], [], ["retired", "unknown or other"]),
        ([], [], []),
    ],
)
def test_each_need_is_served_by_one_package(needs: list[list[str]], install: list[str], not_offered: list[str]) -> None:
    assert camera_probe.choose(needs, camera_probe.parse_policy(POLICY)) == (install, not_offered)


def test_what_is_wanted_if_offered_comes_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    device = Device(answer(output=POLICY), tmp_path)
    half = camera_probe.find_packages(device, [["python3-opencv"]], [["v4l-utils"], ["python3-picamera2"]])
    whole = camera_probe.find_packages(device, [["python3-opencv"]], [["v4l-utils"], ["rpicam-apps"]])
    assert (half.install, half.not_offered) == ([], [])
    assert whole.install == ["v4l-utils"]


def test_package_lists_are_known_once_they_were_fetched(tmp_path: Path) -> None:
    device = Device(answer(), tmp_path)
    assert not camera_probe.find_packages(device, [["v4l-utils"]]).known
    write(tmp_path, "/var/lib/apt/lists/mirror.example_debian_dists_trixie_main_binary-arm64_Packages.lz4", "")
    assert camera_probe.find_packages(device, [["v4l-utils"]]).known


def test_apt_is_not_asked_for_nothing(tmp_path: Path) -> None:
    assert camera_probe.find_packages(Device(refuse, tmp_path), []).install == []


def test_holders_are_named_with_their_units(root: Path, hold: Callable[..., None]) -> None:
    hold(7, "0::/init.scope\n", "/dev/null", "/dev/videodev", "/tmp/dev/video0")
    hold(12, "0::/system.slice/system-lambda.slice/lambda@x.service\n", "/dev/video0", "/dev/media1", "/dev/video0")
    hold(9, "4:memory:/\n1:name=systemd:/user.slice/session-3.scope\n0::/\n", "/dev/video1")
    hold(8, "0::/\n", "/dev/media0")
    (root / "proc/13").mkdir()
    assert camera_probe.find_holders(Device(refuse, root)) == [
        "no unit (python3, process 8) holds /dev/media0",
        "session-3.scope (python3, process 9) holds /dev/video1",
        "lambda@x.service (python3, process 12) holds /dev/media1, /dev/video0",
    ]


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/a.service/payload/b.service\n", "a.service"),
        ("9:name=systemd:/../../init.scope\n0::/system.slice/a.service\n", "a.service"),
        ("9:name=systemd:/system.slice/a.service\n1:cpu:/system.slice/b.service\n0::/\n", "a.service"),
        ("0::/\n1:cpu:/system.slice/b.service\n", "no unit"),
    ],
)
def test_a_holder_belongs_to_its_outermost_unit(root: Path, hold: Callable[..., None], cgroup: str, unit: str) -> None:
    hold(12, cgroup, "/dev/video0")
    assert camera_probe.find_holders(Device(refuse, root)) == [f"{unit} (python3, process 12) holds /dev/video0"]


def test_a_held_camera_is_not_taken(root: Path, hold: Callable[..., None]) -> None:
    hold(12, "0::/system.slice/capture.service\n", "/dev/video0")
    frame = take_frame(Device(refuse, root), "ggc_user")
    assert frame.outcome is Outcome.HELD
    assert frame.text == "not probed: capture.service (python3, process 12) holds /dev/video0"


def test_who_plays_a_video_holds_no_camera(root: Path, hold: Callable[..., None]) -> None:
    video, media = "/sys/class/video4linux/{}/name", "/sys/bus/media/devices/{}/model"
    for path, name in {
        video.format("video0"): "unicam-image",
        video.format("video10"): "bcm2835-codec-decode",
        video.format("video13"): "bcm2835-isp-output0",
        video.format("video19"): "rpi-hevc-dec",
        video.format("video20"): "pispbe-input",
        media.format("media0"): "unicam",
        media.format("media2"): "bcm2835-codec",
    }.items():
        write(root, path, f"{name}\n")
    hold(12, "0::/system.slice/player.service\n", *(f"/dev/{node}" for node in ("video10", "media2", "video19")))
    hold(13, "0::/system.slice/scaler.service\n", "/dev/video13", "/dev/video20")
    assert take_frame(Device(answer(output=FRAME), root), "ggc_user").outcome is Outcome.TAKEN
    hold(14, "0::/system.slice/capture.service\n", "/dev/video0", "/dev/video13", "/dev/media0")
    frame = take_frame(Device(refuse, root), "ggc_user")
    assert frame.text == "not probed: capture.service (python3, process 14) holds /dev/media0, /dev/video0"


def test_replayed_pictures_are_nobodys_camera(root: Path, hold: Callable[..., None]) -> None:
    hold(12, "0::/system.slice/capture.service\n", "/dev/video0")
    write(root, camera_probe.CONFIG, '{"source": "directory"}')
    assert take_frame(Device(answer(output=FRAME), root), "ggc_user").outcome is Outcome.TAKEN


def test_without_the_program_nothing_is_taken(tmp_path: Path) -> None:
    frame = take_frame(Device(refuse, tmp_path), "ggc_user")
    assert frame.outcome is Outcome.NOT_INSTALLED
    assert frame.text == "/opt/pi-fleet/lib/pi_camera.py is not there: run the role camera."


@pytest.mark.parametrize("venv", [True, False])
def test_a_frame_is_taken_as_the_user(root: Path, venv: bool) -> None:
    calls = []

    def run(argv: list[str]) -> tuple[int, str, str]:
        calls.append(argv)
        return 0, f"libcamera says hello\n{FRAME}", ""

    if venv:
        write(root, "/opt/pi-fleet/venv/bin/python", "")
    frame = take_frame(Device(run, root), "ggc_user")
    assert frame == camera_probe.Frame(Outcome.TAKEN, "12345 bytes from v4l2 in 678 ms")
    python = "/opt/pi-fleet/venv/bin/python" if venv else "/usr/bin/python3"
    assert calls == [["runuser", "-u", "ggc_user", "--", python, camera_probe.PROGRAM]]


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (answer(1, "", "libcamera: noise\nNo camera was found: plug one in.\n"), "No camera was found: plug one in."),
        (
            answer(139),
            "/opt/pi-fleet/lib/pi_camera.py ended with exit code 139 and no word: run it as ggc_user.",
        ),
        *(
            (
                answer(0, output),
                "/opt/pi-fleet/lib/pi_camera.py printed no line about its frame: run the role camera again.",
            )
            for output in ("", "noise", "[]", '{"source": "v4l2"}')
        ),
    ],
)
def test_a_failure_is_told_by_its_last_words(root: Path, run: Runner, text: str) -> None:
    assert take_frame(Device(run, root), "ggc_user") == camera_probe.Frame(Outcome.FAILED, text)


@pytest.mark.parametrize("settings", ["", "{", "[]", "null"])
def test_broken_settings_are_left_to_the_program(root: Path, settings: str) -> None:
    write(root, camera_probe.CONFIG, settings)
    assert take_frame(Device(answer(1, "", "It cannot be used."), root), "ggc_user").text == "It cannot be used."


def test_verify_accepts_a_frame_and_a_camera_in_use(
    root: Path, hold: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(camera_probe, "run_for_a_while", answer(output=FRAME))
    assert camera_probe.check_camera("ggc_user", root) == (True, "12345 bytes from v4l2 in 678 ms", WANTED)
    monkeypatch.setattr(camera_probe, "run_for_a_while", answer(1, "", "The cable is loose."))
    assert camera_probe.check_camera("ggc_user", root) == (False, "The cable is loose.", WANTED)
    hold(12, "0::/system.slice/capture.service\n", "/dev/video0")
    assert camera_probe.check_camera("ggc_user", root)[0]


def test_a_command_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_probe, "SECONDS", 0.2)
    code, _, errors = camera_probe.run_for_a_while([sys.executable, "-c", "import time; time.sleep(60)"])
    assert code == 124
    assert errors.endswith("check the camera's cable and restart the device.")


def test_a_command_gets_nothing_of_the_callers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/root")
    assert camera_probe.run_for_a_while(["/usr/bin/env"])[:2] == (
        0,
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin\nLC_ALL=C.UTF-8\n",
    )
