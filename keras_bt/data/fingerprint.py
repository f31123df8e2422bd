"""One short name for any data: equal names mean equal data."""

import hashlib

import numpy as np


def fingerprint(*parts) -> str:
    """SHA-256 of a sequence of values.

    Args:
        *parts: Strings, bytes, whole numbers, floats, None, or tuples and lists of these; arrays.

    Returns:
        64 hexadecimal digits.

    Raises:
        TypeError: A value is of another kind.
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
            raise TypeError(f"There is no fingerprint of such an object. Received: {type(part)}.")
    return digest.hexdigest()
