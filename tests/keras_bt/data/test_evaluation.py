import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_bt import data

RNG = np.random.RandomState(0)


@pytest.fixture
def photos(tmp_path):
    """Twelve images in two classes, one of them broken."""
    images = {}
    for n in range(12):
        path = tmp_path / "ab"[n % 2] / f"{n:02}.png"
        path.parent.mkdir(exist_ok=True)
        images[path] = RNG.randint(0, 256, (30 + n, 40, 3), np.uint8)
        Image.fromarray(images[path]).save(path)
    broken = tmp_path / "a" / "04.png"
    broken.write_bytes(broken.read_bytes()[:100])
    del images[broken]
    return tmp_path, images


def test_the_public_names_are_there():
    assert all(hasattr(data, name) for name in data.__all__)


@pytest.mark.parametrize("cache_bytes", [0, 2**20])
def test_evaluation_sees_all_readable_images_in_order(photos, cache_bytes):
    folder, images = photos
    source, _ = data.open_source(f"folder:{folder}", cache_bytes=cache_bytes)
    batches = list(data.evaluation_batches(source, 16, batch_size=4).as_numpy_iterator())
    assert [len(labels) for _, labels in batches] == [4, 4, 3]
    found, labels = map(np.concatenate, zip(*batches, strict=True))
    assert found.dtype == np.float32
    assert labels.dtype == np.int64
    paths = sorted(images)
    np.testing.assert_array_equal(labels, [path.parent.name == "b" for path in paths])
    expected = [data.normalize(data.center_crop(images[path], 16)) for path in paths]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert source.unreadable.names == ("a/04.png",)


def test_small_images_are_enlarged_but_not_cropped():
    gray = RNG.randint(0, 256, (5, 8, 8, 1), np.uint8)
    source = data.ArraySource(gray)
    rgb = np.repeat(gray, 3, axis=-1)
    for size, resize in ((8, 8), (16, 16), (7, 8)):
        ((images, labels),) = data.evaluation_batches(source, size, batch_size=8)
        expected = data.normalize(data.center_crop(rgb, size, resize))
        np.testing.assert_allclose(images, expected, atol=1e-5)
        np.testing.assert_array_equal(labels, [-1] * 5)
    ((images, _),) = data.evaluation_batches(source, 8, 8, resize=9, mean=(0,) * 3, std=(1,) * 3)
    np.testing.assert_allclose(images, data.center_crop(rgb, 8, 9) / 255, atol=1e-6)


def test_large_arrays_give_the_same_as_small_ones(monkeypatch):
    source = data.ArraySource(RNG.randint(0, 256, (5, 9, 12, 3), np.uint8), [0, 1, 2, 1, 0], "abc")
    ((expected, labels),) = data.evaluation_batches(source, 6, batch_size=8)
    monkeypatch.setattr(data.ArraySource, "is_small", False)
    ((images, same_labels),) = data.evaluation_batches(source, 6, batch_size=8)
    np.testing.assert_allclose(images, expected, atol=1e-5)
    np.testing.assert_array_equal(labels, same_labels)


def test_a_batch_must_hold_an_image():
    source = data.ArraySource(np.zeros((5, 8, 8, 1), np.uint8))
    with pytest.raises(data.DataError, match="Received: batch_size=0"):
        data.evaluation_batches(source, 8, batch_size=0)


def test_raw_pixels(photos):
    images = RNG.randint(0, 256, (5, 4, 3, 1), np.uint8)
    pixels, labels = data.raw_pixels(data.ArraySource(images, [0, 1, 1, 0, 1], "ab"))
    np.testing.assert_allclose(pixels, images.reshape(5, 12) / 255, atol=1e-7)
    np.testing.assert_array_equal(labels, [0, 1, 1, 0, 1])
    source, _ = data.open_source(f"folder:{photos[0]}")
    pixels, labels = data.raw_pixels(source)
    assert pixels.shape == (11, 32 * 32 * 3)
    assert pixels.dtype == np.float32
    assert 0 <= pixels.min() < 0.2 < 0.8 < pixels.max() <= 1
    np.testing.assert_array_equal(labels, [0] * 5 + [1] * 6)


def test_too_many_unreadable_images_are_reported_as_the_users_mistake(photos):
    folder, _ = photos
    (folder / "b" / "05.png").write_text("no image")
    source, _ = data.open_source(f"folder:{folder}", cache_bytes=0)
    other = data.ArraySource(np.zeros((5, 8, 8, 1), np.uint8))
    with (
        pytest.raises(data.DataError, match=r"2 unreadable of 12 in .*: a/04\.png, b/05\.png\.$"),
        data.reading(other, source),
    ):
        list(data.evaluation_batches(source, 16, batch_size=4))


def test_other_errors_of_a_data_set_stay_what_they_are(photos):
    source, _ = data.open_source(f"folder:{photos[0]}", cache_bytes=0)
    failing = tf.data.Dataset.range(1).map(lambda n: tf.ensure_shape(tf.range(n), [5]))
    with (
        pytest.raises(tf.errors.InvalidArgumentError, match="not compatible with expected shape"),
        data.reading(source),
    ):
        list(failing)
