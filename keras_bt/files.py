"""Files that appear whole or not at all."""

import contextlib
import os
import pathlib


@contextlib.contextmanager
def whole(path):
    """Gives the path of a new file beside `path`, which replaces `path` if all goes well.

    If not, the new file is removed, and one that was at `path` before is as it was.
    """
    path = pathlib.Path(path)
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        yield partial
        flush(partial)
        partial.replace(path)
    except OSError as error:
        if error.errno and not error.filename:  # a disk that is full does not say where
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def flush(path):
    """Makes sure that a file, or the names in a folder, are on the disk and not in a cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
