"""Image files as Pillow reads them: those that TensorFlow refuses, and what is odd about a file.

No name is trusted: what a file is, its first bytes say. Only the formats listed here are tried, as
some of Pillow's others start programs (Ghostscript for EPS).
"""

import io
import threading
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageOps

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".gif", ".bmp", ".webp"),
    *(".tif", ".tiff"),
)
_BEGINNINGS = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM"),
    *(b"II*\0", b"MM\0*"),
)
_ORIENTATION = 0x0112  # EXIF tag; 1 is upright
MAX_PIXELS = 64_000_000
_OPENING = threading.Lock()


class UnfitError(Exception):
    """Why an image cannot be read, in words for the user."""


class Oddities(NamedTuple):
    """What a user should know about an image file that can be read."""

    height: int
    width: int
    transparent: bool  # some of it, not merely able to be
    turned: bool  # its EXIF orientation is not upright
    dark: bool  # 16 bits per value of which only the lower 12 or fewer are used


def looks_like_an_image(path: str) -> bool:
    """Tells by its first bytes whether a file is of a format that is read; False if unreadable."""
    try:
        with open(path, "rb") as file:
            start = file.read(12)
    except OSError:
        return False
    webp = start[:4] == b"RIFF" and start[8:] == b"WEBP"
    return webp or (start.startswith(_BEGINNINGS) and len(start) == 12)


def color(text: str) -> tuple[int, int, int]:
    """Converts `white`, `black` or `#rrggbb` to red, green and blue, 0 to 255.

    Raises:
        ValueError: if it is none of these.
    """
    if text in ("white", "black") or (len(text) == 7 and text.startswith("#")):
        try:
            red, green, blue, *_ = ImageColor.getrgb(text)
            return red, green, blue
        except ValueError:
            pass
    raise ValueError(f"background must be white, black or #rrggbb. Received: {text}.")


def pixels(
    file: str | io.BytesIO, background: tuple[int, int, int], upright: bool, max_pixels: int
) -> np.ndarray:
    """Reads an image.

    Args:
        file: path or contents.
        background: color, 0 to 255, that transparent parts are shown on.
        upright: whether to apply the EXIF orientation.
        max_pixels: the largest size.

    Returns:
        uint8 (h, w, 3).

    Raises:
        Exception: nearly any of Pillow's, if it cannot be read.
    """
    with _opened(file, max_pixels) as image:
        if upright:
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        elif image.mode in ("I", "F"):
            raise UnfitError("its values have 32 bits; save it with 8 bits per value")
        if not image.has_transparency_data:
            return np.asarray(image.convert("RGB"))
        return on_background(np.asarray(image.convert("RGBA")), background)


def on_background(image: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """Shows uint8 (h, w, 4) on a color: α · image + (1 − α) · color, rounded; uint8 (h, w, 3)."""
    alpha = image[..., 3:].astype(np.uint16)  # 255 · 255 + 127 fits
    shown = alpha * image[..., :3] + (255 - alpha) * np.array(background, np.uint16)
    return ((shown + 127) // 255).astype(np.uint8)


def oddities(file: str | io.BytesIO, max_pixels: int) -> Oddities | None:
    """Looks at an image; costs little unless its format has transparency or 16 bits per value.

    Returns:
        What is odd about it, or None if it cannot be read.
    """
    try:
        with _opened(file, max_pixels) as image:
            width, height = image.size
            transparent = turned = dark = False
            if image.format != "PNG" or "exif" in image.info:  # Pillow would decode all of a PNG
                turned = image.getexif().get(_ORIENTATION, 1) in range(2, 9)
            if ";16" in str(image.tile):
                dark = 0 < np.asarray(image).max() < (4096 if image.mode.startswith("I") else 16)
            if image.has_transparency_data:
                transparent = image.convert("RGBA").getchannel("A").getextrema()[0] < 255
            return Oddities(height, width, transparent, turned, bool(dark))
    except Exception:  # of many kinds; decoding says which
        return None


def reason(error: Exception) -> str:
    """Says in one line why an image could not be read."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"  # Pillow's own text shows the address of a buffer
    return " ".join((getattr(error, "strerror", None) or str(error) or repr(error)).split())


def _opened(file, max_pixels):
    with _OPENING:  # without Pillow's own limit, which is another and warns
        pillows, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(file, formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = pillows
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise UnfitError(f"{width} × {height} pixels are more than max_pixels={max_pixels}")
    return image
