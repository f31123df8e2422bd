"""The layers: randomness, shapes, dtypes, settings, and life in other pipelines."""

import keras
import keras_cv
import numpy as np
import pytest
import tensorflow as tf
from places import FIXTURES
from tensorflow.python.framework import config as tf_config

from keras_bt import augmentations
from keras_bt.data import IMAGENET_MEAN, IMAGENET_STD

LAYERS = {
    "crop": lambda **kw: augmentations.RandomResizedCrop(24, **kw),
    "flip": lambda **kw: augmentations.RandomFlip(0.5, **kw),
    "affine": lambda **kw: augmentations.RandomAffine(20, 10, **kw),
    "jitter": lambda **kw: augmentations.RandomColorJitter(0.4, 0.4, 0.2, 0.1, 0.8, **kw),
    "grayscale": lambda **kw: augmentations.RandomGrayscale(0.5, **kw),
    "blur": lambda **kw: augmentations.RandomGaussianBlur((0.5, 2.0), 0.8, **kw),
    "solarize": lambda **kw: augmentations.RandomSolarize(100, 0.5, **kw),
    "normalize": lambda **kw: augmentations.Normalize(IMAGENET_MEAN, IMAGENET_STD, **kw),
}
RANDOM = sorted(set(LAYERS) - {"normalize"})
CHOOSING = sorted(set(RANDOM) - {"crop"})


@pytest.fixture
def images():
    """16 times the same colorful image, (16, 32, 40, 3) uint8: all differences are the draws'."""
    fixture = np.load(FIXTURES / "augmentation.npz")
    return tf.tile(fixture["source"][None, 100:132, 60:100], (16, 1, 1, 1))


@pytest.fixture(params=sorted(LAYERS))
def layer(request):
    """Each of the layers."""
    return LAYERS[request.param]()


def _call(layer, images, seed=(1, 2)):
    return layer({"images": tf.constant(images), "seed": tf.constant(seed)})["images"].numpy()


# --- randomness --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RANDOM)
def test_the_seed_decides_everything(name, images):
    first = _call(LAYERS[name](), images)
    again = LAYERS[name](seed=7)  # its own generator has no say
    again(images)
    np.testing.assert_array_equal(_call(again, images), first)
    assert not np.array_equal(_call(LAYERS[name](), images, (1, 3)), first)
    assert not np.array_equal(_call(LAYERS[name](salt=1), images), first)


@pytest.mark.parametrize("name", RANDOM)
def test_images_of_a_batch_are_treated_differently(name, images):
    distinct = np.unique(_call(LAYERS[name](), images), axis=0)
    # Those that only choose have two results, the others one for each image they choose.
    assert len(distinct) == 2 if name in ("flip", "grayscale", "solarize") else len(distinct) > 8


def test_eager_dataset_and_integer_width_agree(layer, images):
    """Compiled, too: see test_libraries.py."""
    expected = _call(layer, images)
    wide = layer({"images": images, "seed": tf.constant([1, 2], tf.int64)})["images"]
    np.testing.assert_array_equal(wide, expected)

    def augment(x, seed):
        return layer({"images": x, "seed": seed})["images"]

    seed = tf.constant([1, 2])
    dataset = tf.data.Dataset.from_tensors((images, seed)).map(augment)
    np.testing.assert_allclose(next(iter(dataset)), expected, atol=1e-2)


def test_one_image_is_treated_as_a_batch_of_one(layer, images):
    alone, batch = _call(layer, images[0]), _call(layer, images[:1], [(1, 2)])
    np.testing.assert_allclose(alone, batch[0], atol=1e-2)


@pytest.mark.parametrize("name", RANDOM)
def test_without_a_seed_the_constructors_is_used(name, images):
    # 0 is a seed like any other: keras-cv takes it for none.
    first, second = LAYERS[name](seed=0), LAYERS[name](seed=0)
    results = [first(images).numpy() for _ in range(2)]
    for result in results:
        np.testing.assert_array_equal(second(images), result)
    assert not np.array_equal(*results)
    unseeded = LAYERS[name]()
    assert not np.array_equal(unseeded(images), unseeded(images))


@pytest.mark.parametrize("probability", [0.1, 0.8])
def test_a_probability_is_a_frequency(probability):
    images = np.full((10_000, 1, 1, 3), 200, np.uint8)
    layers = {
        "solarize": augmentations.RandomSolarize(128, probability),
        "jitter": augmentations.RandomColorJitter(0.4, probability=probability),
    }
    for layer in layers.values():
        chosen = (_call(layer, images) != 200).any(axis=(1, 2, 3)).mean()
        assert chosen == pytest.approx(probability, abs=0.015)


