"""Short names for data of any kind; equal names mean equal data."""

import hashlib
from typing import Any

import numpy as np


def fingerprint(*parts: Any) -> str:
    """Returns the SHA-256 of a sequence of values.

    Args:
        *parts: strings, bytes, integers, floats, None, arrays, or tuples and lists of these.

    Returns:
        64 hexadecimal digits.

    Raises:
        TypeError: if a value is of another type.

    Example:
        >>> fingerprint("digits", 1797)[:8]
        '2a2d21c0'
        >>> fingerprint("ab", "c") == fingerprint("a", "bc")
        False
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.generic):
            part = part.item()
        if isinstance(part, np.ndarray):
            # Type and shape first: the same bytes can be several arrays.
            digest.update(f"array {part.dtype.str} {part.shape};".encode())
            digest.update(np.ascontiguousarray(part).data if part.size else b"")
        elif isinstance(part, bytes):
            digest.update(f"bytes {len(part)};".encode() + part)
        elif isinstance(part, str):
            # A path need not be UTF-8.
            encoded = part.encode("utf-8", "surrogateescape")
            digest.update(f"text {len(encoded)};".encode() + encoded)
        elif isinstance(part, (tuple, list)):
            digest.update(f"sequence {len(part)};".encode() + fingerprint(*part).encode())
        elif part is None or isinstance(part, (bool, int, float)):
            digest.update(f"{type(part).__name__} {part!r};".encode())
        else:  # its repr might show an address
            raise TypeError(
                f"There is no fingerprint of objects of this type. Received: {type(part)}."
            )
    return digest.hexdigest()
