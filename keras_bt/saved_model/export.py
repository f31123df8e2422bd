"""A backbone as a SavedModel: to serve, and to use and fine-tune with TensorFlow alone.

`keras_bt.saved_model.endpoints` lists its endpoints.
"""

import datetime
import inspect
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_bt import workdir
from keras_bt.data.decoding import Decoding
from keras_bt.messages import check_writable
from keras_bt.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    center_crop,
    check_channels,
    default_resize,
    height_and_width,
)
from keras_bt.saved_model import backbone_layer
from keras_bt.saved_model.endpoints import with_endpoints
from keras_bt.saved_model.versions import add_version
from keras_bt.typing import Path, Size

# What a server offers. Not `train`: any client could change the moving statistics.
SIGNATURES = ("serve", "serve_jpeg", "infer")
# What the card says of the endpoints.
_INTERFACE = {
    "train": "Normalizes with the batch statistics and updates the moving ones; in every other "
    "endpoint, an image's features do not depend on the rest of the batch.",
    "fine-tuning": "In Keras, with the layer in backbone_layer.py beside this file; with "
    "TensorFlow alone, through `train` and `trainable_variables`.",
}


def export_saved_model(
    backbone: keras.Model,
    directory: Path,
    image_size: Size,
    resize: int | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    card: dict[str, Any] | None = None,
    decoding: Decoding | None = None,
) -> pathlib.Path:
    """Writes a backbone as the next version of a SavedModel.

    The endpoints are those of `keras_bt.saved_model.endpoints`. `variables`, `trainable_variables`
    and `non_trainable_variables` of the loaded object are the backbone's, in its order; what was
    frozen stays frozen. Everything is computed in float32, without a strategy's collectives; see
    `plain_copy`. `assets.extra/` in the version holds `card.json`, which describes the model, and
    `backbone_layer.py`, a Keras layer to fine-tune it with.

    >>> layers = [keras.layers.Conv2D(8, 3), keras.layers.GlobalAveragePooling2D()]
    >>> tiny = keras.Sequential([keras.Input((None, None, 3)), *layers])
    >>> path = export_saved_model(tiny, "saved_model", image_size=16)  # saved_model/1
    >>> loaded = tf.saved_model.load(path)
    >>> loaded.serve(images)["features"].shape  # 12 uint8 images of any size
    TensorShape([12, 8])

    Args:
        backbone: (b, h, w, c) → (b, d); it is not changed.
        directory: Folder of the versions: the first becomes `directory/1`. A version appears whole
            or not at all; other versions are not touched.
        image_size: (height, width) of the images that the backbone sees, in pixels, or one int for
            both.
        resize: As in evaluation, see `keras_bt.preprocessing.center_crop`; by default 256/224 of
            the shorter side of image_size.
        mean: Of each of the c channels, see `keras_bt.preprocessing.normalize`.
        std: Of each channel, likewise.
        card: Further entries for the card, as JSON values: `data`, `settings`, `metrics`, ….
        decoding: How `serve_jpeg` decodes: the color behind transparent images, the EXIF
            orientation, the largest size; `keras_bt.data.Decoding()` by default.

    Returns:
        Path of the version.

    Raises:
        ValueError: the backbone cannot be rebuilt, does not take such images or does not return
            vectors; resize is too small; card is not JSON; directory cannot be written to;
            or a strategy's scope is open.
        OSError: the disk is full.
    """
    check_writable("directory", directory, folder=True)
    if tf.distribute.has_strategy():
        raise ValueError("export_saved_model must be called outside strategy.scope().")
    decoding = decoding or Decoding()
    plain, steps, exported, functions = prepared(backbone, image_size, resize, mean, std, decoding)
    steps["by"] = "serve, serve_jpeg and preprocess"
    if "serve_jpeg" in functions:
        steps["serve_jpeg"] = {
            "background": decoding.background,
            "exif": decoding.exif,
            "max_pixels": decoding.max_pixels,
        }
    text = whole_card(plain, functions, steps, _interface(functions, steps), card)
    signatures = {name: functions[name] for name in SIGNATURES if name in functions}
    signatures["serving_default"] = functions["serve"]

    def write(folder):
        try:
            tf.saved_model.save(exported, str(folder), signatures)
        except tf.errors.OpError as error:  # a full disk, say
            raise OSError(f"The SavedModel could not be written. {error.message}") from error
        extra = folder / "assets.extra"  # TensorFlow Serving leaves this folder alone
        extra.mkdir()
        workdir.write_json(extra / "card.json", text)
        (extra / "backbone_layer.py").write_text(inspect.getsource(backbone_layer))

    return add_version(directory, write)


def _interface(functions, steps):
    """Returns what the card says of the endpoints."""
    height, width = height_and_width(steps["image_size"])
    channels = len(steps["mean"])
    kind = "uint8 RGB" if channels == 3 else "uint8"
    whole = f"images: {kind}, (batch, height, width, {channels}), any height and width"
    floats = f"images: float32, (batch, height, width, {channels}), preprocessed"
    encoded = "encoded: strings, (batch,), each the bytes of a JPEG or PNG file"
    if "serve_jpeg" not in functions:
        encoded = f"missing: files of images hold 3 channels, and the backbone takes {channels}"
    return {
        "inputs": {
            "serve (the default)": whole,
            "serve_jpeg": encoded,
            "preprocess": whole,
            "infer": floats,
            "train": floats,
        },
        "outputs": {
            "preprocess": f"images: float32, (batch, {height}, {width}, {channels})",
            "all others": "features: float32, (batch, features)",
        },
        **_INTERFACE,
    }


