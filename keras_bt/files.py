"""Files that appear whole or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

from keras_bt.typing import Path


@contextlib.contextmanager
def whole(path: Path) -> Iterator[pathlib.Path]:
    """Yields the path of a new file beside `path`, which replaces `path` if all goes well.

    Otherwise the new file is removed, and an earlier file at `path` is untouched. Folders above are
    made.

    >>> with whole("settings.json") as partial:
    ...     _ = partial.write_text("{}")
    ...     print(partial, os.path.exists("settings.json"))
    settings.partial.json False
    >>> os.path.exists("settings.json")
    True

    Raises:
        OSError: if the file cannot be written; the error names the file.
    """
    path = pathlib.Path(path)
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        flush(partial)
        partial.replace(path)
    except OSError as error:
        if error.errno and not error.filename:  # the error of a full disk does not name the file
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Flushes a file, or the entries of a folder, from the system's cache to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
