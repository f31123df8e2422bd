"""What training runs say of the machine."""

import platform

import keras
import numpy as np
import pytest
import tensorboard_log
import tensorflow as tf
from tensorflow.python.util import _pywrap_util_port

from trainers.runs import running


@pytest.fixture
def without_onednn(monkeypatch):
    """As on an x86 CPU without AVX-512."""
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert isinstance(_pywrap_util_port.IsMklEnabled(), bool)
    monkeypatch.setattr(_pywrap_util_port, "IsMklEnabled", lambda: False)
    assert "TF_ENABLE_ONEDNN_OPTS=1" in running.advice_on_speed(16)


def on_arm(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")


def chosen_by_the_user(monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")


def with_onednn(monkeypatch):
    monkeypatch.setattr(_pywrap_util_port, "IsMklEnabled", lambda: True)


def on_a_gpu(monkeypatch):
    monkeypatch.setattr(running, "on_accelerator", lambda: True)


@pytest.mark.parametrize("where", [on_arm, chosen_by_the_user, with_onednn, on_a_gpu])
@pytest.mark.usefixtures("without_onednn")
def test_onednn_is_advised_only_where_it_would_help(where, monkeypatch):
    assert running.advice_on_speed(15) is None
    where(monkeypatch)
    assert running.advice_on_speed(64) is None


def curves(callback, folder):
    """What TensorBoard gets of two epochs of three steps, by tag and epoch."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    callbacks = [callback(folder, write_graph=False)]
    model.fit(np.eye(6, 2), np.ones((6, 1)), batch_size=2, epochs=2, callbacks=callbacks, verbose=0)
    found = tensorboard_log.values(folder / "train")
    return {place: tf.make_ndarray(tensor).item() for place, tensor in found.items()}


def test_tensorboard_gets_what_keras_gives_it(tmp_path):
    ours = curves(running.CurvesOfEpochs, tmp_path / "ours")
    assert {("epoch_loss", 0), ("epoch_loss", 1)} <= ours.keys()
    assert ours == curves(keras.callbacks.TensorBoard, tmp_path / "theirs")
