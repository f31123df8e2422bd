"""Features of a frozen backbone, extracted once and kept on disk.

A file of the cache can be read without this module: it holds the features and then the labels, each
as NumPy's `save` writes an array, and at last the CRC-32 of all that.

    >>> features = np.load(path, mmap_mode="r")
"""

import contextlib
import io
import json
import os
import pathlib
import shutil
import time
import uuid
import zlib

import keras
import numpy as np

from keras_bt.data.evaluation import evaluation_batches, reading
from keras_bt.data.fingerprint import fingerprint
from keras_bt.evaluation.features import feature_batches
from keras_bt.preprocessing import IMAGENET_MEAN, IMAGENET_STD

# To be raised whenever other features are computed from the same images.
_VERSION = 1
_PARTIAL = ".partial"
_ABANDONED_SECONDS = 24 * 3600
_CHECKSUM_BYTES = 4
_READ_BYTES = 2**22


def cached_features(
    directory, backbone, source, image_size, resize=None, batch_size=256, progress=True
):
    """Features of all readable images of a source, from the cache or else extracted into it.

    The backbone runs in inference mode over `keras_bt.data.evaluation_batches`. The features are
    written to disk batch by batch and mapped into memory, so that 1.28 million × 2048 of them
    (10.5 GB) need no memory but what the operating system has to spare.

    A file is named after the backbone (architecture and weights), image_size, resize, the
    normalization and the data (`source.fingerprint()`), and appears under its name when it is
    complete. One that is damaged is extracted anew: whenever a file is opened, all of it is read
    once and checked, which takes seconds per 10 GB, or as long as the disk does.

    Args:
        directory: Folder of the cache; made if need be.
        backbone: Keras model (b, image_size, image_size, 3) -> (b, d).
        source: `keras_bt.data.Source`.
        image_size: Side of the images in pixels.
        resize: Shorter side before the center crop, see `evaluation_batches`.
        batch_size: Images per batch. It changes features by rounding at most and is therefore not
            part of the name.
        progress: Whether to show a progress bar, counted in batches, if features are extracted; a
            string is printed above it.

    Returns:
        `(features, labels)`: float32 (n, d), memory-mapped and read-only; and int64 (n,) or
        (n, classes) in memory, -1 without labels. n is the number of readable images, in the order
        of the source.

    Raises:
        DataError: No image can be read, or more than 1% of them cannot (`keras_bt.data.reading`).
        ValueError: The backbone has no configuration, or does not return one vector per image.
        OSError: The folder cannot be written to, or the disk is full; nothing partial is left.
    """
    directory = pathlib.Path(directory)
    settings = (image_size, resize, list(IMAGENET_MEAN), list(IMAGENET_STD))
    key = fingerprint(_VERSION, *_identity(backbone), *settings, source.fingerprint())
    path = directory / f"{key}.npy"
    found = _open(path)
    if found is not None:
        return found
    directory.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(directory)
    if isinstance(progress, str):
        print(progress)
    batches = evaluation_batches(source, image_size, batch_size, resize)
    num_batches = -(-source.num_examples // batch_size)
    with reading(source), _whole_file(path) as file:
        _write(file, feature_batches(backbone, batches, bool(progress), num_batches), source)
    found = _open(path)
    if found is None:
        raise OSError(f"What was written must be what is read. Received: {path}, which differs.")
    return found


def _identity(backbone):
    """What a backbone computes is determined by these: its configuration and its weights."""
    try:
        architecture = json.loads(backbone.to_json())
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            "backbone must have a configuration (get_config), by which to tell whose features "
            f"these are. Received: {type(backbone).__name__} ({error})."
        ) from error
    architecture.pop("compile_config", None)  # a loss and an optimizer change no feature
    return json.dumps(architecture, sort_keys=True), [
        keras.ops.convert_to_numpy(weight) for weight in backbone.weights
    ]


@contextlib.contextmanager
def _whole_file(path):
    """A file to write that gets its name only when all of it is written."""
    # Of another name in every process; not by `tempfile`, which hides it from other users.
    partial = path.with_name(f"{uuid.uuid4().hex}{_PARTIAL}")
    try:
        with open(partial, "xb") as file:
            yield file
        partial.replace(path)
    except BaseException:  # Ctrl-C as well
        partial.unlink(missing_ok=True)
        raise


def _remove_abandoned(directory):
    """Removes what killed extractions left; a living one writes every few seconds."""
    for partial in directory.glob(f"*{_PARTIAL}"):
        with contextlib.suppress(OSError):  # another process was faster
            if time.time() - partial.stat().st_mtime > _ABANDONED_SECONDS:
                partial.unlink()


def _write(file, batches, source):
    """Writes features as they come, then the labels and the checksum."""
    n, width, checksum, labels = 0, None, 0, []

    def write(content):
        try:
            file.write(content)
            file.flush()  # here, where a full disk is told from other errors
        except OSError as error:
            raise OSError(_no_space(file.name, source, width, error.strerror)) from error

    for features, some_labels in batches:
        if width is None:
            width = features.shape[1]
            free = shutil.disk_usage(os.path.dirname(file.name)).free
            if 4 * source.num_examples * width > free:  # now, and not after hours
                raise OSError(_no_space(file.name, source, width, f"{free / 1e9:.2f} GB are free"))
            write(_header(0, width))  # how many there are is known at the end
        rows = np.ascontiguousarray(features, np.float32)
        write(rows.data)
        checksum = zlib.crc32(rows.data, checksum)
        labels.append(some_labels)
        n += len(rows)
    if n == 0:
        source.unreadable.check()
        raise ValueError(f"There must be an image that can be read. Received: {source.name}.")
    rest = io.BytesIO()
    np.save(rest, np.concatenate(labels))
    # The header last, because it is known last.
    checksum = zlib.crc32(_header(n, width), zlib.crc32(rest.getvalue(), checksum))
    write(rest.getvalue() + _packed(checksum))
    file.seek(0)
    write(_header(n, width))


def _header(n, width):
    """How NumPy's format for arrays begins; equally long for all n."""
    header = io.BytesIO()
    description = {"descr": "<f4", "fortran_order": False, "shape": (n, width)}
    np.lib.format.write_array_header_1_0(header, description)
    return header.getvalue()


def _no_space(name, source, width, reason):
    directory = os.path.dirname(name)
    needed = "" if width is None else f"{4e-9 * source.num_examples * width:.2f} GB for "
    return f"The features need {needed}{source.name} in {directory}. Received: {reason}."


def _open(path):
    """Maps a file of the cache; None if there is none or it is damaged."""
    try:
        with open(path, "rb") as file:
            if not _is_whole(file, os.path.getsize(path)):
                return None
            features = np.load(path, mmap_mode="r")
            file.seek(_HEADER_BYTES + features.nbytes)
            return features, np.load(file)
    except FileNotFoundError:
        return None


def _is_whole(file, size):
    """Whether the checksum is right. Reads, as what is mapped would count as used memory."""
    header = file.read(_HEADER_BYTES)
    checksum, left = 0, size - _HEADER_BYTES - _CHECKSUM_BYTES
    while left > 0 and (part := file.read(min(left, _READ_BYTES))):
        checksum = zlib.crc32(part, checksum)
        left -= len(part)
    return file.read() == _packed(zlib.crc32(header, checksum))


def _packed(checksum):
    return checksum.to_bytes(_CHECKSUM_BYTES, "little")


_HEADER_BYTES = len(_header(0, 1))
