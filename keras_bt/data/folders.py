"""Folders of image files, with one folder per class or unlabeled."""

import os
from collections import Counter

from keras_bt.data.decoding import DataError, Decoding
from keras_bt.data.encoded import CACHE_BYTES, FileSource
from keras_bt.data.file_sets import Files, choose, images, listed, open_files, split_of
from keras_bt.data.file_tree import Folder, described, read_tree, shown
from keras_bt.data.image_files import EXTENSIONS

_ENDINGS = ", ".join(EXTENSIONS)


def open_folder(
    where: str,
    name: str,
    cache_bytes: int = CACHE_BYTES,
    decoding: Decoding | None = None,
) -> tuple[FileSource, FileSource | None]:
    """Opens a folder of images, or several.

    - `DIR/train/CLASS/…`, with `DIR/test/CLASS/…` or `DIR/val/CLASS/…` if there is a test set
      (the first of the two that has labels). `DIR/train` alone may also be unlabeled. Names that
      contain such a word will do, see `keras_bt.data.file_sets.split_of`.
    - `DIR/CLASS/…`: two or more subfolders, no images beside them, no test set.
    - Images in `DIR` itself, or at any depth below `DIR/unlabeled`, are unlabeled.

    A single folder around one of these is looked through. Of several folders, the training sets
    become one and the test sets become one.

    Args:
        where: the folder, or several with commas between them.
        name: its name in messages.
        cache_bytes: decoded images up to this size are kept in memory.
        decoding: how image files become pixels; by default `Decoding()`.

    Returns:
        The training source, and the test source or None. Their remarks say what was left out.

    Raises:
        DataError: if a folder cannot be read, holds no image or has another layout.
    """
    directories = [where] if os.path.exists(where) else where.split(",")
    if len(directories) == 1:
        train, test = _chosen(where, name)
        return open_files(train, test, cache_bytes, decoding)
    _check_apart(directories, name)
    found = [_chosen(directory, shown(directory)) for directory in directories]
    train = _joined([part for part, _ in found], name)
    tests = [part for _, part in found if part is not None]
    test = _joined(tests, f"{name} (test)") if tests else None
    if test is not None and train.classes is None:
        train.remarks.append("The test sets are not used, as not all training images have labels.")
        test = None
    return open_files(train, test, cache_bytes, decoding)


def _check_apart(directories, name):
    if not all(directories):
        raise DataError(f"folder: needs a folder before and after each comma. Received: {name!r}.")
    real = [os.path.join(os.path.realpath(directory), "") for directory in directories]
    for i, inner in enumerate(real):
        for j, outer in enumerate(real):
            if i != j and inner.startswith(outer):
                raise DataError(
                    "folder: needs folders of which none lies in another. "
                    f"Received: {shown(directories[i])} and {shown(directories[j])}."
                )


def _joined(parts, name):
    """Joins parts of several folders to one, without labels unless all have them."""
    labeled = [part for part in parts if part.classes is not None]
    remarks = [f"{part.name}: {remark}" for part in parts for remark in part.remarks]
    classes = None
    if len(labeled) == len(parts):
        classes = [name for part in parts for name in part.classes]
    elif labeled:
        bare = next(part for part in parts if part.classes is None)
        remarks.append(
            f"All images are used without labels, as {bare.name} has none and "
            f"{labeled[0].name} has them."
        )
    return Files(
        title=name,
        paths=[path for part in parts for path in part.paths],
        classes=classes,
        root=os.path.commonpath([os.path.abspath(part.root) for part in parts]),
        name=name,
        remarks=remarks,
    )


def _chosen(directory, name):
    """Returns the training files of one folder, and its test files or None."""
    tree = read_tree(directory)
    if not tree.num_images:
        raise _without_images(tree)
    here = tree
    while len(inner := here.with_images) == 1 and not here.images and not split_of(inner[0].name):
        _check_classes(here, f"give the one that does, folder:{shown(inner[0].path)}")
        here = inner[0]

    def named(folder):
        beyond = os.path.relpath(folder.path, directory)
        return name if beyond == os.curdir else f"{name}/{shown(beyond)}"

    if any(split_of(folder.name) for folder in here.with_images):
        parts = {split: _part(f, named(f), split) for split, f in _splits(here).items()}
        train, test = choose(parts)
        train.remarks += [
            f"{shown(folder.name)} is not used, as it holds no images."
            for folder in here.folders
            if not folder.num_images
        ]
    else:
        train, test = _part(here, named(here)), None
    # What lies in no part is counted with the training files.
    left_out = tree.left_out.copy()
    for folder in here.with_images:
        if split_of(folder.name) and folder.path != train.root:
            left_out -= folder.left_out
            if test is not None and folder.path == test.root:
                test.remarks[:0] = _left_out(folder.left_out)
    train.remarks[:0] = _left_out(left_out)
    return train, test


