"""Sets of image files with the classes that their owner gave them, and the sources made of them.

Folders and tables have this in common: which words name a part of the data, which part is trained
on, which is measured on, and how classes become labels.
"""

import dataclasses
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from keras_bt.data.decoding import DataError, Decoder, Decoding, printable
from keras_bt.data.encoded import FileSource
from keras_bt.data.file_tree import shown

_WORDS = {
    "train": ("train", "training", "trainset"),
    "test": ("test", "testing", "testset", "eval", "evaluation"),
    "val": ("val", "valid", "validation", "valset"),
    "unlabeled": ("unlabeled", "unlabelled"),
}
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words}
_NAMES_SHOWN = 3


def split_of(name: str) -> str | None:
    """Tells which part of the data a name speaks of.

    Args:
        name: of a folder, or in a table. It is taken apart at all that is no letter, and where a
            capital follows a small letter.

    Returns:
        `train`, `test`, `val` or `unlabeled`; None if it has no such word, or two of the first
        three.

    Example:
        >>> [split_of(name) for name in ("seg_train", "TestImages", "Valid", "trains", "test_tube")]
        ['train', 'test', 'val', None, 'test']
    """
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))
    splits = {_SPLIT_OF.get(word.lower()) for word in words} - {None}
    if "unlabeled" in splits:
        return "unlabeled"
    return splits.pop() if len(splits) == 1 else None


@dataclasses.dataclass
class Files:
    """Image files of one part of the data.

    Args:
        title: the name of the part, as its owner wrote it.
        paths: the files.
        classes: the name of the class of each, or None without labels.
        root: the folder that contains them.
        name: its name in messages.
        remarks: what the user should know.
    """

    title: str
    paths: list[str]
    classes: list[str] | None
    root: str
    name: str
    remarks: list[str] = dataclasses.field(default_factory=list)


def choose(parts: dict[str, Files]) -> tuple[Files, Files | None]:
    """Chooses which part is trained on and which is measured on.

    Args:
        parts: by what `split_of` calls them; with `train` or `unlabeled`.

    Returns:
        The training files, whose remarks name the parts that are not used, and the test files or
        None: of `test` and `val`, the first that has labels.
    """
    train = parts.get("train") or parts["unlabeled"]
    test = None
    for split in ("test", "val", "unlabeled"):
        part = parts.get(split)
        if part is None or part is train:
            continue
        if split == "unlabeled":
            why = f"{train.title} is there"
        elif train.classes is None:
            why = "the training images have no labels"
        elif part.classes is None:
            why = "its images have no labels"
        elif test is not None:
            why = "there is a test set"
        else:
            test = part
            if split == "val":
                train.remarks.append(f"{part.title} serves as the test set.")
            continue
        train.remarks.append(f"{part.title} ({images(len(part.paths))}) is not used, as {why}.")
    return train, test


def open_files(
    train: Files,
    test: Files | None,
    cache_bytes: int,
    decoding: Decoding | None,
    key: Callable[[str], Any] | None = None,
) -> tuple[FileSource, FileSource | None]:
    """Makes the sources.

    Args:
        train: what is trained on.
        test: what is measured on, or None; labeled if there is one.
        cache_bytes: decoded images up to this size are kept in memory.
        decoding: how image files become pixels; by default `Decoding()`.
        key: what classes are sorted by; by default their names.

    Raises:
        DataError: if the test files have a class that the training files lack.
    """
    names = None if train.classes is None else sorted(set(train.classes), key=key)
    if names:
        train.remarks += _alike(names)
    if names and test is not None:
        found = set(test.classes or ())
        _check_known(found, names, test.name)
        test.remarks += _missing(names, found)

    def source(files):
        number = {name: number for number, name in enumerate(names or ())}
        made = FileSource(
            files.paths,
            files.root,
            labels=None if names is None else [number[name] for name in files.classes],
            class_names=None if names is None else tuple(map(printable, names)),
            name=files.name,
            cache_bytes=cache_bytes,
            decoder=Decoder(files.name, len(files.paths), decoding),
        )
        made.remarks = tuple(files.remarks)
        return made

    return source(train), None if test is None else source(test)


def listed(names: Iterable[str], most: int = _NAMES_SHOWN) -> str:
    """Lists the first names.

    Example:
        >>> listed("abcde")
        'a, b, c, …'
    """
    names = list(names)
    return ", ".join(map(shown, names[:most])) + (", …" if len(names) > most else "")


def images(count: int) -> str:
    """Returns `1 image`, `2 images` and so on."""
    return f"{count:,} image" + ("" if count == 1 else "s")


def _same(name):
    """Returns what names have in common that differ in case, or in how accents are encoded."""
    return unicodedata.normalize("NFC", name).casefold()


def _alike(names):
    """Says which classes differ in no more than that."""
    groups = defaultdict(list)
    for name in names:
        groups[_same(name)].append(name)
    pairs = [" and ".join(map(shown, group)) for group in groups.values() if len(group) > 1]
    if not pairs:
        return []
    return [f"Different classes, though they differ only in case or accents: {listed(pairs)}."]


def _check_known(found, names, where):
    if not (unknown := found - set(names)):
        return
    name = min(unknown)
    alike = next((known for known in names if _same(known) == _same(name)), None)
    hint = f"; the training set has {shown(alike)}" if alike is not None else ""
    raise DataError(
        "The test set must have the classes of the training set. Received: "
        f"{shown(name)} in {where}, which is not one of them{hint}."
    )


def _missing(names, found):
    """Says which classes have no test images."""
    missing = [name for name in names if name not in found]
    if not missing:
        return []
    have = "has" if len(missing) == 1 else "have"
    return [f"{len(missing):,} of {len(names):,} classes {have} no test images: {listed(missing)}."]
