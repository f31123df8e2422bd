"""What an interrupted extraction of features leaves, and how the next one goes on from there.

The features grow in a file NAME.unfinished, which is renamed once it is complete. Beside it lies
NAME.journal: every half minute a line of JSON, after its CRC-32, says how far the extraction has
come. The next extraction goes on where the last whole line says, if the features before it are as
they were written. Nothing is left of an extraction that took less than that.
"""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import time
import zlib
from collections.abc import Iterator

import numpy as np

from keras_bt.files import json_object, whole

try:
    import fcntl
except ImportError:  # Windows, where extractions begin anew
    fcntl = None  # type: ignore[assignment]

_SECONDS = 30  # between lines
_READ_BYTES = 2**22
_ABANDONED_SECONDS = 30 * 24 * 3600
_ENDINGS = (".unfinished", ".journal")


@dataclasses.dataclass
class Done:
    """What has been extracted.

    Attributes:
        images: images of the source that have been read, or could not be.
        rows: rows of features.
        width: their length; 0 before the first.
        checksum: CRC-32 of all rows.
        labels: int64 (b,) or (b, classes) of each batch.
        names: of each row, as UTF-8.
        unreadable: why images could not be read, by name.
    """

    images: int = 0
    rows: int = 0
    width: int = 0
    checksum: int = 0
    labels: list[np.ndarray] = dataclasses.field(default_factory=list)
    names: list[bytes] = dataclasses.field(default_factory=list)
    unreadable: dict[str, str] = dataclasses.field(default_factory=dict)


class Journal:
    """The journal of one file of features, whose header has `header_bytes` bytes.

    Attributes:
        done: `Done`, what the journal and the file have of an earlier extraction. Whoever extracts
            keeps it up to date.
    """

    def __init__(self, file: io.BufferedRandom, header_bytes: int, path: pathlib.Path | None):
        self._path, self._next = path, time.monotonic() + _SECONDS
        self.done = Done()
        self._batches = self._names = 0  # in the journal
        if path is not None:
            self._restore(file, header_bytes, path)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to go on from."""
        return not self._names

    def record(self, file: io.BufferedRandom, unreadable: dict[str, str]) -> None:
        """Adds a line if it is time to: the file holds what `done` says, once it is flushed."""
        path = self._path
        if path is None or time.monotonic() < self._next:
            return
        file.flush()
        done = self.done
        entry = {name: getattr(done, name) for name in ("images", "rows", "width", "checksum")} | {
            "labels": [part.tolist() for part in done.labels[self._batches :]],
            "names": [name.decode() for name in done.names[self._names :]],
            "unreadable": unreadable,
        }
        line = json.dumps(entry).encode()
        with open(path, "ab") as journal:
            journal.write(b"%08x %s\n" % (zlib.crc32(line), line))
        self._batches, self._names = len(done.labels), len(done.names)
        self._next = time.monotonic() + _SECONDS

    def _restore(self, file: io.BufferedRandom, header_bytes: int, path: pathlib.Path) -> None:
        """Reads the journal as far as it is whole and fits the file, and cuts both off there."""
        end, checksum = 0, 0
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as journal:
            file.seek(header_bytes)
            for line in journal:
                entry = _parsed(line)
                if entry is None:
                    break
                labels = [np.array(part, np.int64) for part in entry.pop("labels")]
                names = [name.encode() for name in entry.pop("names")]
                checksum = _checksum_of(file, 4 * len(names) * entry["width"], checksum)
                if checksum != entry["checksum"]:
                    break
                joined = self.done.labels + labels, self.done.names + names
                self.done = Done(**entry, labels=joined[0], names=joined[1])
                end += len(line)
        self._batches, self._names = len(self.done.labels), len(self.done.names)
        if end:
            os.truncate(path, end)
        else:
            path.unlink(missing_ok=True)
        file.truncate(header_bytes + 4 * self.done.rows * self.done.width if end else 0)
        file.seek(0, os.SEEK_END)


@contextlib.contextmanager
def unfinished(
    path: pathlib.Path, header_bytes: int
) -> Iterator[tuple[io.BufferedRandom, Journal]]:
    """Yields the file that becomes `path` if all goes well, at its end, and its journal.

    While another process extracts the same features, the file is a new one, which is removed if
    something goes wrong.

    Args:
        path: of the features.
        header_bytes: size of what is before them in the file.

    Raises:
        OSError: if the file cannot be written.
    """
    growing, journal_path = (path.with_suffix(ending) for ending in _ENDINGS)
    _remove_abandoned(path.parent)
    with open(growing, "r+b", opener=_made_if_missing) as file:
        if _locked(file, growing):
            journal = Journal(file, header_bytes, journal_path)
            try:
                yield file, journal
                file.flush()
                os.fsync(file.fileno())
                growing.replace(path)
                journal_path.unlink(missing_ok=True)
            finally:
                if journal.is_empty:
                    growing.unlink(missing_ok=True)
            return
    with whole(path) as partial, open(partial, "x+b") as file:
        yield file, Journal(file, header_bytes, None)


def _made_if_missing(path, flags):
    return os.open(path, flags | os.O_CREAT, 0o666)


def _locked(file, path):
    """Locks the file, until it is closed, unless another process has, or has completed it."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError:  # some network file systems have no locks
        return False


def _parsed(line):
    checksum, _, entry = line.rstrip(b"\n").partition(b" ")
    whole_line = line.endswith(b"\n") and checksum == b"%08x" % zlib.crc32(entry)
    return json_object(entry) if whole_line else None


def _checksum_of(file, left, checksum):
    while left > 0 and (part := file.read(min(left, _READ_BYTES))):
        checksum = zlib.crc32(part, checksum)
        left -= len(part)
    return checksum


def _remove_abandoned(folder):
    """Removes what nobody went on from for a month."""
    with contextlib.suppress(OSError):  # another process was faster
        for other in folder.iterdir():
            old = time.time() - other.stat().st_mtime > _ABANDONED_SECONDS
            if other.suffix in _ENDINGS and old:
                other.unlink(missing_ok=True)
