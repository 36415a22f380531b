"""Pictures as the model takes them: decoded within bounds, and the same numbers on every device.

What the connector of V1 did: RGB, resized to the model's size without regard to proportions and without
cropping, channels first, raw values from 0 to 255. Besides, as OpenCV reads pictures in colour, and with it MXNet:
transparency is dropped, and 16-bit samples keep their upper byte. EXIF's rotation is ignored; cameras of devices
write none.

One resampling for all: Pillow's BILINEAR, which averages over all the pixels that fall together. Pillow computes
it with integers of fixed precision, and libjpeg-turbo decodes with its integer transform: neither depends on the
release, the architecture or the number of cores. OpenCV promises as much only of a resampling that leaves pixels
out, and where onnxruntime infers there need be no OpenCV.

What a request costs while it is answered, measured: 4 bytes a pixel if it is an ordinary photograph, 8 with alpha or
in CMYK, 12 at worst (16-bit greys, and JPEGs in several scans, which are decoded only when all of them are there). With
MAX_PIXELS that is 100, 200 and 300 MB; MAX_SIDE bounds what resampling takes on top to 15 MB for a model of 224 x 224.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError

from localcore.errors import LocalCoreError

MAX_PIXELS = 25_000_000
# Rows are resampled first: a picture of 1 x 25,000,000 pixels would grow to 224 x 25,000,000 in between.
MAX_SIDE = 16_384
# Progressive JPEGs have about ten scans, and each goes over all the pixels: of one of 1 MB, 20,000 took minutes.
MAX_SCANS = 100

_SIGNATURES = {"image/jpeg": b"\xff\xd8\xff", "image/png": b"\x89PNG\r\n\x1a\n"}
_FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG"}
# 16-bit greys: Pillow 9.4 has them as I, 11.1 as I;16.
_WIDE_MODES = ("I", "I;16")

# Pillow's own bound only warns until it is passed twice over, and does not say the size: ours takes its place.
Image.MAX_IMAGE_PIXELS = None
# Half a picture is no picture.
ImageFile.LOAD_TRUNCATED_IMAGES = False


def to_input(body: bytes, content_type: str | None, width: int, height: int) -> npt.NDArray[np.float32]:
    """Return the picture in `body` as 1 x 3 x `height` x `width` values from 0 to 255, red first.

    `content_type` is what the sender says that it is: image/jpeg, image/png, or None to look. Raises
    LocalCoreError for what is neither, is not what the sender says, is not whole, or is too big; its size and
    its scans are known before anything is decoded.
    """
    found = _detect(body, content_type)
    if found == "image/jpeg" and (scans := body.count(b"\xff\xda")) > MAX_SCANS:
        raise LocalCoreError(
            f"The picture is a JPEG of {scans} scans where {MAX_SCANS} are the most; save it anew with any program."
        )
    try:
        with Image.open(io.BytesIO(body), formats=(_FORMATS[found],)) as picture:
            _check_size(*picture.size)
            small = _decode(picture).resize((width, height), Image.Resampling.BILINEAR).convert("RGB")
    except LocalCoreError:
        raise
    except Exception as error:  # hostile files draw SyntaxError, struct.error, EOFError and more out of Pillow
        raise LocalCoreError(
            f"The picture cannot be decoded as {found} ({_reason(error)}); send a whole file that other programs open."
        ) from error
    return np.asarray(small, dtype=np.float32).transpose(2, 0, 1)[np.newaxis].copy()


def _detect(body: bytes, content_type: str | None) -> str:
    """Return the type that the first bytes of `body` show, if it is the one that `content_type` says."""
    said = None if content_type is None else content_type.split(";")[0].strip().lower()
    if said is not None and said not in _SIGNATURES:
        raise LocalCoreError(f"The Content-Type {content_type!r} is not served; send image/jpeg or image/png.")
    found = next((kind for kind, signature in _SIGNATURES.items() if body.startswith(signature)), None)
    if found is None:
        raise LocalCoreError(f"The body ({len(body)} bytes) is no JPEG or PNG; send the content of such a file.")
    if said not in (None, found):
        raise LocalCoreError(f"The picture is {found} but its Content-Type says {said}; make the two agree.")
    return found


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise LocalCoreError(
            f"The picture has {width} x {height} pixels where {MAX_PIXELS // 1_000_000} megapixels and "
            f"{MAX_SIDE} on a side are the most; send a smaller one."
        )


def _decode(picture: Image.Image) -> Image.Image:
    """Return the picture in RGB or, since it is a quarter of that, in the 8-bit grey that it came in."""
    # A transparent colour is dropped as an alpha channel is; left here, it makes Pillow warn about palettes.
    picture.info.pop("transparency", None)
    if picture.mode in ("L", "RGB"):
        picture.load()
        return picture
    if picture.mode in _WIDE_MODES:
        return picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    return picture.convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # whose sentence names an object in memory
        return "its header makes no sense"
    return " ".join(str(error).split()) or type(error).__name__
