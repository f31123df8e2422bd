"""What users of an export do, in a process that cannot import keras_bt: see downstream.py."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from exported import IMAGE_SIZE, difference, encoded, random_images, tiny_backbone, trained_backbone
from places import HELPERS

from keras_bt import saved_model
from keras_bt.preprocessing import center_crop, normalize
from keras_bt.workdir import save_model

pytestmark = pytest.mark.slow
EXACT = 1e-5  # relative L2


@pytest.fixture(scope="module")
def features_and_results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("downstream")
    backbone = trained_backbone()
    images, labels = random_images(16, 30, 24), np.arange(16) % 2
    images[labels == 1] //= 3  # dark ones are the second class
    preprocessed = normalize(center_crop(images, IMAGE_SIZE)).numpy()
    files = [encoded(image, "PNG").hex() for image in images]
    np.savez(
        folder / "images.npz", images=images, labels=labels, preprocessed=preprocessed, files=files
    )
    saved_model.export_saved_model(backbone, folder / "models", IMAGE_SIZE)
    saved_model.export_saved_model(tiny_backbone(), folder / "tiny", IMAGE_SIZE)
    for layer in backbone.layers:  # as after training on several devices
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
    save_model(backbone, folder / "backbone.keras")
    script = HELPERS / "downstream.py"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, script, folder], cwd=folder, env=environment, check=True, timeout=600
    )
    features = backbone(preprocessed, training=False).numpy()
    return features, json.loads((folder / "results.json").read_text())


@pytest.fixture
def features(features_and_results):
    return features_and_results[0]


@pytest.fixture
def result(features_and_results, request):
    """What the use came to that the test is named after."""
    results = features_and_results[1]
    assert results["keras_bt"] == "cannot be imported"
    found = results[request.node.name.removeprefix("test_")]
    assert not isinstance(found, str), found
    return found


def test_with_tensorflow_alone(result, features):
    assert difference(result["serve"], features) < EXACT
    assert difference(result["serve_jpeg"], features) < EXACT


def test_fine_tuned_with_tensorflow_alone(result):
    assert result["unmoved"] == []
    assert result["losses"][-1] < 0.5 * result["losses"][0]


def test_frozen_tfsm_layer(result):
    assert result["trainable"] == 2  # the head's
    assert result["moved"] == 0
    assert result["accuracy"] > 0.8
    assert result["refused"]
    assert result["reloaded"] < EXACT


def test_fine_tuned_backbone_layer(result):
    assert result["weights"] == result["unmoved by inference"] == 100
    assert result["unmoved"] == []
    assert result["accuracy"] > 0.8
    assert result["refused"]
    assert result["reloaded"] < EXACT
    assert result["served"] < EXACT


def test_frozen_backbone_layer(result):
    assert result == {"moved": 0, "trainable": 2, "trainable of it when thawed": 4}


def test_mixed_precision(result):
    assert result == {"dtype": "float32"}


def test_keras_file(result, features):
    assert difference(result["features"], features) < EXACT
    assert result["unmoved"] == []
    assert result["reloaded"] < EXACT
