"""Every example in a docstring runs and prints what it says."""

import contextlib
import doctest
import importlib
import os
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from places import ROOT

import keras_bt

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
SIDE = 16


def resnet():
    return keras_bt.resnet(18, stem="small", width=2, input_shape=(SIDE, SIDE, 3))


def backbone():
    """Takes a tenth of the time of a ResNet to build and to trace."""
    return keras.Sequential(
        [
            keras.layers.Input((SIDE, SIDE, 3)),
            keras.layers.Conv2D(16, 3, strides=2, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )


def projector():
    return keras_bt.projector((8, 8), input_dim=16)


def model():
    compiled = keras_bt.BarlowTwins(backbone(), projector())
    compiled.compile(keras_bt.LARS(0.1))
    return compiled


def images():
    return np.random.RandomState(0).randint(0, 256, (12, SIDE, SIDE, 3)).astype(np.uint8)


def views():
    a = images().astype(np.float32) / 255
    return tf.data.Dataset.from_tensor_slices((a, a[:, :, ::-1])).batch(6)


def source():
    return keras_bt.data.ArraySource(images(), np.arange(12) % 3, ["a", "b", "c"], name="twelve")


# What examples may use without making it; each is made for those that name it.
GIVEN = {
    "keras": lambda: keras,
    "np": lambda: np,
    "tf": lambda: tf,
    "keras_bt": lambda: keras_bt,
    "backbone": backbone,
    "projector": projector,
    "model": model,
    "images": images,  # uint8 (12, 16, 16, 3)
    "views": views,  # two batches of 6 pairs
    "train": source,  # labeled images
    "test": source,
    "features": lambda: np.random.RandomState(1).normal(size=(12, 16)).astype(np.float32),
    "labels": lambda: np.arange(12) % 3,
}

# Their examples are about the blocks and the names of a ResNet.
OF_A_RESNET = ("keras_bt.model.remat", "keras_bt.torch_weights")


def examples():
    for path in sorted((ROOT / "keras_bt").rglob("*.py")):
        if ">>>" in path.read_text(encoding="utf-8"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            module = importlib.import_module(name.removesuffix(".__init__"))
            for found in doctest.DocTestFinder(exclude_empty=True).find(module):
                if found.examples:
                    yield pytest.param(found, id=found.name)


@pytest.mark.parametrize("example", list(examples()))
def test_examples_run(example, tmp_path):
    importlib.import_module("keras_bt.data")
    source_text = "".join(e.source for e in example.examples)
    given = GIVEN | {"backbone": resnet} if example.name.startswith(OF_A_RESNET) else GIVEN
    for name, make in given.items():
        if re.search(rf"\b{name}\b", source_text):
            example.globs.setdefault(name, make())
    report = []
    with contextlib.chdir(tmp_path):
        os.makedirs("runs")
        runner = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False)
        runner.run(example, out=report.append)
    assert not runner.failures, "".join(report)
