"""Reading from a file what its header promises, and no more, whatever either of them says."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

_ON_TRUST = 2**28  # bytes; what promises more is first unpacked without keeping it
_CHUNK = 2**20


class PromiseError(Exception):
    """What a file holds instead of what it promises, in words that follow its name."""


def read_promised(
    opened: Callable[[], Any], start: int, shape: Sequence[int], dtype: np.dtype
) -> np.ndarray:
    """Reads an array that is all of a file after its header.

    Compressed, a gigabyte of zeros takes a megabyte of file: neither the header nor the size of
    the file tells how much memory it takes to unpack.

    Args:
        opened: opens the file, unpacked, to read bytes.
        start: length of the header in bytes.
        shape: shape of the array.
        dtype: type of its elements.

    Returns:
        The array, in C order.

    Raises:
        PromiseError: if the file holds fewer or more bytes.
        Exception: what reading from the file raises.
    """
    size = math.prod(shape) * dtype.itemsize  # in Python's integers, which do not overflow
    if size > _ON_TRUST:
        with opened() as file:
            _check(sum(map(len, _chunks(file, start + size))), file, start + size)
    content, filled = np.empty(size, np.uint8), 0
    with opened() as file:
        file.read(start)
        for chunk in _chunks(file, size):
            content[filled : filled + len(chunk)] = np.frombuffer(chunk, np.uint8)
            filled += len(chunk)
        _check(start + filled, file, start + size)
    return content.view(dtype).reshape(shape)


def _chunks(file: Any, size: int) -> Iterator[bytes]:
    while size > 0 and (chunk := file.read(min(size, _CHUNK))):
        size -= len(chunk)
        yield chunk


def _check(found, file, size):
    if found < size:
        raise PromiseError(f"with {found}")
    if file.read(1):  # which also compares checksums
        raise PromiseError("with more")
