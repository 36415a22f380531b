"""What is wrong with a camera. The machine's is one that its kernel plays, and that can be told to be bad."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import unwrapped
from tests.faults.conftest import Pi

LOG = "journalctl --output=cat --unit=connector@beverage-classifier --since=-15min"
BLACK = 5
"""The number of vivid's picture that is black all over."""


@pytest.fixture
def camera(machine: Pi) -> Iterator[Pi]:
    """A camera that works, and does so again at the end, whatever was done to it."""
    machine.answers()
    yield machine
    machine.sh("v4l2-ctl --set-ctrl=percentage_of_dropped_buffers=0,test_pattern=0,osd_text_mode=0")
    machine.answers()
    machine.heals()


def test_the_camera_is_unplugged(camera: Pi) -> None:
    """The camera is unplugged while the Lambda uses it, and plugged in again.

    The question is answered with what is wrong with which camera; the next one after that with what it sees.
    """
    camera.sh("echo vivid.0 >/sys/bus/platform/drivers/vivid/unbind")
    try:
        asked = camera.play("classify.yml")
        assert asked.code != 0
        assert "/dev/video0" in unwrapped(asked.output), asked.output[-4000:]
    finally:
        camera.sh("echo vivid.0 >/sys/bus/platform/drivers/vivid/bind", "udevadm settle")


def test_the_camera_hangs(camera: Pi) -> None:
    """The camera delivers no frame any more.

    The question is answered within seconds with what is wrong with which camera.
    """
    camera.sh("v4l2-ctl --set-ctrl=percentage_of_dropped_buffers=100")
    asked = camera.play("classify.yml")
    assert asked.code != 0
    assert "gave no frame in 5 s; plug it in again" in unwrapped(asked.output), asked.output[-4000:]


def test_the_camera_sees_nothing(camera: Pi) -> None:
    """The camera's frames are black.

    The question is answered, and the connector's journal says what to look for.
    """
    camera.sh(f"v4l2-ctl --set-ctrl=test_pattern={BLACK},osd_text_mode=2")
    camera.answers()
    assert "The picture is all black" in camera.sh(LOG)
