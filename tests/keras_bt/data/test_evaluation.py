import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_bt import data

RNG = np.random.RandomState(0)


def test_the_public_names_are_there():
    assert all(hasattr(data, name) for name in data.__all__)


@pytest.mark.parametrize("cache_bytes", [0, 2**20])
def test_evaluation_sees_all_readable_images_in_order(tmp_path, cache_bytes):
    images = RNG.randint(0, 256, (11, 30, 40, 3), np.uint8)
    for n, image in enumerate(images):
        Image.fromarray(image[: 20 + n]).save(tmp_path / f"{n:02}.png")
    (tmp_path / "04b.png").write_bytes(b"broken")
    source, _ = data.open_source(f"folder:{tmp_path}", cache_bytes=cache_bytes)
    batches = list(data.evaluation_batches(source, 16, batch_size=4).as_numpy_iterator())
    assert [labels.tolist() for _, labels in batches] == [[-1] * 4, [-1] * 4, [-1] * 3]
    found = np.concatenate([images for images, _ in batches])
    assert found.dtype == np.float32
    expected = [
        data.normalize(data.center_crop(image[: 20 + n], 16)) for n, image in enumerate(images)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert source.unreadable.names == ("04b.png",)


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
    with pytest.raises(data.DataError, match="Received: batch_size=0"):
        data.evaluation_batches(source, 8, batch_size=0)


def test_large_arrays_give_the_same_as_small_ones():
    source = data.ArraySource(RNG.randint(0, 256, (5, 9, 12, 3), np.uint8), [0, 1, 2, 1, 0], "abc")
    ((expected, labels),) = data.evaluation_batches(source, 6, batch_size=8)
    assert source.is_small
    source.is_small = False
    ((images, same_labels),) = data.evaluation_batches(source, 6, batch_size=8)
    np.testing.assert_allclose(images, expected, atol=1e-5)
    np.testing.assert_array_equal(labels, same_labels)


def test_too_many_unreadable_images_are_reported_as_the_users_mistake(make_source):
    source, other = make_source("files", broken=[4, 5]), make_source("arrays")
    with (
        pytest.raises(data.DataError, match=r"2 unreadable of 24 .*: 04\.png \(.+\), 05\.png\.$"),
        data.reading(other, source),
    ):
        list(data.evaluation_batches(source, 16, batch_size=4))
    # Other errors stay what they are.
    failing = tf.data.Dataset.range(1).map(lambda n: tf.ensure_shape(tf.range(n), [5]))
    with (
        pytest.raises(tf.errors.InvalidArgumentError, match="not compatible with expected shape"),
        data.reading(make_source("files", broken=[4])),
    ):
        list(failing)


@pytest.mark.slow
@pytest.mark.parametrize("cache_bytes", [2**20, 0])
def test_the_same_images_are_resized_alike_wherever_they_come_from(tmp_path, cache_bytes):
    images = RNG.randint(0, 256, (5, 8, 8, 3), np.uint8)
    for n, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{n}.png")
    arrays = data.ArraySource(images)
    files, _ = data.open_source(f"folder:{tmp_path}", cache_bytes=cache_bytes)
    for size, resize in ((32, 32), (8, 8), (7, 8)):
        assert data.evaluation_resize(arrays, size) == resize
        assert data.evaluation_resize(files, size) == resize
        ((expected, _),) = data.evaluation_batches(arrays, size, 8)
        ((found, _),) = data.evaluation_batches(files, size, 8)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    Image.fromarray(images[0][:7]).save(tmp_path / "other.png")
    mixed, _ = data.open_source(f"folder:{tmp_path}", cache_bytes=cache_bytes)
    assert data.evaluation_resize(mixed, 32) == 37


@pytest.mark.parametrize(("left_over", "corner"), [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 2)])
def test_what_the_central_pixels_are(left_over, corner):
    """Half of what is left over, halves to even, as in torchvision's CenterCrop."""
    image = RNG.randint(0, 256, (6 + left_over, 6 + left_over, 3), np.uint8)
    crop = data.center_crop(image, 6, 6 + left_over)
    np.testing.assert_allclose(crop, image[corner : corner + 6, corner : corner + 6], atol=1e-4)
