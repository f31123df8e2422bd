"""A backbone that TensorFlow traces in a moment, for runs whose network is not what is tested.

A ResNet-18 of the same width takes ten seconds more, every time that a run starts.
"""

import keras


def save(path, side=8, shape=None):
    """Writes it as a `.keras` file, and returns the flag to use it.

    It takes images of `side` pixels, or of a shape (h, w, c).

    Without the kinks of a ReLU, so that rounding errors stay small over several steps.
    """
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Input(shape or (side, side, 3)),
        keras.layers.Conv2D(16, 3, strides=2, use_bias=False),
        keras.layers.BatchNormalization(momentum=0.9),
        keras.layers.Activation("softplus"),
        keras.layers.GlobalAveragePooling2D(),
    ]
    keras.Sequential(layers).save(path)
    return f"--backbone={path}"
