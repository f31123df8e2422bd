"""Opens the images that a `--data` specification names."""

import difflib

import numpy as np

from keras_bt.data.decoding import DataError
from keras_bt.data.encoded import CACHE_BYTES
from keras_bt.data.folders import open_folder
from keras_bt.data.idx import open_idx
from keras_bt.data.sources import ArraySource, Source
from keras_bt.data.tfds import open_tfds

_KINDS = "digits, idx:DIR, folder:DIR or tfds:NAME[:SPLIT], or one of these after heldout:"
_NAMES = ("digits", "idx", "folder", "tfds", "heldout")
HELD_OUT = 6  # one training image in this many


def open_source(
    spec: str, data_dir: str | None = None, cache_bytes: int = CACHE_BYTES
) -> tuple[Source, Source | None]:
    """Opens the images that a specification names.

    Args:
        spec: One of
            `digits`: scikit-learn's handwritten digits, 8 × 8, see `open_digits`;
            `idx:DIR`: MNIST-style files, see `keras_bt.data.idx.open_idx`;
            `folder:DIR`: image files, see `keras_bt.data.folders.open_folder`;
            `tfds:NAME[:SPLIT]`: see `keras_bt.data.tfds.open_tfds`;
            `heldout:SPEC` or `heldout:N:SPEC`, SPEC one of these: see `hold_out`.
        data_dir: For `tfds:`, the folder of the prepared data sets.
        cache_bytes: Decoded images up to this size are kept in memory (1 GiB by default; up to
            four times as much while the cache is filled); 0 keeps none.

    Returns:
        The training source, and the test source or None.

    Raises:
        DataError: The specification is unknown, or the data is missing or malformed.

    Example:
        >>> train, test = open_source("digits")
        >>> train.num_examples, test.num_examples, train.image_shape
        (1297, 500, (8, 8, 3))
    """
    kind, _, rest = str(spec).partition(":")
    if spec == "digits":
        return open_digits()
    if kind == "idx" and rest:
        return open_idx(rest, spec)
    if kind == "folder" and rest:
        return open_folder(rest, spec, cache_bytes)
    if kind == "tfds" and rest:
        return open_tfds(rest, data_dir, cache_bytes)
    if kind == "heldout" and rest:
        number, colon, inner = rest.partition(":")
        if not (colon and number.isdecimal()):
            number, inner = "", rest
        train, _ = open_source(inner, data_dir, cache_bytes)
        return hold_out(train, int(number) if number else None, spec)
    raise DataError(f"Data must be one of {_KINDS}. Received: {spec!r}{_hint(str(spec))}")


def hold_out(train: Source, number: int | None, name: str) -> tuple[Source, Source]:
    """Splits the training images, for choosing settings without looking at the test images.

    A sixth is held out, drawn at random but always the same, so subsets of any size are measured on
    the same images, and a smaller subset is part of a larger one. The encoded images of `tfds:`
    are kept in memory for this.

    Args:
        train: The training images.
        number: How many of the rest to train on; all if None.
        name: The user's name for them.

    Returns:
        The images to train on and those to measure on.

    Raises:
        DataError: There are fewer images than that.

    Example:
        >>> fitted, held_out = hold_out(train, 6, "heldout:6:digits")   # 12 images
        >>> fitted.num_examples, held_out.num_examples
        (6, 2)
    """
    order = np.random.RandomState(0).permutation(train.num_examples)
    held_out, rest = order[: len(order) // HELD_OUT], order[len(order) // HELD_OUT :]
    number = len(rest) if number is None else number
    if not len(held_out) or not 0 < number <= len(rest):
        raise DataError(
            f"heldout: holds out a sixth of the training images, which leaves {len(rest):,}. Use "
            f"heldout:SPEC, or heldout:N:SPEC with N from 1 to that number. Received: {name!r}."
        )
    to_train, to_measure = (train.subset(np.sort(part)) for part in (rest[:number], held_out))
    to_measure.role = "held-out training images"
    return to_train, to_measure


def _hint(spec):
    if "/" in spec.partition(":")[0] or spec.startswith("."):
        return f"; did you mean folder:{spec}?"
    near = difflib.get_close_matches(spec.partition(":")[0], _NAMES)
    return f"; did you mean {near[0]}?" if near and near[0] != spec.partition(":")[0] else "."


def open_digits() -> tuple[ArraySource, ArraySource]:
    """Opens scikit-learn's real handwritten digits: 1797 gray images of 8 × 8.

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
