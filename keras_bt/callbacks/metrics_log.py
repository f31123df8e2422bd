"""A run's metrics as JSON lines, one object per logged step: writing and reading them."""

import contextlib
import json
import math
import os
import time
import zlib

import keras
import numpy as np

from keras_bt.files import is_number, json_object, whole
from keras_bt.typing import Metrics, Path

_CHECKSUM = "crc32"


class MetricsLog(keras.callbacks.Callback):
    """Appends the metrics of training to a JSON lines file.

    A line is written at the first step at or after each multiple of `every`, and at the end of an
    epoch. It holds

    - `step`: training steps done (one step takes one batch), including earlier `fit` calls;
    - `epoch`: number of the epoch, from 1 as in the progress bar;
    - `time`: seconds since 1970 (UTC);
    - every single number in Keras' `logs`: `loss`, `on_diagonal`, `off_diagonal`, `excess`, ...;
    - `learning_rate`: as the optimizer reports it after the step (a schedule's of the next step);
    - `images_per_second`: source images per second since the previous line, if `batch_size` is
      given;
    - `crc32`: a checksum of the line and of all before it, so that a line that was damaged, removed
      or added is noticed; `read_metrics` checks it and leaves it out.

    A value that is not finite is written as null, because JSON has no NaN.

    **Means.** Keras' logs hold means over the epoch so far. A line holds the mean over the steps
    *since the previous line* (or since the epoch began): with m_j and m_k the epoch's means after j
    and k steps, (k m_k - j m_j)/(k - j), to about k/(k - j) * 1e-7. This applies to the model's
    `keras.metrics.Mean` metrics and assumes batches of one size; steps skipped by
    `keras_bt.BarlowTwins(on_nonfinite="skip")` do not count. Everything else is written as it is in
    the logs.

    **Measurements at the end of an epoch**, validation results (`val_...`) and what callbacks
    earlier in the list have added to `logs`, go on the line of the epoch's last step, or on a line
    of their own, without a `loss`, if that step has already been written.

    **Images per second.** `batch_size` source images per step (over all replicas; each gives two
    views), divided by the time between the lines. Only training counts: neither the first execution
    of every `fit`, which compiles, nor the time between epochs (validation, checkpoints). null
    until something has been measured. The latest value is also added to `logs` for the callbacks
    that follow, of which Keras' progress bar is one.

    **Resuming.** When training begins, lines beyond the step it starts from are removed from an
    existing file, as is an incomplete last line. The first line after resuming within an epoch is
    the mean over the steps since then. A new run (step 0) empties the file. An instance belongs to
    one model; of several workers, give it to one.

    >>> network = keras.Sequential([keras.Input((16,)), keras.layers.Dense(1)])
    >>> network.compile("sgd", loss="mse")
    >>> log = MetricsLog("metrics.jsonl", every=2)
    >>> history = network.fit(features, labels, batch_size=3, callbacks=[log], verbose=0)
    >>> [(line["step"], line["epoch"]) for line in read_metrics("metrics.jsonl")]
    [(2, 1), (4, 1)]

    Args:
        path: file to append to; its folder is created if necessary.
        every: number of steps between lines.
        initial_step: steps done before the first `fit`. By default the optimizer's `iterations`,
            which is right unless a loss-scaling optimizer has skipped updates.
        batch_size: source images per step, for `images_per_second`; None leaves that out.

    Raises:
        ValueError: if `every`, `initial_step` or `batch_size` is out of range; when training
            begins, if the file at `path` is something else.
        OSError: during training, if a line cannot be written; no part of it remains.
    """

    def __init__(
        self,
        path: Path,
        every: int = 10,
        initial_step: int | None = None,
        batch_size: int | None = None,
    ):
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
        self._step = -1 if initial_step is None else initial_step  # -1: ask the optimizer

    def on_train_begin(self, logs: Metrics | None = None) -> None:
        """Cuts the file to the step that training starts from."""
        if self._step < 0:
            self._step = self._iterations()
        os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
        self._checksum = _remove_after(self.path, self._step)
        self._written_step = self._step
        self._images_per_second = math.nan
        self._clock = math.nan  # starts after the first execution, which compiles

    def on_epoch_begin(self, epoch: int, logs: Metrics | None = None) -> None:
        """Starts new means, as Keras does, and excludes the time since the last epoch."""
        self._epoch = epoch + 1
        self._epoch_start = self._step
        self._epoch_start_iterations = self._iterations()
        self._mean_steps = 0
        self._mean_totals: Metrics = {}
        self._names_of_steps: set[str] = set()
        if not math.isnan(self._clock):
            self._now = time.perf_counter()
            self._start_clock()

    def on_train_batch_end(self, batch: int, logs: Metrics | None = None) -> None:
        """Writes a line if one is due, and passes the speed on to the progress bar."""
        logs = {} if logs is None else logs
        steps_before = self._step
        self._step = self._epoch_start + self._steps_in_epoch(batch)
        self._now = time.perf_counter()  # the epoch's last line comes later, after validation
        if math.isnan(self._clock):
            self._start_clock()
        self._names_of_steps = set(logs)
        if self._step // self.every > steps_before // self.every:
            self._write_training(logs)
        if math.isfinite(self._images_per_second):
            logs["images_per_second"] = self._images_per_second

    def on_epoch_end(self, epoch: int, logs: Metrics | None = None) -> None:
        """Writes the rest of the epoch, and what was measured at its end."""
        logs = {} if logs is None else logs
        steps = self._names_of_steps | {"learning_rate", "images_per_second"}
        training = {name: value for name, value in logs.items() if name in steps}
        measured = {name: value for name, value in logs.items() if name not in steps}
        if self._step > self._written_step:
            self._write_training(training, measured)
        elif _numbers(measured):
            self._write(measured)
        if self.batch_size is not None:
            # Even if not measured yet, so that all entries of Keras' history have the same length.
            logs["images_per_second"] = self._images_per_second

    def _iterations(self):
        self._synchronize()
        return int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))

    def _synchronize(self):
        """Gives variables their values, which `fit` on JAX keeps to itself during an epoch."""
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()

    def _steps_in_epoch(self, batch):
        if isinstance(self.model.optimizer, keras.optimizers.LossScaleOptimizer):
            return batch + 1  # `iterations` does not count steps with an overflow
        if keras.backend.backend() == "jax" and self.params.get("steps"):
            # To ask for `iterations` would end what the device has been given to do, and have
            # `fit` collect all variables anew.
            return min(batch + 1, self.params["steps"])
        # The batch index would be too high after a last execution of fewer steps than
        # steps_per_execution: Keras counts it as a full one.
        return self._iterations() - self._epoch_start_iterations

    def _start_clock(self):
        self._clock, self._clock_step = self._now, self._step

    def _write_training(self, logs, measured=None):
        entries = self._interval_means(_numbers(logs))
        self._synchronize()
        entries["learning_rate"] = self.model.optimizer.learning_rate
        if self.batch_size is not None:
            if steps := self._step - self._clock_step:
                self._images_per_second = steps * self.batch_size / (self._now - self._clock)
            entries["images_per_second"] = self._images_per_second
        self._start_clock()
        self._write({**entries, **(measured or {})})

    def _interval_means(self, logs):
        """Replaces means since the start of the epoch with means since the last line."""
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
        record: dict[str, float | None] = {"step": self._step, "epoch": self._epoch}
        record["time"] = round(time.time(), 3)
        entries = _numbers(entries)
        if "loss" in entries:
            record["loss"] = None  # reserves first place among the metrics, for human readers
        for name, number in entries.items():
            record[name] = number if math.isfinite(number) else None
        checksum = _chained(record, self._checksum)
        line = json.dumps(record | {_CHECKSUM: f"{checksum:08x}"}, allow_nan=False) + "\n"
        _append(self.path, line.encode())
        self._written_step, self._checksum = self._step, checksum


