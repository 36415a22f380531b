"""Pictures: the same numbers everywhere, and whatever is none is refused within bounds."""

from __future__ import annotations

import hashlib
import io
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from localcore import images
from localcore.errors import LocalCoreError
from PIL import Image

PHOTOS = Path(__file__).resolve().parents[3] / "files" / "photos"
COLOUR = (200, 100, 50)


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, samples: bytes, depth: int = 8, colour: int = 2, *others: bytes) -> bytes:
    """Return a PNG with these samples; unlike Pillow, whatever its header says."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *others, chunk(b"IDAT", zlib.compress(samples)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg_of_size(width: int, height: int) -> bytes:
    """Return a JPEG of 8 x 8 pixels whose header says another size."""
    content = encoded(Image.new("RGB", (8, 8), COLOUR), "JPEG")
    frame = content.index(b"\xff\xc0")
    return content[: frame + 5] + struct.pack(">HH", height, width) + content[frame + 9 :]


def refusal(body: bytes, content_type: str | None = None) -> str:
    """Return the one sentence with which a picture is refused, after which a good one is served."""
    with pytest.raises(LocalCoreError) as refused:
        images.to_input(body, content_type, 224, 224)
    sentence = str(refused.value)
    assert sentence.endswith(".") and "\n" not in sentence and "0x" not in sentence
    assert mean_colour(encoded(Image.new("RGB", (8, 8), COLOUR))) == COLOUR
    return sentence


def mean_colour(body: bytes) -> tuple[int, ...]:
    red, green, blue = images.to_input(body, None, 4, 4)[0].mean(axis=(1, 2)).round().astype(int).tolist()
    return red, green, blue


# --- the same numbers everywhere


@pytest.mark.parametrize(
    ("photo", "digest"),
    [
        ("coffee.png", "bb460c602ed52588"),
        ("rocket.jpg", "4d555ac80bfec8fc"),
    ],
)
def test_a_photo_gives_the_same_numbers_as_on_every_other_machine(photo: str, digest: str) -> None:
    pixels = images.to_input((PHOTOS / photo).read_bytes(), None, 224, 224)
    assert pixels.shape == (1, 3, 224, 224)
    assert pixels.dtype == np.float32 and pixels.flags.c_contiguous
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == digest


def test_the_whole_picture_is_resized_without_cropping_channels_first_red_first() -> None:
    picture = Image.new("RGB", (300, 20), (255, 0, 0))
    picture.paste((0, 0, 255), (150, 0, 300, 20))
    pixels = images.to_input(encoded(picture), None, 6, 4)
    assert pixels.shape == (1, 3, 4, 6)
    red, green, blue = pixels[0]
    assert (red[:, :2] == 255).all() and (red[:, 4:] == 0).all()
    assert (blue[:, :2] == 0).all() and (blue[:, 4:] == 255).all()
    assert (red + blue == 255).all() and (green == 0).all()


def test_all_pixels_count_when_a_picture_shrinks() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    pixels = images.to_input(encoded(Image.fromarray(stripes)), None, 8, 8)
    assert (abs(pixels - 127.5) < 6).all()


def test_a_picture_of_one_pixel_fills_the_input() -> None:
    assert mean_colour(png(1, 1, b"\0" + bytes(COLOUR))) == COLOUR


# --- whatever its samples are


def transparent_palette() -> bytes:
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([0, 0, 0, *COLOUR])
    return encoded(picture, transparency=b"\x00\x00")


def wide_grey() -> bytes:
    return png(8, 8, (b"\0" + b"\xc8\x37" * 8) * 8, 16, 0)


def interlaced() -> bytes:
    # PNG's seven passes over 8 x 8 pixels, each row led by its filter.
    passes = [(1, 1), (1, 1), (1, 2), (2, 2), (2, 4), (4, 4), (4, 8)]
    rows = b"".join((b"\0" + bytes(COLOUR) * width) * height for height, width in passes)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 1))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


GREY = (200, 200, 200)


@pytest.mark.parametrize(
    ("body", "colour"),
    [
        pytest.param(encoded(Image.new("RGB", (8, 8), COLOUR)), COLOUR, id="RGB"),
        pytest.param(interlaced(), COLOUR, id="interlaced"),
        pytest.param(encoded(Image.new("RGBA", (8, 8), (*COLOUR, 0))), COLOUR, id="alpha is dropped"),
        pytest.param(encoded(Image.new("RGB", (8, 8), COLOUR), transparency=COLOUR), COLOUR, id="so is tRNS"),
        pytest.param(encoded(Image.new("L", (8, 8), 200), transparency=200), GREY, id="of greys too"),
        pytest.param(encoded(Image.new("LA", (8, 8), (200, 7))), GREY, id="LA"),
        pytest.param(encoded(Image.new("L", (8, 8), 200)), GREY, id="L"),
        pytest.param(encoded(Image.new("1", (8, 8), 1)), (255, 255, 255), id="1 bit"),
        pytest.param(png(8, 8, b"\0\xaa\xaa\xaa\xaa" * 8, 4, 0), (170, 170, 170), id="4 bits"),
        pytest.param(wide_grey(), GREY, id="16-bit grey"),
        pytest.param(png(8, 8, (b"\0" + b"\xc8\xff\x64\xff\x32\xff" * 8) * 8, 16, 2), COLOUR, id="16-bit colour"),
        pytest.param(png(8, 8, (b"\0" + b"\xc8\xff\x64\xff\x32\xff\0\0" * 8) * 8, 16, 6), COLOUR, id="16-bit alpha"),
        pytest.param(transparent_palette(), COLOUR, id="transparent palette"),
        pytest.param(encoded(Image.new("L", (8, 8), 200), "JPEG"), GREY, id="grey JPEG"),
        pytest.param(encoded(Image.new("CMYK", (8, 8), (55, 55, 55, 0)), "JPEG"), GREY, id="CMYK"),
        pytest.param(encoded(Image.new("RGB", (8, 8), GREY), "JPEG", progressive=True), GREY, id="progressive"),
    ],
)
def test_every_kind_of_samples_becomes_rgb(body: bytes, colour: tuple[int, ...]) -> None:
    assert mean_colour(body) == colour


def test_the_rotation_that_exif_asks_for_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    picture = Image.linear_gradient("L").convert("RGB")
    turned = images.to_input(encoded(picture, "JPEG", exif=exif), None, 32, 32)
    assert (turned == images.to_input(encoded(picture, "JPEG"), None, 32, 32)).all()


# --- the type


@pytest.mark.parametrize("said", [None, "image/png", "IMAGE/PNG", " image/png ; charset=binary"])
def test_the_type_may_be_said_or_not(said: str | None) -> None:
    assert images.to_input(encoded(Image.new("L", (2, 2))), said, 4, 4).shape == (1, 3, 4, 4)


@pytest.mark.parametrize("said", ["image/gif", "image/jpg", "application/json", "", "text/plain", "png"])
def test_another_type_is_refused(said: str) -> None:
    assert f"Content-Type {said!r} is not served; send image/jpeg or image/png" in refusal(wide_grey(), said)


def test_a_type_that_the_picture_does_not_have_is_refused() -> None:
    assert "is image/png but its Content-Type says image/jpeg" in refusal(wide_grey(), "image/jpeg")
    jpeg = encoded(Image.new("L", (2, 2)), "JPEG")
    assert "is image/jpeg but its Content-Type says image/png" in refusal(jpeg, "image/png")


# --- no picture, or half of one


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"{}",
        b"\xff\xd8",
        b"GIF89a" + bytes(100),
        b"BM" + bytes(100),
        encoded(Image.new("RGB", (8, 8)), "GIF"),
        encoded(Image.new("RGB", (8, 8)), "TIFF"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ],
)
def test_what_is_no_jpeg_or_png_is_refused(body: bytes) -> None:
    assert f"The body ({len(body)} bytes) is no JPEG or PNG" in refusal(body)


@pytest.mark.parametrize("photo", ["coffee.png", "rocket.jpg"])
@pytest.mark.parametrize("part", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_half_a_picture_is_refused(photo: str, part: float) -> None:
    content = (PHOTOS / photo).read_bytes()
    assert "cannot be decoded as image/" in refusal(content[: int(len(content) * part)])


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0" + bytes(500),
        b"\x89PNG\r\n\x1a\n" + b"\xff" * 500,
        png(8, 8, b""),
        png(0, 8, b""),
        png(8, 8, bytes(9999), 3, 5),
        jpeg_of_size(0, 8),
    ],
)
def test_what_only_begins_like_a_picture_is_refused(body: bytes) -> None:
    assert "cannot be decoded as image/" in refusal(body)


def test_no_other_decoder_is_asked() -> None:
    # A Photo CD, known by what is 2048 bytes into the file.
    body = b"\xff\xd8\xff".ljust(2048, b"\0") + b"PCD_".ljust(2048, b"\0") + bytes(96 * 2048 + 768 * 512 * 2)
    with Image.open(io.BytesIO(body)) as picture:
        assert picture.format == "PCD"
    assert "cannot be decoded as image/jpeg" in refusal(body)


# --- too big


@pytest.mark.parametrize(
    ("body", "size"),
    [
        (png(40_000, 40_000, bytes(4_000_000), 1, 0), "40000 x 40000"),
        (png(2**31 - 1, 2**31 - 1, b"\0"), "2147483647 x 2147483647"),
        (png(5_001, 5_000, b"\0"), "5001 x 5000"),
        (png(1, 16_385, b"\0"), "1 x 16385"),
        (png(16_385, 1, b"\0"), "16385 x 1"),
        (jpeg_of_size(65_500, 65_500), "65500 x 65500"),
        (jpeg_of_size(1, 65_500), "1 x 65500"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_picture_that_is_too_big_is_refused_before_it_is_decoded(body: bytes, size: str) -> None:
    assert len(body) < 10_000
    with memory_bound(50_000_000):
        said = refusal(body)
    assert f"has {size} pixels where 25 megapixels and 16384 on a side are the most" in said


@pytest.mark.parametrize("size", [(5_000, 5_000), (1, 16_384), (16_384, 1)])
def test_the_biggest_pictures_are_served(size: tuple[int, int]) -> None:
    width, height = size
    body = png(width, height, bytes((1 + (width + 7) // 8) * height), 1, 0)
    assert images.to_input(body, None, 224, 224).max() == 0


def test_text_that_unpacks_to_far_more_is_refused() -> None:
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000)))
    body = png(1, 1, b"\0" + bytes(COLOUR), 8, 2, bomb)
    with memory_bound(150_000_000):
        assert "cannot be decoded" in refusal(body)


def jpeg_of_scans(count: int) -> bytes:
    """Return a progressive JPEG with so many scans, of which the last one is there again and again."""
    content = encoded(Image.new("RGB", (8, 8), GREY), "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * (count - content.count(b"\xff\xda")) + content[-2:]


def test_a_picture_of_many_scans_is_refused_before_they_are_decoded() -> None:
    assert mean_colour(jpeg_of_scans(100)) == GREY
    assert "is a JPEG of 101 scans where 100 are the most; save it anew" in refusal(jpeg_of_scans(101))


def test_scans_are_counted_of_jpegs_alone() -> None:
    assert mean_colour(png(8, 8, (b"\0" + bytes(GREY) * 8) * 8, 8, 2, chunk(b"prIv", b"\xff\xda" * 101))) == GREY


# What the documentation of the module says, with 15 MB for what else a decoder needs.
@pytest.mark.parametrize(
    ("mode", "options", "bytes_a_pixel"),
    [
        ("RGB", {"format": "JPEG"}, 4),
        ("RGB", {"format": "JPEG", "progressive": True, "subsampling": 0}, 12),
        ("CMYK", {"format": "JPEG", "progressive": True, "subsampling": 0}, 12),
        ("RGBA", {"format": "PNG", "compress_level": 1}, 8),
        ("I;16", {"format": "PNG", "compress_level": 1}, 12),
    ],
)
def test_what_a_request_costs_is_as_documented(
    tmp_path: Path, mode: str, options: dict[str, Any], bytes_a_pixel: int
) -> None:
    side = 3000
    Image.new(mode, (side, side)).save(tmp_path / "picture", **options)
    program = """if True:
        import sys
        from pathlib import Path
        from localcore import images
        def peak():
            status = Path("/proc/self/status").read_text()
            return int(status.split("VmHWM:")[1].split()[0]) * 1024
        bodies = [Path(name).read_bytes() for name in sys.argv[1:]]
        images.to_input(bodies[0], None, 224, 224)
        before = peak()
        images.to_input(bodies[1], None, 224, 224)
        print(peak() - before)
    """
    argv = [sys.executable, "-c", program, str(PHOTOS / "rocket.jpg"), str(tmp_path / "picture")]
    environment = {"PYTHONPATH": ":".join(sys.path)}
    cost = int(subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout)
    assert cost <= bytes_a_pixel * side * side + 15_000_000


# --- whatever comes


@contextmanager
def memory_bound(beyond: int) -> Iterator[None]:
    """Let this process take at most `beyond` bytes more than it has: what asks for more, even unused, fails."""
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (has + beyond, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def served_or_refused(body: bytes) -> None:
    try:
        with memory_bound(12 * images.MAX_PIXELS + 50_000_000):
            pixels = images.to_input(body, None, 16, 16)
    except LocalCoreError as error:
        assert not isinstance(error.__cause__, MemoryError)
        assert str(error).endswith(".") and "\n" not in str(error)
    else:
        assert pixels.shape == (1, 3, 16, 16)
        assert pixels.min() >= 0 and pixels.max() <= 255


GRADIENT = Image.merge("RGB", [Image.linear_gradient("L").resize((40, 30)).rotate(turn) for turn in (0, 90, 180)])
SEEDS = [
    encoded(GRADIENT, "JPEG"),
    encoded(GRADIENT, "JPEG", progressive=True, subsampling=0),
    encoded(GRADIENT.convert("CMYK"), "JPEG"),
    encoded(GRADIENT, "JPEG", exif=Image.Exif(), comment=b"taken by hand"),
    encoded(GRADIENT),
    encoded(GRADIENT.convert("P"), transparency=0),
    encoded(GRADIENT.convert("LA")),
    wide_grey(),
    interlaced(),
]


@given(st.binary(max_size=300), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]))
def test_random_bytes_do_no_harm(body: bytes, signature: bytes) -> None:
    served_or_refused(signature + body)


@settings(max_examples=400)
@given(st.data())
def test_damaged_pictures_do_no_harm(data: st.DataObject) -> None:
    body = bytearray(data.draw(st.sampled_from(SEEDS)))
    places = st.integers(0, len(body) - 1)
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=6)):
        body[place] = value
    start, end = sorted((data.draw(places), data.draw(places)))
    action = data.draw(st.sampled_from(["leave", "cut", "remove", "repeat"]))
    if action == "cut":
        del body[end:]
    elif action == "remove":
        del body[start:end]
    elif action == "repeat":
        body[start:start] = body[start:end]
    served_or_refused(bytes(body))


@given(
    st.integers(0, 2**32 - 1) | st.integers(0, 70_000),
    st.integers(0, 2**32 - 1) | st.integers(0, 70_000),
    st.sampled_from([0, 1, 2, 3, 4, 8, 16, 32, 255]),
    st.integers(0, 7),
    st.binary(max_size=200),
)
def test_pngs_of_any_header_do_no_harm(width: int, height: int, depth: int, colour: int, samples: bytes) -> None:
    served_or_refused(png(width, height, samples, depth, colour, chunk(b"PLTE", bytes(9))))


@given(st.integers(0, 65_535), st.integers(0, 65_535))
def test_jpegs_of_any_size_do_no_harm(width: int, height: int) -> None:
    served_or_refused(jpeg_of_size(width, height))
