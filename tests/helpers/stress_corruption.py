"""Damages the files of a run in every way that comes to mind, and reads them again.

    python tests/helpers/stress_corruption.py --corruptions=400 --scripts=40

What is read must be what was written, or the reader must end with one line. First the files are
read by the functions that the commands call, `--corruptions` times each; then, `--scripts` times in
all, by the commands themselves, on a small run that is trained for it. `test_stress_corruption.py`
is the short version of it.
"""

import argparse
import collections
import contextlib
import dataclasses
import io
import json
import pathlib
import random
import shutil
import tempfile
from collections.abc import Callable

import keras
import numpy as np
import script
import small_network
import tensorflow as tf

from keras_bt import data
from keras_bt.callbacks.metrics_log import MetricsLog
from keras_bt.checkpoint import CONTENTS, VARIABLES, RunCheckpoint, checkpoints
from keras_bt.evaluation.feature_cache import cached_features
from keras_bt.files import whole
from keras_bt.workdir import Workdir, load_model, read_record, save_model, write_record
from trainers.ablations import sweeps
from trainers.runs import network_pictures, rebuilding, running
from trainers.runs.settings import PretrainingSettings

DEEP = "[" * 100_000
VALUES = ["", "text", None, True, [], {}, [[]], -1, 0, 7, 0.5, 1e300, 10**400, float("nan")]
VALUES += [float("inf"), "\ud800", [[1, 2], [3]], {"a": {"b": []}}, "64"]


# How content is damaged: functions of the bytes, of those of a similar file, and of a `Random`.


def flip_a_bit(content, other, draw):
    place = draw.randrange(len(content))
    return (
        content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]
    )


def flip_bytes(content, other, draw):
    for _ in range(draw.randint(2, 5)):
        content = flip_a_bit(content, other, draw)
    return content


def change_a_digit(content, other, draw):
    places = [place for place, byte in enumerate(content) if 48 <= byte <= 57]
    if not places:
        return flip_a_bit(content, other, draw)
    place = draw.choice(places)
    digit = draw.choice([d for d in b"0123456789" if d != content[place]])
    return content[:place] + bytes([digit]) + content[place + 1 :]


def truncate(content, other, draw):
    return content[: draw.randrange(len(content))]


def empty(content, other, draw):
    return b""


def zeros(content, other, draw):
    start = draw.randrange(len(content))
    length = min(len(content) - start, draw.randint(1, 64))
    return content[:start] + bytes(length) + content[start + length :]


def not_utf8(content, other, draw):
    place = draw.randrange(len(content))
    return content[:place] + b"\xff\xfe" + content[place:]


def swap(content, other, draw):
    return exchange_lines(content, other, draw) if other is None else other


def exchange_lines(content, other, draw):
    lines = content.splitlines(keepends=True)
    if len(lines) < 3:
        return truncate(content, other, draw)
    one, two = sorted(draw.sample(range(len(lines)), 2))
    lines[one], lines[two] = lines[two], lines[one]
    return b"".join(draw.choice([lines, lines[:one] + lines[one + 1 :]]))


def append(content, other, draw):
    return content + draw.choice([content, other or content, b"}", b"\0" * 9, b"text"])


def another_value(content, other, draw):
    return with_changed_json(
        content, draw, lambda place, key: place.update({key: draw.choice(VALUES)})
    )


def no_key(content, other, draw):
    return with_changed_json(content, draw, lambda place, key: place.pop(key))


def deep(content, other, draw):
    changed = with_changed_json(content, draw, lambda place, key: place.update({key: "DEEP"}))
    return changed.replace(b'"DEEP"', DEEP.encode())


def another_file(content, other, draw):
    return draw.choice(
        [b"[]", b"{}", b"null", b"3", b'"text"', DEEP.encode(), b"a,b\n1,2\n", b"\n"]
    )


def with_changed_json(content, draw, change):
    """Changes one entry of the JSON object, or of that in one line of several."""
    lines = content.splitlines() if content.count(b'"step"') > 1 else [content]
    number = draw.randrange(len(lines))
    try:
        value = json.loads(lines[number])
    except ValueError:  # of another kind
        return flip_a_bit(content, b"", draw)
    entries = []

    def collect(place):
        for key, inner in place.items():
            entries.append((place, key))
            if isinstance(inner, dict):
                collect(inner)

    collect(value)
    change(*draw.choice(entries))
    lines[number] = json.dumps(value).encode()
    return b"\n".join(lines) + b"\n"


KINDS = [flip_a_bit, flip_bytes, change_a_digit, truncate, empty, zeros, not_utf8, swap, append]
KINDS += [another_value, no_key, deep, another_file]


@dataclasses.dataclass(frozen=True)
class Target:
    """A file, the function that reads it, and what that may return.

    `other` is a similar file, if it can be noticed that it is not the right one.
    """

    file: pathlib.Path
    other: pathlib.Path
    read: Callable
    is_right: Callable


