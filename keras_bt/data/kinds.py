"""What `--data` may name: an entry for each kind of source, and no other place knows them all.

This file imports nothing of the package, so that the help of a command, which lists the kinds,
takes no seconds: `Kind.open` imports what it needs.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple


class Wanted(NamedTuple):
    """What the user asks for, see `keras_bt.data.open_source`."""

    where: str  # what follows the kind and its colon
    spec: str  # all of it, a name for messages
    data_dir: str | None
    cache_bytes: int
    decoding: Any
    image_feature: str | None
    label_feature: str | None


class Kind(NamedTuple):
    """A kind of source: how it is written, what it is in a few words, and what opens it."""

    usage: str
    help: str
    open: Callable[[Wanted], Any]  # returns the training source, and the test source or None


def _module(name: str) -> Any:
    return importlib.import_module(f"keras_bt.data.{name}")


KINDS = {
    "digits": Kind(
        "digits",
        "scikit-learn's handwritten digits",
        lambda w: _module("digits").open_digits(),
    ),
    "idx": Kind(
        "idx:DIR",
        "MNIST-style files",
        lambda w: _module("idx").open_idx(w.where, w.spec),
    ),
    "folder": Kind(
        "folder:DIR[,DIR2]",
        "image files",
        lambda w: _module("folders").open_folder(w.where, w.spec, w.cache_bytes, w.decoding),
    ),
    "csv": Kind(
        "csv:FILE",
        "image files that a table names",
        lambda w: _module("csv_file").open_csv(w.where, w.spec, w.cache_bytes, w.decoding),
    ),
    "pairs": Kind(
        "pairs:FILE",
        "image files that a table names in pairs",
        lambda w: _module("pairs_file").open_pairs(w.where, w.spec, w.cache_bytes, w.decoding),
    ),
    "npz": Kind(
        "npz:FILE",
        "arrays of images and labels",
        lambda w: _module("npz").open_npz(w.where, w.spec),
    ),
    "tfds": Kind(
        "tfds:NAME[:SPLIT]",
        "a TensorFlow data set",
        lambda w: _module("tfds").open_tfds(w.where, *w[2:]),
    ),
    "heldout": Kind(
        "heldout:SOURCE",
        "one of the others, with a part of its training images as test images",
        lambda w: _module("specs").open_held_out(w),
    ),
}


def usages(with_help: bool = False) -> str:
    """Lists the kinds of sources in one line of text.

    Args:
        with_help: whether each is followed by what it is.

    Example:
        >>> usages().split(", ")[-1]
        'tfds:NAME[:SPLIT] or heldout:SOURCE'
    """
    each = [f"{k.usage} ({k.help})" if with_help else k.usage for k in KINDS.values()]
    return f"{', '.join(each[:-1])} or {each[-1]}"
