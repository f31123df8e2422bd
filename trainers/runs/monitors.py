"""What watches a pretraining run: callbacks that measure the representation as it is trained."""

from keras_bt.callbacks.diagnostics import Diagnostics
from keras_bt.callbacks.labelled_subset import LabelledSubset
from keras_bt.callbacks.online_knn import OnlineKNN
from keras_bt.callbacks.online_linear import OnlineLinear
from keras_bt.callbacks.pictures import Pictures
from keras_bt.data.tfds import RecordSource
from trainers.runs.labelled import labelled_halves

PICTURES = 3  # of each kind, over a run


def monitors(job, every, max_images):
    """The callbacks, for `job.fit`.

    Args:
        job: `trainers.runs.pretraining.Pretraining`.
        every: int, epochs between looks; 0 for no callbacks.
        max_images: int, labeled training images to measure accuracy with, 0 for none.

    Returns:
        List of Keras callbacks. None of them changes the training.

    Raises:
        ValueError: if too many images cannot be read.
    """
    if every == 0 or not job.leads:
        return []
    diagnostics = Diagnostics(job.first_views, every)
    subset = labelled_subset(job, max_images)
    online = [] if subset is None else [OnlineKNN(subset, every), OnlineLinear(subset, every)]
    between = every * max(1, round(job.settings["epochs"] / PICTURES / every))
    pictures = Pictures(
        diagnostics,
        job.run.tensorboard,
        every=between,
        subset=subset,
        class_names=job.train.class_names,
    )
    return [diagnostics, *online, pictures]


def labelled_subset(job, max_images):
    """Labeled images of the run's sources, or None where there are none to compare with."""
    train, test = job.train, job.test
    if max_images == 0 or train.class_names is None or len(train.class_names) < 2:
        return None
    if train.multilabel or (test is None and isinstance(train, RecordSource)):
        return None  # a part of records can only be held out by reading all of them
    train, test, _ = labelled_halves(train, test, job.settings["seed"])
    if train is None:
        return None
    return LabelledSubset.of(
        train,
        test,
        job.settings["image_size"],
        max_train=max_images,
        max_test=max(1, max_images * 2 // 5),
        seed=job.settings["seed"],
    )
