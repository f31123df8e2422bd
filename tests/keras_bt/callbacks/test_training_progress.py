"""What a run shows of itself: one line, few figures, and times that are right."""

import contextlib
import re

import keras
import numpy as np
import pytest

from keras_bt.callbacks import training_progress
from keras_bt.callbacks.training_progress import WIDTH, TrainingProgress
from keras_bt.messages import duration, say

NAMES = {"loss": "loss", "excess": "excess", "knn": "kNN", "linear": "linear", "rank": "RankMe"}
NAMES |= {"diagonal": "diagonal", "spread": "spread"}


class Run:
    """A run whose steps, and times between epochs, take what the test says, in seconds."""

    def __init__(self, monkeypatch, terminal=False):
        self.now = 1000.0
        monkeypatch.setattr(training_progress.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(training_progress.sys.stdout, "isatty", lambda: terminal, raising=False)

    def __call__(
        self, epochs, steps, step=1.0, between=0.0, compiling=60.0, first_step=0, logs=(), **others
    ):
        logs = dict(logs) or {"loss": 1.5}
        bar = TrainingProgress(NAMES, epochs, steps, first_step, batch_size=32, **others)
        with contextlib.closing(bar):
            bar.on_train_begin()
            first_epoch, done = divmod(first_step, steps)
            for epoch in range(first_epoch, epochs):
                bar.on_epoch_begin(epoch)
                for batch in range(steps - done):
                    first = (epoch, batch) == (first_epoch, 0)
                    self.now += compiling if first else step
                    bar.on_train_batch_end(batch, logs)
                done = 0
                bar.on_epoch_end(epoch, logs)
                self.now += between


@pytest.fixture
def run(monkeypatch):
    return Run(monkeypatch)


def lines(capsys):
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("epochs", "steps", "how", "estimate"),
    [
        # 99 steps are left in the first epoch when five seconds have been measured.
        (10, 100, {}, "About 17 min of training"),
        (10, 100, {"compiling": 6000.0}, "About 17 min of training"),
        (10, 100, {"step": 60.0}, "About 16.6 h of training"),
        (50, 100, {"step": 300.0}, "About 17.4 days of training"),
        # Short epochs: once the time between them is known.
        (100, 3, {"step": 0.1, "between": 2.0}, "About 4 min of training"),
        # A run that goes on has done half of it, or half of an epoch.
        (10, 100, {"first_step": 500}, "About 8 min more of training"),
        (10, 100, {"first_step": 950}, "About 44 s more of training"),
    ],
)
def test_the_whole_is_estimated_without_the_compilation(run, capsys, epochs, steps, how, estimate):
    run(epochs, steps, **how)
    told = [line for line in lines(capsys) if line.startswith("About")]
    assert told == [f"{estimate} on this machine"]


@pytest.mark.parametrize(("epochs", "advised"), [(5, False), (7, True)])
def test_what_would_be_faster_is_said_of_long_runs(run, capsys, epochs, advised):
    run(epochs, 100, advice="Buy a GPU.")
    told = lines(capsys)
    assert ("Buy a GPU." in told) == advised
    if advised:
        assert told[told.index("Buy a GPU.") - 1].startswith("About 12 min of training")


def test_the_time_left_is_that_of_the_steps_left(run, capsys):
    run(epochs=4, steps=100, between=50.0)
    found = [re.match(r"Epoch (\d)/4, step (\d+)/100, (.*) left:", line) for line in lines(capsys)]
    found = [match.groups() for match in found if match]
    assert len(found) > 20
    for epoch, step, left in found:
        between = 50 if int(epoch) > 1 else 0  # until there was one
        steps = 400 - 100 * (int(epoch) - 1) - int(step)
        assert left == duration(steps + between * (4 - int(epoch)))


def test_a_line_has_six_figures_and_a_hundred_characters_at_most(run, capsys):
    wild = {name: 1234.5678 * 10**place for place, name in enumerate(NAMES)}
    for logs in ({name: 0.123456 for name in NAMES}, wild):
        run(epochs=2000, steps=1, step=40.0, logs=logs | {"other": 3.0})
        shown = [line for line in lines(capsys) if line.startswith("Epoch")]
        assert max(map(len, shown)) <= WIDTH
        figures = [line.partition(": ")[2].split(", ") for line in shown]
        assert max(map(len, figures)) <= 6
        assert all(one[1].startswith("loss") for one in figures[1:])
    assert "other" not in "".join(shown)


