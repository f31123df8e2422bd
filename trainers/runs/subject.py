"""The backbone and the labeled images that a command measures.

`--backbone=RUN` takes the backbone of a `trainers.pretrain` run, along with its data and image size
unless others are given.
"""

import dataclasses
import hashlib
import pathlib
import re

import numpy as np

from keras_bt.data import normalization, paired_parts
from keras_bt.evaluation.feature_cache import cached_features, cached_named_features
from trainers.runs import backbones, opening
from trainers.runs.labelled import labelled_halves
from trainers.runs.settings import check_resize


@dataclasses.dataclass(frozen=True)
class Subject:
    """A backbone, and labeled images to measure it with.

    Attributes:
        backbone: `keras.Model`, (b, h, w, c) → (b, features).
        file: its .keras file; None for a network that is yet to be trained.
        folder: folder of the run or of the file, where results go by default.
        data: specification of the images, as in `--data`.
        train: labeled `keras_bt.data.Source` to fit on.
        test: labeled `keras_bt.data.Source` to measure on.
        where: description of the images that are measured on.
        image_size: side in pixels, or (height, width).
        resize: see `keras_bt.data.evaluation_batches`, whose default None is.
        cache: folder that caches features.
        reading: dict, how the images are read, see `trainers.runs.opening.reading`.
        of_run: dict, what data, sizes and reading are by default; empty outside a run.
        views: dict, the run's `min_area` and `flip`; empty outside a run.
    """

    backbone: object
    file: pathlib.Path
    folder: pathlib.Path
    data: str
    train: object
    test: object
    where: str
    image_size: int | tuple
    resize: int | None
    cache: pathlib.Path
    reading: dict
    of_run: dict
    views: dict

    def __str__(self):
        """Describes backbone and data for the terminal."""
        return (
            f"Backbone: {self.file}, {self.backbone.output_shape[-1]:,} features\n"
            f"Data: {self.data}, {self.train.num_examples:,} images to fit on; measured on "
            f"{self.where}\n{opening.remarks(self.train, self.test)}".rstrip("\n")
        )

    @property
    def normalization(self):
        """The mean and the standard deviation of each channel that the backbone is given."""
        return normalization(self.reading["normalize"], self.train.channels)

    def identity(self):
        """Returns what it adds to a run's identity; the file's SHA-256, wherever the file is."""
        return {
            "backbone_sha256": self.file and sha256(self.file),
            **_preparation(self.data, self.image_size, self.resize, self.reading),
        }

    def differences(self):
        """Returns what of data and preprocessing is not as in the backbone's run, if it has one."""
        ours = _preparation(self.data, self.image_size, self.resize, self.reading)
        return {name: ours[name] for name, of_run in self.of_run.items() if ours[name] != of_run}

    def features(self, source, name, batch_size=256):
        """Reads the features and labels of a source from the cache, or extracts them into it.

        The line above the progress bar names the kind of images, "training", say.
        """
        return self._kept(cached_features, source, name, batch_size)

    def named_features(self, source, name, batch_size=256):
        """Does the same, and returns the images' names as well, a list of strings."""
        return self._kept(cached_named_features, source, name, batch_size)

    def _kept(self, cached, source, name, batch_size):
        found = cached(
            self.cache,
            self.backbone,
            source,
            self.image_size,
            self.resize,
            batch_size,
            f"Features of the {name} images, kept in {self.cache}:",
            *self.normalization,
        )
        if left_out := source.num_examples - len(found[0]):
            print(
                f"{left_out:,} of the {source.num_examples:,} {name} images could not be read: "
                "left out."
            )
        return found


