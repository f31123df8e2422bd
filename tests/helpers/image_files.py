"""A small photograph in every format that is read, and files that are none."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

RNG = np.random.RandomState(0)


def photo(height=60, width=91):
    """Smooth colors with some noise, as RGB."""
    y, x = np.mgrid[:height, :width]
    smooth = 128 + 100 * np.sin(np.stack([x / 9, y / 7, (x + y) / 11], axis=-1))
    return np.clip(smooth + RNG.normal(0, 5, smooth.shape), 0, 255).astype(np.uint8)


def encoded(pixels, image_format, mode=None, **options):
    image = Image.fromarray(pixels)
    image = image if mode is None else image.convert(mode)
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def png_16_bits(pixels):
    """A PNG of uint16 (h, w, 1), (h, w, 3) or (h, w, 4), which Pillow cannot write."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def with_alpha(pixels):
    return np.dstack([pixels, RNG.randint(0, 256, pixels.shape[:2], np.uint8)])


PHOTO = photo()
PHOTO_16 = (PHOTO.astype(np.uint16) << 8) + RNG.randint(0, 256, PHOTO.shape)
ENCODED = {
    "jpeg": encoded(PHOTO, "JPEG"),
    "jpeg of full chroma": encoded(PHOTO, "JPEG", subsampling=0),
    "progressive jpeg": encoded(PHOTO, "JPEG", progressive=True),
    "gray jpeg": encoded(PHOTO, "JPEG", mode="L"),
    "cmyk jpeg": encoded(PHOTO, "JPEG", mode="CMYK"),
    "adobe rgb jpeg": encoded(PHOTO, "JPEG", keep_rgb=True),
    "jpeg with exif orientation": encoded(
        PHOTO,
        "JPEG",
        exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",
    ),
    "jpeg of 1 × 1": encoded(PHOTO[:1, :1], "JPEG"),
    "jpeg with bytes behind it": encoded(PHOTO, "JPEG") + b"more",
    "png": encoded(PHOTO, "PNG"),
    "png of 1 × 1": encoded(PHOTO[:1, :1], "PNG"),
    "gray png": encoded(PHOTO, "PNG", mode="L"),
    "gray png with alpha": encoded(PHOTO, "PNG", mode="LA"),
    "png of 1 bit": encoded(PHOTO, "PNG", mode="1"),
    "png with alpha": encoded(with_alpha(PHOTO), "PNG"),
    "palette png": encoded(PHOTO, "PNG", mode="P"),
    "palette png with a transparent color": encoded(PHOTO, "PNG", mode="P", transparency=3),
    "palette png of 4 bits": encoded(PHOTO // 64 * 64, "PNG", mode="P", bits=4),
    "png of 16 bits": png_16_bits(PHOTO_16),
    "png with alpha of 16 bits": png_16_bits(np.dstack([PHOTO_16, PHOTO_16[..., :1]])),
    "gif": encoded(PHOTO, "GIF", mode="P"),
    "animated gif": encoded(
        PHOTO, "GIF", save_all=True, append_images=[Image.fromarray(255 - PHOTO)]
    ),
    "bmp": encoded(PHOTO, "BMP"),
    "bmp with alpha": encoded(with_alpha(PHOTO), "BMP"),
    "palette bmp": encoded(PHOTO, "BMP", mode="P"),
    "gray bmp": encoded(PHOTO, "BMP", mode="L"),
    "bmp of 1 bit": encoded(PHOTO, "BMP", mode="1"),
    "webp": encoded(PHOTO, "WEBP"),
    "lossless webp with alpha": encoded(with_alpha(PHOTO), "WEBP", lossless=True),
}
BROKEN = {
    "empty": b"",
    "text": b"This is no image.\n",
    "truncated jpeg": ENCODED["jpeg"][:1000],
    "jpeg without its end": ENCODED["jpeg"][:-30],
    "truncated progressive jpeg": ENCODED["progressive jpeg"][:1000],
    "jpeg in name only": b"\xff\xd8\xff\xe0" + b"text" * 10,
    "truncated png": ENCODED["png"][:1000],
    "truncated gif": ENCODED["gif"][:1000],
    "truncated bmp": ENCODED["bmp"][:1000],
    "truncated webp": ENCODED["webp"][:500],
}
