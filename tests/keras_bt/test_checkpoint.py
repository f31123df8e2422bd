"""Whatever happens to a run, the work up to a checkpoint is not lost."""

import json
import os
import shutil
import signal
import time

import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from full_disk import file_size_limit
from processes import abandoned

from keras_bt.checkpoint import VARIABLES, Interruption, RunCheckpoint, checkpoints

STEPS = 4  # per epoch


def small_model(units=3, optimizer="adam"):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Input((2,)), keras.layers.Dense(units), keras.layers.Dropout(0.5)]
    model = keras.Sequential([*layers, keras.layers.BatchNormalization(), keras.layers.Dense(1)])
    model.compile(optimizer, "mse")
    return model


def batches(first_step=0):
    """An endless stream that is a function of the step, as a run's is."""
    x = np.random.default_rng(0).normal(size=(4 * STEPS, 8, 2)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, x[..., :1])).skip(first_step).repeat()


class AtStep(keras.callbacks.Callback):
    """Calls a function when so many steps are done."""

    def __init__(self, step, function):
        super().__init__()
        self._left, self._function = step, function

    def on_train_batch_end(self, batch, logs=None):
        self._left -= 1
        if self._left == 0:
            self._function()


def fit(model, checkpoint, epochs=2, first_epoch=0, callbacks=()):
    how = {"steps_per_epoch": STEPS, "shuffle": False, "verbose": 0}
    how |= {"initial_epoch": first_epoch, "epochs": epochs, "callbacks": [*callbacks, checkpoint]}
    model.fit(batches(STEPS * first_epoch), **how)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the checkpoints of steps 4, 8 and 12, the model, and its state after step 8."""
    folder, model, after = tmp_path_factory.mktemp("trained") / "c", small_model(), []
    keep = AtStep(8, lambda: after.extend(state(model)))
    fit(model, RunCheckpoint(folder, model, STEPS), epochs=3, callbacks=[keep])
    return folder, after, model


@pytest.fixture
def three(trained, tmp_path):
    """The same in a folder that a test may damage."""
    return shutil.copytree(trained[0], tmp_path / "c")


def state(model):
    return [v.numpy() for v in (*model.variables, *model.optimizer.variables)]


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def names(folder):
    return [path.name for path in checkpoints(folder)]


def test_an_empty_folder_is_a_new_run(tmp_path):
    assert RunCheckpoint(tmp_path / "none", small_model(), STEPS).restore() == 0


@pytest.mark.slow
def test_everything_is_restored_and_training_goes_on_exactly(trained, tmp_path):
    folder, _, model = trained
    assert names(folder) == ["00000012", "00000008", "00000004"]
    restored = small_model()
    assert RunCheckpoint(folder, restored, STEPS).restore() == 12
    assert_same(state(restored), state(model))  # Dropout's seed and Adam's moments included
    for each in (model, restored):
        fit(each, RunCheckpoint(tmp_path, each, STEPS), 5, 3)
    assert_same(state(restored), state(model))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_variables_of_other_types(dtype, tmp_path):
    with_momentum = keras.optimizers.SGD(0.1, momentum=0.9)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, dtype=dtype)])
    model.compile(with_momentum, "mse")
    checkpoint = RunCheckpoint(tmp_path, model, STEPS)
    checkpoint.save()
    expected = state(model)
    assert str(model.weights[0].dtype) == dtype
    for v in model.variables:
        v.assign(keras.ops.zeros_like(v))
    assert RunCheckpoint(tmp_path, model, STEPS).restore() == 0
    assert_same(state(model), expected)


def test_the_file_is_one_that_others_read(trained):
    second = checkpoints(trained[0])[1]
    contents = json.loads((second / "contents.json").read_text())
    assert (contents["step"], contents["epoch"]) == (8, 2)
    found = safetensors.numpy.load_file(second / VARIABLES)
    names = [name for name, *_ in contents["variables"]]
    assert sorted(names) == sorted(found)
    weights = [found[name] for name in names if name.startswith("sequential")]
    assert len(weights) > 6
    assert all(any(np.array_equal(w, s) for s in trained[1]) for w in weights)


def test_few_are_kept_and_not_every_epoch_is_saved(tmp_path):
    model = small_model()
    fit(model, RunCheckpoint(tmp_path / "c", model, STEPS, every=2), epochs=9)
    assert names(tmp_path / "c") == [
        "00000036",
        "00000032",
        "00000024",
    ]  # the last epoch in any case


def test_the_clock_saves_within_an_epoch(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("keras_bt.checkpoint._KEPT", 9)
    model = small_model()
    tick = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: now.__setitem__(0, now[0] + 60)
    )
    checkpoint = RunCheckpoint(tmp_path / "c", model, STEPS, every=9, minutes=3)
    fit(model, checkpoint, epochs=3, callbacks=[tick])
    # Every three minutes, a minute a step; not at step 3 + 3 + 3 + 3 = 12 twice.
    assert names(tmp_path / "c") == ["00000012", "00000009", "00000006", "00000003"]


def truncate(path, share):
    with open(path, "r+b") as file:
        file.truncate(int(share * path.stat().st_size))


def flip_a_bit(path, share):
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= 4
    path.write_bytes(data)


DAMAGE = {
    "no data": lambda c: (c / VARIABLES).unlink(),
    "no contents": lambda c: (c / "contents.json").unlink(),
    "half the contents": lambda c: truncate(c / "contents.json", 0.5),
    "contents flipped": lambda c: flip_a_bit(c / "contents.json", 0.3),
    "no file at all": lambda c: (shutil.rmtree(c), c.mkdir()),
    "a foreign file": lambda c: (c / VARIABLES).write_bytes(b"Who knows?"),
    **{f"data cut at {s}": lambda c, s=s: truncate(c / VARIABLES, s) for s in (0, 0.3, 0.99)},
    **{f"data flipped at {s}": lambda c, s=s: flip_a_bit(c / VARIABLES, s) for s in (0, 0.4, 0.99)},
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_cannot_be_read_is_passed_over_and_said(damage, three, trained, capsys):
    damage(three / "00000012")
    model = small_model()
    assert RunCheckpoint(three, model, STEPS).restore() == 8
    assert_same(state(model), trained[1])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"Passing over {three / '00000012'}, which cannot be read: ")


def test_the_run_comes_again_to_the_step_of_a_damaged_one(three):
    truncate(three / "00000012" / VARIABLES, 0.5)
    model = small_model()
    checkpoint = RunCheckpoint(three, model, STEPS)
    assert checkpoint.restore() == 8
    fit(model, checkpoint, epochs=3, first_epoch=2)
    assert names(three) == ["00000012", "00000008", "00000004"]
    assert RunCheckpoint(three, small_model(), STEPS).restore() == 12


def test_if_none_can_be_read_nothing_is_begun_anew(three):
    for path in checkpoints(three):
        (path / VARIABLES).unlink()
    with pytest.raises(OSError, match=r"None of the checkpoints in .* can be read"):
        RunCheckpoint(three, small_model(), STEPS).restore()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: small_model(units=5), r"such as \['.*kernel', \[2, 5\], 'float32'\].*\[2, 3\]"),
        (lambda: small_model(optimizer="sgd"), "such as None"),
    ],
)
def test_the_checkpoint_of_another_model_is_refused(other, words, three):
    with pytest.raises(ValueError, match=words):
        RunCheckpoint(three, other(), STEPS).restore()


@pytest.mark.parametrize("name", ["00000003", "00000016"])
def test_a_folder_that_was_renamed_is_refused(name, three):
    for path in checkpoints(three)[1:]:
        shutil.rmtree(path)
    (three / "00000012").rename(three / name)
    with pytest.raises(ValueError, match=f"{name}, which holds step 12. Rename it to 00000012"):
        RunCheckpoint(three, small_model(), STEPS).restore()


@pytest.mark.parametrize("name", [VARIABLES, "contents.json"])
def test_files_of_another_checkpoint_are_noticed(name, three, trained, capsys):
    shutil.copy(three / "00000004" / name, three / "00000012")
    model = small_model()
    assert RunCheckpoint(three, model, STEPS).restore() == 8
    assert_same(state(model), trained[1])
    assert f"{VARIABLES} is damaged, or of another checkpoint" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a[1]", "a*"])
def test_characters_that_tensorflow_takes_for_a_pattern(name, three, tmp_path):
    folder, model = shutil.move(three, tmp_path / name / "c"), small_model()
    checkpoint = RunCheckpoint(folder, model, STEPS)
    assert checkpoint.restore() == 12
    checkpoint.save()
    again = small_model()
    assert RunCheckpoint(folder, again, STEPS).restore() == 12
    assert_same(state(model), state(again))


@pytest.mark.parametrize("damaged", [False, True])
def test_a_killed_save_and_what_lies_ahead_of_the_run_are_removed(damaged, three):
    shutil.copytree(three / "00000012", abandoned(three / "00000016"))
    if damaged:
        (three / "00000012" / VARIABLES).unlink()
    checkpoint = RunCheckpoint(three, small_model(), STEPS)
    assert checkpoint.restore() == (8 if damaged else 12)
    checkpoint.save()
    expected = ["00000004", "00000008", "00000012"]
    assert sorted(path.name for path in three.iterdir()) == expected[: 2 if damaged else 3]


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, 100, 1000])
def test_a_full_disk_ends_the_run_with_what_was_kept(limit, three):
    model = small_model()
    checkpoint = RunCheckpoint(three, model, STEPS)
    checkpoint.restore()
    failed = pytest.raises(OSError, match=r"step 16 could not be written.*00000012 is kept")
    with file_size_limit(limit), failed as error:
        fit(model, checkpoint, epochs=4, first_epoch=3)
    assert "File too large" in str(error.value)
    assert sorted(p.name for p in three.iterdir()) == ["00000004", "00000008", "00000012"]
    assert RunCheckpoint(three, small_model(), STEPS).restore() == 12


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("step", "minutes", "saved"),
    [(3, 60, 3), (4, 60, 4), (6, None, 4)],
    ids=["within an epoch", "at its end", "only epochs are saved"],
)
def test_a_signal_saves_and_leaves(number, step, minutes, saved, tmp_path, capfd):
    model, interruption = small_model(), Interruption()
    how = {"every": 1 if minutes is None else 9, "minutes": minutes}
    checkpoint = RunCheckpoint(tmp_path, model, STEPS, interruption=interruption, **how)
    kill = AtStep(step, lambda: os.kill(os.getpid(), number))
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with interruption.watched(), pytest.raises(SystemExit) as left:
        fit(model, checkpoint, epochs=9, callbacks=[kill])
    assert left.value.code == 128 + number
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert names(tmp_path) == [f"{saved:08}"]
    out, err = capfd.readouterr()
    name = signal.Signals(number).name
    assert f"Stopped by {name} after step {step};" in out
    assert "run the same command again" in out
    assert f"{name}: stopping after this step" in err
    restored = small_model()
    assert RunCheckpoint(tmp_path, restored, STEPS).restore() == saved
    if saved == step:
        assert_same(state(restored), state(model))


def wait_until(condition, seconds=5):
    """Lets signals arrive, which may take a moment: another thread may have received them."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)


