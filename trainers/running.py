"""What the scripts that train have in common: how a run begins, and what accompanies it."""

import keras
import numpy as np
import tensorflow as tf

from keras_bt import augmentations, data
from keras_bt.callbacks.metrics_log import MetricsLog
from keras_bt.checkpoint import RunCheckpoint
from keras_bt.interruption import Interruption


def is_finished(run):
    """Whether a workdir holds a finished run; if so, says it."""
    if not run.summary.exists():
        return False
    print(f"{run.path} holds a finished run; nothing is left to do. See {run.summary}.")
    print("For another run choose another --workdir.")
    return True


def make_deterministic(wanted, strategy):
    """Makes operations deterministic, in this process for good.

    Args:
        wanted: bool, or None for whether that is free: on CPUs.
        strategy: name of the strategy.
    """
    on_cpu = not tf.config.list_physical_devices("GPU") and strategy != "tpu"
    if on_cpu if wanted is None else wanted:
        tf.config.experimental.enable_op_determinism()


def training_view(image_size, min_area, flip):
    """The view that classifiers are trained on: a random crop, resized bilinearly, and a flip.

    Args:
        image_size: int, side of the view in pixels.
        min_area: float, the least part of the image that a crop takes.
        flip: float, probability of mirroring left to right.
    """
    return augmentations.View(
        [
            augmentations.RandomResizedCrop(
                image_size, area=(min_area, 1.0), interpolation="bilinear"
            ),
            augmentations.RandomFlip(flip),
            augmentations.Normalize(data.IMAGENET_MEAN, data.IMAGENET_STD),
        ]
    )


def callbacks(run, checkpoint, log_every, first_step, batch_size, advice, monitors=(), writes=True):
    """The callbacks of a run.

    Args:
        run: `keras_bt.workdir.Workdir`.
        checkpoint: `keras_bt.checkpoint.RunCheckpoint`.
        log_every: int, steps between lines of metrics.jsonl.
        first_step: int, steps that are done.
        batch_size: int, images per step.
        advice: string, the probable causes of a loss that is no number.
        monitors: callbacks that put something into the logs for the others to write.
        writes: whether this process writes; of several workers one does.

    Returns:
        List of Keras callbacks.
    """
    stop = StopOnNonFinite(advice, run.checkpoints)
    if not writes:
        return [stop, checkpoint]
    return [
        *monitors,
        MetricsLog(run.metrics, log_every, initial_step=first_step, batch_size=batch_size),
        stop,
        keras.callbacks.TensorBoard(run.tensorboard, write_graph=False),
        checkpoint,
    ]


class ClassifierRun:
    """What runs that train a classifier share; theirs are the settings, the model and `fit`."""

    def batches(self, first_epoch):
        """The run's training batches from an epoch on."""
        s = self.settings
        view = training_view(s["image_size"], s["min_area"], s["flip"])
        return data.labelled_views(self.train, view, self.batch_size, s["seed"], first_epoch)

    def restore(self):
        """Takes up the newest checkpoint and returns the number of finished epochs."""
        self.interruption = Interruption()
        with self.strategy.scope():
            self.checkpoint = RunCheckpoint(
                self.run.checkpoints,
                self.model,
                self.steps_per_epoch,
                interruption=self.interruption,
            )
        return self.checkpoint.restore() // self.steps_per_epoch


class StopOnNonFinite(keras.callbacks.Callback):
    """Ends training with an explanation when the loss is NaN or infinite.

    Args:
        advice: string, the probable causes.
        checkpoints: folder of the checkpoints.
    """

    def __init__(self, advice, checkpoints):
        super().__init__()
        self._advice, self._checkpoints = advice, checkpoints

    def on_train_batch_end(self, batch, logs=None):
        """Raises ValueError for a loss that is no number."""
        loss = float(np.asarray(logs["loss"]))
        if not np.isfinite(loss):
            raise ValueError(
                f"The loss became {loss}. {self._advice} The last good checkpoint is kept in "
                f"{self._checkpoints}."
            )
