"""Opens the images that a `--data` specification names."""

import difflib

import numpy as np

from keras_bt.data.decoding import DataError, Decoding
from keras_bt.data.encoded import CACHE_BYTES
from keras_bt.data.kinds import KINDS, Wanted, usages
from keras_bt.data.sources import Source

HELD_OUT = 6  # one training image in this many


def open_source(
    spec: str,
    data_dir: str | None = None,
    cache_bytes: int = CACHE_BYTES,
    decoding: Decoding | None = None,
    image_feature: str | None = None,
    label_feature: str | None = None,
) -> tuple[Source, Source | None]:
    """Opens the images that a specification names.

    Args:
        spec: one of `keras_bt.data.kinds.KINDS`, such as `digits` or `folder:DIR`.
        data_dir: for `tfds:`, the folder of the prepared data sets.
        cache_bytes: decoded images up to this size are kept in memory (1 GiB by default; up to
            four times as much while the cache is filled); 0 keeps none.
        decoding: how image files become pixels; by default `Decoding()`.
        image_feature: for `tfds:`, the feature that holds the images.
        label_feature: for `tfds:`, the feature that holds the labels.

    Returns:
        The training source, and the test source or None.

    Raises:
        DataError: if the specification is unknown, or the data is missing or malformed.

    Example:
        >>> train, test = open_source("digits")
        >>> train.num_examples, test.num_examples, train.image_shape
        (1297, 500, (8, 8, 3))
    """
    name, colon, where = spec.partition(":")
    kind = KINDS.get(name)
    needed = kind is not None and ":" in kind.usage
    if kind is None or needed != bool(colon) or needed != bool(where):
        raise DataError(f"Data must be one of {usages()}. Received: {spec!r}{_hint(spec)}")
    decoding = decoding or Decoding()
    return kind.open(
        Wanted(where, spec, data_dir, cache_bytes, decoding, image_feature, label_feature)
    )


def _hint(spec):
    name = spec.partition(":")[0]
    if "/" in name or spec.startswith("."):
        return f"; did you mean folder:{spec}?"
    near = difflib.get_close_matches(name, KINDS)
    return f"; did you mean {near[0]}?" if near and near[0] != name else "."


def open_held_out(wanted: Wanted) -> tuple[Source, Source]:
    """Opens `heldout:SOURCE` or `heldout:N:SOURCE`, to choose settings without the test images.

    A sixth of the training images is held out, drawn at random but always the same, so subsets of
    any size are measured on the same images, and a smaller subset is part of a larger one. The
    encoded images of `tfds:` are kept in memory for this.

    Returns:
        The images to train on, N of the rest or all of it, and those to measure on.

    Raises:
        DataError: if there are fewer images than that.

    Example:
        >>> fitted, held_out = open_source("heldout:300:digits")
        >>> fitted.num_examples, held_out.num_examples
        (300, 216)
    """
    number, colon, inner = wanted.where.partition(":")
    if not (colon and number.isdecimal()):
        number, inner = "", wanted.where
    train, _ = open_source(inner, *wanted[2:])
    order = np.random.RandomState(0).permutation(train.num_examples)
    held_out, rest = order[: len(order) // HELD_OUT], order[len(order) // HELD_OUT :]
    count = int(number) if number else len(rest)
    if not len(held_out) or not 0 < count <= len(rest):
        raise DataError(
            f"heldout: holds out a sixth of the training images, which leaves {len(rest):,}. Use "
            "heldout:SPEC, or heldout:N:SPEC with N from 1 to that number. "
            f"Received: {wanted.spec!r}."
        )
    to_train, to_measure = (train.subset(np.sort(part)) for part in (rest[:count], held_out))
    to_train.remarks = train.remarks
    to_measure.role = "held-out training images"
    return to_train, to_measure
