"""Features of a frozen backbone, extracted once and kept on disk.

A file of the cache can be read without this module: it holds the features, then the labels, then
the images' names as UTF-8, each as NumPy's `save` writes an array, and finally two CRC-32: of all
that, and of the file's own name. Files of earlier versions have no names, and are used as they are.

    >>> features, labels = cached_features("cache", backbone, train, image_size=16, progress=False)
    >>> [file] = pathlib.Path("cache").iterdir()
    >>> np.load(file, mmap_mode="r").shape  # without this module
    (12, 16)
    >>> with open(file, "rb") as opened:  # all of it
    ...     features, labels, names = (np.load(opened) for _ in range(3))
    >>> np.char.decode(names[:3], "utf-8").tolist()
    ['0', '1', '2']
"""

import io
import json
import os
import pathlib
import shutil
import zlib
from collections.abc import Sequence

import keras
import numpy as np

from keras_bt.data.evaluation import evaluation_batches, reading
from keras_bt.data.fingerprint import fingerprint
from keras_bt.data.sources import Source
from keras_bt.evaluation.features import feature_batches
from keras_bt.evaluation.unfinished import unfinished
from keras_bt.files import remove_abandoned
from keras_bt.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from keras_bt.typing import Path, Size

# Raise this whenever the same images would give different features.
_VERSION = 1
_CHECKSUM_BYTES = 4
_READ_BYTES = 2**22


def cached_features(
    directory: Path,
    backbone: keras.Model,
    source: Source,
    image_size: Size,
    resize: int | None = None,
    batch_size: int = 256,
    progress: bool | str = True,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns features of all readable images of a source, extracted unless they are cached.

    The backbone runs in inference mode over `keras_bt.data.evaluation_batches`. The features are
    written to disk batch by batch and memory-mapped, so that 1.28 million × 2048 of them (10.5 GB)
    need only memory that the operating system has to spare.

    A file is named by a hash of the backbone (architecture and weights), image_size, resize, the
    normalization and the data (`source.fingerprint()`), and appears under its name once it is
    complete. If an extraction of more than half a minute is interrupted, the next call goes on from
    there; with the same batch_size the bytes are the same. Whenever a file is opened, all of it is
    read and checked; if damaged, it is made anew.

    Args:
        directory: folder of the cache, created if necessary.
        backbone: images (b, h, w, c) → features (b, d).
        source: the images.
        image_size: (height, width) of the images in pixels, or one int for both.
        resize: see `evaluation_batches`.
        batch_size: images per batch; not part of the name, as it changes features by rounding only.
        progress: whether to show a progress bar, counted in images, if features are extracted; a
            string is printed above it.
        mean: of each channel, see `evaluation_batches`.
        std: of each channel, likewise.

    Returns:
        `(features, labels)`: float32 (n, d), memory-mapped and read-only; and int64 (n,) or
        (n, classes) in memory, -1 without labels. n is the number of readable images, in the order
        of the source.

    Raises:
        DataError: if no image can be read, or more than 1% cannot (`keras_bt.data.reading`).
        ValueError: if the backbone has no configuration, or does not return one vector per image.
        OSError: if the folder cannot be written to or the disk is full.
    """
    where = directory, backbone, source, image_size, resize, batch_size, progress
    return _cached(False, *where, mean, std)[:2]


def cached_named_features(
    directory: Path,
    backbone: keras.Model,
    source: Source,
    image_size: Size,
    resize: int | None = None,
    batch_size: int = 256,
    progress: bool | str = True,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns what `cached_features` does, and the names of the images.

    A file of an earlier version, which has no names, is made anew.

    >>> _, _, names = cached_named_features("named", backbone, train, image_size=16, progress=False)
    >>> names[:3]
    ['0', '1', '2']

    Args:
        directory: see `cached_features`, as for all others.
        backbone: see there.
        source: see there.
        image_size: see there.
        resize: see there.
        batch_size: see there.
        progress: see there.
        mean: see there.
        std: see there.

    Returns:
        `(features, labels, names)`: the first two as those of `cached_features`, and n names, see
        `Source.names`.

    Raises:
        DataError: see there.
        ValueError: see there.
        OSError: see there.
    """
    where = directory, backbone, source, image_size, resize, batch_size, progress
    return _cached(True, *where, mean, std)


def _cached(
    names_needed, directory, backbone, source, image_size, resize, batch_size, progress, mean, std
):
    directory = pathlib.Path(directory)
    size = image_size if isinstance(image_size, int) else list(image_size)
    settings = (size, resize, list(mean), list(std))
    key = fingerprint(_VERSION, *_identity(backbone), *settings, source.fingerprint())
    path = directory / f"{key}.npy"
    found = _open(path, names_needed)
    if found is not None:
        return found
    directory.mkdir(parents=True, exist_ok=True)
    remove_abandoned(directory)
    if isinstance(progress, str):
        print(progress)
    with reading(source), unfinished(path, _HEADER_BYTES) as (file, journal):
        done = journal.done
        for name, reason in done.unreadable.items():
            source.unreadable.add(name, reason)
        if done.rows and progress:
            print(f"Going on after {done.images:,} of {source.num_examples:,} images.")
        batches = evaluation_batches(
            *(source, image_size, batch_size, resize, mean, std), keys=True, start=done.images
        )
        extracted = feature_batches(
            backbone, batches, bool(progress), source.num_examples, done.images, keys=True
        )
        _write(file, extracted, source, journal)
        file.seek(0, os.SEEK_END)
        file.write(_tag(path))
    found = _open(path, names_needed)
    if found is None:
        raise OSError(f"A file must read as it was written. Received: {path}, which differs.")
    return found


def _identity(backbone):
    try:
        architecture = json.loads(backbone.to_json())
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            "backbone must have a configuration (get_config), to identify its features by. "
            f"Received: {type(backbone).__name__} ({error})."
        ) from error
    architecture.pop("compile_config", None)  # a loss and an optimizer change no feature
    return json.dumps(architecture, sort_keys=True), [
        keras.ops.convert_to_numpy(weight) for weight in backbone.weights
    ]


