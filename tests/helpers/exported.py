"""A small backbone with weights as after training, and images in all the ways they come."""

import io
import json
from unittest import mock

import keras
import numpy as np
from PIL import Image

from keras_bt import data
from keras_bt.evaluation.features import extract_features
from keras_bt.resnet import STAGES, resnet
from keras_bt.workdir import save_model, write_record

IMAGE_SIZE = 16


def trained_backbone(seed=0):
    """A ResNet, with a block of either kind, whose normalization has scales and statistics."""
    keras.utils.set_random_seed(seed)
    with mock.patch.dict(STAGES, {18: ((1, 1), False)}):
        backbone = resnet(18, stem="small", width=8)
    rng = np.random.default_rng(seed)
    for v in backbone.variables:
        if v.name in ("gamma", "moving_variance"):
            v.assign(rng.uniform(0.5, 1.5, v.shape))
        elif v.name in ("beta", "moving_mean"):
            v.assign(rng.normal(0, 0.2, v.shape))
    return backbone


def tiny_backbone():
    """Two layers with weights, quick to export; no two of its features are alike."""
    return keras.Sequential(
        [
            keras.layers.Input((None, None, 3)),
            keras.layers.Conv2D(4, 3, name="convolution"),
            keras.layers.BatchNormalization(name="normalization"),
            keras.layers.GlobalMaxPooling2D(),
        ],
        name="tiny",
    )


SETTINGS = {"data": "digits", "image_size": 8, "epochs": 3}


def write_run(folder):
    """A finished run with a tiny backbone, as far as exports read it."""
    folder.mkdir()
    save_model(tiny_backbone(), folder / "backbone.keras")
    (folder / "config.json").write_text(json.dumps({"settings": SETTINGS, "versions": {}}))
    write_record(folder / "summary.json", {"loss": 1.5, "seconds_of_last_call": 9.0})
    return folder


def digits(run):
    """Twenty digits as uint8 RGB, and what a run's backbone gives for them in evaluation."""
    source, _ = data.open_source("digits")
    some = source.subset(np.arange(20))
    backbone = keras.models.load_model(run / "backbone.keras")
    features, _ = extract_features(backbone, data.evaluation_batches(some, 8, 20))
    return np.repeat(some.images, 3, axis=-1), features


def random_images(*shape, seed=0):
    """uint8 noise that is smooth enough for JPEG and for resizing to matter."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (shape[0], 5, 6, 3)).astype(np.uint8)
    large = [Image.fromarray(c).resize((shape[2], shape[1]), Image.BICUBIC) for c in coarse]
    return np.stack([np.asarray(image) for image in large])


def encoded(image, form, **options):
    """The bytes of an image file."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def difference(found, expected):
    """Relative L2 distance, of the row that differs most."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    distance = np.linalg.norm(found - expected, axis=-1)
    return (distance / np.linalg.norm(expected, axis=-1)).max()
