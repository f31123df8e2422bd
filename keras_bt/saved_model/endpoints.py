"""The functions of an exported backbone.

| endpoint     | takes                                          | gives                          |
|--------------|------------------------------------------------|--------------------------------|
| `serve`      | `images`: uint8 (b, h, w, c), any h and w      | `features`: float32 (b, d)     |
| `serve_jpeg` | `encoded`: (b,) JPEG or PNG files as strings   | `features`                     |
| `preprocess` | `images` as `serve`                            | `images`: float32, cropped     |
| `infer`      | `images`: float32, preprocessed                | `features`                     |
| `train`      | `images`: float32, preprocessed                | `features`, as in training     |

`preprocess` does to images what evaluation does, and `serve` is `preprocess` followed by `infer`.
`serve_jpeg` decodes as training did: the color behind transparent images, the EXIF orientation and
the largest size are those of a `keras_bt.data.Decoding`. Only backbones that take three channels,
RGB, have it.
`train` normalizes with the batch statistics and updates the moving ones.
"""

import functools
from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_bt.data.decoding import Decoding, decode_native
from keras_bt.preprocessing import center_crop, height_and_width, normalize
from keras_bt.typing import Size


def with_endpoints(
    backbone: keras.Model,
    image_size: Size,
    resize: int,
    mean: Sequence[float],
    std: Sequence[float],
    decoding: Decoding | None = None,
) -> tuple[tf.train.Checkpoint, dict[str, tf.types.experimental.ConcreteFunction]]:
    """Traces the endpoints of a backbone.

    Args:
        backbone: (b, h, w, c) → (b, d).
        image_size: (height, width) of the images that the backbone sees, in pixels, or one int for
            both.
        resize: See `keras_bt.preprocessing.center_crop`.
        mean: Of each of the c channels, see `keras_bt.preprocessing.normalize`.
        std: Per channel, likewise.
        decoding: How `serve_jpeg` decodes; `Decoding()` by default.

    Returns:
        exported: Object to save, with the endpoints, `variables`, `trainable_variables` and
            `non_trainable_variables`.
        functions: The concrete function of each endpoint, by name.

    Raises:
        ValueError: the backbone does not take such images, or does not return vectors.
    """
    decoding = decoding or Decoding()
    channels = len(mean)
    shape = (*height_and_width(image_size), channels)  # what the backbone sees

    # Each is a graph of its own, so that the three that infer share the backbone's.
    endpoint = functools.partial(tf.function, autograph=False)

    def cropped(images):
        return normalize(center_crop(images, image_size, resize), mean, std)

    def features(images, training):
        return {"features": tf.cast(backbone(images, training=training), tf.float32)}

    @endpoint
    def preprocess(images):
        return {"images": cropped(_not_empty(images))}

    @endpoint
    def infer(images):
        return features(images, training=False)

    @endpoint
    def train(images):
        # The statistics of an empty batch are NaN, and would make the moving ones NaN too.
        return features(_not_empty(images), training=True)

    @endpoint
    def serve(images):
        return infer(preprocess(images)["images"])

    @endpoint
    def serve_jpeg(encoded):
        seen = tf.TensorSpec(shape, tf.float32)
        files = (tf.range(tf.size(encoded)), _not_empty(encoded))
        # Image by image, because sizes differ; map_fn keeps ten in flight.
        images = tf.map_fn(
            lambda file: cropped(_decoded(file[0], file[1], decoding)),
            files,
            fn_output_signature=seen,
        )
        return infer(images)

    pixels = tf.TensorSpec([None, None, None, channels], tf.uint8, "images")
    # `infer` and `train` take any size that the backbone does, such as a larger one to fine-tune.
    taken = getattr(backbone, "input_shape", (None, *shape))
    floats = tf.TensorSpec([None, *taken[1:]], tf.float32, "images")
    exported, functions = tf.train.Checkpoint(), {}
    for name in ("variables", "trainable_variables", "non_trainable_variables"):
        setattr(exported, name, [variable.value for variable in getattr(backbone, name)])
    specs = [(infer, floats), (serve, pixels), (preprocess, pixels), (train, floats)]
    if channels == 3:
        specs.append((serve_jpeg, tf.TensorSpec([None], tf.string, "encoded")))
    for function, spec in specs:
        # Not `input_signature=[spec]`: with it, a loaded function silently casts NumPy floats to
        # uint8, which turns images in 0..1 into zeros. Without it, they are refused.
        try:
            functions[function.__name__] = function.get_concrete_function(spec)
        except Exception as error:  # whatever the backbone's layers raise
            raise ValueError(
                f"backbone must take images of {'×'.join(map(str, shape))}. "
                f"Received: {backbone.name}, which takes "
                f"{getattr(backbone, 'input_shape', 'others')} ({error})"
            ) from error
        setattr(exported, function.__name__, function)
    returned = functions["serve"].structured_outputs["features"].shape
    if returned.rank != 2:
        raise ValueError(
            f"backbone must return one vector per image. Received: output shape {tuple(returned)}."
        )
    return exported, functions


def _not_empty(batch):
    """Returns the batch; raises InvalidArgumentError at run time if one of its sides is 0."""
    message = "The batch and its images must not be empty. Received a batch of shape"
    check = tf.debugging.Assert(tf.size(batch) > 0, [message, tf.shape(batch)], summarize=4)
    with tf.control_dependencies([check]):
        return tf.identity(batch)


def _decoded(position, encoded, decoding):
    """Returns uint8 (h, w, 3); raises InvalidArgumentError at run time unless JPEG or PNG."""
    image = decode_native(encoded, decoding)
    limit = f"{decoding.max_pixels / 10**6:g} million pixels"
    message = (
        f"serve_jpeg takes JPEG and PNG files of up to {limit}. Received something else at position"
    )
    check = tf.debugging.Assert(tf.size(image) > 0, [message, position])
    with tf.control_dependencies([check]):
        return tf.identity(image)
