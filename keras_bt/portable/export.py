"""A backbone as one file for systems without TensorFlow: ONNX or LiteRT."""

import pathlib
import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bt import preprocessing, workdir
from keras_bt.files import whole
from keras_bt.messages import first_line
from keras_bt.portable import crop
from keras_bt.portable.formats import format_of, silent
from keras_bt.preprocessing import IMAGENET_MEAN, IMAGENET_STD, height_and_width
from keras_bt.saved_model.export import prepared, whole_card
from keras_bt.typing import Path, Size

TOLERANCE = 1e-4  # relative L2 distance of the features of each image


def export_portable(
    backbone: keras.Model,
    path: Path,
    image_size: Size,
    resize: int | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    endpoint: str = "serve",
    card: dict[str, Any] | None = None,
) -> pathlib.Path:
    """Writes a backbone as an ONNX or LiteRT file; the ending, `.onnx` or `.tflite`, decides.

    The file holds one function, from `images` to `features`, float32 (b, d); b is free.

    | endpoint | `images`                                                      |
    |----------|---------------------------------------------------------------|
    | `serve`  | uint8 (b, h, w, c), h and w free; the preprocessing is inside |
    | `infer`  | float32 (b, *image_size, c), preprocessed by the client       |

    They are the endpoints of a SavedModel with these names. Before anything is written, the
    endpoint and the file, in its own runtime, are run on random images and must agree.
    `<name>.json` beside the file describes it and gives the numbers of the preprocessing that
    `infer` expects. Both appear whole or not at all. Everything is computed in float32, see
    `keras_bt.saved_model.plain_copy`.

    >>> import onnxruntime
    >>> layers = [keras.layers.Conv2D(8, 3), keras.layers.GlobalAveragePooling2D()]
    >>> tiny = keras.Sequential([keras.Input((None, None, 3)), *layers])
    >>> path = export_portable(tiny, "tiny.onnx", image_size=16)
    >>> session = onnxruntime.InferenceSession("tiny.onnx")
    >>> (features,) = session.run(["features"], {"images": images})  # 12 uint8 images of any size
    >>> features.shape
    (12, 8)

    Args (the others are those of `keras_bt.saved_model.export_saved_model`):
        path: File to write. An existing file is replaced.
        endpoint: "serve" or "infer".

    Returns:
        Path of the file.

    Raises:
        ValueError: as there; for another ending or endpoint; if the format's packages are missing,
            or it lacks operations of the backbone; or if the features differ.
        OSError: the file cannot be written.
    """
    path = pathlib.Path(path)
    form = format_of(path)
    form.check_installed()
    if endpoint not in ("serve", "infer"):
        raise ValueError(f'endpoint must be "serve" or "infer". Received: {endpoint!r}')
    plain, steps, _, functions = prepared(backbone, image_size, resize, mean, std)
    expected = functions[endpoint]
    by = "the file itself" if endpoint == "serve" else "the client"
    shape = (*height_and_width(image_size), len(mean))  # what the backbone sees
    own = _interface(form, endpoint, shape)
    text = whole_card(plain, functions, steps | {"by": by}, own, card)
    content = _converted(plain, form, endpoint, steps, shape)
    _check(plain, form, content, expected, endpoint, shape)
    with whole(card_path(path)) as partial_card, whole(path) as partial:
        workdir.write_json(partial_card, text)
        partial.write_bytes(content)
    return path


def card_path(path: Path) -> pathlib.Path:
    """Returns the path of the card that belongs to a portable file.

    >>> card_path("backbone.onnx").name
    'backbone.onnx.json'
    """
    return pathlib.Path(f"{path}.json")


def _converted(backbone, form, endpoint, steps, shape):
    """Converts the endpoint to the bytes of the file."""
    trained = [variable.numpy() for variable in backbone.trainable_variables]
    others = [variable.numpy() for variable in backbone.non_trainable_variables]

    def infer(images):
        # Weights as constants let converters fold BatchNormalization into convolutions.
        weights = ([tf.constant(array) for array in arrays] for arrays in (trained, others))
        features, _ = backbone.stateless_call(*weights, images, training=False)
        return {"features": features}

    def serve(images):
        cropped = crop.center_crop(images, shape[:2], steps["resize"])
        return infer(preprocessing.normalize(cropped, steps["mean"], steps["std"]))

    if endpoint == "serve":
        spec = tf.TensorSpec([None, None, None, shape[2]], tf.uint8, "images")
    else:
        spec = tf.TensorSpec([None, *shape], tf.float32, "images")
    function = tf.function(serve if endpoint == "serve" else infer, autograph=False)
    try:
        with silent():
            return form.convert(function, spec)
    except Exception as error:  # converters raise nearly anything
        raise _unsupported(backbone, form, error) from error


def _check(backbone, form, content, expected, endpoint, shape):
    """Raises ValueError unless the bytes, run by their own runtime, give the expected features."""
    try:
        with silent():
            run = form.open(content)
            found = [(images, run(images)) for images in _random_images(endpoint, shape)]
    except Exception as error:  # an operation that the runtime does not know, for example
        raise _unsupported(backbone, form, error) from error
    for images, features in found:
        wanted = expected(images=tf.constant(images))["features"].numpy()
        distance = np.linalg.norm(features - wanted, axis=-1)
        # `not all(≤)` instead of `any(>)`, which NaN would pass.
        if not np.all(distance <= TOLERANCE * np.linalg.norm(wanted, axis=-1)):
            raise ValueError(
                f"The features in {form.name} must equal the backbone's to {TOLERANCE:g} (relative "
                f"L2). Received: a distance of {distance.max():.3g} between features of norm "
                f"{np.linalg.norm(wanted, axis=-1).max():.3g}; nothing is written."
            )


def _random_images(endpoint, shape):
    """Draws batches as a client may send them: of two and one, wide and tall, large and small."""
    rng = np.random.default_rng(0)
    if endpoint == "infer":
        shapes = ((2, *shape), (1, *shape))
        return [rng.normal(size=shape).astype("float32") for shape in shapes]
    h, w, c = shape
    shapes = ((2, h + 7, 2 * w, c), (1, h, w // 2 + 1, c))
    return [rng.integers(0, 256, shape).astype("uint8") for shape in shapes]


def _unsupported(backbone, form, error):
    # The wording of TensorFlow's converter and of ONNX Runtime.
    found = re.search(r"(?:'tf\.|No Op registered for )(\w+)", str(error))
    problem = f"fails ({type(error).__name__}: {first_line(error)[:300]})"
    reason = f"has {found[1]}" if found else problem
    return ValueError(
        f"{form.name} must support every operation of the backbone. "
        f"Received: {backbone.name}, which {reason}."
    )


def _interface(form, endpoint, shape):
    """Returns what the card says of the file's only function."""
    h, w, c = shape
    rgb = " RGB" if c == 3 else ""
    whole_images = f"uint8{rgb}, (batch, height, width, {c}), any height and width"
    floats = f"float32{rgb}, (batch, {h}, {w}, {c}), preprocessed"
    return {
        "format": form.name,
        "input": f"images: {whole_images if endpoint == 'serve' else floats}",
        "output": "features: float32, (batch, features)",
    }
