# SPDX-License-Identifier: Apache-2.0
"""Contact sheets: one HTML page with what was collected, small, to be looked at; it needs no other file and no script.

What a device names and what its pictures hold is not to be trusted: text is escaped, and a page may load nothing.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ansible_collections.edge.pi_fleet.plugins.module_utils.field_data import LARGEST_FILE
from ansible_collections.edge.pi_fleet.plugins.module_utils.picture_name import prediction, taken
from ansible_collections.edge.pi_fleet.plugins.module_utils.web_page import HEAD
from PIL import Image, ImageOps

SIDE = 240
"""Pixels of a thumbnail: two fit beside each other on a phone."""

QUALITY = 60
LARGEST = 50_000_000
"""Pixels of a picture that is still opened."""

SCANS = 100
"""Progressive JPEGs have about ten, and each goes over all the pixels: of one of 1 MB, 20,000 took minutes."""

PAGE = """\
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 1rem/1.4 system-ui, sans-serif }}
body {{ margin: 1rem auto; padding: 0 1rem; max-width: 80rem }}
section {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: 1rem .75rem }}
figure {{ margin: 0; content-visibility: auto; contain-intrinsic-size: auto 14rem }}
img, .none {{ display: block; width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: .25rem }}
figure a {{ display: block; background: #8882; border-radius: .25rem }}
.none {{ display: grid; place-items: center; text-align: center }}
figcaption {{ font-size: .875rem; overflow-wrap: anywhere }}
strong, small {{ display: block }}
</style>
<h1>{title}</h1>
<p>{summary}</p>
{sections}
</html>
"""
FIGURE = """<figure>
<a href="{link}">{picture}</a>
<figcaption><strong>{prediction}</strong>{time}<small>{name}</small></figcaption>
</figure>
"""


@dataclass(frozen=True)
class Picture:
    """A picture of a sheet."""

    host: str
    name: str
    """The name that the device gave it."""
    path: Path | None
    """Where it is; None where somebody moved it away meanwhile."""

    @property
    def prediction(self) -> str:
        """What was seen in it, with the confidence."""
        return prediction(self.name)

    @property
    def time(self) -> str:
        """When it was taken, as its name says."""
        return taken(self.name)


def page(title: str, pictures: Sequence[Picture], folder: Path) -> str:
    """Return a page that is to stand in `folder`, the pictures grouped by device and in the order of their names."""
    hosts = sorted({picture.host for picture in pictures})
    sections = []
    for host in hosts:
        shown = sorted((picture for picture in pictures if picture.host == host), key=lambda picture: picture.name)
        figures = "".join(_figure(picture, folder) for picture in shown)
        sections.append(f"<h2>{html.escape(host)}: {_count(len(shown))}</h2>\n<section>\n{figures}</section>")
    summary = f"{_count(len(pictures))} of {len(hosts)} device{'' if len(hosts) == 1 else 's'}."
    return HEAD + PAGE.format(title=html.escape(title), summary=summary, sections="\n".join(sections))


def thumbnail(path: Path) -> bytes | None:
    """Return a picture as a small JPEG, or None if it is no JPEG or PNG, or one that takes too much."""
    stream = io.BytesIO()
    try:
        if path.stat().st_size > LARGEST_FILE:
            return None
        data = path.read_bytes()
        # Of other formats, some have Pillow start programs: of a PostScript file, Ghostscript.
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            if image.width * image.height > LARGEST or (image.format != "PNG" and data.count(b"\xff\xda") > SCANS):
                return None
            # A JPEG is decoded no larger than needed.
            image.draft("RGB", (SIDE, SIDE))
            ImageOps.exif_transpose(image, in_place=True)
            small = image.convert("RGB")
            small.thumbnail((SIDE, SIDE))
            small.save(stream, "JPEG", quality=QUALITY)
    except Exception:  # hostile files draw SyntaxError, struct.error, EOFError and more out of Pillow
        return None
    return stream.getvalue()


def _figure(picture: Picture, folder: Path) -> str:
    small = thumbnail(picture.path) if picture.path else None
    if small:
        alternative = html.escape(f"{picture.prediction}, {picture.host}, {picture.time}")
        shown = f'<img src="data:image/jpeg;base64,{base64.b64encode(small).decode()}" alt="{alternative}">'
    else:
        shown = f'<span class="none">{"not a picture" if picture.path else "moved away"}</span>'
    inside = picture.path is not None and picture.path.is_relative_to(folder)
    return FIGURE.format(
        link=html.escape(quote(str(picture.path.relative_to(folder)))) if picture.path and inside else "#",
        picture=shown,
        prediction=html.escape(picture.prediction),
        time=html.escape(picture.time),
        name=html.escape(picture.name),
    )


def _count(number: int) -> str:
    return f"{number} picture{'' if number == 1 else 's'}"