def test_a_second_signal_acts_at_once(tmp_path):
    model = small_model()
    interruption = Interruption()
    checkpoint = RunCheckpoint(tmp_path / "c", model, STEPS, interruption=interruption)

    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        wait_until(lambda: interruption.number)  # two at once may arrive as one
        os.kill(os.getpid(), signal.SIGINT)
        wait_until(lambda: False)

    # A shell lets programs in the background ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with interruption.watched(), pytest.raises(KeyboardInterrupt):
            fit(model, checkpoint, callbacks=[AtStep(1, twice)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert names(tmp_path / "c") == []


def test_workers_leave_together_when_one_has_had_a_signal(tmp_path):
    asked = []

    def agree(number):
        asked.append(number)
        return number + (1 if len(asked) == 2 else 0)  # another worker has had one

    model = small_model()
    how = {"minutes": 60, "interruption": Interruption(), "agree": agree}
    checkpoint = RunCheckpoint(tmp_path / "c", model, 100, **how)
    with pytest.raises(SystemExit):
        model.fit(batches(), steps_per_epoch=100, shuffle=False, verbose=0, callbacks=[checkpoint])
    assert asked == [0, 0]  # after steps 10 and 20
    assert names(tmp_path / "c") == ["00000020"]


def test_only_one_worker_writes(tmp_path):
    model = small_model()
    fit(model, RunCheckpoint(tmp_path / "c", model, STEPS, writes=False))
    assert names(tmp_path / "c") == []


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [{"every": 0}, {"steps_per_epoch": 0}])
def test_numbers_are_checked(wrong, tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        RunCheckpoint(tmp_path, small_model(), **({"steps_per_epoch": STEPS} | wrong))
