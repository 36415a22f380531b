"""Contact sheets: what is on them, and what names and pictures of a device cannot do to them."""

from __future__ import annotations

import base64
import io
import os
import re
import struct
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.edge.pi_fleet.plugins.action import contact_sheet as action
from ansible_collections.edge.pi_fleet.plugins.module_utils.collecting import STATE, Entry, Ledger
from ansible_collections.edge.pi_fleet.plugins.module_utils.contact_sheet import SIDE, Picture, page, thumbnail
from fake_action import make
from PIL import Image


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def jpeg(path: Path, size: tuple[int, int] = (800, 600)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(path)
    return path


@pytest.mark.parametrize(
    ("name", "prediction", "time"),
    [
        ("1700000000123_coffee-mug_0.934.jpg", "coffee-mug, 93%", "2023-11-14 22:13:20 UTC"),
        ("belt/1700000000123_a_b_1e-05.jpg", "a_b, 0%", "2023-11-14 22:13:20 UTC"),
        ("1700000000123.jpg", "no prediction", "2023-11-14 22:13:20 UTC"),
        ("holiday.jpg", "no prediction", "time unknown"),
        ("999999999999999_x_0.5.jpg", "x, 50%", "time unknown"),
        ("1_x_0.5.5.jpg", "x", "1970-01-01 00:00:00 UTC"),
    ],
)
def test_what_a_name_says(name: str, prediction: str, time: str) -> None:
    picture = Picture("roof-1", name, None)
    assert (picture.prediction, picture.time) == (prediction, time)


def test_a_page_shows_each_picture_and_needs_nothing_else(tmp_path: Path) -> None:
    one = jpeg(tmp_path / "roof-1" / "1700000000123_coffee-mug_0.934.jpg")
    other = tmp_path / "roof 2" / "1700000000124.jpg"
    other.parent.mkdir()
    other.write_bytes(b"no picture")
    pictures = [
        Picture("roof 2", other.name, other),
        Picture("roof-1", one.name, one),
        Picture("roof-1", "gone.jpg", None),
    ]
    elements = Elements(page("Collected", pictures, tmp_path))
    (image,) = elements.all("img")
    assert image["alt"] == "coffee-mug, 93%, roof-1, 2023-11-14 22:13:20 UTC"
    source = image["src"] or ""
    assert source.startswith("data:image/jpeg;base64,")
    with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as small:
        assert small.size == (SIDE, SIDE * 3 // 4)
    assert [link["href"] for link in elements.all("a")] == [
        "roof%202/1700000000124.jpg",
        "roof-1/1700000000123_coffee-mug_0.934.jpg",
        "#",
    ]
    for text in ("3 pictures of 2 devices.", "roof 2: 1 picture", "roof-1: 2 pictures", "not a picture", "moved away"):
        assert text in elements.text
    assert elements.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in elements.all("meta")
    assert not elements.all("script") + elements.all("link") + elements.all("iframe")


def test_a_name_stays_text(tmp_path: Path) -> None:
    evil = '1_"><script>alert(1)</script>_0.5.jpg'
    picture = jpeg(tmp_path / "<b>" / "x.jpg")
    text = page("<i>", [Picture("<b>", evil, picture)], tmp_path)
    elements = Elements(text)
    assert not elements.all("script") + elements.all("b") + elements.all("i")
    (image,) = elements.all("img")
    assert image.keys() == {"src", "alt"}
    assert re.search(r"default-src 'none'", text)


def test_what_is_no_picture_has_no_thumbnail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "random.jpg").write_bytes(bytes(range(256)))
    (tmp_path / "empty.jpg").write_bytes(b"")
    whole = jpeg(tmp_path / "whole.jpg")
    (tmp_path / "half.jpg").write_bytes(whole.read_bytes()[:400])
    for name in ("random.jpg", "empty.jpg", "half.jpg", "none.jpg"):
        assert thumbnail(tmp_path / name) is None
    assert thumbnail(whole)
    monkeypatch.setattr("ansible_collections.edge.pi_fleet.plugins.module_utils.contact_sheet.LARGEST", 800 * 600 - 1)
    assert thumbnail(whole) is None


def test_no_program_is_started_for_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ghostscript, started = tmp_path / "bin" / "gs", tmp_path / "started"
    ghostscript.parent.mkdir()
    ghostscript.write_text(f'#!/bin/sh\necho "$*" >> {started}\ntest "$1" = --version && echo 10.0\n')
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(ghostscript.parent), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    postscript = tmp_path / "1700000000000_x_0.5.jpg"
    postscript.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshow\n%%EOF\n")
    assert thumbnail(postscript) is None
    assert not started.exists()


def test_whatever_pillow_raises_the_page_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise struct.error("unpack requires a buffer of 4 bytes")

    monkeypatch.setattr(Image, "open", broken)
    assert "not a picture" in page("Collected", [Picture("roof-1", "1.jpg", jpeg(tmp_path / "1.jpg"))], tmp_path)


def test_what_takes_too_much_has_no_thumbnail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scans.jpg"
    Image.new("RGB", (8, 8)).save(path, progressive=True)
    content = path.read_bytes()
    last = content[content.rindex(b"\xff\xda") : -2]
    for scans, shown in ((100, True), (101, False)):
        path.write_bytes(content[:-2] + last * (scans - content.count(b"\xff\xda")) + content[-2:])
        assert bool(thumbnail(path)) is shown
    whole = jpeg(tmp_path / "whole.jpg")
    monkeypatch.setattr(f"{thumbnail.__module__}.LARGEST_FILE", whole.stat().st_size - 1)
    assert thumbnail(whole) is None


def collected(folder: Path, host: str, count: int) -> None:
    """Have pictures of a device collected."""
    (folder / host / STATE).mkdir(parents=True)
    ledger = Ledger.load(folder / host)
    for number in range(count):
        name = f"{number}_clutter_0.5.jpg"
        jpeg(folder / host / name, (8, 8))
        ledger.entries[name] = Entry("aa", name, 1.0, (1, 2, 3, 4))
    ledger.save()


def run(folder: Path, *hosts: str, check_mode: bool = False) -> dict[str, Any]:
    plugin = make(action.ActionModule, {"path": str(folder), "hosts": list(hosts)})
    plugin._task.check_mode = check_mode
    result: dict[str, Any] = plugin.run(task_vars={})
    return result


def test_a_picture_is_on_one_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collected(tmp_path, "roof-1", 3)
    monkeypatch.setattr(action, "PICTURES", 2)
    assert run(tmp_path, "roof-1", "never-seen", check_mode=True) == {"changed": False, "sheets": []}
    first = run(tmp_path, "roof-1", "never-seen")
    assert [len(Elements(Path(sheet).read_text()).all("img")) for sheet in first["sheets"]] == [2, 1]
    assert all(Path(sheet).stat().st_mode & 0o777 == 0o600 for sheet in first["sheets"])
    assert run(tmp_path, "roof-1") == {"changed": False, "sheets": []}
    assert not (tmp_path / "never-seen").exists()
    collected(tmp_path, "roof-2", 1)
    (sheet,) = run(tmp_path, "roof-1", "roof-2")["sheets"]
    assert Elements(Path(sheet).read_text()).all("img")[0]["alt"] == "clutter, 50%, roof-2, 1970-01-01 00:00:00 UTC"


def test_a_damaged_ledger_is_named(tmp_path: Path) -> None:
    collected(tmp_path, "roof-1", 1)
    (tmp_path / "roof-1" / STATE / "ledger.json").write_text("{")
    with pytest.raises(AnsibleActionFail, match=r"ledger.json cannot be read"):
        run(tmp_path, "roof-1")