@pytest.mark.parametrize("name", CHOOSING)
def test_certain_and_impossible(name, images):
    config = LAYERS[name]().get_config()
    never = type(LAYERS[name]()).from_config({**config, "probability": 0})
    always = type(LAYERS[name]()).from_config({**config, "probability": 1})
    np.testing.assert_array_equal(_call(never, images), tf.cast(images, tf.float32))
    assert (_call(always, images) != images.numpy()).any(axis=(1, 2, 3)).all()

    graphs = [tf.function(layer).get_concrete_function(images).graph for layer in (never, always)]
    types = [{operation.type for operation in graph.get_operations()} for graph in graphs]
    assert not {"Select", "StatelessIf"} & types[0]
    assert never.draw([[1, 2]]) == {}
    assert not {"Select", "StatelessIf"} & types[1] or name in ("blur", "jitter", "solarize")


SEEDS = np.stack([np.full(100_000, 7), np.arange(100_000)], axis=1)


def test_draws_are_distributed_as_defined():
    """100,000 draws of each number, against the distribution that its layer is said to have."""
    jitter = augmentations.RandomColorJitter(0.4, 1.5, 0.2, 0.1, 0.8).draw(SEEDS)
    affine = augmentations.RandomAffine(20, 10, 0.3).draw(SEEDS)
    uniform = {
        (0.6, 1.4): jitter["brightness"],
        (0.0, 2.5): jitter["contrast"],
        (0.8, 1.2): jitter["saturation"],
        (-0.1, 0.1): jitter["hue"],
        (0.1, 2.0): augmentations.RandomGaussianBlur((0.1, 2.0)).draw(SEEDS)["sigma"],
        (-np.deg2rad(20), np.deg2rad(20)): affine["rotation"],
        (-np.deg2rad(10), np.deg2rad(10)): affine["shear"],
    }
    for (least, greatest), values in uniform.items():
        places = (np.sort(values).astype(float) - least) / (greatest - least)
        # Kolmogorov and Smirnov: beyond 1.95 / √n once in a thousand times.
        assert np.abs(places - np.arange(0.5, 1e5) / 1e5).max() < 1.95 / np.sqrt(1e5)
    shares = {0.8: jitter, 0.3: affine, 0.5: augmentations.RandomFlip(0.5).draw(SEEDS)}
    shares[0.2] = augmentations.RandomGrayscale(0.2).draw(SEEDS)
    shares[0.1] = augmentations.RandomSolarize(128, 0.1).draw(SEEDS)
    for share, draws in shares.items():
        assert np.mean(draws["chosen"]) == pytest.approx(share, abs=0.005)
    _, counts = np.unique(jitter["order"], axis=0, return_counts=True)
    assert len(counts) == 24
    # χ² with 23 degrees of freedom exceeds 50 once in a thousand times.
    assert ((counts - 1e5 / 24) ** 2 / (1e5 / 24)).sum() < 50


@pytest.mark.slow
def test_determinism_can_be_enforced(images):
    _, view = augmentations.barlow_twins_views(16, rotation=15)
    seed = tf.constant([1, 2])
    tf.config.experimental.enable_op_determinism()
    tf.random.set_seed(None)  # without one, only what needs none may be drawn
    try:
        views = tf.data.Dataset.from_tensors(images).map(lambda x: view(x, seed))
        assert next(iter(views)).shape == (16, 16, 16, 3)
        augmentations.RandomFlip(seed=3)(images)
        with pytest.raises(RuntimeError, match="seed"):
            tf.random.uniform([])
    finally:
        tf_config.disable_op_determinism()


# --- inputs and settings -----------------------------------------------------------------------


def test_other_entries_pass_through(layer, images):
    inputs = {"images": images, "labels": tf.range(16), "seed": tf.constant([1, 2])}
    outputs = layer(inputs)
    np.testing.assert_array_equal(outputs["labels"], inputs["labels"])
    assert set(outputs) == set(inputs)


def test_float32_under_mixed_precision(images):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        mixed = {name: _call(make(), images) for name, make in LAYERS.items()}
        plain = keras.layers.Rescaling(1.0)  # a layer that does obey the policy
        view = augmentations.View([augmentations.RandomFlip(), plain])
        assert plain(images).dtype == tf.bfloat16
        assert view(images).dtype == tf.float32
    finally:
        keras.mixed_precision.set_global_policy("float32")
    for name, make in LAYERS.items():
        assert mixed[name].dtype == np.float32
        np.testing.assert_array_equal(mixed[name], _call(make(), images))


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((2, 2, 8, 8, 3), np.uint8),
        tf.ragged.stack([tf.zeros((8, 8, 3)), tf.zeros((9, 8, 3))]),
    ],
)
def test_refuses_what_are_no_images_of_one_size(layer, bad):
    with pytest.raises(ValueError, match="needs images of shape"):
        layer({"images": bad})