def _splits(here):
    """Returns the folders of the parts of the data, by what `split_of` calls them."""
    found: dict[str | None, Folder] = {}
    for folder in here.with_images:
        split = split_of(folder.name)
        if split in found and split is not None:
            raise DataError(
                f"A folder of images must have one folder of {split} images at most: rename or "
                f"join them, or, if they are classes, move them into {_inside(here, 'train')}. "
                f"Received: {shown(found[split].name)} and {shown(folder.name)} in "
                f"{shown(here.path)}."
            )
        found[split] = folder
    if None in found:
        others = [folder.name for folder in here.with_images if not split_of(folder.name)]
        parts = [folder.name for folder in here.with_images if split_of(folder.name)]
        raise DataError(
            "Folders of parts of the data (train, test, val, unlabeled) must not lie beside "
            "others: move or remove those, or, if all are classes, move all of them into "
            f"{_inside(here, 'train')}. Received: {listed(parts)} beside {listed(others)} in "
            f"{shown(here.path)}."
        )
    if here.images:
        raise DataError(
            "Images must not lie beside the folders of parts of the data: move or remove them. "
            f"Received: {_images_in(here)} beside {listed(f.name for f in found.values())} in "
            f"{shown(here.path)}."
        )
    if not found.keys() & {"train", "unlabeled"}:
        for folder in here.folders:
            if split_of(folder.name) == "train":
                raise _without_images(folder)
        only = next(iter(found.values()))
        raise DataError(
            "A folder of images must have images to train on, e.g. in "
            f"{_inside(here, 'train')}; to train on {shown(only.name)}, give "
            f"folder:{shown(only.path)}. Received: {shown(here.path)}, which has only "
            f"{listed(folder.name for folder in found.values())}."
        )
    return found


def _part(folder, name, split=None):
    """Lists the files of one part of the data, with their classes where these have folders."""
    root = folder.path
    while len(inner := folder.with_images) == 1 and not folder.images and split is not None:
        if split_of(inner[0].name) != split:
            break
        folder = inner[0]  # seg_train/seg_train
    title = shown(folder.name or name)
    if split == "unlabeled" or not folder.with_images:
        return Files(title, list(folder.all_images()), None, root, name)
    if folder.images:
        raise DataError(
            "Images must not lie beside folders of images: move them into the folder of a class, "
            "or, to use all without labels, move all into DIR/unlabeled/. "
            f"Received: {_images_in(folder)} beside {listed(f.name for f in inner)} in "
            f"{shown(folder.path)}."
        )
    _check_classes(folder)
    _check_order(folder, inner)
    paths, classes = [], []
    for inner_folder in inner:
        paths += inner_folder.all_images()
        classes += [inner_folder.name] * inner_folder.num_images
    remarks = [
        f"{shown(empty.name)} is no class, as it is empty."
        for empty in folder.folders
        if not empty.num_images
    ]
    return Files(title, paths, classes, root, name, remarks)


def _check_order(folder, classes):
    """Refuses parts of the data inside of a part, or inside of a class."""
    for holder in (folder, *classes):
        splits = [split_of(below.name) for below in holder.with_images]
        # A class below train may have such a name: train beside bus.
        if len(set(splits) - {None}) > 1 and not (holder is folder and None in splits):
            raise DataError(
                "Folders of parts of the data (train, test, val) must lie above those of classes, "
                "DIR/train/CLASS, and none inside another: move them, or give one of the folders "
                f"around them. Received: {listed(f.name for f in holder.with_images)} in "
                f"{shown(holder.path)}."
            )


def _check_classes(folder, remedy="move or remove it"):
    """Refuses a folder that holds files but no image, beside folders with images."""
    for inner in folder.folders:
        if inner.left_out and not inner.num_images:
            raise _without_images(
                inner, f"A folder beside folders of images must hold images as well: {remedy}"
            )


def _without_images(folder, rule=f"A folder of images must hold files ending in {_ENDINGS}"):
    kinds = f" ({described(folder.left_out)})" if folder.left_out else ""
    return DataError(f"{rule}. Received: {shown(folder.path)}, which has none{kinds}.")


def _left_out(kinds: Counter[str]) -> list[str]:
    count = kinds.total()
    if not count:
        return []
    files = "1 file was" if count == 1 else f"{count:,} files were"
    return [f"{files} left out: {described(kinds)}."]


def _images_in(folder):
    names = [os.path.basename(path) for path in folder.images]
    return f"{images(len(names))} ({listed(names)})"


def _inside(folder, name):
    return shown(os.path.join(folder.path, name, ""))