def test_the_images_per_second_are_those_of_the_epoch(run, capsys):
    run(epochs=3, steps=50, step=0.5, between=100.0)
    *_, last = lines(capsys)
    assert last == "Epoch 3/3: 64 images/s, loss 1.5"


def test_figures_stay_until_they_are_measured_again(run, capsys):
    bar = TrainingProgress(NAMES, epochs=2, steps_per_epoch=1)
    with contextlib.closing(bar):
        bar.on_train_begin()
        for epoch, logs in enumerate([{"loss": 3.0, "knn": 0.75}, {"loss": np.array([2.0])}]):
            bar.on_epoch_begin(epoch)
            bar.on_train_batch_end(0, {"loss": 9.0})
            bar.on_epoch_end(epoch, logs)
    assert lines(capsys)[-1] == "Epoch 2/2: loss 2, kNN 0.75"


@pytest.mark.parametrize(
    ("epochs", "steps", "how", "least", "most"),
    [
        (150, 5, {"step": 0.2}, 2, 20),  # three minutes: one each ten seconds
        (1000, 10, {"step": 5.0}, 80, 120),  # 14 hours
        (20, 100, {"step": 10.0}, 80, 140),  # an epoch of 17 minutes has several
        (100, 50, {"step": 360.0}, 2000, 3100),  # three weeks: each ten minutes
    ],
)
def test_a_file_gets_lines_at_a_sensible_pace(run, capsys, epochs, steps, how, least, most):
    run(epochs, steps, **how)
    found = lines(capsys)
    assert least <= len(found) <= most
    assert found[-1].startswith(f"Epoch {epochs}/{epochs}: ")
    assert not [line for line in found if "\r" in line]


@pytest.mark.parametrize(("step", "told"), [(0.2, 1), (2.0, 20)])
def test_a_terminal_gets_a_bar_and_lines_for_long_epochs(monkeypatch, capsys, step, told):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("LINES", "40")
    Run(monkeypatch, terminal=True)(epochs=20, steps=10, step=step)
    out = capsys.readouterr().out
    found = [line.split("\r")[-1] for line in out.splitlines()]
    found = [line for line in found if line.startswith("Epoch")]
    assert len(found) == told
    assert found[-1].endswith(" images/s, loss 1.5")
    assert "|████████| Epoch 20/20" in out
    assert not out.split("\r")[-1].strip()  # the bar is gone


def test_a_warning_gets_a_line_of_its_own(monkeypatch, capsys):
    monkeypatch.setattr(training_progress.sys.stdout, "isatty", lambda: True, raising=False)
    bar = TrainingProgress(NAMES, epochs=9, steps_per_epoch=9)
    with contextlib.closing(bar):
        bar.on_train_begin()
        bar.on_epoch_begin(0)
        bar.on_train_batch_end(0, {"loss": 1.0})
        say("Warning: it is cold.")
    found = [line.split("\r") for line in capsys.readouterr().out.split("\n")]
    assert "Warning: it is cold." in [parts[-1].strip() for parts in found]


def test_it_takes_the_place_of_keras_own(capsys):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    bar = TrainingProgress(NAMES, epochs=2, steps_per_epoch=2, batch_size=4)
    x, y = np.ones((8, 2)), np.ones((8, 1))
    with contextlib.closing(bar):
        model.fit(x, y, batch_size=4, epochs=2, validation_data=(x, y), callbacks=[bar], verbose=0)
    (line,) = lines(capsys)
    assert re.fullmatch(r"Epoch 2/2: [\d,]+ images/s, loss [\d.e+-]+", line)


@pytest.mark.parametrize(
    ("patience", "expected"),
    [(0.0, ["Compiling the training step …", "The first step took 1 s"]), (60.0, [])],
)
def test_says_so_if_the_first_step_takes_long(patience, expected, monkeypatch, capsys):
    monkeypatch.setattr(training_progress, "_LONG", patience)
    bar = TrainingProgress(NAMES, epochs=2, steps_per_epoch=2)
    with contextlib.closing(bar):
        bar.on_train_begin()
        bar.on_epoch_begin(0)
        for batch in range(2):
            bar.on_train_batch_begin(batch)
            if bar._first is not None and expected:
                bar._first.timer.join()
            bar.on_train_batch_end(batch, {"loss": 1.0})
    assert lines(capsys) == expected
