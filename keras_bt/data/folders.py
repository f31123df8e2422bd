"""Folders of image files, with one folder per class or unlabeled."""

import os
from pathlib import Path

from keras_bt.data.decoding import DataError, Decoder, Decoding, printable
from keras_bt.data.encoded import CACHE_BYTES, FileSource

EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")


def open_folder(
    directory: str,
    name: str,
    cache_bytes: int = CACHE_BYTES,
    decoding: Decoding | None = None,
) -> tuple[FileSource, FileSource | None]:
    """Opens a folder of images.

    - `DIR/train/CLASS/…`, with `DIR/test/CLASS/…` or `DIR/val/CLASS/…` if there is a test set
      (the first of the two that has labels). `DIR/train` alone may also be unlabeled.
    - `DIR/CLASS/…`: two or more subfolders, no images beside them, no test set.
    - Anything else is unlabeled: images in `DIR` itself, or all in one subfolder.

    Below that, folders may be nested. Symbolic links are followed, names beginning with a dot
    are ignored, and images are ordered by path. A file is taken for an image by its extension, in
    upper or lower case; whether it is one shows when it is read.

    Args:
        directory: the folder.
        name: its name in messages.
        cache_bytes: decoded images up to this size are kept in memory.
        decoding: how image files become pixels; by default `Decoding()`.

    Returns:
        The training source, and the test source or None.

    Raises:
        DataError: if the folder cannot be read or holds no image.
    """
    train_folder = os.path.join(directory, "train")
    if not os.path.isdir(train_folder):
        return _open_part(directory, name, cache_bytes, decoding), None
    # One class is enough where the layout says that folders are classes.
    train = _open_part(train_folder, f"{name}/train", cache_bytes, decoding, min_classes=1)
    if train.class_names is None:
        return train, None
    for part in ("test", "val"):
        folder = os.path.join(directory, part)
        if os.path.isdir(folder) and _classes_in(folder):
            test = _open_part(folder, f"{name}/{part}", cache_bytes, decoding, train.class_names)
            return train, test
    return train, None


def _open_part(folder, name, cache_bytes, decoding, class_names=None, min_classes=2):
    found_classes = _classes_in(folder)
    classes = class_names or found_classes
    if unknown := set(found_classes) - set(classes):
        raise DataError(
            "The test set must have the classes of the training set. Received: "
            f"{printable(min(unknown))} in {name}, which is not one of them."
        )
    if len(classes) < min_classes:
        paths, labels, classes = list(_images_under(folder)), None, None
    else:
        labels, paths = [], []
        for label, class_name in enumerate(classes):
            class_folder = os.path.join(folder, class_name)
            found = list(_images_under(class_folder)) if os.path.isdir(class_folder) else []
            paths += found
            labels += [label] * len(found)
        classes = tuple(map(printable, classes))
    if not paths:
        raise DataError(
            f"A folder of images must hold files ending in {', '.join(EXTENSIONS)}. "
            f"Received: {printable(folder)}, which has none."
        )
    return FileSource(
        paths,
        folder,
        labels=labels,
        class_names=classes,
        name=name,
        cache_bytes=cache_bytes,
        decoder=Decoder(name, len(paths), decoding),
    )


def _classes_in(folder):
    """Returns the names of subfolders that hold images, or none if images lie beside them."""
    entries = _entries(folder)
    if any(_is_image(entry) for entry in entries):
        return ()
    return tuple(
        entry.name
        for entry in entries
        if entry.is_dir() and next(_images_under(entry.path), None) is not None
    )


def _images_under(folder, above=None):
    """Yields the paths of all image files below a folder, in sorted order.

    A link to a folder that contains the link, listed in `above`, is not followed.
    """
    real = Path(folder).resolve()
    above = set(real.parents) if above is None else above
    if real in above:
        return
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _images_under(entry.path, above | {real})
        elif _is_image(entry):
            yield entry.path


def _is_image(entry):
    # A broken link is kept, so that it is reported and not silently skipped; is_file excludes
    # pipes and devices, on which reading would hang.
    is_file = entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    return is_file and entry.name.lower().endswith(EXTENSIONS)


def _entries(folder):
    try:
        with os.scandir(folder) as entries:
            visible = (entry for entry in entries if not entry.name.startswith("."))
            return sorted(visible, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            "folder: needs a folder that can be read. "
            f"Received: {printable(folder)} ({error.strerror})."
        ) from error
