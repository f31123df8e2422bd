"""What is measured: a backbone and labeled images, by the flags that the measuring scripts share.

`--backbone=RUN` takes the backbone of a run of `trainers.pretrain`, and its data and image size
where no others are given.
"""

import dataclasses
import hashlib
import pathlib

from absl import flags

FLAGS = flags.FLAGS

flags.DEFINE_string(
    "backbone", None, "What to measure: the folder of a run of trainers.pretrain, or a .keras file."
)
flags.DEFINE_string(
    "data",
    None,
    "Labeled images: digits, idx:DIR, folder:DIR or tfds:NAME[:SPLIT]. Default: the run's.",
)
flags.DEFINE_string("data_dir", None, "Where the data sets of tfds lie.")
flags.DEFINE_integer(
    "image_size", None, "Side of the images in pixels. Default: the run's.", lower_bound=1
)
flags.DEFINE_integer(
    "resize",
    None,
    "Shorter side of an image before the center is cut out. Default: 256/224 of image_size; "
    "image_size where all images are alike and no larger.",
    lower_bound=1,
)
flags.DEFINE_integer("seed", 0, "Of everything that is drawn.", 0, 2**31 - 1)
flags.DEFINE_string(
    "cache_dir", None, "Where features are kept. Default: features/ beside the backbone."
)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A backbone, and labeled images to measure it with.

    Attributes:
        backbone: `keras.Model`, (b, h, w, 3) → (b, features).
        file: path of its .keras file.
        folder: where results go unless the user says otherwise: the run's, or the file's.
        data: what the user calls the images.
        train: labeled `keras_bt.data.Source`, to fit on.
        test: labeled `keras_bt.data.Source`, to measure on.
        where: what is measured on, in words.
        image_size: int, pixels.
        resize: int or None, see `keras_bt.data.evaluation_batches`.
        cache: folder of the features.
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
        """What is measured, for the terminal."""
        return (
            f"Backbone: {self.file}, {self.backbone.output_shape[-1]:,} features\n"
            f"Data: {self.data}, {self.train.num_examples:,} images to fit on; measured on "
            f"{self.where}"
        )

    @property
    def digest(self):
        """SHA-256 of the backbone's file, to tell one from another wherever they lie."""
        return hashlib.sha256(self.file.read_bytes()).hexdigest()

    def features(self, source, name, batch_size=256):
        """Features and labels of `train` or `test`, from the cache or else extracted into it.

        Args:
            source: one of the two.
            name: string, what to call its images above the progress bar.
            batch_size: int.

        Returns:
            See `keras_bt.evaluation.feature_cache.cached_features`.
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
    """Opens what the flags name.

    Returns:
        A `Subject`.

    Raises:
        ValueError, OSError: the backbone is none, the images cannot be opened, have no labels or
            one class only, or a setting is missing.
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
        raise ValueError(f"Labeled images of two classes or more are needed. Received: {spec}.")
    labels = halves[0].labels()
    if labels.ndim == 1 and len(np.unique(labels)) < 2:
        raise ValueError(
            "Images of two classes or more are needed. "
            f"Received: {spec}, which has images of one class only."
        )
    cache = pathlib.Path(FLAGS.cache_dir) if FLAGS.cache_dir else file.parent / "features"
    return Subject(backbone, file, file.parent, spec, *halves, image_size, FLAGS.resize, cache)
