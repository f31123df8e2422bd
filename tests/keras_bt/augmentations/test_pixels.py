"""Colors and blur against Pillow's pixels, and the jitter against its own four operations."""

import colorsys
import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from places import FIXTURES

from keras_bt.augmentations import pixels as operations

FIXTURE = dict(np.load(FIXTURES / "augmentation.npz"))
JITTER = "jitter_saturation1.15_brightness1.3_hue-0.07_contrast0.7"


def adjust(place):
    """The jitter with only one of its operations: images, factors or shifts (b,) → images."""

    def adjusted(images, factors):
        factors = tf.convert_to_tensor(factors, tf.float32)
        each = [factors if place == other else tf.ones_like(factors) for other in range(3)]
        hue = factors if place == operations.HUE else None
        order = tf.tile(tf.range(4)[None], [len(factors), 1])
        return operations.color_jitter(images, *each, hue, order)

    return adjusted


adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue = map(adjust, range(4))


def _eagerly(function, images):
    return function(tf.constant(images))


def _in_a_dataset(function, images):
    return next(iter(tf.data.Dataset.from_tensor_slices(images[None]).map(function)))


def _compiled(function, images):
    return tf.function(function, jit_compile=True)(tf.constant(images))


def _case(key):
    """The operation of a fixture's key, and the mean and largest difference allowed."""
    name, _, value = key.partition("/")
    one = tf.constant([float(value)]) if value else None
    cases = {
        "brightness": (lambda x: adjust_brightness(x, one), 0.6, 2),
        "contrast": (lambda x: adjust_contrast(x, one), 0.6, 2),
        "saturation": (lambda x: adjust_saturation(x, one), 0.6, 2),
        "hue": (lambda x: adjust_hue(x, one), 1.0, 7),
        "grayscale": (operations.grayscale, 0.6, 2),
        "solarize": (lambda x: operations.solarize(x, float(value)), 0, 0),  # exactly
        "blur": (lambda x: operations.gaussian_blur(x, one, 2.0), 0.5, 2.5),
        JITTER: (
            lambda x: operations.color_jitter(
                x, [1.3], [0.7], [1.15], tf.constant([-0.07]), [[2, 0, 3, 1]]
            ),
            1.5,
            9,
        ),
    }
    return cases[name]


KEYS = [k for k in FIXTURE if not k.startswith(("crop", "source", "image"))]
# One of each, but for the jitter, which is all four of its operations.
ONE_OF_EACH = {key.partition("/")[0]: key for key in KEYS}
IN_A_DATASET = [ONE_OF_EACH[name] for name in (JITTER, "grayscale", "solarize", "blur")]


@pytest.mark.parametrize(
    ("key", "run"),
    [(key, _eagerly) for key in KEYS] + [(key, _in_a_dataset) for key in IN_A_DATASET],
)
def test_pixels_are_pillows(key, run):
    function, mean, largest = _case(key)
    result = run(function, FIXTURE["image"][None].astype(np.float32))
    assert result.dtype == tf.float32
    assert result.shape == (1, 96, 96, 3)
    difference = np.abs(result[0] - FIXTURE[key].astype(np.float32))
    assert difference.mean() <= mean
    assert difference.max() <= largest


@pytest.mark.parametrize("sigma", ["0.5", "1.0", "1.5", "2.0"])
def test_blur_is_pillows_at_the_border(sigma):
    images = tf.constant(FIXTURE["image"][None], tf.float32)
    blurred = operations.gaussian_blur(images, tf.constant([float(sigma)]), 2.0)
    difference = np.abs(blurred[0] - FIXTURE[f"blur/{sigma}"])
    border = np.ones((96, 96), bool)
    border[4:-4, 4:-4] = False
    assert difference[border].mean() <= 0.5


@pytest.fixture
def photos():
    """24 different small images."""
    image = FIXTURE["image"].astype(np.float32)
    return np.stack([np.roll(image, 7 * i, axis=1)[i : i + 24, :30] for i in range(24)])


@pytest.mark.slow
def test_jitter_applies_each_images_own_order(photos):
    rng = np.random.default_rng(0)
    brightness, contrast, saturation = rng.uniform(0.3, 1.7, (3, 24)).astype(np.float32)
    hue = rng.uniform(-0.5, 0.5, 24).astype(np.float32)
    orders = np.array(list(itertools.permutations(range(4))), np.int32)
    steps = [
        (adjust_brightness, brightness),
        (adjust_contrast, contrast),
        (adjust_saturation, saturation),
        (adjust_hue, hue),
    ]
    expected = []
    for i, order in enumerate(orders):
        one = photos[i : i + 1]
        for operation in order:
            adjust, factors = steps[operation]
            one = adjust(one, factors[i : i + 1])
        expected.append(one[0])

    def jitter(x):
        return operations.color_jitter(x, brightness, contrast, saturation, hue, orders)

    for run in (_eagerly, _in_a_dataset, _compiled):
        np.testing.assert_allclose(run(jitter, photos), expected, atol=0.02)


def test_jitter_without_hue(photos):
    factors = np.linspace(0.5, 1.5, 24, dtype=np.float32)
    order = np.tile([3, 1, 0, 2], (24, 1))
    got = operations.color_jitter(photos, factors, factors, factors, None, order)
    expected = adjust_contrast(photos, factors)
    expected = adjust_brightness(expected, factors)
    expected = adjust_saturation(expected, factors)
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_identity_factors_change_nothing(photos):
    ones, order = np.ones(24, np.float32), np.tile([0, 1, 2, 3], (24, 1))
    same = operations.color_jitter(photos, ones, ones, ones, tf.zeros(24), order)
    np.testing.assert_array_equal(same, photos)


