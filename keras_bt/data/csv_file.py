"""Image files that a table names, with or without their classes."""

import csv
import io
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from keras_bt.data.decoding import DataError, Decoding, Unreadable
from keras_bt.data.encoded import CACHE_BYTES, FileSource
from keras_bt.data.file_sets import Files, choose, listed, open_files, split_of
from keras_bt.data.file_tree import shown

_COLUMNS = ("path", "label", "split")
_SEPARATORS = ",;\t"


class _Row(NamedTuple):
    number: int  # as a spreadsheet counts: the names of the columns are row 1
    path: str
    label: str
    split: str


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
    table = shown(file)
    header, rows = _read(file, table)
    root = os.path.dirname(file) or os.curdir
    splits = {word: split_of(word) for word in {row.split for row in rows}}
    missing = _check(rows, splits, root, table)
    limit = Unreadable(name, len(rows), decoding.max_unreadable).limit
    if len(missing) > limit:
        raise DataError(
            "csv: needs files that exist, their paths relative to the folder of the table. "
            f"Received: {_missing(missing)} (of {len(rows):,}) in {table}."
        )
    parts = {}
    remarks = []
    for split in ("train", "test", "val"):
        if of_it := [row for row in rows if splits[row.split] == split]:
            named = name if split == "train" else f"{name} ({split})"
            parts[split], of_labels = _part(of_it, root, named)
            remarks += of_labels
    if "train" not in parts:
        raise DataError(f"csv: needs images to train on. Received: {table}, which has none.")
    if missing:
        remarks.append(f"{_missing(missing)}.")
    if unused := [column for column in header if column not in _COLUMNS]:
        remarks.append(f"Columns that are not used: {listed(unused)}.")
    train, test = choose(parts)
    train.remarks[:0] = remarks
    numbers = all(re.fullmatch(r"-?\d+(\.\d+)?", label) for label in set(train.classes or ()))
    key = (lambda label: (float(label), label)) if numbers else None
    return open_files(train, test, cache_bytes, decoding, key)


def _read(file, table):
    """Returns the names of the columns, and all rows that are not empty."""
    try:
        with open(file, "rb") as opened:
            content = opened.read()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise DataError(
            f"csv: needs a table that can be read. Received: {table} ({error.strerror})."
        ) from error
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"csv: needs a table saved as UTF-8. Received: {table}, which is not in row {row}."
        ) from error
    if "\0" in text:
        raise DataError(f"csv: needs a table saved as UTF-8. Received: {table}, of another kind.")
    headers = {}
    for separator in _SEPARATORS:
        rows = _rows(text, separator, table)
        _, header = next(rows, (1, []))
        header = headers[separator] = [cell.lower() for cell in header]
        for column in _COLUMNS:
            if header.count(column) > 1:
                raise _mistake("columns of different names", column, 1, table, "twice")
        if "path" in header:
            return header, [_row(*row, header, table) for row in rows]
    longest = max(headers.values(), key=len)
    raise DataError(
        "csv: needs a table whose first row names the columns: path and, if wanted, label and "
        f"split. Received: {listed(longest, 10) or 'nothing'} in row 1 of {table}."
    )


def _rows(text, separator, table) -> Iterator[tuple[int, list[str]]]:
    """Yields (number, cells) of each row that is not empty."""
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    number = 0
    try:
        for number, row in enumerate(reader, 1):
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield number, cells
    except csv.Error as error:  # such as a quote that is not closed
        raise DataError(
            f"csv: needs well-formed rows. Received: row {number + 1} of {table} ({error})."
        ) from error


def _row(number, cells, header, table):
    if len(cells) != len(header):
        raise DataError(
            f"csv: needs as many cells in each row as columns, {len(header)}; a cell with a "
            f"separator in it needs quotes. Received: {len(cells)} in row {number} of {table}."
        )
    named = dict(zip(header, cells, strict=True))
    return _Row(number, named["path"], named.get("label", ""), named.get("split", "train"))


def _check(rows, splits, root, table):
    """Checks each row, and returns those whose file is missing."""
    first_row: dict[str, int] = {}
    missing = []
    for row in rows:
        if not row.path:
            raise _mistake("a path in each row", "nothing", row.number, table)
        if splits[row.split] not in ("train", "test", "val"):
            rule = "train, test or val in the column split"
            raise _mistake(rule, row.split or "nothing", row.number, table)
        path = os.path.join(root, row.path)
        first = first_row.setdefault(os.path.normpath(path), row.number)
        if first != row.number:
            rule = "one row for each file, with one label"
            raise _mistake(rule, row.path, row.number, table, f"as in row {first}")
        if not os.path.isfile(path):
            if os.path.exists(path):
                raise _mistake("paths of files", row.path, row.number, table)
            missing.append(row)
    return missing


def _mistake(rule, value, number, table, why=""):
    why = f", {why}" if why else ""
    return DataError(
        f"csv: needs {rule}. Received: {shown(value)} in row {number} of {table}{why}."
    )


def _part(rows, root, name):
    """Returns the files of one part of the data, and remarks on their labels."""
    bare = sum(not row.label for row in rows)
    remarks = []
    if 0 < bare < len(rows):
        remarks.append(
            f"{bare:,} of {len(rows):,} images of {name} have no label: all are used without."
        )
    return Files(
        title=shown(rows[0].split),
        paths=[os.path.join(root, row.path) for row in rows],
        classes=None if bare else [row.label for row in rows],
        root=root,
        name=name,
    ), remarks


def _missing(rows):
    files = "1 file is" if len(rows) == 1 else f"{len(rows):,} files are"
    first = "" if len(rows) == 1 else "the first "
    return f"{files} missing, {first}in row {rows[0].number}: {shown(rows[0].path)}"
