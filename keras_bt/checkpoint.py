"""Checkpoints of a run at any step, written whole and verified when read."""

import contextlib
import itertools
import json
import math
import os
import pathlib
import re
import shutil
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator

import keras
import numpy as np
import safetensors
import safetensors.numpy

from keras_bt.files import flush, json_object, partial_of, read_by_tensorflow, remove_abandoned
from keras_bt.messages import first_line, say
from keras_bt.typing import Metrics, Path

VARIABLES, CONTENTS = "variables.safetensors", "contents.json"
_KEPT = 3  # checkpoints
_READ_BYTES = 2**22


class RunCheckpoint(keras.callbacks.Callback):
    """A callback that saves a run while it trains, and restores it exactly.

    A checkpoint is a folder named after the number of steps done. It holds all variables of the
    model and its optimizer by their paths, in the file `variables.safetensors`, which many programs
    read; and `contents.json`, with their order, checksums, the step and versions. Because a run's
    input is a function of the step, there is nothing else to save. It belongs to no backend: a run
    goes on with TensorFlow or JAX, on any number of devices.

    A folder appears under its name once all of it is on the disk. Checksums are verified on
    reading; a checkpoint that cannot be read is passed over for the previous one. Saving needs
    memory for one copy of the variables; restoring, for the largest of them.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> checkpoint = RunCheckpoint("runs/small/checkpoints", model, steps_per_epoch=2)
    >>> checkpoint.restore()  # the number of steps done; none in an empty folder
    0
    >>> x, y = keras.ops.ones((8, 2)), keras.ops.ones((8, 1))
    >>> _ = model.fit(x, y, batch_size=4, epochs=3, callbacks=[checkpoint], verbose=0)
    >>> checkpoint.restore()  # so continue with fit(..., initial_epoch=3)
    6

    It belongs at the end of the list of callbacks, so that it saves after the others have written.

    Args:
        directory: folder of the checkpoints; created if necessary.
        model: a compiled model.
        steps_per_epoch: training steps per epoch.
        every: epochs between checkpoints. The last epoch is always saved.
        minutes: minutes after which a checkpoint is also written within an epoch; None for never,
            for runs that cannot be continued within an epoch.
        writes: whether this process writes; of several workers one does.
        interruption: signals to check for after each step.
        agree: function from 1 or 0 (this worker is to leave or not) to the sum over all workers,
            which all call it at the same steps; None if there is one worker.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self,
        directory: Path,
        model: keras.Model,
        steps_per_epoch: int,
        every: int = 1,
        minutes: float | None = None,
        writes: bool = True,
        interruption: "Interruption | None" = None,
        agree: Callable[[int], int] | None = None,
    ):
        super().__init__()
        if every < 1 or steps_per_epoch < 1:
            raise ValueError(
                "every and steps_per_epoch must be at least 1. "
                f"Received: {every} and {steps_per_epoch}."
            )
        if not model.optimizer.built:  # its variables must exist to be restored
            model.optimizer.build(model.trainable_variables)
        self._directory = pathlib.Path(directory)
        self._network = model  # Keras sets `model` in `fit` only
        self._variables = _variables(model)
        self._steps_per_epoch = steps_per_epoch
        self._every, self._writes = every, writes
        self._seconds = math.inf if minutes is None else 60 * minutes
        self._interruption, self._agree = interruption, agree
        self._step = self._saved_step = 0

    def restore(self) -> int:
        """Restores the newest checkpoint that can be read; prints a line for each that cannot.

        Returns:
            The number of steps done; 0 if there is no checkpoint.

        Raises:
            ValueError: if a checkpoint does not hold exactly the variables of this model, or is of
                another step than its folder's name says.
            OSError: if there are checkpoints, but none can be read.
        """
        paths = checkpoints(self._directory)
        for path in paths:
            try:
                step = self._read(path)
            except OSError as error:
                print(f"Passing over {path}, which cannot be read: {first_line(error)}")
                continue
            if step != int(path.name):
                raise ValueError(
                    f"A checkpoint's folder must be named after its step. Received: {path}, which "
                    f"holds step {step:,}. Rename it to {step:08}, or remove it if that exists."
                )
            self._step = self._saved_step = step
            return self._step
        if not paths:
            return 0
        raise OSError(
            f"None of the checkpoints in {self._directory} can be read. Remove it to begin anew, "
            "or choose another --workdir."
        )

    def _read(self, path):
        """Checks all of a checkpoint, gives the variables their values, and returns the step."""
        try:
            found = json_object((path / CONTENTS).read_bytes())
            crc32 = found.pop("crc32")
            theirs, step = found["variables"], found.get("step")
            # Earlier versions recorded the variables alone.
            if crc32 != _checksum(theirs if found.keys() == {"variables"} else found):
                raise ValueError("checksum")
            theirs = list(theirs)
        except (ValueError, KeyError, TypeError) as error:
            raise OSError(f"{CONTENTS} is damaged") from error
        ours = _contents(self._variables)
        for one, other in itertools.zip_longest(ours, theirs):
            if one is None or other is None or _kind(*one) != _kind(*other):
                raise ValueError(
                    f"The checkpoint must hold the variables of this model, such as {one}. "
                    f"Received: {path} with {other}."
                )
        if VARIABLES not in found:
            _read_by_tensorflow(path, self._variables)
            return int(path.name) if step is None else step
        if found[VARIABLES] != _file_checksum(path / VARIABLES):
            raise OSError(f"{VARIABLES} is damaged, or of another checkpoint")
        with safetensors.safe_open(path / VARIABLES, framework="numpy") as file:
            for variable, (name, *_) in zip(self._variables, theirs, strict=True):
                value = file.get_tensor(name)
                if value.dtype.kind in "iu":  # as wide as this backend has them
                    value = value.astype(variable.dtype)
                variable.assign(value)
        return step

    def on_train_begin(self, logs: Metrics | None = None) -> None:
        """Starts the clock."""
        self._clock = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: Metrics | None = None) -> None:
        """Records the step at which the epoch begins."""
        self._epoch_start = self._step

    def on_train_batch_end(self, batch: int, logs: Metrics | None = None) -> None:
        """Saves within an epoch, if a checkpoint is due or the run was told to stop."""
        self._step = self._epoch_start + batch + 1
        if self._step % self._steps_per_epoch == 0:
            return  # `on_epoch_end` saves this step, after the epoch has been evaluated
        number = self._signal(batch)
        if self._is_time() or (number and self._seconds < math.inf):
            self.save()
        self._leave(number)

    def on_epoch_end(self, epoch: int, logs: Metrics | None = None) -> None:
        """Saves when a checkpoint is due."""
        number = self._signal(None)
        last = epoch + 1 == self.params["epochs"]
        if number or last or (epoch + 1) % self._every == 0 or self._is_time():
            self.save()
        self._leave(number)

    def _is_time(self):
        return time.monotonic() - self._clock >= self._seconds

    def _signal(self, batch):
        """Returns the signal to stop by, on all workers at the same step; 0 if there was none."""
        number = self._interruption.number if self._interruption else 0
        if self._agree is None:
            return number
        # Asking takes about a millisecond, and a signal leaves many seconds to stop.
        leave = (batch is None or batch % 10 == 9) and self._agree(int(number > 0))
        return (number or signal.SIGTERM) if leave else 0

    def _leave(self, number):
        if not number:
            return
        kept = f"{self._directory} holds step {self._saved_step:,}"
        with contextlib.suppress(OSError):  # the reader of a pipe may be gone
            say(
                f"Stopped by {signal.Signals(number).name} after step {self._step:,}; "
                f"{kept if self._saved_step else 'there is no checkpoint yet'}. "
                "To continue, run the same command again."
            )
        raise SystemExit(128 + number)  # the status that shells expect

    def save(self) -> None:
        """Writes a checkpoint, and removes those that are no longer kept.

        Raises:
            OSError: if it cannot be written; nothing half-written remains.
        """
        self._clock = time.monotonic()
        last, self._saved_step = self._saved_step, self._step
        if not self._writes:
            return
        path = self._directory / f"{self._step:08}"
        partial = partial_of(path)
        try:
            partial.mkdir(parents=True)
            self._write(partial / VARIABLES)
            contents = {
                "variables": _contents(self._variables),
                VARIABLES: _file_checksum(partial / VARIABLES),
                "step": self._step,
                "epoch": self._step // self._steps_per_epoch,
                "versions": {"keras": keras.__version__, "backend": keras.backend.backend()},
            }
            text = json.dumps(contents | {"crc32": _checksum(contents)})
            (partial / CONTENTS).write_text(text, encoding="utf-8")
            for file in [*partial.iterdir(), partial]:
                flush(file)
            if path.exists():  # unreadable, or this step would not lie ahead of it
                shutil.rmtree(path)
            partial.rename(path)
            flush(self._directory)
        except (OSError, safetensors.SafetensorError) as error:
            kept = f"{self._directory / f'{last:08}'} is kept. " if last else ""
            raise OSError(
                f"The checkpoint of step {self._step:,} could not be written: "
                f"{first_line(error)}. {kept}Make room and run the same command again."
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._prune()

    def _write(self, path):
        """Writes the variables' values, at this moment of training."""
        if hasattr(self._network, "jax_state_sync"):
            self._network.jax_state_sync()  # `fit` on JAX keeps them to itself during an epoch
        arrays = {}
        for variable, (name, *_) in zip(self._variables, _contents(self._variables), strict=True):
            array = np.asarray(keras.ops.convert_to_numpy(variable), order="C")
            # NumPy lacks bfloat16, whose numbers float32 has exactly.
            arrays[name] = array.astype(np.float32) if array.dtype.kind == "V" else array
        safetensors.numpy.save_file(arrays, path)

    def _prune(self):
        """Removes old checkpoints, and those ahead of the run, which could not be read."""
        paths = checkpoints(self._directory)
        ahead = [path for path in paths if int(path.name) > self._step]
        old = paths[len(ahead) + _KEPT :]
        for path in (*ahead, *old):
            shutil.rmtree(path, ignore_errors=True)
        remove_abandoned(self._directory)


