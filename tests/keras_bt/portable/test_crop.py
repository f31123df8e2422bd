import numpy as np
import pytest
import tensorflow as tf

from keras_bt import preprocessing
from keras_bt.portable import crop as matrix_crop


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape", [(300, 225), (225, 301), (301, 97), (64, 64), (31, 40), (1, 1), (7, 300), (1500, 2003)]
)
@pytest.mark.parametrize(
    ("image_size", "resize"), [(64, 73), (64, 64), (63, 80), ((64, 96), 73), ((96, 64), 64)]
)
def test_it_is_the_crop_of_evaluation(shape, image_size, resize):
    images = np.random.default_rng(0).integers(0, 256, (2, *shape, 5)).astype(np.uint8)
    found = matrix_crop.center_crop(images, image_size, resize)
    expected = preprocessing.center_crop(images, image_size, resize)
    assert found.dtype == tf.float32
    assert found.shape == expected.shape
    # Of 255, on noise: the rounding of float32 positions.
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_sizes_may_be_unknown_until_run_time():
    crop = tf.function(
        lambda images: matrix_crop.center_crop(images, 8, 9),
        input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)],
        autograph=False,
    )
    assert crop.get_concrete_function().output_shapes == (None, 8, 8, 3)
    for shape in ((1, 10, 20, 3), (3, 20, 9, 3)):
        images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        expected = preprocessing.center_crop(images, 8, 9)
        np.testing.assert_allclose(crop(images), expected, atol=0.02)