def prepared(
    backbone: keras.Model,
    image_size: Size,
    resize: int | None,
    mean: Sequence[float],
    std: Sequence[float],
    decoding: Decoding | None = None,
) -> tuple[keras.Model, dict[str, Any], tf.train.Checkpoint, dict[str, Any]]:
    """Does what all exports begin with; arguments and errors as in `export_saved_model`.

    Returns:
        The plain copy of the backbone; image_size, resize, mean and std as JSON values; what
        `with_endpoints` returns for both.
    """
    resize = default_resize(image_size) if resize is None else resize
    center_crop(tf.zeros((1, 1, 3)), image_size, resize)  # refuses impossible sizes
    check_channels(None, mean, std)
    mean, std = [float(m) for m in mean], [float(s) for s in std]
    if not isinstance(image_size, int):
        image_size = list(image_size)
    steps: dict[str, Any] = dict(image_size=image_size, resize=resize, mean=mean, std=std)
    plain = plain_copy(backbone)
    return plain, steps, *with_endpoints(plain, **steps, decoding=decoding)


def whole_card(
    backbone: keras.Model,
    functions: dict[str, Any],
    steps: dict[str, Any],
    own: dict[str, Any],
    card: dict[str, Any] | None,
) -> dict[str, Any]:
    """Describes an export to a reader.

    Args:
        backbone: as `prepared` returns it.
        functions: likewise.
        steps: likewise, with "by" whom they are taken.
        own: what this kind of export adds.
        card: what the caller adds, such as what the backbone was trained on.

    Raises:
        ValueError: the caller's part is not JSON.
    """
    height, width = height_and_width(steps["image_size"])
    text = {
        "description": "Image features of a backbone pretrained without labels by keras_bt.",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "backbone": {
            "name": backbone.name,
            "parameters": sum(math.prod(v.shape) for v in backbone.trainable_variables),
            "features": functions["infer"].structured_outputs["features"].shape[-1],
            "precision": "float32, whatever it was trained in",
        },
        "preprocessing": {
            **steps,
            "in words": f"{_resizing(height, width, steps['resize'])} (bilinear, antialiased, as "
            f"Pillow does). The central {height} × {width} pixels are cut out: above and to the "
            "left, half of the pixels left over are cut off, rounded, halves to the even number (2 "
            "of 3, 2 of 5). They are divided by 255, the mean is subtracted and the result divided "
            "by std, per channel.",
        },
        **own,
        "versions": workdir.versions(),
        **(card or {}),
    }
    try:
        json.dumps(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"card must consist of JSON values. {error}") from error
    return text


def _resizing(height, width, resize):
    if height == width:
        return (
            f"The shorter side is resized to {resize} pixels and the longer one in proportion, "
            "rounded down"
        )
    least = (f"{resize * side / min(height, width):g}" for side in (height, width))
    return (
        f"Images are resized in proportion until they just cover {' × '.join(least)} pixels, both "
        "sides rounded down"
    )


def run_card(settings: dict[str, Any], summary: dict[str, Any]) -> dict[str, Any]:
    """Returns the entries that a run adds to the card of its backbone.

    >>> run_card({"data": "digits", "seed": 0}, {"loss": 1.5, "steps": 100})
    {'data': 'digits', 'metrics': {'loss': 1.5}, 'settings': {'data': 'digits', 'seed': 0}}

    Args:
        settings: The run's settings, as in its `config.json`.
        summary: The run's final figures, as in its `summary.json`.
    """
    figures = ("loss", "floor", "excess", "accuracies", "measured_on")
    metrics = {name: summary[name] for name in figures if name in summary}
    return {"data": settings.get("data"), "metrics": metrics, "settings": settings}


def plain_copy(backbone: keras.Model) -> keras.Model:
    """Copies a model to one that computes in float32 on one device, whatever it was trained on.

    Mixed precision stores variables in float32 but computes in less, so the copy's features are
    the more accurate ones. Synchronized BatchNormalization becomes the ordinary one.

    >>> half = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, dtype="mixed_float16")])
    >>> half.layers[0].compute_dtype, plain_copy(half).layers[0].compute_dtype
    ('float16', 'float32')

    Returns:
        A model with the same weights, not compiled.

    Raises:
        ValueError: Keras cannot rebuild the model from its configuration.
    """
    try:
        config = _plain(keras.saving.serialize_keras_object(backbone))
        config.pop("compile_config", None)
        # Safe: the configuration is that of a model in memory, not of a stranger's file.
        copy = keras.saving.deserialize_keras_object(config, safe_mode=False)
        copy.set_weights(backbone.get_weights())
    except Exception as error:  # Keras raises nearly anything here
        raise ValueError(
            "backbone must be a model that keras.models.load_model can rebuild. "
            f"Received: {backbone.name} ({error})"
        ) from error
    return copy


def _plain(config):
    if isinstance(config, (list, tuple)):
        return type(config)(_plain(part) for part in config)
    if not isinstance(config, dict):
        return config
    config = {key: _plain(value) for key, value in config.items()}
    if config.get("class_name") == "DTypePolicy":
        config["config"]["name"] = "float32"
    elif config.get("class_name") == "BatchNormalization":
        config["config"]["synchronized"] = False
    return config