class Interruption:
    """A record of the first SIGTERM or SIGINT, for training to check; a second one acts at once.

    >>> interruption = Interruption()
    >>> with interruption.watched():
    ...     signal.raise_signal(signal.SIGTERM)
    >>> signal.Signals(interruption.number).name
    'SIGTERM'

    Attributes:
        number: the signal; 0 while there was none.
    """

    def __init__(self):
        self.number = 0

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Records signals inside a `with`; outside they have their usual effect."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python handles signals in its main thread only
            return
        before = {n: signal.signal(n, self._note) for n in (signal.SIGTERM, signal.SIGINT)}
        self._before = before
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def take_effect(self) -> None:
        """Gives a signal that came too late for training to see its usual effect."""
        if self.number:
            signal.raise_signal(self.number)

    def _note(self, number, frame):
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self.number = number
        name = signal.Signals(number).name
        # Not `print`, which the signal may have interrupted. The reader of a pipe may be gone.
        text = f"\n{name}: stopping after this step; send it again to stop at once.\n"
        with contextlib.suppress(OSError):
            os.write(2, text.encode())


def checkpoints(directory: Path) -> list[pathlib.Path]:
    """Lists the checkpoints in a folder, newest first, by the names that complete ones have."""
    if not (directory := pathlib.Path(directory)).is_dir():
        return []
    complete = (path for path in directory.iterdir() if path.name.isdecimal())
    return sorted(complete, key=lambda path: int(path.name), reverse=True)


