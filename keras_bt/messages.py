"""What people read in the terminal: errors of one line, bars, and times as they are said."""

import pathlib
import re
import sys
import tempfile
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from keras_bt.typing import Path


def check_writable(name: str, path: Path, folder: bool = False) -> pathlib.Path:
    """Checks that a file or folder can be written to: better now than after hours.

    Nothing is left behind; neither the path nor the folders above it need exist yet.

    >>> check_writable("--out", "new/views.png").name
    'views.png'
    >>> check_writable("--out", ".")
    Traceback (most recent call last):
        ...
    ValueError: --out must be a file that can be written to. Received: ., a folder.

    Args:
        name: what the user calls the path.
        path: path of a file, or of a folder.
        folder: whether it is a folder.

    Returns:
        The path.

    Raises:
        ValueError: if it cannot be written to.
    """
    path = pathlib.Path(path)
    nearest = next(p for p in (path, *path.absolute().parents) if p.exists())
    parent = nearest if nearest.is_dir() else nearest.parent
    if nearest == path and path.is_dir() != folder:
        reason = "a file" if folder else "a folder"
    elif nearest != path and nearest != parent:
        reason = f"below the file {nearest}"
    else:
        try:
            with tempfile.TemporaryFile(dir=parent):  # permissions do not tell all: /proc, quotas
                return path
        except OSError as error:
            reason = f"where {parent} may not be written to ({error.strerror})"
    kind = "folder" if folder else "file"
    raise ValueError(f"{name} must be a {kind} that can be written to. Received: {path}, {reason}.")


def first_line(error: BaseException) -> str:
    r"""Returns the first line of an error, without TensorFlow's notes for its developers.

    >>> first_line(RuntimeError("The file is damaged. [Op:RestoreV2]\nTraceback …"))
    'The file is damaged.'
    >>> first_line(MemoryError())
    'MemoryError'
    """
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r"^\{\{.*?\}\} | \[Op:\w+\]$", "", line)


def one_line(text: str) -> str:
    r"""Returns a text, such as the name of a file, as it can be shown in one line of a terminal.

    >>> print(one_line("two\nlines and \x1b[31mred"))
    two\nlines and \x1b[31mred
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


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
