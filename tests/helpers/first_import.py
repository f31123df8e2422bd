"""Tells whether commands import TensorFlow where its notes are hidden, without waiting for it.

    python tests/helpers/first_import.py $'trainers.knn\\n--backbone=nothing' …

Prints a line per command: its name and "hidden", "shown", or "never" if it ends before.
"""

import contextlib
import importlib
import sys
from unittest import mock

from trainers.cli import command


class Found(BaseException):
    """Ends a command where it would import TensorFlow."""


class Finder:
    """Notices the first import of Keras or TensorFlow."""

    hidden = False

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in ("keras", "tensorflow"):
            raise Found("hidden" if cls.hidden else "shown")


@contextlib.contextmanager
def quiet_start():
    """In place of the one that hides, for as long as nothing is imported."""
    Finder.hidden = True
    try:
        yield
    finally:
        Finder.hidden = False


def first_import(name, *arguments):
    """Runs a command up to there."""
    try:
        with mock.patch.object(sys, "argv", [name, *arguments]):
            importlib.import_module(name).main()
    except Found as found:
        return found
    except SystemExit:
        pass
    return "never"


if __name__ == "__main__":
    sys.meta_path.insert(0, Finder)
    command.quiet_start = quiet_start
    for given in sys.argv[1:]:
        name, *arguments = given.splitlines()
        print(name, first_import(name, *arguments))
