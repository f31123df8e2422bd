"""What users read when something goes wrong: one line, if possible before work begins."""

import os
import pathlib
import re

from keras_bt.typing import Path


def check_writable(name: str, path: Path, folder: bool = False) -> pathlib.Path:
    """Checks that a file or folder can be written to: better now than after hours.

    Nothing is created; neither the path nor the folders above it need exist yet.

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
    elif not os.access(parent, os.W_OK | os.X_OK):
        reason = f"where {parent} may not be written to"
    else:
        return path
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
