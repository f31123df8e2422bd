"""Pairs of image files that a table names, with whether both show the same thing."""

import os

import numpy as np

from keras_bt.data.decoding import DataError, Decoder, Decoding
from keras_bt.data.encoded import CACHE_BYTES, FileSource
from keras_bt.data.file_sets import images
from keras_bt.data.pairs import Pairs
from keras_bt.data.table import SPLITS, Table

_COLUMNS = ("path_a", "path_b")
_ANSWERS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def open_pairs(
    file: str,
    name: str,
    cache_bytes: int = CACHE_BYTES,
    decoding: Decoding | None = None,
) -> tuple[FileSource, FileSource | None]:
    """Opens the image files of the pairs that a table names.

    Its first row names the columns: `path_a`, `path_b`, `same` (1 or 0, true or false, yes or no)
    and, if wanted, `split`, as in `keras_bt.data.csv_file.open_csv`. Other columns are not used.

    Args:
        file: the table, in UTF-8; paths in it are relative to its folder.
        name: its name in messages.
        cache_bytes: decoded images up to this size are kept in memory.
        decoding: how image files become pixels; by default `Decoding()`.

    Returns:
        The source of all images of training pairs, each image once and without a label, and that
        of test pairs or None. Their `pairs` are those of the table. If there are validation pairs,
        their source is `validation` of the training source.

    Raises:
        DataError: if the table cannot be read, a row is malformed, a file is missing, the images of
            a pair are one, a pair has two answers, or a part of the table has no pair of the same
            thing or none of different things.
    """
    table = Table("pairs", file, needed=(*_COLUMNS, "same"), wanted=("split",))
    rows: dict[str, list[tuple[str, str, bool]]] = {split: [] for split in SPLITS}
    answers: dict[frozenset[str], tuple[bool, int]] = {}
    for row in table.rows:
        first, second = (_path(table, row, column) for column in _COLUMNS)
        same = _answer(table, row)
        if first == second:
            shown = row.cells["path_b"]
            raise table.mistake("two images in each pair", shown, row.number, "twice")
        earlier, number = answers.setdefault(frozenset((first, second)), (same, row.number))
        if same != earlier:
            value = f"same={row.cells['same']}"
            why = f"but not in row {number} of the same pair"
            raise table.mistake("one answer for each pair", value, row.number, why)
        rows[table.split(row) or ""].append((first, second, same))
    if not rows["train"]:
        raise DataError(f"pairs: needs pairs to train on. Received: {table.shown} without any.")

    def source(split):
        if not rows[split]:
            return None
        named = name if split == "train" else f"{name} ({split})"
        return _source(rows[split], table, named, cache_bytes, decoding)

    train, validation, test = source("train"), source("val"), source("test")
    train.validation = validation
    seen = set(train.paths)
    remarks = table.unused
    for part in (validation, test):
        if part is not None and (again := seen & set(part.paths)):
            are = "is" if len(again) == 1 else "are"
            remarks.append(
                f"{images(len(again))} of {part.name} {are} in training pairs, too: what is "
                "measured on them flatters."
            )
    train.remarks = tuple(remarks)
    return train, test


def _path(table, row, column):
    path = os.path.normpath(table.path(row, column))
    if not os.path.exists(path):
        rule = "files that exist, their paths relative to the folder of the table"
        raise table.mistake(rule, row.cells[column], row.number)
    return path


def _answer(table, row):
    answer = row.cells["same"]
    if answer.lower() not in _ANSWERS:
        rule = "1 or 0, true or false, yes or no in the column same"
        raise table.mistake(rule, answer or "nothing", row.number)
    return _ANSWERS[answer.lower()]


def _source(rows, table, name, cache_bytes, decoding):
    """Makes the source of the images of some rows (path, path, same), with their pairs."""
    *sides, answers = zip(*rows, strict=True)
    same = np.array(answers)
    if same.all() or not same.any():
        kind = "of different things" if same.all() else "of the same thing"
        raise DataError(
            "pairs: needs pairs of the same thing and of different things in each part. Received: "
            f"{name}, which has none {kind}."
        )
    number = {
        path: n for n, path in enumerate(dict.fromkeys(path for row in rows for path in row[:2]))
    }
    source = FileSource(
        list(number),
        table.root,
        name=name,
        cache_bytes=cache_bytes,
        decoder=Decoder(name, len(number), decoding),
    )
    first, second = (np.array([number[path] for path in side]) for side in sides)
    source.pairs = Pairs(first, second, same)
    return source