@pytest.mark.parametrize(
    "name", ["crop", "crop of one", "flip", "affine", "blur", "solarize", "brightness"]
)
def test_six_channels_are_treated_as_three_and_three(name, images):
    layers = LAYERS | {"crop of one": LAYERS["crop"]}
    layers["brightness"] = lambda: augmentations.RandomColorJitter(0.4, probability=0.8)
    layer, images = layers[name](), images.numpy()[0] if "one" in name else images.numpy()
    others = 255 - images
    expected = np.concatenate([_call(layer, images), _call(layer, others)], axis=-1)
    found = _call(layer, np.concatenate([images, others], axis=-1))
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (LAYERS["jitter"](), "needs RGB images: give it probability 0.*5 channels"),
        (augmentations.RandomColorJitter(contrast=0.1), "needs RGB images"),
        (LAYERS["grayscale"](), "needs RGB images: give it probability 0.*5 channels"),
        (LAYERS["normalize"](), "one number per channel. Received: 3 and 3 for images of 5"),
    ],
)
def test_colors_are_for_three_channels(layer, message):
    images = np.zeros((2, 8, 8, 5), np.uint8)
    with pytest.raises(ValueError, match=message):
        layer({"images": images})
    layer = type(layer).from_config(
        layer.get_config() | {"mean": (0,) * 5, "std": (1,) * 5}
        if "mean" in layer.get_config()
        else layer.get_config() | {"probability": 0}
    )
    assert layer({"images": images})["images"].shape == (2, 8, 8, 5)


@pytest.mark.parametrize("name", ["crop", "flip"])
def test_refuses_boxes_that_would_stay_behind(name, images):
    with pytest.raises(ValueError, match="would stay behind"):
        LAYERS[name]()({"images": images, "segmentation_masks": images[..., :1]})


def test_refuses_seeds_of_another_shape(images):
    with pytest.raises(ValueError, match=r"shape \(2,\), or \(b, 2\)"):
        _call(augmentations.RandomFlip(), images, np.zeros((16, 3), np.int32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: augmentations.RandomFlip(1.1), "probability must be in 0..1"),
        (lambda: augmentations.RandomGrayscale(-0.1), "probability must be in 0..1"),
        (lambda: augmentations.RandomGaussianBlur((0.0, 1.0)), "sigma must be"),
        (lambda: augmentations.RandomGaussianBlur((2.0, 1.0)), "sigma must be"),
        (lambda: augmentations.RandomGaussianBlur(1.0), "sigma must be"),
        (lambda: augmentations.RandomColorJitter(brightness=-1), "must not be negative"),
        (lambda: augmentations.RandomColorJitter(hue=0.6), "hue must be in 0..0.5"),
        (lambda: augmentations.RandomAffine(-1), "rotation must be at least 0"),
        (lambda: augmentations.RandomAffine(0, 90), "shear from 0 to less than 90"),
        (lambda: augmentations.RandomSolarize(256), "threshold must be"),
        (lambda: augmentations.RandomResizedCrop(0), "A size must be"),
        (lambda: augmentations.RandomResizedCrop((8, 8, 8)), "A size must be"),
        (lambda: augmentations.barlow_twins_views((8, 16), aspect=0.5), "aspect must be"),
        (lambda: augmentations.RandomResizedCrop(8, area=(0, 1)), "area must be"),
        (lambda: augmentations.RandomResizedCrop(8, area=(0.5, 1.1)), "area must be"),
        (lambda: augmentations.RandomResizedCrop(8, aspect=(2, 1)), "aspect must be"),
        (lambda: augmentations.RandomResizedCrop(8, interpolation="cubic"), "interpolation must"),
        (lambda: augmentations.Normalize((0, 0, 0), (1, 0, 1)), "std positive"),
        (lambda: augmentations.Normalize((0, 0, 0), (1, 1)), "a number per channel"),
        (lambda: augmentations.barlow_twins_views(8, blur=0.5), "blur must be two"),
    ],
)
def test_settings_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_serializes_with_keras(layer, images, tmp_path):
    model = keras.Sequential([keras.Input(images.shape[1:], dtype="uint8"), layer])
    model.save(tmp_path / "layer.keras")
    restored = keras.saving.load_model(tmp_path / "layer.keras").layers[0]
    assert restored.get_config() == layer.get_config()
    np.testing.assert_array_equal(_call(restored, images), _call(layer, images))


def test_flip_mirrors_left_to_right(images):
    flipped = _call(augmentations.RandomFlip(1), images)
    np.testing.assert_array_equal(flipped, images[:, :, ::-1])


def test_normalize(images):
    expected = (images.numpy() / 255.0 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    layer = augmentations.Normalize(IMAGENET_MEAN, IMAGENET_STD)
    np.testing.assert_allclose(_call(layer, images), expected, atol=1e-5)


@pytest.mark.slow
def test_layers_fit_into_a_keras_cv_pipeline(images):
    layers = [make() for _, make in sorted(LAYERS.items())]
    pipeline = keras_cv.layers.Augmenter([*layers, keras_cv.layers.RandomCutout(0.3, 0.3)])
    dataset = tf.data.Dataset.from_tensors({"images": images, "labels": np.arange(16)})
    result = next(iter(dataset.map(pipeline)))
    assert result["images"].shape == (16, 24, 24, 3)
    np.testing.assert_array_equal(result["labels"], np.arange(16))
