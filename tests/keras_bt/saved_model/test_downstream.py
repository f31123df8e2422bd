"""What users of an export do, in a process that cannot import keras_bt: see downstream.py."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from exported import IMAGE_SIZE, encoded, random_images, tiny_backbone, trained_backbone
from places import HELPERS

from keras_bt import saved_model
from keras_bt.preprocessing import center_crop, normalize
from keras_bt.workdir import save_model

USES = (
    "with_tensorflow_alone",
    "fine_tuned_with_tensorflow_alone",
    "frozen_tfsm_layer",
    "fine_tuned_backbone_layer",
    "frozen_backbone_layer",
    "mixed_precision",
    "keras_file",
    "without_this_package",
)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of each use, "" or what went wrong."""
    folder = tmp_path_factory.mktemp("downstream")
    backbone = trained_backbone()
    images, labels = random_images(16, 30, 24), np.arange(16) % 2
    images[labels == 1] //= 3  # dark ones are the second class
    preprocessed = normalize(center_crop(images, IMAGE_SIZE)).numpy()
    np.savez(
        folder / "images.npz",
        images=images,
        labels=labels,
        preprocessed=preprocessed,
        files=[encoded(image, "PNG").hex() for image in images],
        features=backbone(preprocessed, training=False),
    )
    saved_model.export_saved_model(backbone, folder / "models", IMAGE_SIZE)
    saved_model.export_saved_model(tiny_backbone(), folder / "tiny", IMAGE_SIZE)
    for layer in backbone.layers:  # as after training on several devices
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
    save_model(backbone, folder / "backbone.keras")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    program = [sys.executable, HELPERS / "downstream.py", folder]
    subprocess.run(program, cwd=folder, env=environment, check=True, timeout=600)
    return json.loads((folder / "results.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("use", USES)
def test_an_export_is_used(results, use):
    assert set(results) == set(USES)
    assert results[use] == "", results[use]
