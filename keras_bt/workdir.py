"""The folder of a run: its settings, which must not change, and files written whole."""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import socket
import types
from collections.abc import Iterator
from typing import Any, TypeAlias

import keras

from keras_bt.errors import check_writable, first_line
from keras_bt.files import whole
from keras_bt.typing import Path

fcntl: types.ModuleType | None
try:
    import fcntl
except ImportError:  # on Windows it is up to the user to keep two processes out of one workdir
    fcntl = None

Images: TypeAlias = dict[str, dict[str, Any]]

PACKAGES = ("keras_bt", "keras", "tensorflow", "tensorflow-datasets", "keras-cv", "numpy")


class Workdir:
    """The folder that a run writes to.

    >>> workdir = Workdir("runs/small")
    >>> with workdir.claimed({"epochs": 3}):  # a second process is refused here
    ...     write_json(workdir.summary, {"loss": 1.5})
    >>> workdir.read_settings()
    {'epochs': 3}

    Args:
        path: the folder; nothing is created before `claimed`.
    """

    def __init__(self, path: Path):
        self.path = pathlib.Path(path)
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.plots = self.path / "plots"
        self.backbone = self.path / "backbone.keras"
        self.saved_model = self.path / "saved_model"
        self.summary = self.path / "summary.json"
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
            # What another worker, or a killed process, leaves behind.
            ours = {self._lock.name, f"{self.config.stem}.partial{self.config.suffix}"}
            if self.path.exists() and any(p.name not in ours for p in self.path.iterdir()):
                raise ValueError(
                    "workdir must be new, empty, or hold a run. "
                    f"Received: {self.path}, which holds other files."
                )
            return
        earlier = self.read_settings()
        for name in sorted(earlier.keys() & settings.keys()):
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

    def read_settings(self) -> dict[str, Any]:
        """Returns the settings that `claimed` recorded.

        Raises:
            OSError: if the folder holds no run.
            ValueError: if the file holds something else.
        """
        try:
            return dict(self._read_config()["settings"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.config} must hold a run's settings. {error!r}") from error

    def read_images(self) -> Images:
        """Returns the images that `claimed` recorded, see `check`; empty if it recorded none.

        Raises:
            OSError: if the folder holds no run.
            ValueError: if the file holds something else.
        """
        try:
            recorded = self._read_config().get("images", {})
            return {
                name: {"images": int(one["images"]), "fingerprint": str(one["fingerprint"])}
                for name, one in recorded.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.config} must describe a run's images. {error!r}") from error

    def _read_config(self):
        return json.loads(self.config.read_text(encoding="utf-8"))

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
                write_json(self.config, recorded)
            self.plots.mkdir(exist_ok=True)
            yield


def versions() -> dict[str, str]:
    """Returns the versions of Python, of this package and of the libraries that it uses."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # imported from a folder, not installed
            found[name] = "unknown"
    return found


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    with whole(path) as partial:
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        partial.write_text(text, encoding="utf-8")


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
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises nearly anything for a file that is not one
        raise ValueError(
            f"{name} must be a Keras model. Received: {path} ({first_line(error)})"
        ) from error
