"""Callbacks that measure the representation while it is being trained."""

from keras_bt.callbacks.diagnostics import Diagnostics
from keras_bt.callbacks.labelled_subset import LabelledSubset
from keras_bt.callbacks.online_knn import OnlineKNN
from keras_bt.callbacks.online_linear import OnlineLinear
from keras_bt.callbacks.pictures import Pictures
from trainers.runs.labelled import labelled_halves

PICTURES = 3  # of each kind over a run


def monitors(job):
    """Returns the monitoring callbacks for `job.fit`; training is unaffected by all of them.

    Raises:
        ValueError: if too many images cannot be read.
    """
    every = job.settings.monitor_every
    if every == 0 or not job.leads:
        return []
    diagnostics = Diagnostics(job.first_views, every)
    subset = labelled_subset(job)
    online = [] if subset is None else [OnlineKNN(subset, every), OnlineLinear(subset, every)]
    between = every * max(1, round(job.settings.epochs / PICTURES / every))
    pictures = Pictures(
        diagnostics,
        job.run.tensorboard,
        every=between,
        subset=subset,
        class_names=job.train.class_names,
    )
    return [diagnostics, *online, pictures]


def labelled_subset(job):
    """Draws labeled images from the run's sources; None if they cannot give an accuracy."""
    train, test, max_images = job.train, job.test, job.settings.monitor_images
    if max_images == 0 or train.class_names is None or len(train.class_names) < 2:
        return None
    if train.multilabel or (test is None and not train.random_access):
        return None  # holding out part of the records would take reading all of them
    train, test, _ = labelled_halves(train, test, job.settings.seed)
    if train is None:
        return None
    return LabelledSubset.of(
        train,
        test,
        job.settings.image_size,
        max_train=max_images,
        max_test=max(1, max_images * 2 // 5),
        seed=job.settings.seed,
        mean=job.mean,
        std=job.std,
    )
