"""The progress bar of all that takes long but is not a Keras `fit`."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress_bar(
    items: Iterable[Any] | None = None, shown: bool = True, **settings: Any
) -> "tqdm[Any]":
    """Returns tqdm's bar, on the standard output, where Keras has its own.

    Args:
        items: what to go through; None to count by `update`.
        shown: whether to show anything.
        **settings: those of tqdm, such as `unit` and `total`.

    Returns:
        The items, as an iterable and a context.
    """
    interval = 0.1 if sys.stdout.isatty() else 10.0  # in a file, nothing is overwritten
    return tqdm(items, disable=not shown, file=sys.stdout, mininterval=interval, **settings)
