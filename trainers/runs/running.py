"""What the scripts that train have in common: how a run begins, and what accompanies it."""

import keras
import numpy as np
import tensorflow as tf

from keras_bt import augmentations, data
from keras_bt.callbacks.metrics_log import MetricsLog
from keras_bt.checkpoint import Interruption, RunCheckpoint, checkpoints
from keras_bt.strategy import resolved_name


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
    tpu = resolved_name(strategy) == "tpu"
    on_cpu = not tf.config.list_physical_devices("GPU") and not tpu
    if on_cpu if wanted is None else wanted:
        tf.config.experimental.enable_op_determinism()
        # AddN begins with whichever of its inputs nothing else holds at that moment, so the last
        # bits of three or more addends depend on what happened to run before. The arithmetic
        # optimizer makes such sums: of a momentum and the gradients of a variable's two uses.
        tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})


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


def callbacks(
    run,
    checkpoint,
    log_every,
    first_step,
    batch_size,
    advice,
    monitors=(),
    writes=True,
    guards=None,
):
    """The callbacks of a run.

    Args:
        run: `keras_bt.workdir.Workdir`.
        checkpoint: `keras_bt.checkpoint.RunCheckpoint`.
        log_every: int, steps between lines of metrics.jsonl.
        first_step: int, steps that are done.
        batch_size: int, images per step.
        advice: string, the probable causes of a loss that is not finite.
        monitors: callbacks that watch the training; what they put into the logs the others write.
        writes: whether this process writes; of several workers one does.
        guards: callbacks that end a run which has gone wrong; default: `StopOnNonFinite`.

    Returns:
        List of Keras callbacks. The guards come before the checkpoint, which is to be good.
    """
    guards = [StopOnNonFinite(advice, run.checkpoints)] if guards is None else guards
    if not writes:
        return [*guards, checkpoint]
    return [
        *monitors,
        MetricsLog(run.metrics, log_every, initial_step=first_step, batch_size=batch_size),
        *guards,
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


def pretraining_guards(job, causes):
    """The callbacks that end a pretraining run which has gone wrong.

    Args:
        job: `trainers.runs.pretraining.Pretraining`.
        causes: string, the probable ones.

    Returns:
        List of Keras callbacks.
    """
    folder = job.run.checkpoints
    float16 = job.settings["precision"] == "float16"
    guards = []
    if job.on_nonfinite == "stop":
        remedy = "The same command with --on_nonfinite=skip goes on and leaves such steps out."
        guards = [StopOnNonFinite(f"{causes} {remedy}", folder)]
    if job.on_nonfinite == "skip" or float16:
        # In float16 a skipped step halves the scale of the loss, which begins at 2^15 and doubles
        # every 2000 steps: some are always skipped, 40 in a row never.
        normal = 20 + job.steps_per_epoch // 1000 if float16 else 0
        in_a_row = max(job.steps_per_epoch, 40 if float16 else 1)
        guards.append(NoteSkippedSteps(causes, folder, in_a_row, normal, speaks=job.leads))
    return guards


class StopOnNonFinite(keras.callbacks.Callback):
    """Ends training with an explanation when the loss, or what reports itself as one, is no number.

    Args:
        advice: string, the probable causes and what to do.
        checkpoints: folder of the checkpoints.
    """

    def __init__(self, advice, checkpoints):
        super().__init__()
        self._advice, self._checkpoints = advice, checkpoints

    def on_train_batch_end(self, batch, logs=None):
        """Raises ValueError for a loss that is not finite."""
        loss = _number(logs["loss"])
        if not np.isfinite(loss):
            raise ValueError(
                f"The loss or its gradient became {loss}. {self._advice} "
                f"{_what_is_kept(self._checkpoints)}"
            )


class NoteSkippedSteps(keras.callbacks.Callback):
    """Tells how many steps of an epoch were left out, and ends a run of which nothing is left.

    For models that skip steps and count them in the metric `skipped_steps`.

    Args:
        advice: string, the probable causes and what to do.
        checkpoints: folder of the checkpoints.
        in_a_row: int, so many skipped steps one after the other end the run.
        normal: int, skipped steps of an epoch that are not worth a word.
        speaks: whether this process prints; of several workers one does.
    """

    def __init__(self, advice, checkpoints, in_a_row, normal=0, speaks=True):
        super().__init__()
        self._advice, self._checkpoints = advice, checkpoints
        self._most_in_a_row, self._normal, self._speaks = in_a_row, normal, speaks
        self._in_a_row = 0  # also over the end of an epoch, which may have begun with its last step

    def on_epoch_begin(self, epoch, logs=None):
        """Begins to count anew, as the metric does."""
        self._steps = self._skipped = 0

    def on_train_batch_end(self, batch, logs=None):
        """Raises ValueError when too many steps in a row were skipped."""
        steps, skipped = batch + 1, round(_number(logs["skipped_steps"]))
        newly = skipped - self._skipped
        self._in_a_row = self._in_a_row + newly if newly == steps - self._steps else 0
        self._steps, self._skipped = steps, skipped
        if self._in_a_row >= self._most_in_a_row:
            raise ValueError(
                f"The last {self._in_a_row:,} steps were all skipped, for their loss or gradient "
                f"was not finite: nothing is learned any more. {self._advice} "
                f"{_what_is_kept(self._checkpoints)}"
            )

    def on_epoch_end(self, epoch, logs=None):
        """Prints a line if steps were skipped."""
        if self._skipped > self._normal and self._speaks:
            print(
                f"\nWarning: {self._skipped:,} of the {self._steps:,} steps of epoch {epoch + 1} "
                f"were skipped, for their loss or gradient was not finite. A few do no harm, many "
                f"do. {self._advice}",
                flush=True,
            )


def _number(entry):
    """An entry of Keras' logs as a float; several workers log arrays of one element."""
    return float(np.asarray(entry).item())


def _what_is_kept(folder):
    kept = checkpoints(folder)
    return f"The last good checkpoint is kept: {kept[0]}." if kept else "No checkpoint is kept yet."
