"""Image files that a table names, with or without their classes."""

import os
import re

from keras_bt.data.decoding import DataError, Decoding, Unreadable
from keras_bt.data.encoded import CACHE_BYTES, FileSource
from keras_bt.data.file_sets import Files, choose, open_files
from keras_bt.data.file_tree import shown
from keras_bt.data.table import SPLITS, Table


def open_csv(
    file: str,
    name: str,
    cache_bytes: int = CACHE_BYTES,
    decoding: Decoding | None = None,
) -> tuple[FileSource, FileSource | None]:
    """Opens the image files that a table names.

    Its first row names the columns: `path` and, if wanted, `label` and `split`, which is train,
    test or val, or has such a word in it (`keras_bt.data.file_sets.split_of`). Other columns are
    not used. Cells are separated by commas, semicolons or tabs. A part of the data of which some
    images have no label is used without labels.

    Args:
        file: the table, in UTF-8; paths in it are relative to its folder.
        name: its name in messages.
        cache_bytes: decoded images up to this size are kept in memory.
        decoding: how image files become pixels; by default `Decoding()`.

    Returns:
        The training source, and the test source or None. Classes are sorted by name, or by value if
        all are numbers.

    Raises:
        DataError: if the table cannot be read, a row is malformed, a file is named twice, or more
            files are missing than may be unreadable.
    """
    decoding = decoding or Decoding()
    table = Table("csv", file, needed=("path",), wanted=("label", "split"))
    missing = _missing_rows(table)
    limit = Unreadable(name, len(table.rows), decoding.max_unreadable).limit
    if len(missing) > limit:
        raise DataError(
            "csv: needs files that exist, their paths relative to the folder of the table. "
            f"Received: {_missing(missing)} (of {len(table.rows):,}) in {table.shown}."
        )
    parts = {}
    remarks = []
    for split in SPLITS:
        if of_it := [row for row in table.rows if table.split(row) == split]:
            named = name if split == "train" else f"{name} ({split})"
            parts[split], of_labels = _part(of_it, table.root, named)
            remarks += of_labels
    if "train" not in parts:
        raise DataError(f"csv: needs images to train on. Received: {table.shown}, which has none.")
    if missing:
        remarks.append(f"{_missing(missing)}.")
    train, test = choose(parts)
    train.remarks[:0] = remarks + table.unused
    numbers = all(re.fullmatch(r"-?\d+(\.\d+)?", label) for label in set(train.classes or ()))
    key = (lambda label: (float(label), label)) if numbers else None
    return open_files(train, test, cache_bytes, decoding, key)


def _missing_rows(table):
    """Checks the path in each row, and returns the rows whose file is missing."""
    first_row: dict[str, int] = {}
    missing = []
    for row in table.rows:
        path = table.path(row, "path")
        first = first_row.setdefault(os.path.normpath(path), row.number)
        if first != row.number:
            rule = "one row for each file, with one label"
            raise table.mistake(rule, row.cells["path"], row.number, f"as in row {first}")
        if not os.path.exists(path):
            missing.append(row)
    return missing


def _part(rows, root, name):
    """Returns the files of one part of the data, and remarks on their labels."""
    classes = [row.cells.get("label", "") for row in rows]
    bare = sum(not label for label in classes)
    remarks = []
    if 0 < bare < len(rows):
        remarks.append(
            f"{bare:,} of {len(rows):,} images of {name} have no label: all are used without."
        )
    return Files(
        title=shown(rows[0].cells.get("split", "train")),
        paths=[os.path.join(root, row.cells["path"]) for row in rows],
        classes=None if bare else classes,
        root=root,
        name=name,
    ), remarks


def _missing(rows):
    files = "1 file is" if len(rows) == 1 else f"{len(rows):,} files are"
    first = "" if len(rows) == 1 else "the first "
    return f"{files} missing, {first}in row {rows[0].number}: {shown(rows[0].cells['path'])}"