def _write(file, batches, source, journal):
    """Writes features as they arrive, then the labels, the names and the checksum."""
    done = journal.done

    def write(content):
        try:
            file.write(content)
            file.flush()  # here, where a full disk is not mistaken for another error
        except OSError as error:
            raise OSError(_no_space(file.name, source, done.width, error.strerror)) from error

    for features, some_labels, keys, numbers in batches:
        if not done.width:
            done.width = features.shape[1]
            free = shutil.disk_usage(os.path.dirname(file.name)).free
            if 4 * source.num_examples * done.width > free:  # now rather than after hours
                raise OSError(
                    _no_space(file.name, source, done.width, f"{free / 1e9:.2f} GB are free")
                )
            # The number is known, and enters the checksum, at the end.
            write(_header(0, done.width))
        rows = np.ascontiguousarray(features, np.float32)
        write(rows.data)
        done.checksum = zlib.crc32(rows.data, done.checksum)
        done.labels.append(some_labels)
        done.names += [name.encode() for name in source.names(keys)]
        done.rows += len(rows)
        done.images = int(numbers[-1]) + 1
        journal.record(file, source.unreadable.reasons)
    if not done.rows:
        source.unreadable.check()
        raise ValueError(f"At least one image must be readable. Received: {source.name}.")
    rest = io.BytesIO()
    np.save(rest, np.concatenate(done.labels))
    np.save(rest, np.array(done.names))
    header = _header(done.rows, done.width)
    checksum = zlib.crc32(header, zlib.crc32(rest.getvalue(), done.checksum))
    write(rest.getvalue() + checksum.to_bytes(_CHECKSUM_BYTES, "little"))
    file.seek(0)
    write(header)


def _header(n, width):
    """Returns the header of NumPy's array format; it has the same length for all n."""
    header = io.BytesIO()
    description = {"descr": "<f4", "fortran_order": False, "shape": (n, width)}
    np.lib.format.write_array_header_1_0(header, description)
    return header.getvalue()


def _no_space(name, source, width, reason):
    directory = os.path.dirname(name)
    needed = "" if not width else f"{4e-9 * source.num_examples * width:.2f} GB for "
    return f"The features need {needed}{source.name} in {directory}. Received: {reason}."


def _open(path, names_needed):
    """Memory-maps a file of the cache; returns None if it is missing, damaged or lacks names."""
    try:
        with open(path, "rb") as file:
            if not _is_whole(file, os.path.getsize(path), _tag(path)):
                return None
            features = np.load(path, mmap_mode="r")
            file.seek(_HEADER_BYTES + features.nbytes)
            labels, names = np.load(file), []
            if names_needed:
                try:
                    names = [name.decode() for name in np.load(file).tolist()]
                except (ValueError, EOFError):  # what follows the labels is the checksum
                    return None
            return features, labels, names
    except FileNotFoundError:
        return None


def _tag(path):
    """Returns what tells a file from one of other features that was given its name."""
    return zlib.crc32(path.stem.encode()).to_bytes(_CHECKSUM_BYTES, "little")


def _is_whole(file, size, tag):
    """Checks checksum and tag, by reading: mapped pages would count as used memory."""
    header = file.read(_HEADER_BYTES)
    checksum, left = 0, size - _HEADER_BYTES - 2 * _CHECKSUM_BYTES
    while left > 0 and (part := file.read(min(left, _READ_BYTES))):
        checksum = zlib.crc32(part, checksum)
        left -= len(part)
    first, second = file.read(_CHECKSUM_BYTES), file.read()
    if second == tag and first == zlib.crc32(header, checksum).to_bytes(_CHECKSUM_BYTES, "little"):
        return True
    # Files of earlier versions have no tag.
    checksum = zlib.crc32(header, zlib.crc32(first, checksum))
    return second == checksum.to_bytes(_CHECKSUM_BYTES, "little")


_HEADER_BYTES = len(_header(0, 1))
