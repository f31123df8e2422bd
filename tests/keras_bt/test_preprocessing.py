import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_bt.preprocessing import center_crop, normalization, normalize


def photo(height, width):
    y, x = np.mgrid[:height, :width]
    waves = 128 + 100 * np.sin(np.stack([x / 5, y / 3, (x + y) / 4], axis=-1))
    noise = np.random.RandomState(0).normal(0, 5, waves.shape)
    return np.clip(waves + noise, 0, 255).astype(np.uint8)


def torchvision_crop(image, image_size, resize):
    """`Resize(resize)` and `CenterCrop(image_size)` as torchvision does them with Pillow."""
    height, width = image.shape[:2]
    if width <= height:
        size = resize, int(resize * height / width)
    else:
        size = int(resize * width / height), resize
    resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    top = round((resized.shape[0] - image_size) / 2.0)
    left = round((resized.shape[1] - image_size) / 2.0)
    return resized[top : top + image_size, left : left + image_size]


@pytest.mark.parametrize(
    "shape", [(300, 225), (225, 300), (301, 97), (98, 301), (64, 64), (31, 40), (1, 1), (7, 300)]
)
@pytest.mark.parametrize(("image_size", "resize"), [(64, None), (64, 64), (63, 80)])
def test_geometry_is_that_of_torchvision(shape, image_size, resize):
    image = photo(*shape)
    cropped = center_crop(image, image_size, resize)
    expected = torchvision_crop(image, image_size, resize or round(image_size * 256 / 224))
    assert cropped.shape == expected.shape == (image_size, image_size, 3)
    difference = np.abs(cropped - expected.astype(float))
    # Pillow rounds twice, after each direction.
    assert difference.mean() < 0.4
    assert difference.max() <= 1.01


@pytest.mark.parametrize("shape", [(300, 225), (225, 300), (40, 61), (31, 46), (7, 300), (1, 1)])
@pytest.mark.parametrize(
    ("image_size", "resize", "frame"),
    [
        ((40, 60), 40, (40, 60)),
        ((40, 60), None, (46, 69)),
        ((61, 40), 43, (65.575, 43)),
    ],
)
def test_a_crop_that_is_not_square(shape, image_size, resize, frame):
    image = np.concatenate([photo(*shape), 255 - photo(*shape)[..., :2]], axis=-1)
    # The definition: resized in proportion to just cover the frame, sides rounded down.
    scale = max(side / length for side, length in zip(frame, shape, strict=True))
    height, width = (int(scale * length + 1e-9) for length in shape)
    planes = [
        Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR)
        for plane in np.moveaxis(image, -1, 0)
    ]
    top, left = round((height - image_size[0]) / 2), round((width - image_size[1]) / 2)
    box = slice(top, top + image_size[0]), slice(left, left + image_size[1])
    expected = np.stack(planes, axis=-1)[box].astype(float)
    cropped = center_crop(image, image_size, resize)
    assert cropped.shape == expected.shape == (*image_size, 5)
    difference = np.abs(cropped - expected)
    assert difference.mean() < 0.4
    assert difference.max() <= 1.01


def test_a_batch_a_float_image_and_a_data_set_give_the_same():
    images = np.stack([photo(50, 70), 255 - photo(50, 70)])
    batch = center_crop(images, 32)
    np.testing.assert_array_equal(batch[1], center_crop(images[1], 32))
    np.testing.assert_array_equal(batch, center_crop(images.astype(np.float32), 32))
    unknown_size = tf.data.Dataset.from_generator(
        lambda: images, output_signature=tf.TensorSpec([None, None, 3], tf.uint8)
    )
    cropped = unknown_size.map(lambda image: center_crop(image, 32))
    assert cropped.element_spec.shape == (32, 32, 3)
    np.testing.assert_array_equal(batch, list(cropped.as_numpy_iterator()))


def test_an_image_of_the_right_size_is_left_alone():
    image = photo(28, 28)
    np.testing.assert_array_equal(center_crop(image, 28, resize=28), image)


def test_a_strip_needs_no_more_memory_than_a_square():
    # Resized as a whole, this would be 256 × 25,600,000 pixels.
    assert center_crop(np.full((1, 100_000, 3), 7, np.uint8), 224).shape == (224, 224, 3)


@pytest.mark.parametrize(
    ("image_size", "resize", "message"),
    [
        (224, 200, "resize must be at least image_size"),
        ((300, 224), 200, "resize must be at least image_size"),
        (0, 10, "one or two positive ints"),
        (-1, None, "one or two positive ints"),
        ((8, 8, 3), None, "one or two positive ints"),
    ],
)
def test_impossible_sizes_are_refused(image_size, resize, message):
    with pytest.raises(ValueError, match=message):
        center_crop(photo(9, 9), image_size, resize)


def test_normalize():
    images = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = np.stack([-mean / std, (1 - mean) / std])[None]
    np.testing.assert_allclose(normalize(images), expected, rtol=1e-6)
    assert normalize(tf.cast(images, tf.bfloat16)).dtype == tf.float32
    np.testing.assert_allclose(normalize(images, (0.5,) * 3, (0.5,) * 3)[0, :, 0], [-1, 1])
    with pytest.raises(ValueError, match=r"one number per channel\. Received: 3 and 3 for .* of 5"):
        normalize(np.zeros((4, 4, 5), np.uint8))


def test_normalizations_by_name():
    five = np.full((2, 2, 5), 51, np.uint8)
    np.testing.assert_allclose(normalize(five, *normalization("none", 5)), np.full(five.shape, 0.2))
    for name, channels in (("imagenet", 5), ("cifar", 3)):
        with pytest.raises(ValueError, match=f"--normalize=none.*{name} for {channels} channels"):
            normalization(name, channels)
