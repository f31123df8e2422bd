"""Scikit-learn's handwritten digits, which need no download."""

import numpy as np

from keras_bt.data.arrays import ArraySource


def open_digits() -> tuple[ArraySource, ArraySource]:
    """Opens 1797 real gray images of 8 × 8.

    scikit-learn defines no test set; ours is the last 500 images. A random split flatters every
    method (nearest neighbors of raw pixels: 0.99 instead of 0.96), presumably because it puts the
    same writers in both halves. Gray values 0..16 become 0..255.

    Returns:
        The training source and the test source.
    """
    # Imported here because it takes a second, which other sources should not cost.
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    class_names = [str(name) for name in digits.target_names]
    train, test = (
        ArraySource(images[part], digits.target[part], class_names, name=f"digits {name}")
        for name, part in (("train", slice(0, 1297)), ("test", slice(1297, None)))
    )
    return train, test
