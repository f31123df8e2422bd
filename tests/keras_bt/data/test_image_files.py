"""Every kind of image file, one by one: what is read, what is said, what is refused."""

import io
import struct
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
import tensorflow as tf
from image_files import BROKEN, ENCODED, PHOTO, encoded, png_16_bits, with_alpha
from PIL import Image, ImageOps

from keras_bt.data import Decoding, evaluation_batches, image_files, open_source, remarks
from keras_bt.data.decoding import DataError, Decoder, decode_native

ORANGE = (255, 128, 0)
CLEAR = with_alpha(PHOTO)
GRAY = np.asarray(Image.fromarray(PHOTO).convert("L"))


def decode(*files, **decoding):
    """Decodes files inside `tf.data`.

    Returns pairs of image and readable, what was odd about those that are, in order, and why the
    others are not.
    """
    decoder = Decoder("test", len(files), Decoding(**decoding))
    names = [f"{number:03}" for number in range(len(files))]
    dataset = tf.data.Dataset.from_tensor_slices((list(files), names)).map(
        lambda data, name: decoder.bytes(data, name, stop=False, look=True)
    )
    return list(dataset.as_numpy_iterator()), decoder.noticed.all(), decoder.unreadable.reasons


def decode_one(data, **decoding):
    """Decodes one file; returns image, readable, what was odd about it or None, why it is not."""
    ((image, readable),), odd, reasons = decode(data, **decoding)
    return image, readable, odd[0] if odd else None, "".join(reasons.values())


def on(color, image):
    """Shows an image with alpha on a color as Pillow does."""
    image = image.convert("RGBA")
    ground = Image.new("RGBA", image.size, (*color, 255))
    return np.asarray(Image.alpha_composite(ground, image).convert("RGB"))


def with_clear_color(image_format, transparency=None, **options):
    """A palette image, one color of which is transparent, or as many as `transparency` says."""
    image = Image.fromarray(PHOTO).quantize(options.pop("colors", 64))
    file = io.BytesIO()
    image.save(file, image_format, transparency=transparency or image.getpixel((40, 30)), **options)
    return file.getvalue()


def turned(image_format, orientation, endian="<", **options):
    exif = Image.Exif()
    exif.endian = endian
    exif[0x010F], exif[0x0112], exif[0x0131] = "maker", orientation, "program"
    return encoded(PHOTO, image_format, exif=exif.tobytes(), **options)


