"""Parts that all training runs share: how a run begins, and the callbacks that accompany it."""

import contextlib
import os

import keras
import numpy as np
import tensorflow as tf

from keras_bt.callbacks.metrics_log import MetricsLog
from keras_bt.checkpoint import checkpoints
from keras_bt.messages import say
from keras_bt.strategy import on_accelerator, resolved_name
from keras_bt.strategy.processors import is_x86


def is_finished(run, settings, open_images):
    """Checks whether a workdir holds a finished run, and says so if it does.

    Args:
        run: `keras_bt.workdir.Workdir`, whose settings have been checked.
        settings: see `Workdir.check`.
        open_images: function that opens the data, without decoding it, and returns the images that
            the run must have, see `images`.

    Raises:
        ValueError: if the run had other images, or its summary is damaged.
    """
    if not run.summary.exists():
        return False
    run.read_summary()
    note = ""
    try:
        found = open_images()
    except (ValueError, OSError) as error:
        note = f" Its data could not be opened: {error}"
    else:
        run.check(settings, found)
    print(f"{run.path} holds a finished run; there is nothing left to do. See {run.summary}.{note}")
    print("For another run, choose another --workdir.")
    return True


def images(**sources):
    """Returns what identifies the images of a run, as JSON values by name: see `Workdir.check`."""
    return {
        name: {"images": source.num_examples, "fingerprint": source.identity()}
        for name, source in sources.items()
    }


def note_unrecorded_images(run):
    """Says so if a run that goes on did not record its images."""
    if run.config.exists() and not run.read_images():
        print(
            f"{run.config} is of an earlier version, which did not record the images: whether they "
            "are the same is not known."
        )


@contextlib.contextmanager
def interruptions_explained(run):
    """Says what is kept of a run if Ctrl-C stops it while it does not train, or at once."""
    try:
        yield
    except KeyboardInterrupt as error:
        kept = checkpoints(run.checkpoints)
        holds = f"holds step {int(kept[0].name):,}" if kept else "holds no checkpoint yet"
        raise KeyboardInterrupt(
            f"Stopped by SIGINT; {run.checkpoints} {holds}. "
            "To continue, run the same command again."
        ) from error


def make_deterministic(wanted, strategy):
    """Makes operations deterministic for the rest of this process.

    Args:
        wanted: bool, or None for only where it is free: on CPUs.
        strategy: string, name of the strategy.
    """
    if keras.backend.backend() == "jax" and wanted:  # XLA on CPUs is deterministic as it is
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()
    # On JAX, what TensorFlow computes is the views. Nothing may ask JAX for its devices yet.
    tpu = keras.backend.backend() == "tensorflow" and resolved_name(strategy) == "tpu"
    on_cpu = not tf.config.list_physical_devices("GPU") and not tpu
    if on_cpu if wanted is None else wanted:
        tf.config.experimental.enable_op_determinism()
        # AddN starts with whichever input nothing else holds at that moment, so the last bits of a
        # sum of three or more depend on what happened to run before. The arithmetic optimizer
        # creates such sums, of a momentum and the gradients of a variable's two uses.
        tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})


def advice_on_speed(width):
    """Returns what would make training of a ResNet faster on this CPU, a line, or None.

    On x86 without AVX-512 or AVX-VNNI, TensorFlow leaves oneDNN, its library for CPUs, off. With it
    one such CPU trains 1.8 times as fast (docs/benchmarks.md). Not advised for narrow networks: of
    one of width 4 it crashed.
    """
    chosen = keras.backend.backend() != "tensorflow" or "TF_ENABLE_ONEDNN_OPTS" in os.environ
    if width < 16 or chosen or not is_x86() or on_accelerator():
        return None
    from tensorflow.python.util import _pywrap_util_port  # nothing public tells

    if _pywrap_util_port.IsMklEnabled():
        return None
    return "With TF_ENABLE_ONEDNN_OPTS=1 in the environment, this CPU may be nearly twice as fast"


def callbacks(
    run,
    checkpoint,
    log_every,
    first_step,
    batch_size,
    guards,
    progress,
    monitors=(),
):
    """Returns the callbacks of a run; without `progress`, of a worker that writes nothing.

    The other callbacks write what the monitors put into `logs`. The guards, which end a run gone
    wrong, precede the checkpoint, so that no bad state is saved.
    """
    if progress is None:
        return [*guards, checkpoint]
    return [
        *monitors,
        MetricsLog(run.metrics, log_every, initial_step=first_step, batch_size=batch_size),
        *guards,
        CurvesOfEpochs(run.tensorboard, write_graph=False),
        progress,
        checkpoint,
    ]