def test_hue_is_that_of_hsv():
    rng = np.random.default_rng(0)
    colors = rng.uniform(0, 255, (1, 8, 12, 3)).astype(np.float32)
    colors[:, 0] = np.round(colors[:, 0] / 255) * 255  # primaries, mixtures of two, black, white
    colors[:, 1] = colors[:, 1, :, :1]  # grays
    for shift in (-0.5, -0.31, 0.0, 0.02, 0.5):
        got = adjust_hue(colors, [shift])
        for color, turned in zip(colors.reshape(-1, 3), got.reshape(-1, 3), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*color.astype(float))
            expected = colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)
            np.testing.assert_allclose(turned, expected, atol=2e-3)


def test_blur_of_a_batch_uses_each_images_sigma(photos):
    sigmas = tf.linspace(0.1, 2.0, 24)
    together = operations.gaussian_blur(photos, sigmas, 2.0)
    for i in (0, 11, 23):
        alone = operations.gaussian_blur(photos[i : i + 1], sigmas[i : i + 1], float(sigmas[i]))
        np.testing.assert_allclose(together[i : i + 1], alone, atol=1e-3)


@pytest.mark.parametrize("sigma", [0.6, 1.7, 3.4])
def test_blur_has_the_variance_asked_for(sigma):
    point = np.zeros((1, 61, 61, 3), np.float32)
    point[:, 30, 30] = 1
    weights = operations.gaussian_blur(point, np.float32([sigma]), 4.0)[0, :, :, 0]
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    distance = np.arange(61) - 30.0
    assert (weights.sum(axis=0) * distance**2).sum() == pytest.approx(sigma**2, rel=1e-3)
    assert (weights.sum(axis=1) * distance**2).sum() == pytest.approx(sigma**2, rel=1e-3)


def test_blur_of_images_smaller_than_the_blur():
    images = np.full((2, 1, 3, 3), 7, np.float32)
    np.testing.assert_allclose(
        operations.gaussian_blur(images, tf.constant([2.0, 1.0]), 2.0), images, rtol=1e-5
    )


@pytest.mark.slow
def test_every_operation_compiles_to_the_same(photos):
    sigmas, factors = tf.linspace(0.1, 2.0, 24), tf.linspace(0.2, 1.8, 24)
    for function in (
        lambda x: operations.gaussian_blur(x, sigmas, 2.0),
        lambda x: adjust_contrast(x, factors),
        lambda x: operations.solarize(operations.grayscale(x), 100),
    ):
        np.testing.assert_allclose(
            _compiled(function, photos), _eagerly(function, photos), atol=1e-3
        )


@pytest.mark.parametrize(
    ("degrees", "shear", "run"),
    [(0, 0, _eagerly), (23, 0, _eagerly), (-7, 0, _in_a_dataset), (0, 30, _eagerly)]
    + [(15, -17, run) for run in (_eagerly, _in_a_dataset, _compiled)],
)
def test_affine_is_pillows(degrees, shear, run):
    # Pillow's transform takes the way back, for pixel middles at +0.5.
    source = np.pad(FIXTURE["image"], ((3, 3), (0, 0), (0, 0)))[:, 5:]  # higher than wide
    h, w = source.shape[:2]
    turn, tan = np.deg2rad(degrees), np.tan(np.deg2rad(shear))
    back = np.array([[1, tan], [0, 1]]) @ [
        [np.cos(turn), -np.sin(turn)],
        [np.sin(turn), np.cos(turn)],
    ]
    center = np.array([w, h]) / 2
    offset = center - back @ center
    coefficients = (*back[0], offset[0], *back[1], offset[1])
    expected = Image.fromarray(source).transform(
        (w, h), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
    )
    angles = (np.deg2rad([degrees]).astype("f4"), np.deg2rad([shear]).astype("f4"))
    images = source[None].astype(np.float32)
    result = run(lambda x: operations.affine(x, *angles), images)[0].numpy()
    # Past the middle of its last pixels Pillow goes on with their value; here they fade to black.
    y, x = np.mgrid[:h, :w] + 0.5
    from_x, from_y = (back @ [x.ravel(), y.ravel()] + offset[:, None] - 0.5).reshape(2, h, w)
    inside = (from_x >= 0) & (from_x <= w - 1) & (from_y >= 0) & (from_y <= h - 1)
    assert inside.mean() > 0.5
    assert np.abs(result - expected)[inside].mean() < 1
    assert np.abs(result - expected)[inside].max() < 4


def test_affine_turns_counter_clockwise_and_slants_to_the_right():
    image = np.zeros((1, 9, 9, 3), "float32")
    image[0, 1, 4] = 200  # above the center
    quarter, none = np.float32([np.pi / 2]), np.float32([0])
    turned = operations.affine(image, quarter, none)
    np.testing.assert_allclose(turned, np.rot90(image, axes=(1, 2)), atol=1e-3)
    slanted = operations.affine(image, none, np.float32([np.pi / 4]))
    assert slanted[0, 1, 7, 0] == pytest.approx(200, abs=0.1)  # three rows up, three to the right
