"""The file format of MNIST and its successors: http://yann.lecun.com/exdb/mnist/."""

import functools
import gzip
import math
import os
import pathlib
import struct
import zlib

import numpy as np

from keras_bt.data.arrays import ArraySource
from keras_bt.data.decoding import DataError
from keras_bt.data.promised import PromiseError, read_promised
from keras_bt.typing import Path

_UINT8 = 0x08  # the code of the element type in the magic number
_GZIP = b"\x1f\x8b"  # how a gzipped file begins


def open_idx(directory: str, name: str) -> tuple[ArraySource, ArraySource | None]:
    """Opens `train-images-idx3-ubyte`, `t10k-images-idx3-ubyte` and their labels.

    The files may be gzipped, and end in `.gz`. Without label files the images are unlabeled;
    without `t10k` images there is no test set.

    Args:
        directory: the folder of the files.
        name: name of the data in messages.

    Returns:
        The training source, and the test source or None.

    Raises:
        DataError: if a file is missing or malformed.
    """
    folder = pathlib.Path(directory)
    train = _open_part(folder, "train", f"{name} train")
    if train is None:
        raise DataError(
            "idx: needs a folder that holds train-images-idx3-ubyte, with or without .gz. "
            f"Received: {directory}."
        )
    test = _open_part(folder, "t10k", f"{name} test")
    if train.class_names and test is not None and test.class_names:
        names = max(train.class_names, test.class_names, key=len)
        train.class_names = test.class_names = names
    return train, test


def _open_part(folder, part, name):
    image_file = _find(folder, f"{part}-images", 3)
    if image_file is None:
        return None
    images = read_idx(image_file, dimensions=3)[..., None]
    label_file = _find(folder, f"{part}-labels", 1)
    if label_file is None:
        return ArraySource(images, name=name)
    labels = read_idx(label_file, dimensions=1)
    class_names = [str(label) for label in range(int(labels.max(initial=0)) + 1)]
    return ArraySource(images, labels, class_names, name=name)


def _find(folder, stem, dimensions):
    stems = (f"{stem}-", f"{stem}.")  # some copies are named train-images.idx3-ubyte
    names = [f"{s}idx{dimensions}-ubyte{suffix}" for s in stems for suffix in ("", ".gz")]
    # A broken link, or a folder if there is no such file beside it, is not passed over in silence.
    found = [folder / name for name in names if os.path.lexists(folder / name)]
    return min(found, key=lambda path: not path.is_file(), default=None)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Reads one file of unsigned bytes.

    Args:
        path: the file, gzipped or not, whatever its name.
        dimensions: the number of axes that its array must have.

    Returns:
        uint8 array.

    Raises:
        DataError: if the file is unreadable, of another kind, truncated or too long.
    """
    path = pathlib.Path(path)
    header = 4 + 4 * dimensions
    expected = struct.pack(">HBB", 0, _UINT8, dimensions)
    try:
        if path.exists() and not path.is_file():  # reading from a pipe would wait forever
            raise OSError("not a file")
        with open(path, "rb") as file:
            gzipped = file.read(2) == _GZIP
        opened = functools.partial(gzip.open if gzipped else open, path, "rb")
        with opened() as file:
            beginning = file.read(header)
        if len(beginning) < header or beginning[:4] != expected:
            raise DataError(
                f"The idx file must begin with the magic number {expected.hex()} and {dimensions} "
                f"sizes. Received: {path}, which begins with {beginning[:4].hex() or 'nothing'}"
                f"{' and ends before the sizes do' if len(beginning) < header else ''}."
            )
        shape = struct.unpack(f">{dimensions}I", beginning[4:])
        if 0 in shape:
            raise DataError(f"There must be at least one image. Received: {path} of shape {shape}.")
        return read_promised(opened, header, shape, np.dtype(np.uint8))
    except PromiseError as error:
        raise DataError(
            f"An idx file of shape {shape} must have {header + math.prod(shape)} bytes. "
            f"Received: {path} {error}."
        ) from error
    # EOFError: a truncated .gz; BadGzipFile is an OSError; zlib.error: damaged inside.
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"An idx file must be readable. Received: {path} ({error}).") from error
    except MemoryError as error:
        raise DataError(f"Images must fit in memory. Received: {path} of shape {shape}.") from error
