"""The folder of a run: its settings, which must not change, and files that are written whole."""

import importlib.metadata
import json
import os
import pathlib
import platform

from keras_bt.whole_files import whole

PACKAGES = ("keras_bt", "keras", "tensorflow", "tensorflow-datasets", "keras-cv", "numpy")


class Workdir:
    """The folder that a run writes to.

    Args:
        path: the folder; nothing is made before `claim`.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.plots = self.path / "plots"
        self.backbone = self.path / "backbone.keras"
        self.saved_model = self.path / "saved_model"
        self.summary = self.path / "summary.json"

    def check(self, settings):
        """Checks, before anything is written, that a run with these settings may use the folder.

        Args:
            settings: dict of JSON values, everything that determines the run.

        Raises:
            ValueError: if the folder holds a run of other settings (the first is named), other
                files, or cannot be written to.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"workdir must be a folder. Received a file: {self.path}")
        parent = next(p for p in (self.path, *self.path.absolute().parents) if p.exists())
        if not os.access(parent, os.W_OK):
            raise ValueError(f"workdir must be writable. Received: {self.path}")
        if not self.config.exists():
            if self.path.exists() and any(self.path.iterdir()):
                raise ValueError(
                    "workdir must be new, empty, or hold a run. "
                    f"Received: {self.path}, which holds other files."
                )
            return
        earlier = self.read_settings()
        for name in sorted(earlier.keys() | settings.keys()):
            if earlier.get(name) != settings.get(name):
                raise ValueError(
                    f"{self.path} holds a run with {name}={earlier.get(name)}. Received: "
                    f"{name}={settings.get(name)}. Continue with the settings in {self.config}, "
                    "or choose another --workdir."
                )

    def read_settings(self):
        """The settings that `claim` recorded, a dict.

        Raises:
            OSError: if the folder holds no run.
            ValueError: if the file holds something else.
        """
        try:
            return dict(json.loads(self.config.read_text(encoding="utf-8"))["settings"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.config} must hold a run's settings. {error!r}") from error

    def claim(self, settings):
        """Makes the folder and records the settings and versions in `config.json`."""
        self.check(settings)
        self.plots.mkdir(parents=True, exist_ok=True)
        if not self.config.exists():
            write_json(
                self.config,
                {
                    "settings": settings,
                    "versions": versions(),
                },
            )


def versions():
    """Versions of Python, of this package and of what it computes with, as a dict of strings."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # used from a folder, not installed
            found[name] = "unknown"
    return found


def write_json(path, value):
    """Writes a JSON file whole or not at all."""
    with whole(path) as partial:
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        partial.write_text(text, encoding="utf-8")


def save_model(model, path):
    """Saves a Keras model as a `.keras` file, whole or not at all."""
    with whole(path) as partial:
        model.save(partial)
