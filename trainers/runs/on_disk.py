"""Arrays that may not fit in memory, kept in files that nobody sees."""

import tempfile

import numpy as np


def mapped(parts, width, folder):
    """Writes the rows of a matrix to a file without a name, which ends with the array.

    Args:
        parts: iterable of float32 (rows, width); one row at least in all.
        width: int.
        folder: where there is space.

    Returns:
        float32 (n, width), memory-mapped and read-only.

    Raises:
        OSError: if the disk is full.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            for part in parts:
                file.write(np.ascontiguousarray(part, np.float32).data)
            file.flush()  # here, where a full disk is an error
        except OSError as error:
            error.filename = "copies of features, in the folder of features"
            raise
        return np.memmap(file, np.float32, "r").reshape(-1, width)