def outcome(read, is_right):
    """Reads, and says what came of it: "right", "one line", "different" or "traceback"."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            found = read()
    except (ValueError, OSError) as error:  # what commands report as mistakes
        return "one line" if "\n" not in str(error) else "several lines"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {error!s:.80}"
    return "right" if is_right(found) else "different"


@contextlib.contextmanager
def damaged(target, draw):
    """Damages a file, or the names of folders; yields how."""
    file, other = target.file, target.other
    if file.is_dir():
        with renamed(file, other, draw) as how:
            yield how
        return
    content, kind = file.read_bytes(), draw.choice(KINDS)
    file.write_bytes(kind(content, other and other.read_bytes(), draw))
    try:
        yield kind.__name__
    finally:
        file.write_bytes(content)


@contextlib.contextmanager
def renamed(folder, other, draw):
    """Gives a checkpoint's folder another name, or the place of another one, as a whole or not."""
    copies = folder.parent.with_name("copies")
    shutil.copytree(folder.parent, copies)
    how = draw.choice(["rename", "exchange", "put a file of the other into it", "remove files"])
    names = sorted(path.name for path in folder.iterdir())
    some = draw.sample(names, draw.randint(1, len(names) - 1))
    if how == "rename":
        folder.rename(folder.with_name(f"{draw.choice([0, 1, 5, 11, 13, 10**9]):08}"))
    elif how == "exchange":
        for path, name in (
            (folder, "x"),
            (other, folder.name),
            (folder.with_name("x"), other.name),
        ):
            path.rename(folder.with_name(name))
    for name in some:
        if how.startswith("put"):
            shutil.copy(other / name, folder)
        elif how.startswith("remove"):
            (folder / name).unlink()
    try:
        yield how
    finally:
        shutil.rmtree(folder.parent)
        copies.rename(folder.parent)


def corrupt(folder, count, seed=0, of_models=None):
    """Damages each file `count` times, `of_models` times if it holds a model, and reads it again.

    Returns:
        dict from the names of files to a `Counter` of outcomes.

    Raises:
        AssertionError: if what was read is not what was written, or the error is not one line.
    """
    draw, found = random.Random(seed), {}
    for name, target in targets(folder).items():
        found[name] = collections.Counter()
        of_figures = target.file.suffix in (".json", ".jsonl", ".npz") and name != CONTENTS
        for _ in range(count if of_figures or of_models is None else of_models):
            with damaged(target, draw) as how:
                came = outcome(target.read, target.is_right)
            assert came in ("right", "one line"), f"{name}, {how}: {came}"
            found[name][came] += 1
        assert outcome(target.read, target.is_right) == "right", name  # restored
    return found


def make(path, seed):
    """Writes what a run writes, with a network that takes no time."""
    run = Workdir(path)
    settings = PretrainingSettings(seed=seed, image_size=8 + seed, width=3, epochs=9)
    sources = images(seed)
    with run.claimed(settings.identity(), running.images(training=sources[0])):
        keras.utils.set_random_seed(seed)
        model = network()
        steps = {"steps_per_epoch": 4, "verbose": 0, "shuffle": False, "epochs": 3}
        kept = RunCheckpoint(run.checkpoints, model, 4)
        x = np.random.default_rng(seed).normal(size=(12, 2, 2)).astype("float32")
        batches = tf.data.Dataset.from_tensor_slices((x, x[..., :1])).repeat()
        model.fit(batches, callbacks=[MetricsLog(run.metrics, 1), kept], **steps)
    save_model(model, run.backbone)
    share = round(0.5 + seed / 7, 3)
    accuracies = {"Barlow Twins": {"knn": share, "few_labels": None}}
    figures = {"loss": 8.5 + seed, "seconds_of_last_call": 1.5, "accuracies": accuracies}
    run.write_summary(figures | {"skipped_images": []})
    rows = {"backbone": {"top1": share, "top5": None}}
    write_record(
        run.path / "evaluation" / "linear_probe_fast.json", {"results": rows, "seconds": 1.5}
    )
    with whole(run.path / "evaluation" / "linear_probe_fast.npz") as partial:
        np.savez(partial, labels=np.arange(9), predictions=np.arange(9)[:: 1 - 2 * seed])
    return run


