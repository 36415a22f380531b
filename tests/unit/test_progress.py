"""What a run shows of its devices while it goes on, and what took longest."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pyte
import pytest
from ansible_collections.edge.pi_fleet.plugins.callback import progress
from ansible_collections.edge.pi_fleet.plugins.callback.progress import Progress, Screen, duration

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.9, "59 s"), (60, "1:00 min"), (3599, "59:59 min"), (3661, "1:01 h")]
)
def test_durations_are_what_people_say(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def at_work(devices: int, **since: float) -> Progress:
    made = Progress(0, devices=devices)
    for device, begun in since.items():
        made.start(device, "swap : Have the swap", begun)
    return made


def test_each_device_has_a_row_the_longest_first() -> None:
    made = at_work(3, roof=5, hall=1)
    assert made.rows(24, 80, 11) == ["   10 s  hall  swap : Have the swap", "    6 s  roof  swap : Have the swap"]
    made.end("hall", 12)
    assert made.rows(24, 80, 12) == ["    7 s  roof  swap : Have the swap"]


def test_rows_fit_the_screen() -> None:
    made = at_work(300, **{f"pi{number}": number for number in range(20)})
    rows = made.rows(12, 30, 100)
    assert len(rows) == 4
    assert rows[0].startswith("1:40 min")
    assert rows[-1] == "1:40 min  17 more devices at work, 280 done or waiting"[:29]
    assert all(len(row) < 30 for row in rows)


def test_plain_lines_tell_of_a_task_once_a_minute() -> None:
    made = at_work(5, a=0, b=1, c=2, d=3)
    assert made.told(58, 59) == []
    assert made.told(59, 60) == ["1:00 min so far: swap : Have the swap: a, b, c and 1 more"]
    assert made.told(60, 61) == []
    made.end("a", 61)
    assert made.told(119, 121.5) == ["2:00 min so far: swap : Have the swap: b, c, d"]


def test_the_slowest_three_tasks_are_named_with_their_slowest_device() -> None:
    made = Progress(0)
    for task, device, seconds in [
        ("a", "one", 3),
        ("b", "one", 9),
        ("b", "two", 11),
        ("c", "one", 20),
        ("d", "two", 4),
    ]:
        made.start(device, task, 100)
        made.end(device, 100 + seconds)
    assert made.summary(29) == []
    assert made.summary(50) == ["   20 s  c: one", "   11 s  b: two", "    4 s  d: two"]
    made.end("nobody", 5)


def shown(screen: pyte.Screen) -> list[str]:
    return [line.rstrip() for line in screen.display]


def test_rows_stay_at_the_bottom_while_all_else_scrolls_above() -> None:
    read, write = os.pipe()
    terminal = pyte.Screen(40, 10)
    stream = pyte.ByteStream(terminal)
    bottom = Screen(write)

    def step(text: str, *rows: str) -> None:
        if text:
            os.write(write, text.replace("\n", "\r\n").encode())
        else:
            bottom.draw(rows, 10)
        # A terminal's line ends.
        stream.feed(os.read(read, 65536).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))

    step("one\ntwo\n")
    step("", "a at work")
    assert shown(terminal)[:2] == ["one", "two"]
    assert shown(terminal)[-1] == "a at work"
    step("three\n" * 12)
    assert shown(terminal)[-2:] == ["", "a at work"]
    step("", "a still", "b too")
    assert shown(terminal)[-2:] == ["a still", "b too"]
    step("four\nfive\n")
    step("", "b only")
    assert shown(terminal)[-5:] == ["four", "five", "", "b only", ""]
    bottom.clear()
    stream.feed(os.read(read, 65536))
    step("six\n")
    assert shown(terminal)[-5:] == ["four", "five", "six", "", ""]


PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Take a while
      ansible.builtin.command: sleep {{ 4 if inventory_hostname == 'slow' else 1 }}
"""


def run(folder: Path, terminal: bool) -> tuple[str, list[str]]:
    """Run a playbook for two hosts; return all that it wrote, and what a terminal shows after three seconds."""
    (folder / "play.yml").write_text(PLAYBOOK)
    argv = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "slow,quick", "-c", "local", "play.yml"]
    settings = {
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
        "ANSIBLE_CALLBACKS_ENABLED": "edge.pi_fleet.progress",
        "ANSIBLE_HOME": str(folder / ".ansible"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "TERM": "xterm",
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LANG": "C.UTF-8",
    }
    if not terminal:
        done = subprocess.run(argv, cwd=folder, env=settings, capture_output=True, text=True, check=True)
        return done.stdout, []
    primary, secondary = pty.openpty()
    # 24 lines of 80 characters.
    subprocess.run(["stty", "rows", "24", "cols", "80"], stdin=secondary, check=True)
    screen = pyte.Screen(80, 24)
    stream = pyte.ByteStream(screen)
    written = b""
    seen: list[str] = []
    with subprocess.Popen(
        argv, cwd=folder, env=settings, stdin=secondary, stdout=secondary, stderr=secondary
    ) as process:
        os.close(secondary)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                ready = select.select([primary], [], [], 0.2)[0]
                more = os.read(primary, 65536) if ready else b""
            except OSError:
                break
            written += more
            stream.feed(more)
            if any(re.search(r"\b[23] s  slow  Take a while", line) for line in screen.display):
                seen = seen or shown(screen)
        assert process.wait() == 0
    os.close(primary)
    return written.decode(), [*seen, "---", *shown(screen)]


def test_a_terminal_shows_who_is_at_work(tmp_path: Path) -> None:
    written, lines = run(tmp_path, terminal=True)
    seen, after = lines[: lines.index("---")], lines[lines.index("---") + 1 :]
    assert re.search(r"^ +[23] s  slow  Take a while$", "\n".join(seen[-2:]), re.MULTILINE)
    assert "changed: [quick]" in seen
    assert not any("Take a while" in line for line in after if not line.startswith("TASK"))
    assert any(line.startswith("slow") and "failed=0" in line for line in after)
    assert written.rindex("\x1b[r") > written.rindex("s  slow  Take a while")


def test_without_a_terminal_output_is_what_it_was(tmp_path: Path) -> None:
    written, _ = run(tmp_path, terminal=False)
    assert "\x1b" not in written
    assert "changed: [slow]" in written
    assert "SLOWEST" not in written


def test_a_terminal_that_can_do_nothing_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    assert not progress._terminal()
    monkeypatch.setenv("TERM", "xterm")
    assert progress._terminal()
