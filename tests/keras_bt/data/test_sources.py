import numpy as np
import pytest
import tensorflow as tf

from keras_bt.data.decoding import DataError
from keras_bt.data.sources import ArraySource

RNG = np.random.RandomState(0)


def test_arrays_of_gray_images_become_rgb():
    gray = RNG.randint(0, 256, (4, 3, 2, 1), np.uint8)
    source = ArraySource(gray, [0, 1, 1, 0], ["a", "b"])
    assert source.image_shape == (3, 2, 3)
    batch = source.batch(tf.constant([2, 0]))
    assert batch.dtype == tf.float32
    np.testing.assert_array_equal(batch, np.repeat(gray[[2, 0]], 3, axis=-1))
    decoded = list(source.in_order().map(source.decode).as_numpy_iterator())
    np.testing.assert_array_equal([image for image, _, _ in decoded], np.repeat(gray, 3, axis=-1))
    assert all(readable for _, readable, _ in decoded)
    assert [label for _, _, label in decoded] == [0, 1, 1, 0]
    np.testing.assert_array_equal(source.labels(), [0, 1, 1, 0])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 3, 3), np.uint8), None, r"Received: uint8 \(2, 3, 3\)"),
        (np.zeros((2, 3, 3, 3), np.float32), None, "Received: float32"),
        (np.zeros((2, 3, 3, 3), np.uint8), [0, 0, 0], "3 labels for 2 images"),
    ],
)
def test_wrong_arrays_are_refused(images, labels, message):
    with pytest.raises(DataError, match=message):
        ArraySource(images, labels, None if labels is None else ["a"])


def test_a_subset_has_its_own_images_and_labels():
    source = ArraySource(RNG.randint(0, 256, (4, 3, 2, 3), np.uint8), [0, 1, 1, 0], ["a", "b"])
    subset = source.subset(np.array([2, 0]))
    np.testing.assert_array_equal(subset.images, source.images[[2, 0]])
    np.testing.assert_array_equal(subset.labels(), [1, 0])
    assert subset.class_names == ("a", "b")
    assert ArraySource(source.images).subset([1]).class_names is None


def test_labels_are_asked_for_in_vain():
    source = ArraySource(np.zeros((2, 3, 3, 3), np.uint8), name="idx:/data")
    with pytest.raises(DataError, match=r"Received: idx:/data, which has no labels\.$"):
        source.labels()
    np.testing.assert_array_equal(source.label([1, 0]), [-1, -1])
