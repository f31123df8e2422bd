import io

import keras
import numpy as np
import pytest
import tensorboard_log
import tensorflow as tf
from PIL import Image

from keras_bt import data
from keras_bt.callbacks.diagnostics import Diagnostics
from keras_bt.callbacks.labelled_subset import LabelledSubset
from keras_bt.callbacks.pictures import Pictures
from keras_bt.model import BarlowTwins, projector


def pictures_of(log_dir):
    """From (name, step) to each picture in a TensorBoard log."""
    found = {}
    for place, tensor in tensorboard_log.values(log_dir / "pictures").items():
        found[place] = np.asarray(Image.open(io.BytesIO(tensor.string_val[2])).convert("RGB"))
    return found


@pytest.fixture(scope="module")
def views():
    images = np.random.default_rng(0).standard_normal((2, 64, 8, 8, 3)).astype(np.float32)
    return tuple(images)


def fit(views, callbacks, epochs):
    layers = [
        keras.layers.Input((8, 8, 3)),
        keras.layers.Conv2D(4, 3, strides=2, activation="relu"),
        keras.layers.Flatten(),
    ]
    model = BarlowTwins(keras.Sequential(layers), projector((12, 12), 36), 0.01)
    model.compile("sgd")
    batches = tf.data.Dataset.from_tensor_slices(views).batch(32)
    model.fit(batches, epochs=epochs, verbose=0, shuffle=False, callbacks=callbacks)


@pytest.mark.slow
def test_pictures_go_to_tensorboard_and_to_files(tmp_path, views, monkeypatch):
    from keras_bt import plots

    drawn = []
    correlation = plots.correlation
    monkeypatch.setattr(
        plots, "correlation", lambda path, c: (drawn.append(c), correlation(path, c))
    )
    train, test = data.open_source("digits")
    subset = LabelledSubset.of(train, test, 8, max_train=50, max_test=40)
    diagnostics = Diagnostics(views)
    logs, folder = tmp_path / "logs", tmp_path / "files"
    how = {"every": 2, "subset": subset, "class_names": train.class_names}
    fit(views, [diagnostics, Pictures(diagnostics, logs, folder, **how)], epochs=3)

    names = ("correlation", "spectrum", "features")
    found = pictures_of(logs)
    assert set(found) == {(name, epoch) for name in names for epoch in (1, 2)}
    assert {p.name for p in folder.iterdir()} == {f"{n}-{e}.png" for n in names for e in (2, 3)}
    for (name, step), image in found.items():
        file = Image.open(folder / f"{name}-{step + 1}.png").convert("RGB")
        np.testing.assert_array_equal(image, np.asarray(file))
        assert image.std() > 5  # not an empty sheet
    assert [list(matrices) for matrices in drawn] == [
        ["untrained", "after epoch 2"],
        ["untrained", "after epoch 3"],
    ]
    before, now = drawn[1].values()
    np.testing.assert_array_equal(now, diagnostics.latest.correlation)
    assert np.abs(before - now).max() > 1e-3


@pytest.mark.slow
def test_without_labels_and_without_a_log(tmp_path, views):
    diagnostics = Diagnostics(views)
    fit(views, [diagnostics, Pictures(diagnostics, folder=tmp_path, every=5)], epochs=1)
    assert {p.name for p in tmp_path.iterdir()} == {"correlation-1.png", "spectrum-1.png"}


def test_mistakes_are_named(tmp_path, views):
    with pytest.raises(ValueError, match="needs a log_dir or a folder"):
        Pictures(Diagnostics(views))
    with pytest.raises(ValueError, match="every must be at least 1"):
        Pictures(Diagnostics(views), tmp_path, every=0)