def png_with_sides(height, width):
    """A PNG that says so of itself, with as many black pixels, in few bytes."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((1 + -(-width // 8)) * height))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    )


TRANSPARENT = {
    "RGBA png": encoded(CLEAR, "PNG"),
    "LA png": encoded(CLEAR, "PNG", mode="LA"),
    "palette png, one color": with_clear_color("PNG"),
    "palette png, many": with_clear_color("PNG", bytes(range(0, 250, 5))),
    "palette png of 4 bits": with_clear_color("PNG", colors=16, bits=4),
    "RGB png, one color": encoded(PHOTO // 64 * 64, "PNG", transparency=(128, 128, 128)),
    "gray png, one level": encoded(GRAY // 64 * 64, "PNG", transparency=128),
    "png of 1 bit": encoded(PHOTO, "PNG", mode="1", transparency=0),
    "RGBA png of 16 bits": png_16_bits(CLEAR.astype(np.uint16) << 8),
    "interlaced png with bytes behind it": encoded(CLEAR, "PNG", interlace=1) + b"more",
    "gif": with_clear_color("GIF"),
    "animated gif": with_clear_color(
        "GIF", save_all=True, append_images=[Image.fromarray(255 - PHOTO)]
    ),
    "lossless webp": encoded(CLEAR, "WEBP", lossless=True, exact=True),
    "webp": encoded(CLEAR, "WEBP"),
    "tiff": encoded(CLEAR, "TIFF"),
    "compressed tiff": encoded(CLEAR, "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize(("background", "color"), [("white", (255,) * 3), ("#ff8000", ORANGE)])
def test_transparency_is_shown_on_the_color(background, color):
    decoded, odd, _ = decode(*TRANSPARENT.values(), background=background)
    for (kind, data), (image, readable) in zip(TRANSPARENT.items(), decoded, strict=True):
        assert readable, kind
        with Image.open(io.BytesIO(data)) as original:
            np.testing.assert_array_equal(image, on(color, original), err_msg=kind)
            # The colors behind the transparency are not to be seen.
            assert (image != np.asarray(original.convert("RGBA"))[..., :3]).any(), kind
    assert [found.transparent for found in odd] == [True] * len(TRANSPARENT)


OPAQUE = {
    **{f"{kind}": ENCODED[kind] for kind in ("jpeg", "png", "gif", "bmp", "webp", "palette png")},
    "tiff": encoded(PHOTO, "TIFF"),
    "tiff of jpeg": encoded(PHOTO, "TIFF", compression="jpeg"),
    "gray tiff": encoded(GRAY, "TIFF"),
    "fax": encoded(PHOTO, "TIFF", mode="1", compression="group4"),
    "png with opaque alpha": encoded(np.dstack([PHOTO, np.full_like(GRAY, 255)]), "PNG"),
}


def test_opaque_images_are_what_they_were():
    decoded, odd, _ = decode(*OPAQUE.values(), background="#ff8000")
    for (kind, data), (image, readable) in zip(OPAQUE.items(), decoded, strict=True):
        assert readable, kind
        with Image.open(io.BytesIO(data)) as original:
            expected = np.asarray(original.convert("RGB"))
        assert np.abs(image.astype(int) - expected).max() <= (kind == "jpeg"), kind
    assert not any(found.transparent for found in odd)
    assert len(odd) == len(OPAQUE)


def test_rounded_as_it_is_defined():
    """(α · image + (255 − α) · color) / 255, in both paths, for every α, level and color."""
    alpha, level = np.meshgrid(np.arange(256), np.arange(256))
    image = np.dstack([level] * 3 + [alpha]).astype(np.uint8)
    color = (7, 200, 255)
    exact = (alpha[..., None] * level[..., None] + (255 - alpha[..., None]) * np.array(color)) / 255
    np.testing.assert_array_equal(image_files.on_background(image, color), np.round(exact))
    decoding = Decoding(background="#07c8ff")
    native = decode_native(tf.constant(encoded(image, "PNG")), decoding)
    np.testing.assert_array_equal(native, np.round(exact))


@pytest.mark.slow
def test_the_exif_orientation():
    files = [
        turned(kind, number, endian, **({"lossless": True} if kind == "WEBP" else {}))
        for kind in ("JPEG", "PNG", "WEBP")
        for endian in "<>"
        for number in range(1, 9)
    ]
    flat, odd, _ = decode(*files)
    upright, _, _ = decode(*files, exif="apply")
    assert [found.turned for found in odd] == ([False] + [True] * 7) * 6
    for data, (image, _), (unchanged, _) in zip(files, upright, flat, strict=True):
        with Image.open(io.BytesIO(data)) as original:
            expected = np.asarray(ImageOps.exif_transpose(original))
        assert np.abs(image.astype(int) - expected).max() <= 1  # of JPEG, as above
        assert unchanged.shape == PHOTO.shape
    native = decode_native(tf.constant(files[5]), Decoding(exif="apply"))
    np.testing.assert_array_equal(native, upright[5][0])  # as `serve_jpeg` decodes it


def test_exif_far_behind_the_beginning_is_found_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(PHOTO, "JPEG", exif=exif)
    comment = b"\xff\xfe" + struct.pack(">H", 60_000) + bytes(59_998)
    data = data[:2] + comment * 2 + data[2:]
    image, _, odd, _ = decode_one(data, exif="apply")
    assert image.shape == (91, 60, 3)
    assert odd.turned


@pytest.mark.slow
def test_too_many_pixels_cost_no_memory():
    data = png_with_sides(13_000, 13_000)
    assert len(data) < 25_000
    tracemalloc.start()
    _, readable, _, reason = decode_one(data)
    assert not readable
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert reason == "13000 × 13000 pixels are more than max_pixels=64000000"
    for data, most in ((ENCODED["jpeg"], PHOTO[..., 0].size), (ENCODED["gif"], 60 * 91)):
        assert decode_one(data, max_pixels=most)[1]
        assert not decode_one(data, max_pixels=most - 1)[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow warns of such sizes
        assert decode_one(png_with_sides(9_500, 9_500), max_pixels=100_000_000)[1]


EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n0 0 moveto\nshowpage\n%%EOF\n"
)
REFUSED = {
    "eps": (EPS, "not an image"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not an image"),
    "pdf": (b"%PDF-1.4\n", "not an image"),
    "ico": (encoded(PHOTO, "ICO"), "not an image"),
    "ppm": (encoded(PHOTO, "PPM"), "not an image"),
    "tiff of floats": (encoded(GRAY.astype(np.float32), "TIFF"), "32 bits"),
    "tiff of 32 bits": (encoded(GRAY.astype(np.int32), "TIFF"), "32 bits"),
    "zip": (b"PK\3\4" + bytes(30), "not an image"),
    "empty": (b"", "not an image"),
}


def test_what_is_refused(monkeypatch):
    def started(*arguments, **options):
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.Popen.__init__", started)  # Ghostscript, for EPS
    decoded, _, reasons = decode(*(data for data, _ in REFUSED.values()))
    for (kind, (_, reason)), (image, readable), said in zip(
        REFUSED.items(), decoded, reasons.values(), strict=True
    ):
        assert not readable, kind
        assert image.shape == (1, 1, 3)
        assert reason in said, kind


def test_twelve_bits_in_sixteen():
    levels = {4095: True, 4096: False, 40_000: False, 0: False}  # 0: black it is
    images = [np.full((4, 5), level, np.uint16) for level in levels]
    files = [png_16_bits(image[..., None]) for image in images]
    files += [png_16_bits(np.dstack([image] * 3)) for image in images]
    files += [encoded(image, "TIFF") for image in images]
    assert [found.dark for found in decode(*files)[1]] == [*levels.values()] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"background": "red"}, "background must be white, black or #rrggbb. Received: red"),
        ({"background": "#ff80"}, "Received: #ff80"),
        ({"background": "#gg8000"}, "Received: #gg8000"),
        ({"exif": "yes"}, "exif must be ignore or apply. Received: yes"),
        ({"max_pixels": 0}, "max_pixels must be at least 1"),
        ({"max_unreadable": 1.5}, "max_unreadable from 0 to 1"),
    ],
)
def test_what_is_no_way_to_decode(options, message):
    with pytest.raises(DataError, match=message):
        Decoding(**options)


def folder_of(tmp_path, files):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return f"folder:{tmp_path}"


@pytest.mark.parametrize("cache_bytes", [2**30, 0])
def test_what_is_odd_is_said(tmp_path, cache_bytes):
    files = {f"{n}.png": data for n, data in enumerate(TRANSPARENT.values())}
    files |= {"a.jpg": ENCODED["jpeg"], "b.jpg": turned("JPEG", 6), "c.jpg": b"text"}
    files["d.png"] = png_16_bits(np.full((70, 70, 1), 300, np.uint16))
    source, _ = open_source(folder_of(tmp_path, files), cache_bytes=cache_bytes)
    assert remarks(source) == [
        "16 images are transparent: shown on white (--background).",
        "1 image has an EXIF orientation, which is ignored (--exif=apply follows it).",
        "1 image has 16 bits per value of which 12 at most are used: nearly black, unless "
        "multiplied by 16.",
    ]
    assert remarks(source, 61)[-1].startswith("18 images are smaller than the views (61 pixels)")


def test_of_many_images_a_sample_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr("keras_bt.data.looking.SAMPLE", 4)
    files = {f"{n}.png": TRANSPARENT["RGBA png"] for n in range(9)}
    source, _ = open_source(folder_of(tmp_path, files), cache_bytes=0)
    (line,) = remarks(source)
    assert line.startswith("About 100% of the images (4 were looked at) are transparent: shown on ")


@pytest.mark.slow
def test_300_corruptions_crash_nothing(tmp_path):
    """Bytes changed, cut out and doubled: each is an image or has a reason."""
    random = np.random.default_rng(0)
    originals = list((ENCODED | TRANSPARENT | OPAQUE).values())
    files = {}
    for number in range(300):
        data = bytearray(originals[number % len(originals)])
        for _ in range(random.integers(1, 5)):
            at, length = random.integers(0, len(data)), random.integers(1, 20)
            at //= random.choice([1, 20])  # the header above all
            match random.integers(3):
                case 0:
                    data[at : at + length] = random.bytes(length)
                case 1:
                    del data[at : at + length]
                case 2:
                    data[at:at] = data[at : at + length]
        files[f"{number:03}.png"] = bytes(data)
    decoding = Decoding(max_unreadable=1)
    source, _ = open_source(folder_of(tmp_path, files), cache_bytes=0, decoding=decoding)
    readable = sum(len(images) for images, _ in evaluation_batches(source, 16, 50))
    assert 30 < readable < 300
    assert len(source.unreadable) == 300 - readable
    assert all(source.unreadable.reasons.values())


def test_the_first_bytes_tell_an_image(tmp_path):
    for number, data in enumerate((ENCODED | TRANSPARENT | OPAQUE).values()):
        (tmp_path / f"{number}").write_bytes(data)
        assert image_files.looks_like_an_image(tmp_path / f"{number}")
    others = {kind: BROKEN[kind] for kind in ("empty", "text")}
    others |= {kind: data for kind, (data, _) in REFUSED.items() if "tiff" not in kind}
    others |= {"wave": b"RIFF\0\0\0\0WAVEfmt ", "BMW": b"BM"}
    for kind, data in others.items():
        (tmp_path / kind).write_bytes(data)
        assert not image_files.looks_like_an_image(tmp_path / kind), kind
    assert not image_files.looks_like_an_image(tmp_path / "nowhere")