def _variables(model):
    """Lists the state of a run: weights, states of random layers, the optimizer; no metrics."""
    metrics = {id(v) for v in model.metrics_variables}
    variables = [v for v in model.variables if id(v) not in metrics]
    seen = {id(v) for v in variables}
    return variables + [v for v in model.optimizer.variables if id(v) not in seen]


def _contents(variables):
    """Describes each variable by [path, shape, dtype], with paths that differ."""
    contents: list[list] = []
    count: dict[str, int] = {}
    for v in variables:
        count[v.path] = number = count.get(v.path, 0) + 1
        contents.append([v.path if number == 1 else f"{v.path}#{number}", list(v.shape), v.dtype])
    return contents


def _kind(name, shape, dtype):
    """Returns what must agree of a variable and of one in a checkpoint.

    The words before the last one of a path name layers, which Keras numbers consecutively within a
    process; integers have 64 bits on TensorFlow and 32 on JAX.
    """
    last_word = re.split("[/_]", name.partition("#")[0])[-1]
    return last_word, shape, re.sub(r"^u?int\d+$", "integer", dtype)


def _read_by_tensorflow(path, variables):
    """Reads what commits up to b64021a wrote: files of `tf.train.Checkpoint`, with checksums."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "A checkpoint of an earlier version is read with KERAS_BACKEND=tensorflow alone, and "
            f"the next one goes on with any. Received: {path}."
        )
    import tensorflow as tf

    try:
        with read_by_tensorflow(path) as folder:
            checkpoint = tf.train.Checkpoint(variables=[v.value for v in variables])
            checkpoint.read(str(folder / "variables")).assert_consumed()
    except (tf.errors.OpError, AssertionError, IndexError, RuntimeError) as error:
        raise OSError(first_line(error)) from error


def _file_checksum(path):
    checksum = 0
    with open(path, "rb") as file:
        while part := file.read(_READ_BYTES):
            checksum = zlib.crc32(part, checksum)
    return checksum


def _checksum(contents):
    return zlib.crc32(json.dumps(contents).encode())