def read_metrics(path: Path) -> list[Metrics]:
    """Reads the lines that `MetricsLog` has written.

    Args:
        path: the JSON lines file. An incomplete last line is left out.

    Returns:
        One dict per line, in the order of the file. null is read as NaN.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it holds anything but such lines, or one is damaged; the first is named.
    """
    return [
        {name: math.nan if value is None else value for name, value in record.items()}
        for _, record, _ in _whole_lines(path)
    ]


def _append(path, line):
    """Appends a whole line, or raises OSError and leaves the file as it was.

    Unbuffered, so that a line reaches the file in one write.
    """
    with open(path, "ab", buffering=0) as file:
        end = file.tell()
        try:
            while line:  # as a disk fills up, a part is written first, without an error
                line = line[file.write(line) :]
        except OSError as error:
            file.truncate(end)
            raise OSError(
                f"The metrics could not be written to {path}: {error.strerror}. Make room and run "
                "the same command again."
            ) from error


def _whole_lines(path):
    """Returns `(line, record, checksum)` of every line but an incomplete last one.

    Earlier versions wrote no checksums; a file that one of them began has none at first.
    """
    with open(path, "rb") as file:
        lines = file.read().splitlines(keepends=True)
    whole, step, checksum = [], 0, 0
    for number, line in enumerate(lines, start=1):
        try:
            record = json_object(line)
            stated = record.pop(_CHECKSUM, None)
            _check_line(record, step)
            if stated or checksum:
                checksum = _chained(record, checksum)
                if stated != f"{checksum:08x}":
                    raise ValueError("it, or one before it, is not what was written")
        except ValueError as error:
            if number == len(lines) and not line.endswith(b"\n"):
                break
            raise ValueError(
                "A metrics file must hold one JSON object with a step and numbers on each line, as "
                f"they were written. Received: {path}, line {number}: {error}: {line[:60]!r}. "
                "Restore the file, or remove it: the run goes on without."
            ) from error
        step = record["step"]
        whole.append((line.rstrip() + b"\n", record, checksum))
    return whole


