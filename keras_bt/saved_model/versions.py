"""Folders named 1, 2, 3, … that appear whole or not at all: how TensorFlow Serving finds models."""

import contextlib
import pathlib
import shutil
from collections.abc import Callable

from keras_bt.files import partial_of, remove_abandoned
from keras_bt.typing import Path


def add_version(directory: Path, write: Callable[[pathlib.Path], object]) -> pathlib.Path:
    """Adds the next version to a folder.

    The version is written to a temporary folder beside the others, which servers ignore because its
    name is not a number, and then renamed. If writing fails, everything is as it was before; what
    killed processes have left there is removed.

    >>> add_version("models", lambda folder: folder.mkdir()).name
    '1'
    >>> add_version("models", lambda folder: folder.mkdir()).name
    '2'

    Args:
        directory: Folder of the versions; made if it does not exist.
        write: Makes and fills the folder whose path it is given.

    Returns:
        Path of the new version; its name is one more than the greatest number there.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    directory = pathlib.Path(directory)
    missing = [p for p in (directory, *directory.parents) if not p.exists()]
    written = partial_of(directory / "new")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        remove_abandoned(directory)
        write(written)
        while True:
            version = directory / str(_greatest(directory) + 1)
            try:
                return written.rename(version)
            except OSError:
                if not version.exists():
                    raise
                # Another process took this number: take the next.
    except BaseException:
        shutil.rmtree(written, ignore_errors=True)
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def _greatest(directory):
    numbers = (int(p.name) for p in directory.iterdir() if p.name.isascii() and p.name.isdigit())
    return max(numbers, default=0)
