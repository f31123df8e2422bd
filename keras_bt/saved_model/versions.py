"""Folders named 1, 2, 3, … that appear whole or not at all: how TensorFlow Serving finds models."""

import contextlib
import os
import pathlib
import tempfile


def check_folder(directory):
    """Raises OSError if no folder can be made or written to there. Changes nothing."""
    directory = pathlib.Path(directory)
    parent = next(p for p in (directory, *directory.absolute().parents) if p.exists())
    if not parent.is_dir():
        where = "a file" if parent == directory else f"a path below the file {parent}"
        raise NotADirectoryError(f"directory must be a folder. Received {where}: {directory}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(f"directory must be writable. Received: {directory}")


def add_version(directory, write):
    """Adds the next version to a folder.

    It is written into a folder beside, whose name is no number and which servers therefore pass
    over, and then renamed. If writing fails, everything is as it was before.

    Args:
        directory: The folder of the versions; made if there is none.
        write: Function that makes and fills the folder whose path it is given.

    Returns:
        `pathlib.Path` of the new version: one more than the greatest number there.
    """
    directory = pathlib.Path(directory)
    missing = [p for p in (directory, *directory.parents) if not p.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # mkdtemp's own folder is closed to other users; what is made inside it is not.
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=directory) as partial:
            written = pathlib.Path(partial) / "version"
            write(written)
            while True:
                version = directory / str(_greatest(directory) + 1)
                try:
                    return written.rename(version)
                except OSError:
                    if not version.exists():
                        raise
                    # Another process was faster: take the number after its.
    except BaseException:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def _greatest(directory):
    numbers = (int(p.name) for p in directory.iterdir() if p.name.isascii() and p.name.isdigit())
    return max(numbers, default=0)