def network():
    layers = [keras.Input((2,)), keras.layers.Dense(3), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile("adam", "mse")
    return model


def images(seed=0):
    """Two labeled sources of equally many images."""
    drawn = np.random.default_rng(seed).integers(0, 256, (2, 9, 4, 4, 3), np.uint8)
    return [data.ArraySource(part, np.arange(9), [*"abcdefghi"]) for part in drawn]


def targets(folder):
    """Makes two runs; returns a dict from names to the first one's files as `Target`s."""
    run, other = (make(folder / name, seed) for seed, name in enumerate("ab"))
    model, sources = network(), images()
    flat = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten()])

    def settings():
        found, its = rebuilding.read_run(run.path)
        return its, found.read_images()

    def probe():
        found = network_pictures.probe_of(run, sources[0])
        return found and [array.tolist() for array in found[:2]]

    def features(source=sources[0]):
        found = cached_features(folder / "cache", flat, source, 4, progress=False)
        return [array.tolist() for array in found]

    def weights():
        return [w.tolist() for w in load_model("backbone", run.backbone).get_weights()]

    def restored():
        step = RunCheckpoint(run.checkpoints, model, steps_per_epoch=4).restore()
        return [step, *(v.numpy().tolist() for v in (*model.variables, *model.optimizer.variables))]

    def same(read):
        right = read()
        return lambda found: found == right

    def beginning(read):  # what a kill leaves, after whose last line a run goes on
        right = read()
        return lambda found: found == right[: len(found)]

    def or_none(read):  # plot then fits a probe of its own
        right = read()
        return lambda found: found in (None, right)

    def earlier(read):  # one that cannot be read is passed over for the one before
        states, hidden = [], folder / "hidden"
        for path in checkpoints(run.checkpoints):
            states.append(read())
            shutil.move(path, hidden / path.name)
        for path in hidden.iterdir():
            shutil.move(path, run.checkpoints)
        return lambda found: found in states

    def measures():
        folder = run.path / "evaluation"
        return sweeps.Run("a", "", 0, "linear_probe", {}, folder).measures()

    caches = []
    for source in sources:
        features(source)
        caches += [path for path in (folder / "cache").iterdir() if path not in caches]
    fast = run.path / "evaluation" / "linear_probe_fast.npz"
    found = {
        "config.json": (run.config, other.config, settings, same),
        "summary.json": (run.summary, other.summary, run.read_summary, same),
        "metrics.jsonl": (run.metrics, None, lambda: rebuilding.logged(run), beginning),
        "linear_probe_fast.json": (fast.with_suffix(".json"), None, measures, same),
        "linear_probe_fast.npz": (fast, None, probe, or_none),
        "features": (*caches, features, same),
        "backbone.keras": (run.backbone, None, weights, same),
    }
    newest, second, *_ = checkpoints(run.checkpoints)
    (folder / "hidden").mkdir()
    right = earlier(restored)
    for name in (CONTENTS, VARIABLES):
        found[name] = newest / name, second / name, restored, lambda read: right
    found["checkpoint folders"] = newest, second, restored, lambda read: right
    return {n: Target(*where, read, rule(read)) for n, (*where, read, rule) in found.items()}


SMALL = [
    "--projector=16-16",
    "--epochs=2",
    "--noevaluate",
    "--monitor_every=0",
    "--nodeterministic",
]


def through_commands(folder, count, seed=0):
    """Damages the files of a small run on the digits, and calls the commands that read them.

    Returns and raises as `corrupt`, by the names of files and commands.
    """
    draw, run = random.Random(seed), Workdir(folder / "run")
    backbone = small_network.save(folder / "small.keras")
    pretrain = ["pretrain", f"--workdir={run.path}", backbone, *SMALL]
    knn = ["knn", f"--backbone={run.path}"]
    plot = ["plot", run.path, folder / "copy", f"--out={folder / 'plots'}"]
    assert quietly(pretrain) == quietly(knn) == "", "the run itself"
    shutil.copytree(run.path, folder / "copy")
    right = accuracies(run), rebuilding.logged(run)
    caches = sorted((run.path / "features").iterdir())
    newest, second, *_ = checkpoints(run.checkpoints)
    cases = [
        *(
            (file, command)
            for file in (run.config, run.summary)
            for command in (pretrain, knn, plot)
        ),
        (run.metrics, plot),
        (run.backbone, knn),
        (caches[0], knn),
        (newest / CONTENTS, pretrain),
    ]
    others = {caches[0]: caches[1], newest / CONTENTS: second / CONTENTS}
    found = collections.defaultdict(collections.Counter)
    for number in range(count):
        file, command = cases[number % len(cases)]
        name = f"{file.name:.20} by {command[0]}"
        summary = run.summary.read_bytes()
        if file.name == CONTENTS:
            run.summary.unlink()  # or it would not be read
        with damaged(Target(file, others.get(file), None, None), draw) as how:
            line = quietly(command)
            same = accuracies(run) == right[0]
            if not line and file == run.metrics:
                same &= right[1][: len(rebuilding.logged(run))] == rebuilding.logged(run)
        run.summary.write_bytes(summary)
        fine = line.startswith("error: ") and line.count("\n") == 1 if line else same
        assert fine, f"{name}, {how}: {line or 'different'}"
        found[name]["one line" if line else "right"] += 1
    return found


def accuracies(run):
    return read_record(run.path / "evaluation" / "knn.json")["accuracies"]


def quietly(command):
    """Calls a command; returns what it writes to stderr if it fails, "" if it does not."""
    name, *arguments = command
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        try:
            script.call(name, *arguments)
        except SystemExit as ended:
            return err.getvalue() or f"status {ended.code}"
    return ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corruptions", type=int, default=400)
    parser.add_argument("--scripts", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for function, count in (
        (corrupt, arguments.corruptions),
        (through_commands, arguments.scripts),
    ):
        with tempfile.TemporaryDirectory() as folder:
            found = function(pathlib.Path(folder), count, arguments.seed)
        for name, outcomes in found.items():
            print(f"{name:35}", dict(outcomes), flush=True)


if __name__ == "__main__":
    main()
