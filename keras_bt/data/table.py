"""Tables in which a user names image files: their rows, and the mistakes in them."""

import csv
import io
import os
from collections.abc import Iterator
from typing import NamedTuple

from keras_bt.data.decoding import DataError
from keras_bt.data.file_sets import listed, split_of
from keras_bt.data.file_tree import shown

SPLITS = ("train", "test", "val")
_SEPARATORS = ",;\t"


class Row(NamedTuple):
    """A row of a table: its number as a spreadsheet counts, and its cells by column."""

    number: int  # the names of the columns are row 1
    cells: dict[str, str]


class Table:
    """A table of image files whose first row names the columns.

    Cells are separated by commas, semicolons or tabs. Empty rows count, but are left out.

    Args:
        kind: the kind of source, with which messages begin.
        file: the table, in UTF-8; paths in it are relative to its folder.
        needed: columns that there must be.
        wanted: columns that there may be.

    Attributes:
        header: the names of the columns, in lower case.
        rows: all rows that are not empty.
        root: the folder that paths are relative to.
        shown: the path of the table, for messages.
        splits: what `split_of` calls each word in the column split, train if there is no such
            column.

    Raises:
        DataError: if the table cannot be read, its columns are others, a row is malformed, or
            a split is not one of `SPLITS`.
    """

    def __init__(self, kind: str, file: str, needed: tuple[str, ...], wanted: tuple[str, ...]):
        self.kind, self.shown = kind, shown(file)
        self.root = os.path.dirname(file) or os.curdir
        self._columns = needed + wanted
        self.header, self.rows = self._read(file, needed, wanted)
        words = {row.cells.get("split", "train") for row in self.rows}
        self._splits = {word: split_of(word) for word in words}
        for row in self.rows:
            if self.split(row) not in SPLITS:
                word = row.cells["split"] or "nothing"
                raise self.mistake("train, test or val in the column split", word, row.number)

    def split(self, row: Row) -> str | None:
        """Returns the part of the data that a row belongs to, train if the table has no parts."""
        return self._splits[row.cells.get("split", "train")]

    def path(self, row: Row, column: str) -> str:
        """Returns the path in a cell, joined to `root`.

        Raises:
            DataError: if the cell is empty, or names something else than a file.
        """
        cell = row.cells[column]
        if not cell:
            raise self.mistake("a path in each row", "nothing", row.number)
        path = os.path.join(self.root, cell)
        if os.path.exists(path) and not os.path.isfile(path):
            raise self.mistake("paths of files", cell, row.number)
        return path

    @property
    def unused(self) -> list[str]:
        """A line about columns that are not used, if there are any."""
        names = [column for column in self.header if column not in self._columns]
        return [f"Columns that are not used: {listed(names)}."] if names else []

    def mistake(self, rule: str, value: str, number: int, why: str = "") -> DataError:
        """Returns the error about a row: the rule, what it has instead, and perhaps why."""
        why = f", {why}" if why else ""
        return DataError(
            f"{self.kind}: needs {rule}. Received: {shown(value)} in row {number} of "
            f"{self.shown}{why}."
        )

    def _read(self, file, needed, wanted):
        text = self._text(file)
        headers = []
        for separator in _SEPARATORS:
            rows = self._rows(text, separator)
            _, header = next(rows, (1, []))
            header = [cell.lower() for cell in header]
            for column in self._columns:
                if header.count(column) > 1:
                    raise self.mistake("columns of different names", column, 1, "twice")
            if set(needed) <= set(header):
                return header, [self._row(*row, header) for row in rows]
            headers.append(header)
        longest = max(headers, key=len)
        names = f"{', '.join(needed)} and, if wanted, {' and '.join(wanted)}"
        raise DataError(
            f"{self.kind}: needs a table whose first row names the columns: {names}. Received: "
            f"{listed(longest, 10) or 'nothing'} in row 1 of {self.shown}."
        )

    def _text(self, file):
        try:
            with open(file, "rb") as opened:
                content = opened.read()
            text = content.decode("utf-8-sig")
        except OSError as error:
            raise DataError(
                f"{self.kind}: needs a table that can be read. Received: {self.shown} "
                f"({error.strerror})."
            ) from error
        except UnicodeDecodeError as error:
            row = content.count(b"\n", 0, error.start) + 1
            raise DataError(
                f"{self.kind}: needs a table saved as UTF-8. Received: {self.shown}, which is not "
                f"in row {row}."
            ) from error
        if "\0" in text:
            raise DataError(
                f"{self.kind}: needs a table saved as UTF-8. Received: {self.shown}, of another "
                "kind."
            )
        return text

    def _rows(self, text, separator) -> Iterator[tuple[int, list[str]]]:
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
                f"{self.kind}: needs well-formed rows. Received: row {number + 1} of {self.shown} "
                f"({error})."
            ) from error

    def _row(self, number, cells, header):
        if len(cells) != len(header):
            raise DataError(
                f"{self.kind}: needs as many cells in each row as columns, {len(header)}; a cell "
                f"with a separator in it needs quotes. Received: {len(cells)} in row {number} of "
                f"{self.shown}."
            )
        return Row(number, dict(zip(header, cells, strict=True)))
