"""Files that appear whole or not at all, and what is read of files that may be damaged."""

import contextlib
import json
import math
import os
import pathlib
import platform
import re
import shutil
import tempfile
import time
import uuid
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from keras_bt.typing import Path

_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_ABANDONED_SECONDS = 24 * 3600
# What a name says of its writer: host, process and a token. Earlier versions said less.
_WRITER = re.compile(r"\.partial(?:-([0-9a-f]{8})-(\d{1,9})-([0-9a-f]{8})|-\w{8})?(?=\.|$)")
_tokens: set[str] = set()  # of this process, whose number a killed one may have had


@contextlib.contextmanager
def whole(path: Path) -> Iterator[pathlib.Path]:
    """Yields the path of a new file beside `path`, which replaces `path` if all goes well.

    Otherwise the new file is removed, and an earlier file at `path` is untouched. Folders above are
    made. No two writers are given the same path; what killed ones left beside `path` is removed.

    >>> with whole("settings.json") as partial:
    ...     _ = partial.write_text("{}")
    ...     print(partial.suffix, is_partial(partial), os.path.exists("settings.json"))
    .json True False
    >>> os.path.exists("settings.json")
    True

    Raises:
        OSError: if the file cannot be written; the error names the file.
    """
    path = pathlib.Path(path)
    partial = partial_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent, of=path)
        yield partial
        flush(partial)
        partial.replace(path)
    except OSError as error:
        if error.errno and not error.filename:  # the error of a full disk does not name the file
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def partial_of(path: Path) -> pathlib.Path:
    """Returns a new path beside `path`, to write what belongs there until it is complete."""
    path, token = pathlib.Path(path), uuid.uuid4().hex[:8]
    _tokens.add(token)
    return path.with_name(f"{path.stem}.partial-{_HOST}-{os.getpid()}-{token}{path.suffix}")


def is_partial(path: Path, of: Path | None = None) -> bool:
    """Checks whether a name is one of `partial_of`, or of earlier versions, for the path `of`.

    >>> is_partial("a.partial.json"), is_partial(partial_of("a.json")), is_partial("a.json")
    (True, True, False)
    >>> is_partial(partial_of("a.json"), of="a.json"), is_partial(partial_of("b.json"), of="a.json")
    (True, False)
    """
    found = _partial(path)
    return found is not None and (of is None or found.of == pathlib.Path(of).name)


def remove_abandoned(folder: Path, of: Path | None = None) -> None:
    """Removes what killed writers left in a folder, of the path `of` or of any.

    Of any path, only names that tell their writer: `video.partial` is somebody else's.
    A writer that lives is left alone: a process of this host that runs, or one of another host that
    began less than a day ago.
    """
    with contextlib.suppress(OSError):  # another process was faster
        for other in pathlib.Path(folder).iterdir():
            found = _partial(other)
            if not found or (not found.host if of is None else found.of != pathlib.Path(of).name):
                continue
            if _is_abandoned(other, found):
                if other.is_dir():
                    shutil.rmtree(other, ignore_errors=True)
                else:
                    other.unlink(missing_ok=True)


class _Partial(NamedTuple):
    """What the name of a partial file says: for which name it is, and of its writer."""

    of: str
    host: str
    process: int
    token: str


def _partial(path):
    name = pathlib.Path(path).name
    if not (found := _WRITER.search(name)):
        return None
    host, process, token = found.groups(default="")
    return _Partial(name[: found.start()] + name[found.end() :], host, int(process or 0), token)


def _is_abandoned(path, partial):
    if partial.host == _HOST and os.name == "posix":
        if partial.process == os.getpid():
            return partial.token not in _tokens
        try:
            os.kill(partial.process, 0)  # only asks whether there is such a process
        except ProcessLookupError:
            return True
        except OSError:  # there is, of another user
            pass
    return time.time() - path.stat().st_mtime > _ABANDONED_SECONDS


def flush(path: Path) -> None:
    """Flushes a file, or the entries of a folder, from the system's cache to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def read_by_tensorflow(folder: Path) -> Iterator[pathlib.Path]:
    """Yields a path by which TensorFlow can read checkpoints and SavedModels in a folder.

    It takes the path of what it reads, though not of what it writes, for a pattern: nothing is
    found where there is a bracket or a backslash, and perhaps another folder by a star.
    """
    folder = pathlib.Path(folder)
    if not has_wildcards(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        link = pathlib.Path(temporary) / "link"
        link.symlink_to(folder.absolute(), target_is_directory=True)
        yield link


def has_wildcards(path: Path) -> bool:
    """Checks whether TensorFlow takes a path for a pattern."""
    return os.name == "posix" and bool(set("*?[\\") & set(str(path)))


def json_object(text: str | bytes) -> dict[str, Any]:
    """Parses a JSON object.

    Raises:
        ValueError: if it is something else, in whatever way.
    """
    try:
        value = json.loads(text)
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8") from error
    except ValueError as error:
        raise ValueError(f"it is not JSON ({error})") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


def is_number(value: Any) -> bool:
    """Checks that a JSON value is a finite number, and no larger than a float can be.

    >>> [is_number(value) for value in (1, 0.5, True, "1", math.nan, 10**400)]
    [True, True, False, False, False, False]
    """
    try:
        return not isinstance(value, bool) and math.isfinite(value)
    except (TypeError, OverflowError):
        return False
