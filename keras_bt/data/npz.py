"""Arrays of images and labels in NumPy's .npz format, a zip file of arrays."""

import functools
import math
import os
import zipfile
import zlib

import numpy as np

from keras_bt.data.arrays import ArraySource
from keras_bt.data.decoding import DataError, printable
from keras_bt.data.promised import PromiseError, read_promised

_ARRAYS = ("images", "labels", "test_images", "test_labels")
_NAMES_SHOWN = 20
_ROUNDED = "np.round(images).astype(np.uint8)"


def open_npz(file: str, name: str) -> tuple[ArraySource, ArraySource | None]:
    """Opens the arrays `images`, `labels`, `test_images` and `test_labels`.

    Only `images` is needed. Nothing is unpickled, so the file cannot execute code, and no more is
    read into memory than the arrays are said to take.

    Args:
        file: path of the file. Images are uint8 (n, h, w) or (n, h, w, c). Labels
            are (n,) integers or text; every distinct value in `labels` is a class.
        name: name of the data in messages.

    Returns:
        The training source, and the test source or None.

    Raises:
        DataError: if the file cannot be read or its arrays are not of this kind.
    """
    shown = printable(file)
    try:
        if os.path.exists(file) and not os.path.isfile(file):
            raise OSError("not a file")
        with zipfile.ZipFile(file) as archive:
            arrays, others = _read(archive, shown)
    except MemoryError as error:
        raise DataError(f"Images must fit in memory. Received: {shown}.") from error
    # RuntimeError: the archive is encrypted, or compressed in a way that Python does not know.
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            "npz: needs a file as np.savez(FILE, images=…, labels=…) writes it. "
            f"Received: {shown} ({error})."
        ) from error
    labels, test_labels = arrays.get("labels"), arrays.get("test_labels")
    classes = None if labels is None else np.unique(labels)
    if test_labels is not None:
        _check_test_labels(test_labels, classes, shown)
    train = _source(arrays["images"], labels, classes, f"{name} train")
    if others:
        train.remarks = (f"Arrays of the file that are not used: {_listed(others)}.",)
    if "test_images" not in arrays:
        return train, None
    return train, _source(arrays["test_images"], test_labels, classes, f"{name} test")


def _source(images, labels, classes, name):
    images = images[..., None] if images.ndim == 3 else images
    if labels is None:
        return ArraySource(images, name=name)
    numbers = np.searchsorted(classes, labels)
    return ArraySource(images, numbers, [str(value) for value in classes], name=name)


def _check_test_labels(labels, classes, file):
    as_text = [array.dtype.kind == "U" for array in (labels, classes)]
    unknown = labels if as_text[0] != as_text[1] else np.setdiff1d(labels, classes)
    if unknown.size:
        raise DataError(
            "The test set must have the classes of the training set. Received: test_labels of "
            f"{file} with {_listed(map(str, unknown[:1]))}, which is not in its labels."
        )


def _read(archive, file):
    """Returns the arrays of an archive by name, and the names of others in it."""
    members = {name.removesuffix(".npy"): name for name in archive.namelist()}
    missing = {"images"} - members.keys()
    if "test_labels" in members:
        missing |= {"labels", "test_images"} - members.keys()
    if missing:
        raise DataError(
            "npz: needs an array images, and may have labels, test_images and, with both, "
            f"test_labels. Received: {file} without {min(missing)}, which has "
            f"{_listed(members) or 'no arrays'}."
        )
    known = [name for name in _ARRAYS if name in members]
    arrays = {name: _array(archive, members[name], name, file) for name in known}
    return arrays, [name for name in members if name not in _ARRAYS]


def _array(archive, member, name, file):
    opened = functools.partial(archive.open, member)
    which = f"{name} of {file}"
    with opened() as stream:
        try:
            # Version 1, the only one that numbers and text need: its header is short.
            if np.lib.format.read_magic(stream) != (1, 0):
                raise ValueError("another version")
            shape, by_columns, dtype = np.lib.format.read_array_header_1_0(stream)
            start = stream.tell()
        # The header is a Python literal, and damaged ones fail in every way.
        except Exception as error:
            raise DataError(
                f"npz: needs arrays of numbers or text that NumPy wrote. Received: {which}, "
                "which is not."
            ) from error
    _check_kind(name, shape, dtype, which)
    held = archive.getinfo(member).file_size
    expected = start + math.prod(shape) * dtype.itemsize
    try:
        if held != expected:
            raise PromiseError(f"with {held}")
        array = read_promised(opened, start, shape[::-1] if by_columns else shape, dtype)
    except PromiseError as error:
        raise DataError(
            f"npz: an array of shape {shape} and type {dtype} must have {expected} bytes. "
            f"Received: {which} {error}."
        ) from error
    array = array.T if by_columns else array
    if "labels" not in name:
        return array
    if dtype.kind in "iub":
        return array.astype(np.int64)
    try:
        array = np.char.decode(array, "utf-8", "backslashreplace") if dtype.kind == "S" else array
        "".join(array.tolist()).encode()
    except (SystemError, ValueError) as error:  # NumPy stores any number as a character
        raise DataError(f"Labels must be text. Received: {which} ({error}).") from error
    return array


def _check_kind(name, shape, dtype, which):
    received = f"Received: {which}, {dtype} of shape {shape}"
    if "labels" in name:
        if len(shape) != 1 or dtype.kind not in "iubUS" or not dtype.itemsize:
            raise DataError(f"Labels must be integers or text, one per image. {received}.")
    elif dtype != np.uint8:
        # Converted as they are, values above 255 would start again at 0.
        change = (
            "bring values to that range, those of 16 bits by images >> 8"
            if dtype.kind in "iu"
            else "multiply values from 0 to 1 by 255"
        )
        convert = "images.astype(np.uint8)" if dtype.kind in "iu" else _ROUNDED
        raise DataError(
            f"Images must be uint8, 0 to 255: {change}, and convert with {convert}. {received}."
        )
    elif len(shape) not in (3, 4):
        raise DataError(f"Images must have the shape (n, h, w) or (n, h, w, c). {received}.")
    elif len(shape) == 3 and shape[-1] in (1, 3, 4):  # not the columns of gray images
        raise DataError(f"One image alone must be given as images[None]. {received}.")
    elif len(shape) == 4 and shape[1] in (1, 3) and shape[-1] > 4:
        raise DataError(
            f"The channels of images must come last: images.transpose(0, 2, 3, 1). {received}."
        )
    if min(shape) < 1:
        raise DataError(f"There must be at least one image. {received}.")


def _listed(names):
    names = [name if name.isprintable() else repr(name) for name in names]
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
