"""A run's numbers as JSON lines, one object per logged step, and how to read them back."""

import contextlib
import json
import math
import os
import time

import keras
import numpy as np

from keras_bt.files import whole


class MetricsLog(keras.callbacks.Callback):
    """Appends the metrics of training to a JSON lines file.

    A line is written at the first step at or after each multiple of `every`, and at the end of an
    epoch for the steps since the last line. It holds

    - `step`: training steps done (one step takes one batch), also over earlier `fit` calls;
    - `epoch`: number of the epoch, from 1 as the progress bar shows it;
    - `time`: seconds since 1970 (UTC);
    - every single number in Keras' `logs`: `loss`, `on_diagonal`, `off_diagonal`, `excess`, ...;
    - `learning_rate`: as the optimizer reports it after the step, so under a schedule the rate of
      the step to come;
    - `images_per_second`: source images per second since the line before, if `batch_size` is given.

    A value that is not finite is written as null, for NaN is no JSON.

    **What the metrics are means of.** Keras' logs hold means over the epoch so far, which say
    little about the present once an epoch is long. A line holds the mean over the steps *since the
    line before it* (or since the epoch began): with m_j and m_k the epoch's means after j and k
    steps, (k m_k - j m_j)/(k - j). That is done for the `keras.metrics.Mean` metrics of the model
    and assumes that every step weighs the same, as it does with batches of one size; steps that a
    `keras_bt.BarlowTwins(on_nonfinite="skip")` leaves out are no part of a mean. Anything else
    is written as it stands in the logs, `skipped_steps` for one, which counts from the beginning of
    the epoch. The logs being float32, the difference is good to about
    k/(k - j) * 1e-7 of the mean.

    **What is measured at the end of an epoch**, validation results (`val_...`) and what callbacks
    earlier in the list have put into `logs`, stands on the line of the epoch's last step, or on a
    line of its own, without a `loss`, if that step has been written already.

    **Images per second.** `batch_size` source images per step (of all replicas together; each gives
    two views), divided by the time between the lines. What is not training does not count: the
    first execution of every `fit`, which compiles, and the time from the end of an epoch to the
    beginning of the next (validation, checkpoints). null while nothing has been measured. The
    latest value is also put into `logs` for the callbacks that follow. Keras appends its progress
    bar after the user's callbacks, hands all of them the same dict, and shows the latest value of
    each entry, so the bar shows it without further ado (a `ProgbarLogger` made by the user must
    come after this callback).

    **Waiting.** In Keras 3 with TensorFlow `CallbackList` reads every metric of every step before
    it calls the callbacks, so the host waits for each execution anyhow; this callback then reads
    the optimizer's step counter, which is ready. `steps_per_execution` makes the host wait less.

    **Resuming.** When training begins, lines of an existing file beyond the step that training
    starts from are removed, and so is a last line that was not written whole: the file of a resumed
    run reads like that of a run never interrupted, but for the first line after a resumption within
    an epoch, which is the mean over the steps since. A new run (step 0) empties it. An instance
    belongs to one model; with several workers give it to one of them.

    Args:
        path: File to append to; its folder is made if need be.
        every: Number of steps between lines.
        initial_step: Steps done before the first `fit`. By default the optimizer's `iterations`,
            which is right unless a loss-scaling optimizer has skipped updates.
        batch_size: Source images per step, for `images_per_second`; None leaves that out.

    Raises:
        ValueError: If `every`, `initial_step` or `batch_size` is out of range. When training
            begins: if the file at `path` is something else.
        OSError: While training, if a line cannot be written; nothing of it stays.
    """

    def __init__(self, path, every=10, initial_step=None, batch_size=None):
        super().__init__()
        for name, value, least in (
            ("every", every, 1),
            ("initial_step", initial_step, 0),
            ("batch_size", batch_size, 1),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}. Received: {name}={value}.")
        self.path = os.fspath(path)
        self.every = every
        self.batch_size = batch_size
        self._step = initial_step

    def on_train_begin(self, logs=None):
        """Takes up the file where training starts from."""
        if self._step is None:
            self._step = self._iterations()
        os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
        _remove_after(self.path, self._step)
        self._written_step = self._step
        self._images_per_second = math.nan
        self._clock = None  # started by the end of the first execution, which compiles

    def on_epoch_begin(self, epoch, logs=None):
        """Begins new means, as Keras does, and leaves out the time since the last epoch."""
        self._epoch = epoch + 1
        self._epoch_start = self._step
        self._epoch_start_iterations = self._iterations()
        self._mean_steps, self._mean_totals = 0, {}
        self._names_of_steps = set()
        if self._clock is not None:
            self._now = time.perf_counter()
            self._start_clock()

    def on_train_batch_end(self, batch, logs=None):
        """Writes a line if one is due and hands the speed on to the progress bar."""
        logs = {} if logs is None else logs
        steps_before = self._step
        self._step = self._epoch_start + self._steps_in_epoch(batch)
        self._now = time.perf_counter()  # the epoch's last line comes later, after validation
        if self._clock is None:
            self._start_clock()
        self._names_of_steps = set(logs)
        if self._step // self.every > steps_before // self.every:
            self._write_training(logs)
        if math.isfinite(self._images_per_second):
            logs["images_per_second"] = self._images_per_second

    def on_epoch_end(self, epoch, logs=None):
        """Writes what is left of the epoch, and what was measured at its end."""
        logs = {} if logs is None else logs
        steps = self._names_of_steps | {"learning_rate", "images_per_second"}
        training = {name: value for name, value in logs.items() if name in steps}
        measured = {name: value for name, value in logs.items() if name not in steps}
        if self._step > self._written_step:
            self._write_training(training, measured)
        elif _numbers(measured):
            self._write(measured)
        if self.batch_size is not None:
            # Even if not measured yet: entries of Keras' history should be equally long.
            logs["images_per_second"] = self._images_per_second

    def _iterations(self):
        return int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))

    def _steps_in_epoch(self, batch):
        if isinstance(self.model.optimizer, keras.optimizers.LossScaleOptimizer):
            return batch + 1  # `iterations` leaves out the steps with an overflow
        # The batch index would be too high after a last execution of fewer steps than
        # steps_per_execution: Keras counts it as a full one.
        return self._iterations() - self._epoch_start_iterations

    def _start_clock(self):
        self._clock, self._clock_step = self._now, self._step

    def _measure_speed(self):
        steps = self._step - self._clock_step
        if steps > 0 and self.batch_size is not None:
            self._images_per_second = steps * self.batch_size / (self._now - self._clock)
        self._start_clock()

    def _write_training(self, logs, measured=None):
        self._measure_speed()
        entries = self._interval_means(_numbers(logs))
        entries["learning_rate"] = self.model.optimizer.learning_rate
        if self.batch_size is not None:
            entries["images_per_second"] = self._images_per_second
        self._write({**entries, **(measured or {})})

    def _interval_means(self, logs):
        """Replaces means since the beginning of the epoch by means since the last line."""
        steps = self._step - self._epoch_start
        if getattr(self.model, "on_nonfinite", None) == "skip":
            steps -= round(logs["skipped_steps"])
        new = steps - self._mean_steps
        interval = dict(logs)
        for name in _names_of_means(self.model.metrics) & set(logs):
            total = logs[name] * steps if steps else 0.0
            interval[name] = (total - self._mean_totals.get(name, 0)) / new if new else math.nan
            self._mean_totals[name] = total
        self._mean_steps = steps
        return interval

    def _write(self, entries):
        record = {"step": self._step, "epoch": self._epoch, "time": round(time.time(), 3)}
        entries = _numbers(entries)
        if "loss" in entries:
            record["loss"] = None  # holds the first place among the metrics, for human readers
        for name, number in entries.items():
            record[name] = number if math.isfinite(number) else None
        line = json.dumps(record, allow_nan=False) + "\n"
        _append(self.path, line.encode())
        self._written_step = self._step


