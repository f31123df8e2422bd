"""The folder of a run: its settings, which must not change, and files that show damage."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import socket
import types
import zipfile
from collections.abc import Iterator
from typing import Any, TypeAlias

import keras

from keras_bt.files import is_number, is_partial, json_object, whole
from keras_bt.messages import check_writable, first_line
from keras_bt.typing import Path

fcntl: types.ModuleType | None
try:
    import fcntl
except ImportError:  # on Windows it is up to the user to keep two processes out of one workdir
    fcntl = None

Images: TypeAlias = dict[str, dict[str, Any]]

_RESTORE = "Restore the file, or choose another --workdir."
_CHECKSUM = "sha256"  # the entry of a record that holds it
_CONFIG = "config_sha256"  # the entry of a summary that holds the checksum of config.json
# Figures by their names, wherever in a record they stand: from 0 to 1, any, and groups of them.
_SHARES = (
    *("knn", "knn_whitened", "probe", "few_labels", "few_labels_deviation", "accuracy"),
    *("top1", "top5", "best_top1", "best_top5", "top1_deviation", "top1_of_draws"),
    *("mean_average_precision", "mean_area", "average_precisions", "areas"),
)
_NUMBERS = ("loss", "excess", "floor", "images_per_second", "seconds", "seconds_of_last_call")
_OBJECTS = ("accuracies", "results", "last", "best")

PACKAGES = ("keras_bt", "keras", "tensorflow", "tensorflow-datasets", "keras-cv", "numpy")


class Workdir:
    """The folder that a run writes to.

    >>> workdir = Workdir("runs/small")
    >>> with workdir.claimed({"epochs": 3}):  # a second process is refused here
    ...     workdir.write_summary({"loss": 1.5})
    >>> workdir.read_settings()
    {'epochs': 3}

    Args:
        path: the folder; nothing is created before `claimed`.
        unrecorded: settings that a run of an earlier version may not have recorded, with what they
            were.
    """

    def __init__(self, path: Path, unrecorded: dict[str, Any] | None = None):
        self.path = pathlib.Path(path)
        self._unrecorded = unrecorded or {}
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.plots = self.path / "plots"
        self.backbone = self.path / "backbone.keras"
        self.saved_model = self.path / "saved_model"
        self.summary = self.path / "summary.json"
        self.report = self.path / "report.html"
        self._lock = self.path / "lock"

    def check(self, settings: dict[str, Any], images: Images | None = None) -> None:
        """Checks, before anything is written, that a run with these settings may use the folder.

        Args:
            settings: everything that determines the run, as JSON values.
            images: by what they are for, such as `training`, the number of `images` and their
                `fingerprint`. A run that did not record them may have any.

        Raises:
            ValueError: if the folder holds a run with other settings (the first is named), other
                images or other files, or cannot be written to.
        """
        check_writable("workdir", self.path, folder=True)
        if not self.config.exists():
            if self.path.exists() and not all(map(self._may_be_left, self.path.iterdir())):
                raise ValueError(
                    "workdir must be new, empty, or hold a run. "
                    f"Received: {self.path}, which holds other files."
                )
            return
        earlier = self._unrecorded | self.read_settings()
        # Values that are no flag's come last: another variant also has another objective.
        both = earlier.keys() & settings.keys()
        for name in sorted(both, key=lambda name: (isinstance(earlier[name], dict), name)):
            if earlier[name] != settings[name]:
                raise ValueError(
                    f"{self.path} holds a run with {name}={earlier[name]}. Received: "
                    f"{name}={settings[name]}. Continue with the settings in {self.config}, "
                    "or choose another --workdir."
                )
        for name in sorted(earlier.keys() ^ settings.keys()):
            known = "lacks" if name in settings else "has"
            raise ValueError(
                f"{self.path} holds a run of another command or version, which {known} the setting "
                f"{name}. Choose another --workdir."
            )
        recorded, images = self.read_images(), images or {}
        for name in sorted(recorded.keys() & images.keys()):
            had, has = recorded[name], images[name]
            if had != has:
                other = "" if had["images"] != has["images"] else "other "
                raise ValueError(
                    f"{self.path} holds a run with {had['images']:,} {name} images. Received: "
                    f"{has['images']:,} {other}images. Restore the former, or choose another "
                    "--workdir."
                )

    def _may_be_left(self, path):
        """Checks whether a file may be what another worker, or a killed process, leaves behind."""
        return path.name == self._lock.name or is_partial(path, of=self.config)

    def read_settings(self) -> dict[str, Any]:
        """Returns the settings that `claimed` recorded.

        Raises:
            OSError: if the folder holds no run.
            ValueError: if the file is damaged, or holds something else.
        """
        settings = self._read_config().get("settings")
        if not isinstance(settings, dict):
            raise ValueError(
                f"{self.config} must hold a run's settings. Received: {settings!r:.60}. {_RESTORE}"
            )
        return settings

    def read_images(self) -> Images:
        """Returns the images that `claimed` recorded, see `check`; empty if it recorded none.

        Raises:
            OSError: if the folder holds no run.
            ValueError: if the file is damaged, or holds something else.
        """
        recorded = self._read_config().get("images", {})
        if not isinstance(recorded, dict) or not all(map(_describes_images, recorded.values())):
            raise ValueError(
                f"{self.config} must describe a run's images. Received: {recorded!r:.60}. "
                f"{_RESTORE}"
            )
        return recorded

    def _read_config(self):
        config = read_record(self.config, _RESTORE)
        self._check_together()
        return config

    def _check_together(self):
        """Raises ValueError if a summary says that it is of another run than the settings."""
        ours, theirs = _entry(self.config, _CHECKSUM), _entry(self.summary, _CONFIG)
        if ours and theirs and ours != theirs:
            raise ValueError(
                f"{self.config} and {self.summary} must be of one run. Received: those of two. "
                "Restore the right one."
            )

    def write_summary(self, figures: dict[str, Any]) -> None:
        """Writes the final figures, which say that the run is finished, and which run it was."""
        write_record(self.summary, figures | {_CONFIG: _entry(self.config, _CHECKSUM)})

    def read_summary(self) -> dict[str, Any]:
        """Returns the final figures of a run: `summary.json`, written when it is finished.

        Raises:
            OSError: if there is none.
            ValueError: if it is damaged, or holds something else.
        """
        remedy = "Remove it, and the same command measures and writes it again."
        summary = read_record(self.summary, remedy)
        self._check_together()
        if "seconds_of_last_call" not in summary:
            raise ValueError(f"{self.summary} must hold a run's final figures. {remedy}")
        return summary

    @contextlib.contextmanager
    def claimed(self, settings: dict[str, Any], images: Images | None = None) -> Iterator[None]:
        """Creates the folder, records in `config.json` what determines the run, and locks it.

        The operating system releases the lock when the process ends, however it ends.

        Args:
            settings: see `check`.
            images: see `check`.

        Raises:
            ValueError: as `check`, or if another process has claimed the folder.
            OSError: if the folder cannot be written to.
        """
        self.check(settings, images)
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self._lock, "ab+", buffering=0) as lock:
            if fcntl is not None:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    lock.seek(0)
                    holder = lock.read().decode(errors="replace").strip() or "another process"
                    raise ValueError(
                        f"workdir must not be in use. Received: {self.path}, in which {holder} "
                        "trains."
                    ) from error
                except OSError as error:  # some network file systems have no locks
                    print(
                        f"{self.path} cannot be locked ({error}): let no other process train in it."
                    )
            try:
                lock.truncate(0)
                lock.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            except OSError as error:
                error.filename = str(self._lock)  # the error of a full disk does not name the file
                raise
            self.check(settings, images)  # another process may have been here before the lock
            if not self.config.exists():
                recorded = {"settings": settings, "images": images or {}, "versions": versions()}
                write_record(self.config, recorded)
            self.plots.mkdir(exist_ok=True)
            yield


def versions() -> dict[str, str]:
    """Returns the versions of Python, of this package and of the libraries that it uses."""
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *(["jax"] if keras.backend.backend() == "jax" else [])):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # imported from a folder, not installed
            found[name] = "unknown"
    return found


def _describes_images(value):
    return (
        isinstance(value, dict)
        and type(value.get("images")) is int
        and value["images"] > 0
        and isinstance(value.get("fingerprint"), str)
    )


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    with whole(path) as partial:
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        partial.write_text(text, encoding="utf-8")


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Writes a JSON object with a checksum, whole or not at all; see `read_record`."""
    record = json.loads(json.dumps(record))  # as it is read: keys are strings, tuples lists
    write_json(path, record | {_CHECKSUM: _checksum(record)})