def _check_line(record, step):
    """Raises ValueError unless the record holds numbers or null, and its step is not below."""
    for name, value in record.items():
        if value is not None and not is_number(value):
            raise ValueError(f'its "{name}" is no number')
    for name in ("step", "epoch"):
        if type(record.get(name, 0)) is not int:
            raise ValueError(f'its "{name}" is no whole number')
    if record.get("step", -1) < step:
        raise ValueError(f"its step is not {step} or more")


def _chained(record, before):
    """Returns the CRC-32 of a record and, by theirs, of all before it."""
    return zlib.crc32(json.dumps(record).encode(), before)


def _remove_after(path, step):
    """Removes later lines and an incomplete last one, replacing the file atomically.

    Returns the checksum of the last line that stays.
    """
    if not os.path.exists(path):
        return 0
    kept = [line for line in _whole_lines(path) if line[1]["step"] <= step]
    text = b"".join(line for line, *_ in kept)
    if len(text) != os.path.getsize(path):
        with whole(path) as partial:
            partial.write_bytes(text)
    return kept[-1][2] if kept else 0


def _names_of_means(metrics):
    """Returns the names of metrics averaged over the epoch, those given to compile included."""
    names = set()
    for metric in metrics:
        if isinstance(metric, keras.metrics.Mean):
            names.add(metric.name)
        names |= _names_of_means(getattr(metric, "metrics", ()))
    return names


def _numbers(logs):
    """Returns the single numbers as floats; several workers log arrays of one element."""
    numbers = {}
    for name, value in logs.items():
        with contextlib.suppress(TypeError, ValueError):
            numbers[name] = float(np.asarray(keras.ops.convert_to_numpy(value)).item())
    return numbers