def opened(settings):
    """Opens the backbone and all images that settings, `BackboneSettings`, name, labeled or not.

    Returns:
        A `Subject` without a description of what is measured on; `test` may be None.

    Raises:
        ValueError, OSError: if the backbone or the images cannot be opened, or a setting is
            missing.
    """
    file, run = backbones.find(settings.backbone)
    of_run = run
    spec = settings.data or of_run.get("data")
    if spec != of_run.get("data"):  # other images, with features of their own
        of_run = of_run | {"image_feature": None, "label_feature": None}
    image_size = settings.image_size or of_run.get("image_size")
    for name, value in {"data": spec, "image_size": image_size}.items():
        if not value:
            raise ValueError(f"--{name} is needed, as {file} does not belong to a run.")
    check_resize(settings.resize or of_run.get("resize"), image_size)
    train, test = opening.open_data(spec, settings, of_run)
    reading = opening.reading(settings, of_run)
    backbone = backbones.load(file, image_size, train.channels, reading["normalize"])
    cache = pathlib.Path(settings.cache_dir) if settings.cache_dir else file.parent / "features"
    resize = settings.resize or of_run.get("resize")
    own = {}
    if run:
        sizes = of_run.get("image_size"), of_run.get("resize")
        own = _preparation(run.get("data"), *sizes, opening.reading(None, of_run))
    views = {name: run[name] for name in ("min_area", "flip") if name in run}
    return Subject(
        backbone,
        file,
        file.parent,
        spec,
        train,
        test,
        "",
        image_size,
        resize,
        cache,
        reading,
        own,
        views,
    )


def read(settings, halves=labelled_halves):
    """Opens the backbone and the images that settings, `SubjectSettings`, name.

    Args:
        settings: the settings.
        halves: function of training source, test source and seed → what to fit on, what to measure
            on, and a description of the latter, such as `trainers.runs.labelled.labelled_halves`.

    Raises:
        ValueError, OSError: if the backbone or the images cannot be opened, the images have no
            labels or a single class, or a setting is missing.
    """
    what = opened(settings)
    train, test, where = halves(what.train, what.test, settings.seed)
    if train is None:
        raise ValueError(f"Labeled images of two classes or more are needed. Received: {what.data}")
    labels = None if train.class_names is None else train.labels()
    if labels is not None and labels.ndim == 1 and len(np.unique(labels)) < 2:
        raise ValueError(
            "Images of two classes or more are needed. "
            f"Received: {what.data}, whose images are all of one class."
        )
    return dataclasses.replace(what, train=train, test=test, where=where)


def read_pairs(settings):
    """Opens the backbone and the pairs of images that settings name.

    They are `SubjectSettings` and `PairSettings`.

    Returns:
        The `Subject`, to be trained on and measured on these parts; and the parts, see
        `keras_bt.data.paired_parts`.

    Raises:
        ValueError, OSError: as `read`, or if the images cannot be divided.
    """
    what = read(settings, lambda train, test, seed: (train, test, ""))
    parts = divided(settings, what.train, what.test)
    of_parts = {"train": parts.train.source, "test": parts.test.source, "where": parts.where}
    return dataclasses.replace(what, **of_parts), parts


def of_the_run(settings):
    """Returns settings with the classes and the seed of a run of `trainers.siamese`.

    They are `SubjectSettings` and `PairSettings`. Held-out training images of the run's data are
    of the same classes; of other data, the classes must be named.

    Raises:
        ValueError: if others are given, or none are named, as the run was trained on some of them.
    """
    _, run = backbones.find(settings.backbone)
    if "unseen" not in run:
        return settings
    spec = settings.data or run["data"]
    if _without_heldout(spec) != _without_heldout(run["data"]):
        counted = settings.unseen is None or settings.unseen.isdecimal()
        if counted and not spec.startswith("pairs:"):
            own = run["unseen"] or "a third of the classes"
            raise ValueError(
                f"--unseen must name classes if --data is not {run['data']}, of which the run was "
                f"trained on all but unseen={own}, drawn by seed={run['seed']}. Received: "
                f"--data={spec} and --unseen={settings.unseen}."
            )
        return settings
    defaults = type(settings)()
    for name in ("unseen", "seed"):
        if getattr(settings, name) not in (getattr(defaults, name), run[name]):
            raise ValueError(
                f"--{name} must be as in the run, which was trained on all other classes: "
                f"{name}={run[name]}. Received: --{name}={getattr(settings, name)}."
            )
    return dataclasses.replace(settings, unseen=run["unseen"], seed=run["seed"])


def _without_heldout(spec):
    return re.sub(r"^(heldout:(\d+:)?)+", "", spec)


def divided(settings, train, test):
    """Divides sources as `PairSettings` with a seed say, see `keras_bt.data.paired_parts`."""
    s = settings
    return paired_parts(train, test, s.unseen, s.labels, s.seed, s.pairs)


def sha256(path):
    """Returns the SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def _preparation(data, image_size, resize, reading):
    """Returns data and preprocessing as JSON values by name."""
    size = list(image_size) if isinstance(image_size, tuple) else image_size
    return {"data": data, "image_size": size, "resize": resize, **reading}