def read_record(path: Path, remedy: str = "") -> dict[str, Any]:
    """Reads what `write_record` wrote, and checks it.

    Without a checksum, the file is of an earlier version or was changed by somebody who removed it:
    then numbers must be finite, and those that are known as accuracies lie between 0 and 1.

    >>> write_record("result.json", {"top1": 0.5})
    >>> read_record("result.json")
    {'top1': 0.5}

    Args:
        path: the file.
        remedy: what to do about a damaged file, for the error.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is damaged, or no JSON object.
    """
    try:
        record = json_object(pathlib.Path(path).read_bytes())
        if _CHECKSUM in record:
            if record.pop(_CHECKSUM) != _checksum(record):
                raise ValueError(
                    f'it is not what its checksum, "{_CHECKSUM}", was made of. Whoever changed '
                    "the file on purpose removes that entry"
                )
        else:
            *_, last = ["", *record]
            if last and record[last] == _checksum({n: record[n] for n in record if n != last}):
                raise ValueError(f'its checksum has the name "{last}"')
            _check_figures(record)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}. {remedy}".rstrip()) from error
    return record


def _entry(path, name):
    """Returns an entry of a JSON file, None if there is none or the file cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        return json_object(path.read_bytes()).get(name)
    return None


def _checksum(record):
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _check_figures(value, name=""):
    """Raises ValueError if a number is not finite, or a figure is not what its name says."""
    figure = name in _SHARES or name in _NUMBERS
    if isinstance(value, dict) and not figure:
        for key, one in value.items():
            if key != "settings":  # which have types and ranges of their own
                _check_figures(one, key)
    elif isinstance(value, list):
        for one in value:
            _check_figures(one, name)
    elif isinstance(value, float | int) and not isinstance(value, bool):
        if not is_number(value) or name in _OBJECTS or (name in _SHARES and not 0 <= value <= 1):
            raise ValueError(f'its "{name}" is {value!r:.60}')
    elif value is not None and (figure or name in _OBJECTS):
        raise ValueError(f'its "{name}" is {value!r:.60}')


def save_model(model: keras.Model, path: Path) -> None:
    """Saves a model as a `.keras` file, whole or not at all."""
    with whole(path) as partial:
        model.save(partial)


def load_model(name: str, path: Path) -> keras.Model:
    """Loads a `.keras` file.

    Args:
        name: what the user calls it.
        path: the file.

    Raises:
        ValueError: if it is not a Keras model.
    """
    try:
        # Keras would use weights whose checksum is wrong.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                if damaged := file.testzip():
                    raise ValueError(f"its part {damaged} is damaged")
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises nearly anything for a file that is not one
        raise ValueError(
            f"{name} must be a Keras model. Received: {path} ({first_line(error)})"
        ) from error
