"""Backbones for the commands: a ResNet by name or a model from a file."""

import pathlib

import keras
import numpy as np

from keras_bt.preprocessing import IMAGENET_MEAN, IMAGENET_STD, height_and_width, normalization
from keras_bt.resnet import STAGES, resnet
from keras_bt.workdir import Workdir, load_model
from trainers.runs import rebuilding

_UNDONE = "to_0_255"  # name of the layer that undoes the normalization


def build(name, stem, width, image_size, channels=3, normalize="imagenet"):
    """Builds a ResNet by name, or loads a backbone from a `.keras` file.

    Raises:
        ValueError: if there is no such backbone, or it cannot take such images.
    """
    if name.endswith(".keras"):
        return load(name, image_size, channels, normalize)
    depths = {f"resnet{depth}": depth for depth in STAGES}
    if name not in depths:
        raise ValueError(
            f"backbone must be one of {', '.join(depths)}, or a .keras file. Received: {name}"
        )
    stride = 32 if stem == "imagenet" else 8
    if min(height_and_width(image_size)) < stride:
        raise ValueError(
            f"image_size must be at least {stride} for a ResNet with the {stem} stem. "
            f"Received: image_size={image_size}."
        )
    return resnet(depths[name], stem, width, (None, None, channels))


def find(name):
    """Finds the file of a backbone, given by its path or by the folder of its run.

    Returns:
        `pathlib.Path` of the file, and the settings, a dict that is empty outside a run, with
        an image_size of two numbers as a tuple.

    Raises:
        ValueError: if there is no such file, or the run's settings are damaged.
    """
    if not name:
        raise ValueError(
            "--backbone is needed: the folder of a run of trainers.pretrain, or a .keras file."
        )
    path = pathlib.Path(name)
    file = Workdir(path).backbone if path.is_dir() else path
    if not file.is_file():
        hint = ""
        if Workdir(path).config.is_file():
            command = "siamese" if "unseen" in Workdir(path).read_settings() else "pretrain"
            hint = (
                f", as this run is not finished; the same trainers.{command} command continues it"
            )
        raise ValueError(
            "--backbone must be the folder of a run or a .keras file. "
            f"Received: {name}, but there is no {file}{hint}."
        )
    run = Workdir(file.parent)
    settings = run.read_settings() if file == run.backbone and run.config.is_file() else {}
    if "projector" in settings:  # a run of trainers.pretrain
        rebuilding.checked(run, settings)
    if isinstance(settings.get("image_size"), list):
        settings["image_size"] = tuple(settings["image_size"])
    return file, settings


def load(path, image_size, channels=None, normalize="imagenet"):
    """Loads a backbone from a `.keras` file, to be given normalized images, and tries it on one.

    Args:
        path: the file.
        image_size: int, or (height, width).
        channels: int; None for what the backbone takes.
        normalize: how the images are normalized, see `keras_bt.preprocessing.normalization`.

    Raises:
        ValueError: if it is not a Keras model from such images to vectors.
    """
    backbone = load_model("backbone", path)
    if not isinstance(getattr(backbone, "output_shape", None), tuple) or (
        len(backbone.output_shape) != 2
    ):
        raise ValueError(
            "backbone must return one vector per image, of shape (None, length). Received: "
            f"{path}, whose output shape is {getattr(backbone, 'output_shape', None)}."
        )
    channels = channels or channels_of(backbone)
    shape = (*height_and_width(image_size), channels)
    try:
        backbone(np.zeros((1, *shape), "float32"))
    except Exception as error:
        raise ValueError(
            f"backbone must take images of {'×'.join(map(str, shape))}. Received: {path}, which "
            f"takes {backbone.input_shape}."
        ) from error
    return fed_what_it_expects(backbone, *normalization(normalize, channels))


def fed_what_it_expects(backbone, mean=IMAGENET_MEAN, std=IMAGENET_STD):
    """Undoes the normalization of images for a backbone that begins with its own.

    Many of `keras.applications` begin with a `Rescaling` or `Normalization` of 0..255. Given images
    that are normalized already, they would see next to nothing of them.

    Returns:
        The same backbone, or a model from normalized images to what it gives for those in 0..255.
    """
    first = next(
        layer
        for layer in backbone._flatten_layers(include_self=False)
        if not isinstance(layer, (keras.layers.InputLayer, keras.Model))
    )
    own = isinstance(first, (keras.layers.Rescaling, keras.layers.Normalization))
    if not own or first.name == _UNDONE:
        return backbone
    print(
        f"{backbone.name} begins with a {type(first).__name__} of its own, so it is given pixels "
        "from 0 to 255."
    )
    scale, offset = 255 * np.array(std), 255 * np.array(mean)
    undo = keras.layers.Rescaling(scale.tolist(), offset.tolist(), name=_UNDONE)
    images = keras.Input(backbone.input_shape[1:])
    return keras.Model(images, backbone(undo(images)), name=backbone.name)


def channels_of(backbone):
    """Returns the number of channels that a backbone takes: 3 if any number would do."""
    shape = backbone.input_shape
    return shape[-1] or 3 if isinstance(shape, tuple) and len(shape) == 4 else 3


def switch_blocks_on(backbone):
    """Sets every γ that starts at zero to one, which makes an untrained backbone a fair baseline.

    With γ = 0 every residual block is the identity, and all that is left of the network is a few
    strided pixels: 17% on the digits with 5 labels per class, against 55% with random blocks.
    """
    for layer in backbone._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization) and layer.scale:
            gamma = keras.ops.convert_to_numpy(layer.gamma)
            layer.gamma.assign(np.where(gamma == 0, 1, gamma))