def read_metrics(path):
    """Reads the lines that `MetricsLog` has written.

    Args:
        path: The JSON lines file. A last line that was not written whole is left out.

    Returns:
        List of dicts, one per line, in the order of the file. null is read as NaN.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it holds anything but such lines.
    """
    return [
        {name: math.nan if value is None else value for name, value in record.items()}
        for _, record in _whole_lines(path)
    ]


def _append(path, line):
    """Appends a line, or nothing of it and raises OSError.

    Unbuffered, so that a line reaches the file in one write; closed at once, so that nothing is
    left open when training ends with an error.
    """
    with open(path, "ab", buffering=0) as file:
        end = file.tell()
        try:
            while line:  # on a disk that gets full a part is written at first, without an error
                line = line[file.write(line) :]
        except OSError as error:
            file.truncate(end)
            raise OSError(
                f"The metrics could not be written to {path}: {error.strerror}. Make room and run "
                "the same command again."
            ) from error


def _whole_lines(path):
    """Returns `(line, record)` of every line but a half-written last one."""
    with open(path, "rb") as file:
        lines = file.read().splitlines(keepends=True)
    whole = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            record["step"] + 0  # anything but an object with a number of steps is not ours
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):
                break
            raise ValueError(
                "A metrics file must hold one JSON object with a step on each line. "
                f"Received: {path}, line {number}: {line[:60]!r}."
            ) from error
        whole.append((line.rstrip() + b"\n", record))
    return whole


def _remove_after(path, step):
    """Removes later lines and a half-written last one, in one atomic exchange of the file."""
    if not os.path.exists(path):
        return
    kept = b"".join(line for line, record in _whole_lines(path) if record["step"] <= step)
    if len(kept) != os.path.getsize(path):
        with whole(path) as partial:
            partial.write_bytes(kept)


def _names_of_means(metrics):
    """Names of the metrics that Keras averages over the epoch, those given to compile included."""
    names = set()
    for metric in metrics:
        if isinstance(metric, keras.metrics.Mean):
            names.add(metric.name)
        names |= _names_of_means(getattr(metric, "metrics", ()))
    return names


def _numbers(logs):
    """The entries that are one number, as floats; several workers log arrays of one element."""
    numbers = {}
    for name, value in logs.items():
        with contextlib.suppress(TypeError, ValueError):
            numbers[name] = float(np.asarray(keras.ops.convert_to_numpy(value)).item())
    return numbers
