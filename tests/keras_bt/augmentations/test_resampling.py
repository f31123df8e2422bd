"""Crops: Pillow's pixels, and torchvision's distribution of boxes."""

import numpy as np
import pytest
import tensorflow as tf
from places import FIXTURES

from keras_bt.augmentations import resampling

FIXTURE = dict(np.load(FIXTURES / "augmentation.npz"))
CROPS = [k for k in FIXTURE if "bicubic" in k and FIXTURE[k].size]
PAPER = {"area": (0.08, 1.0), "aspect": (3 / 4, 4 / 3)}


def boxes_of(seed, count, height, width, area, aspect):
    draws = np.random.default_rng(seed).random((count, resampling.BOX_DRAWS), np.float32)
    return resampling.crop_boxes(draws, height, width, area, aspect)


def _batched(image, box, size, interpolation="bicubic"):
    # A second image with another box shows that each gets its own.
    images, boxes = np.stack([image, image[::-1]]), np.array([box, [0, 0, 9, 7]], np.int32)
    return resampling.crop_and_resize(images, boxes, size, interpolation)[0]


def _alone(image, box, size, interpolation="bicubic"):
    top, left, height, width = box
    crop = image[top : top + height, left : left + width]
    return resampling.resize(crop, size, interpolation)


def _alone_in_a_dataset(image, box, size, interpolation="bicubic"):
    top, left, height, width = box
    crop = image[top : top + height, left : left + width]
    spec = tf.TensorSpec((None, None, 3), tf.uint8)
    crops = tf.data.Dataset.from_generator(lambda: [crop], output_signature=spec)
    resized = crops.map(lambda x: resampling.resize(x, size, interpolation))
    assert resized.element_spec.shape == (*size, 3)
    return next(iter(resized))


@pytest.mark.parametrize("cut", [_batched, _alone, _alone_in_a_dataset])
@pytest.mark.parametrize("key", CROPS)
def test_pixels_are_pillows(key, cut):
    expected = FIXTURE[key].astype(np.float32)
    box = FIXTURE[f"{key.rpartition('/')[0]}/box"]
    result = cut(FIXTURE["source"], box, expected.shape[:2])
    assert result.dtype == tf.float32
    difference = np.abs(result - expected)
    assert difference.mean() <= 0.4
    assert difference.max() <= 2


@pytest.mark.parametrize("cut", [_batched, _alone])
def test_a_tall_image_is_that_of_pillow_12(cut):
    # Up to 12.3, Pillow resizes across first. 13.0 goes down first here, which differs by up to 16.
    tall = np.load(FIXTURES / "tall.npz")
    assert tall["pillow"] == "12.3.0"
    result = cut(tall["image"], (0, 0, 120, 40), (64, 64))
    difference = np.abs(result - tall["bicubic"].astype(np.float32))
    assert difference.mean() <= 0.4
    assert difference.max() <= 2


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(32, 48), (13, 31), (1, 1)])
@pytest.mark.parametrize("box", [(0, 0, 225, 300), (3, 5, 1, 1), (224, 0, 1, 300), (10, 20, 2, 90)])
def test_the_two_forms_agree(box, size, interpolation):
    image = FIXTURE["source"]
    np.testing.assert_allclose(
        _alone(image, box, size, interpolation),
        _batched(image, box, size, interpolation),
        atol=0.01,
    )


def test_bilinear_is_the_antialiased_triangle():
    image = FIXTURE["source"].astype(np.float32)
    expected = tf.image.resize(image, (70, 110), "bilinear", antialias=True)
    got = resampling.resize(image, (70, 110), "bilinear")
    np.testing.assert_allclose(got, expected, atol=0.01)


def test_crops_of_a_batch_compile():
    images = np.random.default_rng(0).uniform(0, 255, (3, 40, 50, 3)).astype(np.float32)
    boxes = np.array([[0, 0, 40, 50], [5, 6, 7, 8], [39, 49, 1, 1]], np.int32)
    expected = resampling.crop_and_resize(images, boxes, (24, 20))
    compiled = tf.function(resampling.crop_and_resize, jit_compile=True)
    np.testing.assert_allclose(compiled(images, boxes, (24, 20)), expected, atol=0.01)


def test_boxes_are_distributed_as_torchvisions():
    boxes = boxes_of(3, 20_000, 225, 300, **PAPER).numpy()
    top, left, height, width = boxes.T
    quantiles = FIXTURE["crop_distribution/quantiles"]
    measured = {"area_fraction": height * width / (225 * 300), "aspect_ratio": width / height}
    for name, values in measured.items():
        expected = FIXTURE[f"crop_distribution/{name}"]
        np.testing.assert_allclose(np.quantile(values, quantiles), expected, rtol=0.02)
    means = FIXTURE["crop_distribution/mean_top_left_height_width"]
    np.testing.assert_allclose(boxes.mean(axis=0), means, rtol=0.02)
    assert (boxes[:, :2] >= 0).all()
    assert (top + height).max() == 225
    assert (left + width).max() == 300


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (20, 400, (0, 186, 20, 27)),  # too wide for any try: as wide as the ratio allows
        (401, 20, (187, 0, 27, 20)),  # too high
        (1, 1, (0, 0, 1, 1)),
        (8000, 1, (3999, 0, 1, 1)),
    ],
)
def test_the_fallback_is_torchvisions_central_box(height, width, expected):
    boxes = boxes_of(1, 50, height, width, (0.9, 1.0), (3 / 4, 4 / 3))
    np.testing.assert_array_equal(boxes, np.tile(expected, (50, 1)))


def test_the_fallback_of_an_acceptable_ratio_is_the_whole_image():
    # A try of the whole area fits only with the image's own ratio, which is hardly ever drawn.
    boxes = boxes_of(1, 50, 1000, 1250, (1.0, 1.0), (0.1, 10.0)).numpy()
    np.testing.assert_array_equal(boxes, np.tile([0, 0, 1000, 1250], (50, 1)))
