"""What is shown of work that takes long: bars, lines that spare them, and times for people."""

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
        **settings: those of tqdm, such as `unit`, `total`, and `delay`, the seconds after which
            work is long enough to be shown.

    Returns:
        The items, as an iterable and a context, which ends the bar's line whatever happens.
    """
    interval = 0.1 if sys.stdout.isatty() else 10.0  # in a file, nothing is overwritten
    settings = {"mininterval": interval} | settings
    return tqdm(items, disable=not shown, file=sys.stdout, **settings)


def say(text: str) -> None:
    """Prints a text at once, above the bar if one is shown."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def duration(seconds: float) -> str:
    """Returns a duration as people say it, to two or three digits.

    >>> [duration(seconds) for seconds in (0.4, 59, 2400, 9000, 800_000)]
    ['1 s', '59 s', '40 min', '2.5 h', '9.3 days']
    """
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    if seconds < 100 * 60:
        return f"{round(seconds / 60)} min"
    if seconds < 100 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