class CurvesOfEpochs(keras.callbacks.TensorBoard):
    """TensorBoard's curves of epochs, without what Keras prepares for every step and then drops.

    A step of a small network takes a few milliseconds, of which that would be one.
    """

    def on_train_batch_end(self, batch, logs=None):
        """Does nothing."""


def pretraining_guards(job, causes):
    """Returns the callbacks that end a pretraining run gone wrong, for these probable causes."""
    folder = job.run.checkpoints
    float16 = job.settings.precision == "float16"
    guards = []
    if job.settings.on_nonfinite == "stop":
        remedy = "The same command with --on_nonfinite=skip continues and skips such steps."
        guards = [StopOnNonFinite(f"{causes} {remedy}", folder)]
    if job.settings.on_nonfinite == "skip" or float16:
        # In float16 a skipped step halves the loss scale, which starts at 2^15 and doubles every
        # 2000 steps: some steps are always skipped, but never 40 in a row.
        normal = 20 + job.steps_per_epoch // 1000 if float16 else 0
        in_a_row = max(job.steps_per_epoch, 40 if float16 else 1)
        guards.append(NoteSkippedSteps(causes, folder, in_a_row, normal, speaks=job.leads))
    return guards


class StopOnNonFinite(keras.callbacks.Callback):
    """Ends training with an explanation when the logged loss is not finite.

    `advice` says what probably caused it and what to do; `checkpoints` is their folder.
    """

    def __init__(self, advice, checkpoints):
        super().__init__()
        self._advice, self._checkpoints = advice, checkpoints

    def on_train_batch_end(self, batch, logs=None):
        """Raises ValueError if the loss is not finite."""
        loss = _number(logs["loss"])
        if not np.isfinite(loss):
            raise ValueError(
                f"The loss or its gradient became {loss}. {self._advice} "
                f"{_what_is_kept(self._checkpoints)}"
            )


class NoteSkippedSteps(keras.callbacks.Callback):
    """Reports the skipped steps of each epoch, and ends a run that skips too many in a row.

    For models that skip steps and count them in the metric `skipped_steps`.

    Args (the first two are those of `StopOnNonFinite`):
        in_a_row: int, number of consecutive skipped steps that ends the run.
        normal: int, number of skipped steps per epoch not worth reporting.
        speaks: bool, whether this process prints; only one of several workers does.
    """

    def __init__(self, advice, checkpoints, in_a_row, normal=0, speaks=True):
        super().__init__()
        self._advice, self._checkpoints = advice, checkpoints
        self._most_in_a_row, self._normal, self._speaks = in_a_row, normal, speaks
        self._in_a_row = 0  # across epochs: the row may have begun at the end of the last

    def on_epoch_begin(self, epoch, logs=None):
        """Restarts the count, as the metric does."""
        self._steps = self._skipped = 0

    def on_train_batch_end(self, batch, logs=None):
        """Counts the skipped steps; raises ValueError if too many in a row were skipped."""
        steps, skipped = batch + 1, round(_number(logs["skipped_steps"]))
        newly = skipped - self._skipped
        self._in_a_row = self._in_a_row + newly if newly == steps - self._steps else 0
        self._steps, self._skipped = steps, skipped
        if self._in_a_row >= self._most_in_a_row:
            raise ValueError(
                f"The last {self._in_a_row:,} steps were all skipped because their loss or "
                f"gradient was not finite: nothing is being learned. {self._advice} "
                f"{_what_is_kept(self._checkpoints)}"
            )

    def on_epoch_end(self, epoch, logs=None):
        """Prints a line if steps were skipped."""
        if self._skipped > self._normal and self._speaks:
            say(
                f"\nWarning: {self._skipped:,} of the {self._steps:,} steps of epoch {epoch + 1} "
                f"were skipped because their loss or gradient was not finite. A few do no harm, "
                f"many do. {self._advice}"
            )


def _number(entry):
    """Converts an entry of Keras' logs to a float; several workers log arrays of one element."""
    return float(np.asarray(entry).item())


def _what_is_kept(folder):
    kept = checkpoints(folder)
    return f"The last good checkpoint is kept: {kept[0]}." if kept else "No checkpoint exists yet."
