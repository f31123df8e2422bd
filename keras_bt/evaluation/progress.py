"""A progress bar with the time left, for a terminal and for a file."""

import sys

import keras


class ProgressBar:
    """A progress bar that may end before its target, for example if images were unreadable.

    Args:
        target: number of units, or None if unknown.
        unit: name of what is counted.
    """

    def __init__(self, target: int | None, unit: str):
        # In a file, every update is a line of its own.
        interval = 0.05 if sys.stdout.isatty() else 10
        self._bar = keras.utils.Progbar(target, unit_name=unit, interval=interval)
        self._done = 0

    def add(self, count: int) -> None:
        """Counts `count` more units."""
        self._done += count
        self._bar.update(self._done, finalize=False)

    def finish(self) -> None:
        """Shows the bar as complete, with the time taken."""
        self._bar.target = self._done
        self._bar.update(self._done, finalize=True)
