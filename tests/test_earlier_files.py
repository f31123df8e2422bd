"""Files that version 0.1 wrote before its modules were moved can still be read.

`fixtures/earlier` was written by commit a77e5dc: a compiled model, its backbone and a checkpoint
after two steps, layers of the views in a model, and the features of five images in a cache.
"""

import shutil

import keras
import numpy as np
import pytest
from places import FIXTURES

import keras_bt
from keras_bt.checkpoint import RunCheckpoint
from keras_bt.data import ArraySource
from keras_bt.evaluation.feature_cache import cached_features

EARLIER = FIXTURES / "earlier"


@pytest.fixture(scope="module")
def expected():
    with np.load(EARLIER / "expected.npz") as arrays:
        return dict(arrays)


def state(model):
    return [v.numpy() for v in (*model.variables, *model.optimizer.variables)]


def assert_is_the_trained_model(model, expected):
    found = state(model)
    assert len(found) == sum(name.startswith("variable/") for name in expected)
    for number, value in enumerate(found):
        np.testing.assert_array_equal(value, expected[f"variable/{number}"])


def test_a_model(expected):
    model = keras.models.load_model(EARLIER / "model.keras")
    assert isinstance(model, keras_bt.BarlowTwins)
    assert isinstance(model.optimizer, keras_bt.LARS)
    assert_is_the_trained_model(model, expected)


def test_a_checkpoint(expected):
    backbone = keras.models.load_model(EARLIER / "backbone.keras")
    model = keras_bt.BarlowTwins(backbone, keras_bt.projector((6, 5), input_dim=4), 0.01, "gram")
    model.compile(keras_bt.LARS(keras_bt.warmup_cosine(0.5, 10, 2)))
    assert RunCheckpoint(EARLIER / "checkpoints", model, steps_per_epoch=2).restore() == 2
    assert_is_the_trained_model(model, expected)


def test_layers_of_views():
    import keras_bt.augmentations  # noqa: F401  (registers its layers)

    views = keras.models.load_model(EARLIER / "views.keras")
    assert [type(layer).__name__ for layer in views.layers] == ["RandomFlip", "RandomColorJitter"]


def test_a_feature_cache(expected, tmp_path):
    (file,) = (EARLIER / "features").iterdir()
    shutil.copy(file, tmp_path)
    images, labels = expected["images"], expected["labels"]
    source = ArraySource(images, labels, ["even", "odd"], name="five")
    backbone = keras.models.load_model(EARLIER / "backbone.keras")
    before = (tmp_path / file.name).stat()
    features, found = cached_features(tmp_path, backbone, source, 8, progress=False)
    np.testing.assert_array_equal(features, expected["features"])
    np.testing.assert_array_equal(found, labels)
    assert [p.name for p in tmp_path.iterdir()] == [file.name]  # nothing was extracted anew
    assert (tmp_path / file.name).stat().st_mtime_ns == before.st_mtime_ns
