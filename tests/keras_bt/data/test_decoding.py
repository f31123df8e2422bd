import io

import numpy as np
import pytest
import tensorflow as tf
from image_files import BROKEN, ENCODED, encoded, photo, png_16_bits
from PIL import Image

from keras_bt.data.decoding import DataError, Decoder, Unreadable


def decode(contents, decoder, stop=True):
    """Decodes named contents inside `tf.data`."""
    names = tf.data.Dataset.from_tensor_slices((list(contents.values()), list(contents)))
    images = names.map(lambda data, name: decoder.bytes(data, name, stop))
    return dict(zip(contents, images.as_numpy_iterator(), strict=True))


def test_every_format_gives_the_pixels_of_pillow():
    decoder = Decoder("test", len(ENCODED))
    decoded = decode(ENCODED, decoder)
    for name, data in ENCODED.items():
        with Image.open(io.BytesIO(data)) as image:
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        on_white = Image.new("RGBA", image.size, "white")
        expected = np.asarray(Image.alpha_composite(on_white, image.convert("RGBA")).convert("RGB"))
        image, readable = decoded[name]
        assert readable
        assert image.dtype == np.uint8
        # JPEG, too: the same library decodes it, with the same inverse DCT. A level is granted
        # for other builds of it.
        difference = np.abs(image.astype(int) - expected)
        assert difference.max() <= ("jpeg" in name), name
        assert difference.mean() < 0.1, name
    assert decoder.unreadable.names == ()


def test_what_pillow_would_clip_or_fade_keeps_its_high_byte():
    gray = np.array([[0, 255, 256, 1000, 40_000, 65_535]], np.uint16)[..., None]
    image, _ = decode({"a": png_16_bits(gray)}, Decoder("test", 1))["a"]
    np.testing.assert_array_equal(image, np.repeat(gray >> 8, 3, axis=-1))
    # TensorFlow refuses a PNG without its end, Pillow reads it: it must do the same.
    image, readable = decode({"a": png_16_bits(gray)[:-12]}, Decoder("test", 1))["a"]
    assert readable
    np.testing.assert_array_equal(image, np.repeat(gray >> 8, 3, axis=-1))


def test_broken_images_are_noted_with_a_reason_and_the_others_are_not():
    contents = {f"good {n}": ENCODED["png"] for n in range(3)} | BROKEN
    decoder = Decoder("test", 10_000)
    decoded, unreadable = decode(contents, decoder), decoder.unreadable
    assert unreadable.names == tuple(sorted(BROKEN))
    for name, (image, readable) in decoded.items():
        assert readable == (name not in BROKEN)
        assert readable or image.shape == (1, 1, 3)
    assert unreadable.reasons["text"] == "not an image"
    assert all(reason and "\n" not in reason for reason in unreadable.reasons.values())
    assert "0x" not in str(unreadable.reasons)


def test_files_that_cannot_be_opened_are_noted_by_their_relative_path(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "leads nowhere.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "größe.png").write_bytes(ENCODED["png"])
    (tmp_path / "a" / "leer.png").write_bytes(b"")
    paths = ["a/leads nowhere.png", "größe.png", "a/leer.png"]
    decoder = Decoder("test", 1000)
    decoded = tf.data.Dataset.from_tensor_slices([str(tmp_path / path) for path in paths]).map(
        lambda path: decoder.file(path, str(tmp_path))
    )
    readable = [bool(readable) for _, readable in decoded.as_numpy_iterator()]
    assert readable == [False, True, False]
    assert decoder.unreadable.reasons == {
        "a/leads nowhere.png": "No such file or directory",
        "a/leer.png": "not an image",
    }


def test_a_large_photograph_is_read():
    data = encoded(np.tile(photo(600, 800), (10, 10, 1)), "JPEG")
    image, _ = decode({"a": data}, Decoder("test", 1))["a"]
    assert image.shape == (6000, 8000, 3)


@pytest.mark.parametrize(("total", "tolerated"), [(1, 1), (10, 1), (199, 1), (200, 2), (1050, 10)])
def test_one_per_cent_but_at_least_one_image_is_tolerated(total, tolerated):
    unreadable = Unreadable("folder:/data", total)
    for n in range(tolerated):
        unreadable.add(f"{n}.jpg", "truncated")
        unreadable.add(f"{n}.jpg", "truncated")  # in the next epoch
    unreadable.check()
    unreadable.add("last.jpg", "truncated")
    with pytest.raises(DataError, match=f"{tolerated + 1} unreadable of {total} in folder:/data"):
        unreadable.check()
    for n in range(60):
        unreadable.add(f"{n:02}.jpg", "truncated")
    with pytest.raises(DataError, match=r": 0\.jpg \(truncated\), 0.* and \d+ more\.$") as error:
        unreadable.check()
    assert "\n" not in str(error.value)


def test_too_many_unreadable_images_stop_the_data_set():
    with pytest.raises(tf.errors.OpError, match=r"2 unreadable of 20 .*: a \(not an image\), b\."):
        decode({"a": b"", "b": b""}, Decoder("test", 20))
    decoder = Decoder("test", 20)
    decode({"a": b"", "b": b""}, decoder, stop=False)
    assert len(decoder.unreadable) == 2
