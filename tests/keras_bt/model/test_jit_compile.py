"""The whole training step as XLA compiles it, which is how a TPU runs it."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from places import FIXTURES

from keras_bt import LARS, BarlowTwins, augmentations, preprocessing, projector
from keras_bt.data.arrays import ArraySource
from keras_bt.data.pretraining import pretraining_views

SIZE = 20


@pytest.fixture(scope="module")
def views():
    """A view of the recipe for ImageNet, with every layer at work on half of a batch or more.

    The other is cropped only: XLA would take as long again to compile the same layers.
    """
    _, full = augmentations.barlow_twins_views(
        SIZE, grayscale=0.5, blur=(0.0, 0.5), solarize=(0.0, 0.5)
    )
    mean_and_deviation = preprocessing.IMAGENET_MEAN, preprocessing.IMAGENET_STD
    layers = [augmentations.RandomResizedCrop(SIZE), augmentations.Normalize(*mean_and_deviation)]
    return full, augmentations.View(layers)


@pytest.fixture(scope="module")
def crops(views):
    """Batches for augmentation on the device, of cuts of a photograph."""
    with np.load(FIXTURES / "augmentation.npz") as fixture:
        photograph = fixture["source"]
    rng = np.random.default_rng(0)
    corners = zip(*(rng.integers(0, side - 32, 24) for side in photograph.shape[:2]), strict=True)
    pictures = np.stack([photograph[y : y + 32, x : x + 32] for y, x in corners])
    return pretraining_views(ArraySource(pictures), *views, 8, seed=3, augment_on="device")


def compiled_model(views, jit_compile, **settings):
    """Without a ReLU, whose kinks would multiply XLA's rounding; built, so that steps can run."""
    keras.utils.set_random_seed(0)
    images = x = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(12, 3, strides=2, use_bias=False)(x)
    x = keras.layers.BatchNormalization(momentum=0.9)(x)
    x = keras.layers.Activation("softplus")(x)
    x = keras.layers.Add()([x, keras.layers.Conv2D(12, 1, use_bias=False)(x)])
    x = keras.layers.GlobalAveragePooling2D(dtype="float32")(x)
    backbone = keras.Model(images, x)
    rest = views and [view.rest for view in views]
    model = BarlowTwins(backbone, projector((16, 24), input_dim=12), views=rest, **settings)
    model.compile(LARS(0.2, weight_decay=1e-4), jit_compile=jit_compile)
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture(
    params=[
        (True, {"form": "correlation"}),
        (False, {"form": "gram", "on_nonfinite": "skip", "remat": True}),
    ],
    ids=["views, correlation", "gram, skipping and rematerializing"],
)
def case(request, views, crops):
    """What a model is made of, and its batches."""
    with_views, settings = request.param
    if with_views:
        return views, crops, settings
    # Views are most of what XLA compiles: pairs of crops instead.
    pairs = crops.map(lambda *pair: tuple(tf.cast(x["images"], "float32") / 255 for x in pair))
    return None, pairs, settings


@pytest.mark.slow
def test_training_is_the_same_compiled(case):
    views, batches, settings = case
    plain, ours = (compiled_model(views, jit_compile, **settings) for jit_compile in (False, True))
    assert ours.jit_compile
    start = [v.numpy() for v in plain.weights]
    fit = {"epochs": 4, "steps_per_epoch": 1, "shuffle": False, "verbose": 0}
    histories = [model.fit(batches, **fit).history for model in (plain, ours)]
    assert histories[0].keys() == histories[1].keys()
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-4, err_msg=name)
    for before, theirs, variable in zip(start, plain.weights, ours.weights, strict=True):
        moved = np.linalg.norm(theirs.numpy() - before)
        assert moved > 0, variable.path
        difference = np.linalg.norm(variable.numpy() - theirs.numpy())
        assert difference <= 1e-3 * moved, variable.path


def forbidden(hlo):
    """What in a program keeps it from a TPU: operations of the host, sizes not known before."""
    outside = re.findall(r"\b(?:infeed|outfeed|send|recv|custom-call)\(.*", hlo)
    return outside + re.findall(r".*\[[^\]]*<=.*", hlo)  # such as f32[<=8,3]


def program(function, *args):
    compiled = tf.function(function, jit_compile=True, autograph=False)  # as Keras compiles a step
    return compiled.experimental_get_compiler_ir(*args)(stage="hlo")


@pytest.mark.slow
def test_the_step_is_one_program_without_the_host_or_open_sizes(case):
    views, batches, settings = case
    model = compiled_model(views, True, **settings)
    hlo = program(model.train_step, next(iter(batches)))
    # Forward and backward the backbone's, and the blur's or those that are computed again.
    assert hlo.count("convolution(") >= 12
    assert forbidden(hlo) == []


def test_what_is_forbidden_is_found():
    def open_size(x):
        return tf.reduce_sum(tf.boolean_mask(x, x > 0.5))

    assert any("<=3" in line for line in forbidden(program(open_size, tf.constant([0.0, 1, 2]))))
    assert forbidden("%o = token[] outfeed(%x, %t)\n%c = f32[] custom-call(), target=callback")
    assert not forbidden(program(lambda x: x * x, tf.constant([0.0, 1.0, 2.0])))
