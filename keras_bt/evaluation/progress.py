"""A progress bar with the time left, for a terminal and for a file."""

import sys

import keras


class ProgressBar:
    """Counts what is done; may end before its target, say where images could not be read.

    Args:
        target: How many there are, or None if that is not known.
        unit: What is counted.
    """

    def __init__(self, target, unit):
        # In a file every update is a line of its own.
        interval = 0.05 if sys.stdout.isatty() else 10
        self._bar = keras.utils.Progbar(target, unit_name=unit, interval=interval)
        self._done = 0

    def add(self, count):
        """Counts `count` more."""
        self._done += count
        self._bar.update(self._done, finalize=False)

    def finish(self):
        """Shows the bar as complete, with the time it took."""
        self._bar.target = self._done
        self._bar.update(self._done, finalize=True)
