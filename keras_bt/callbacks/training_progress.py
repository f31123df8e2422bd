"""How far a run is, how long it will take, and a few of its figures, on one line."""

import sys
import threading
import time
from collections.abc import Mapping

import keras
import numpy as np

from keras_bt.messages import duration, progress_bar, say
from keras_bt.typing import Metrics

MOST_FIGURES = 6
WIDTH = 100  # characters of a line
_SHORT_EPOCH = 5.0  # seconds; on a terminal, shorter ones are told by the bar alone
# Seconds between lines in a file: a hundredth of the run, within these limits.
_LEAST_PAUSE, _MOST_PAUSE, _LINES = 10.0, 600.0, 100
_ENOUGH = 5.0  # seconds of steps from which the whole is estimated
_LONG = 10.0  # seconds of the first step after which a line says that it compiles
_WORTH_ADVICE = 600.0  # seconds of training


class TrainingProgress(keras.callbacks.Callback):
    """Shows one bar for the whole run, a line for each epoch that takes long, and the time left.

    It takes the place of Keras' progress bar, so `fit` needs `verbose=0`. On a terminal there is a
    bar, with a line above it for each epoch of more than a few seconds. In a file there are lines
    only, of which a short run has about a hundred at most; in a long one they are ten minutes
    apart. Each is at most 100 characters long and holds at most six figures, those last measured.

        Epoch 12/100, 35 min left: 1,742 images/s, loss 112.3, excess 109.7, kNN 0.902, linear 0.898

    If the first step, which compiles, takes more than ten seconds, a line says so, and another one
    how long it took.

    Before the end of the first epoch, or soon after if epochs are short, a line says how long the
    training will take. It is estimated from the steps after the first, which compiles, and from the
    time between epochs; the newer these are, the more they count. What a run does before and after
    `fit` is not included.

    It must come after the callbacks that measure (it shows what they add to `logs`) and before
    those that may end the run. Close it when training has ended, in whatever way.

    >>> import contextlib
    >>> network = keras.Sequential([keras.Input((16,)), keras.layers.Dense(1)])
    >>> network.compile("sgd", loss="mse")
    >>> bar = TrainingProgress({"loss": "loss"}, epochs=1, steps_per_epoch=4)
    >>> with contextlib.closing(bar):
    ...     _ = network.fit(features, labels, batch_size=3, callbacks=[bar], verbose=0)
    Epoch 1/1: loss ...

    Args:
        figures: what each entry of `logs` is called in the line; the first six that are known are
            shown.
        epochs: number of epochs of the run, those of earlier calls included.
        steps_per_epoch: steps of a whole epoch.
        first_step: steps done by earlier calls.
        batch_size: images per step, for the images per second of each epoch; None for none.
        advice: line that follows an estimate of ten minutes or more, on what would make training
            faster; None for none.
    """

    def __init__(
        self,
        figures: Mapping[str, str],
        epochs: int,
        steps_per_epoch: int,
        first_step: int = 0,
        batch_size: int | None = None,
        advice: str | None = None,
    ):
        super().__init__()
        self._names, self._epochs, self._steps_per_epoch = dict(figures), epochs, steps_per_epoch
        self._step = self._first_step = first_step
        self._batch_size, self._advice = batch_size, advice
        self._figures: dict[str, float] = {}
        self._of_step, self._between = _NewestMean(0.98), _NewestMean(0.95)  # seconds
        self._measured = 0.0  # seconds of steps
        self._boundaries = 0  # between epochs
        self._speed: float | None = None
        # When the last execution and epoch ended, and the present epoch began to be measured.
        self._clock: float | None = None
        self._ended: float | None = None
        self._epoch_clock: float | None = None
        self._told = False
        self._first: _SaysIfLong | None = None  # the first step, while it is taken
        self._began = self._line_at = time.monotonic()
        self._on_terminal = sys.stdout.isatty()
        self._bar = progress_bar(
            shown=self._on_terminal,
            total=epochs * steps_per_epoch,
            initial=first_step,
            leave=False,  # the last epoch's line stays
            desc="the first step compiles the network",
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}%|{bar:8}| {desc}",
        )

    def on_train_begin(self, logs: Metrics | None = None) -> None:
        """Starts anew: the first execution of a `fit` compiles."""
        self._ended = self._clock = None

    def on_epoch_begin(self, epoch: int, logs: Metrics | None = None) -> None:
        """Starts the epoch's clock, and measures the time since the last epoch."""
        now = time.monotonic()
        if self._ended is not None:
            self._boundaries += 1
            if self._boundaries == 2:  # the first one compiles what measures
                self._between = _NewestMean(0.95)
            self._between.add(now - self._ended)
            self._clock = now
        self._epoch, self._epoch_start = epoch, self._step
        self._epoch_clock, self._epoch_clock_step = self._clock, self._step
        self._tell()

    def on_train_batch_begin(self, batch: int, logs: Metrics | None = None) -> None:
        """Waits for the first step, to say that it compiles if that takes long."""
        if self._clock is None and self._first is None:
            self._first = _SaysIfLong("Compiling the training step …", "The first step took {}")

    def on_train_batch_end(self, batch: int, logs: Metrics | None = None) -> None:
        """Moves the bar; in a file, prints a line if none has been printed for long."""
        if self._first is not None:
            self._first.end()
            self._first = None
        now, step = time.monotonic(), self._epoch_start + batch + 1
        step = min(step, (self._epoch + 1) * self._steps_per_epoch)
        done, self._step = step - self._step, step
        if self._clock is None:
            self._epoch_clock, self._epoch_clock_step = now, step
        elif done:
            self._measured += now - self._clock
            self._of_step.add(now - self._clock, done)
        self._clock = self._ended = now
        self._look(logs)
        self._tell()
        self._bar.set_description_str(self._line(WIDTH - len("100%|12345678| ")), refresh=False)
        self._bar.update(done)
        within = step - self._epoch * self._steps_per_epoch
        long = not self._on_terminal and self._takes() >= self._pause(now)
        if long and within < self._steps_per_epoch and self._is_time(now):
            self._print(f", step {within:,}/{self._steps_per_epoch:,}")

    def on_epoch_end(self, epoch: int, logs: Metrics | None = None) -> None:
        """Prints the epoch's line, unless the run would have too many of them."""
        steps, self._speed = self._step - self._epoch_clock_step, None
        seconds = (self._ended or 0.0) - (self._epoch_clock or 0.0)
        if self._batch_size and steps and seconds > 0:
            self._speed = steps * self._batch_size / seconds
        self._look(logs)
        last = epoch + 1 >= self._epochs
        now = time.monotonic()
        long = self._takes() >= (_SHORT_EPOCH if self._on_terminal else self._pause(now))
        if last or long or (not self._on_terminal and self._is_time(now)):
            self._print()

    def close(self) -> None:
        """Removes the bar."""
        if self._first is not None:
            self._first.timer.cancel()
        self._bar.close()

    def _look(self, logs):
        for name in self._names.keys() & (logs or {}).keys():
            value = float(np.asarray(logs[name]).item())  # several workers log arrays of one
            if np.isfinite(value) or name not in self._figures:
                self._figures[name] = value

    def _left(self):
        """Estimates the seconds of training that are left; None if nothing is known yet."""
        if not self._of_step.weight:
            return None
        between = max(0, self._epochs - self._epoch - 1) * self._between.mean
        return (self._epochs * self._steps_per_epoch - self._step) * self._of_step.mean + between

    def _tell(self):
        """Says how long it will take, once that is known."""
        left = self._left()
        if self._told or left is None or not (self._measured >= _ENOUGH or self._boundaries >= 2):
            return
        self._told = True
        more = " more" if self._first_step else ""
        say(f"About {duration(left)}{more} of training on this machine")
        if self._advice and left >= _WORTH_ADVICE:
            say(self._advice)

    def _takes(self):
        """Returns the seconds that an epoch takes, as far as is known."""
        return self._steps_per_epoch * self._of_step.mean + self._between.mean

    def _pause(self, now):
        whole = now - self._began + (self._left() or 0.0)
        return min(max(_LEAST_PAUSE, whole / _LINES), _MOST_PAUSE)

    def _is_time(self, now):
        return now - self._line_at >= self._pause(now)

    def _print(self, within=""):
        self._line_at = time.monotonic()
        say(self._line(WIDTH, within))

    def _line(self, width, within=""):
        """Returns how far the run is, the time left, and the figures that there is room for."""
        left = self._left()
        line = f"Epoch {self._epoch + 1}/{self._epochs}{within}"
        line += f", {duration(left)} left" if left else ""
        figures = [
            f"{label} {self._figures[name]:.4g}"
            for name, label in self._names.items()
            if name in self._figures
        ]
        speed = [] if self._speed is None else [f"{self._speed:,.0f} images/s"]
        separator = ": "
        for figure in [*speed, *figures[: MOST_FIGURES - len(speed)]]:
            if len(line) + len(separator) + len(figure) > width:
                break
            line, separator = f"{line}{separator}{figure}", ", "
        return line


class _SaysIfLong:
    """Says what is being done if that takes long, and at the end how long it took."""

    def __init__(self, text: str, ended: str):
        self._text, self._ended, self._said = text, ended, False
        self._began = time.monotonic()
        self.timer = threading.Timer(_LONG, self._say)
        self.timer.daemon = True
        self.timer.start()

    def _say(self):
        self._said = True
        say(self._text)

    def end(self):
        """Ends it."""
        self.timer.cancel()
        if self._said:
            say(self._ended.format(duration(time.monotonic() - self._began)))


class _NewestMean:
    """A mean in which older amounts count less, by a factor for each newer one."""

    def __init__(self, forget: float):
        self._forget = forget
        self._total = self.weight = 0.0

    def add(self, amount, count=1):
        """Adds an amount that `count` of what is counted took together."""
        keep = self._forget**count
        self._total, self.weight = self._total * keep + amount, self.weight * keep + count

    @property
    def mean(self) -> float:
        """The mean; 0 before there is anything."""
        return self._total / self.weight if self.weight else 0.0
