"""From the JPEG that a camera gives to the picture that was asked for: its size, its sides, its format.

Pillow does it, and is imported only where there is something to do: what already is as asked for stays as it is.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

from picamera.exc import PiCameraError, PiCameraRuntimeError

Size = tuple[int, int]

FILE_FORMATS = {"jpeg": "JPEG", "png": "PNG", "gif": "GIF", "bmp": "BMP"}
# Raw formats, and Pillow's names for the picture and the order of its bytes.
RAW_FORMATS = {"rgb": ("RGB", "RGB"), "bgr": ("RGB", "BGR"), "rgba": ("RGBA", "RGBA"), "bgra": ("RGBA", "BGRA")}
DEFAULT_QUALITY = 95

START_OF_IMAGE = b"\xff\xd8"
# SOF0 to SOF15 but DHT, JPG and DAC (ITU T.81, table B.1); then: length, precision, height, width.
FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
FRAME_SIZE = struct.Struct(">HBHH")
SEGMENT_LENGTH = struct.Struct(">H")


@dataclass(frozen=True)
class Look:
    """How a picture shall be: its size in pixels, turned clockwise by `rotation` degrees, mirrored."""

    size: Size
    rotation: int = 0
    hflip: bool = False
    vflip: bool = False


def raw_size(size: Size) -> Size:
    """Return the size that raw pictures have in picamera: rows of a multiple of 32, a multiple of 16 of them."""
    return (size[0] + 31) // 32 * 32, (size[1] + 15) // 16 * 16


def convert(jpeg: bytes, look: Look, resize: Size | None, form: str, quality: int = DEFAULT_QUALITY) -> bytes:
    """Return a picture in a format of FILE_FORMATS or RAW_FORMATS.

    It is the middle of `jpeg`, as much of it as has the proportions of `look`; `resize` scales the result.
    """
    if form == "jpeg" and look == Look(resize or look.size) and jpeg_size(jpeg) == look.size:
        return jpeg
    try:
        from PIL import Image
    except Exception as error:  # a library that does not fit is no ImportError
        raise PiCameraError(
            f"Pictures cannot be converted without Pillow ({error}); install the package python3-pil."
        ) from error
    try:
        turned = look.rotation in (90, 270)
        size = look.size[::-1] if turned else look.size
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as source:
            source.draft("RGB", size)  # decodes a large picture at a fraction of its size, in a fraction of the memory
            picture = source.convert("RGB").resize(size, Image.Resampling.BILINEAR, _middle(source.size, size))
        if look.rotation:
            picture = picture.transpose(getattr(Image.Transpose, f"ROTATE_{360 - look.rotation}"))  # counterclockwise
        if look.hflip:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if look.vflip:
            picture = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        if resize:
            picture = picture.resize(resize, Image.Resampling.BILINEAR)
        if form in RAW_FORMATS:
            mode, order = RAW_FORMATS[form]
            padded = Image.new(mode, raw_size(picture.size))
            padded.paste(picture, (0, 0))
            return padded.tobytes("raw", order)
        encoded = io.BytesIO()
        picture.save(encoded, FILE_FORMATS[form], quality=quality)
        return encoded.getvalue()
    except Exception as error:  # broken files draw SyntaxError, struct.error and more out of Pillow
        raise PiCameraRuntimeError(
            f"The camera's picture cannot be converted ({error}); check the camera, or replace the picture."
        ) from error


def jpeg_size(jpeg: bytes) -> Size | None:
    """Return width and height as the header of a JPEG says, None if it says nothing."""
    position = len(START_OF_IMAGE)
    try:
        while jpeg[position] == 0xFF:
            marker = jpeg[position + 1]
            if marker == 0xFF:  # fill
                position += 1
                continue
            if marker in FRAME_MARKERS:
                _length, _precision, height, width = FRAME_SIZE.unpack_from(jpeg, position + 2)
                return width, height
            position += 2 + SEGMENT_LENGTH.unpack_from(jpeg, position + 2)[0]
    except (IndexError, struct.error):
        pass
    return None


def _middle(have: Size, want: Size) -> tuple[float, float, float, float]:
    """Return the box (left, top, right, bottom) of the largest part of `have` with the proportions of `want`."""
    width = min(have[0], have[1] * want[0] / want[1])
    height = min(have[1], have[0] * want[1] / want[0])
    left, top = (have[0] - width) / 2, (have[1] - height) / 2
    return left, top, left + width, top + height
