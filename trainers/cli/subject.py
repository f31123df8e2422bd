"""The backbone and labeled images to measure, from flags that the measuring commands share.

`--backbone=RUN` takes the backbone of a `trainers.pretrain` run, along with its data and image size
unless others are given.
"""

import dataclasses
import hashlib
import pathlib

from absl import flags

FLAGS = flags.FLAGS

flags.DEFINE_string(
    "backbone",
    None,
    "Pretrained backbone: the folder of a trainers.pretrain run, or a .keras file.",
)
flags.DEFINE_string(
    "data",
    None,
    "Labeled images: digits, idx:DIR, folder:DIR or tfds:NAME[:SPLIT]. Default: those of the "
    "backbone's run.",
)
flags.DEFINE_string("data_dir", None, "Folder where tfds keeps its data sets. Default: tfds's own.")
flags.DEFINE_integer(
    "image_size",
    None,
    "Side of the square images in pixels. Default: that of the backbone's run.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "resize",
    None,
    "Shorter side in pixels to which images are resized before the center crop. Default: 256/224 "
    "of --image_size, or --image_size if all images have the same size and are no larger.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "seed",
    0,
    "Seed for all random choices: held-out images, labels, weights, data order and crops.",
    0,
    2**31 - 1,
)
flags.DEFINE_string(
    "cache_dir", None, "Folder that caches features. Default: features/ beside the backbone."
)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A backbone, and labeled images to measure it with.

    Attributes:
        backbone: `keras.Model`, (b, h, w, 3) → (b, features).
        file: its .keras file.
        folder: folder of the run or of the file, where results go by default.
        data: specification of the images, as in `--data`.
        train: labeled `keras_bt.data.Source` to fit on.
        test: labeled `keras_bt.data.Source` to measure on.
        where: description of the images that are measured on.
        image_size: side in pixels.
        resize: shorter side in pixels before the center crop, or None for the default of
            `keras_bt.data.evaluation_batches`.
        cache: folder that caches features.
    """

    backbone: object
    file: pathlib.Path
    folder: pathlib.Path
    data: str
    train: object
    test: object
    where: str
    image_size: int
    resize: int | None
    cache: pathlib.Path

    def __str__(self):
        """Describes backbone and data for the terminal."""
        return (
            f"Backbone: {self.file}, {self.backbone.output_shape[-1]:,} features\n"
            f"Data: {self.data}, {self.train.num_examples:,} images to fit on; measured on "
            f"{self.where}"
        )

    @property
    def digest(self):
        """SHA-256 of the backbone's file, which identifies it wherever the file is."""
        return hashlib.sha256(self.file.read_bytes()).hexdigest()

    def features(self, source, name, batch_size=256):
        """Reads the features and labels of a source from the cache, or extracts them into it.

        Args:
            source: `train` or `test`.
            name: string, the kind of images that the line above the progress bar names.
            batch_size: int.

        Returns:
            Features and labels; see `keras_bt.evaluation.feature_cache.cached_features`.
        """
        from keras_bt.evaluation.feature_cache import cached_features

        return cached_features(
            self.cache,
            self.backbone,
            source,
            self.image_size,
            self.resize,
            batch_size,
            progress=f"Features of the {name} images, kept in {self.cache}:",
        )


def read():
    """Opens the backbone and the images that the flags name.

    Returns:
        A `Subject`.

    Raises:
        ValueError, OSError: if the backbone or the images cannot be opened, the images have no
            labels or a single class, or a flag is missing.
    """
    import numpy as np

    from keras_bt import data
    from trainers.runs import backbones
    from trainers.runs.labelled import labelled_halves

    file, settings = backbones.find(FLAGS.backbone)
    spec = FLAGS.data or settings.get("data")
    image_size = FLAGS.image_size or settings.get("image_size")
    for name, value in {"data": spec, "image_size": image_size}.items():
        if not value:
            raise ValueError(f"--{name} is needed, as {file} does not belong to a run.")
    backbone = backbones.load(file, image_size)
    train, test = data.open_source(spec, FLAGS.data_dir)
    halves = labelled_halves(train, test, FLAGS.seed)
    if halves[0] is None:
        raise ValueError(f"Labeled images of two classes or more are needed. Received: {spec}")
    labels = halves[0].labels()
    if labels.ndim == 1 and len(np.unique(labels)) < 2:
        raise ValueError(
            "Images of two classes or more are needed. "
            f"Received: {spec}, whose images are all of one class."
        )
    cache = pathlib.Path(FLAGS.cache_dir) if FLAGS.cache_dir else file.parent / "features"
    return Subject(backbone, file, file.parent, spec, *halves, image_size, FLAGS.resize, cache)
