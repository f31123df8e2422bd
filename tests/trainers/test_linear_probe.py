"""Calls the real script for a few real steps."""

import json
import shutil
from unittest import mock

import keras
import numpy as np
import pytest
import script

from keras_bt.callbacks.metrics_log import read_metrics
from keras_bt.checkpoint import RunCheckpoint


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A tiny network of random weights."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3, strides=2, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
        ]
    )
    path = tmp_path_factory.mktemp("backbone") / "tiny.keras"
    network.save(path)
    return path


def probe(backbone, *arguments):
    # Nothing could switch determinism off again for the tests after these.
    common = [f"--backbone={backbone}", "--data=digits", "--image_size=8", "--nodeterministic"]
    script.call("linear_probe", *common, *arguments)


SHORT = ["--epochs=3", "--batch_size=64", "--labels=200", "--min_area=0.5", "--flip=0"]


@pytest.fixture(scope="module")
def finished(backbone, tmp_path_factory):
    """A finished run; beside it lies a copy of what it was after its second epoch."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    save = RunCheckpoint.on_epoch_end

    def save_and_copy(self, epoch, logs=None):
        save(self, epoch, logs)
        if epoch == 1:
            shutil.copytree(workdir, workdir.with_name("stopped"))

    with mock.patch.object(RunCheckpoint, "on_epoch_end", save_and_copy):
        probe(backbone, *SHORT, f"--workdir={workdir}")
    return workdir


@pytest.mark.slow
def test_the_summary_holds_the_best_and_the_last_epoch(finished):
    summary = json.loads((finished / "summary.json").read_text())
    metrics = read_metrics(finished / "metrics.jsonl")
    top1 = [line["val_top1"] for line in metrics if "val_top1" in line]
    assert len(top1) == summary["epochs"] == 3
    assert summary["top1"] == top1[-1]
    assert summary["best_top1"] == max(top1) > 0.3
    assert top1[summary["best_epoch"] - 1] == max(top1)
    assert summary["top5"] > summary["top1"]
    assert summary["images"] == 200
    assert metrics[-1]["step"] == 3 * 4  # ⌈200 / 64⌉
    rates = [line["learning_rate"] for line in metrics if "val_top1" in line]
    np.testing.assert_allclose(rates, [0.3, 0.225, 0.075], rtol=1e-5)
    assert list((finished / "tensorboard").rglob("events*"))


@pytest.mark.slow
def test_a_finished_run_says_so(backbone, finished, capsys):
    before = (finished / "metrics.jsonl").read_bytes()
    probe(backbone, *SHORT, f"--workdir={finished}")
    assert "finished run" in capsys.readouterr().out
    assert (finished / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0, 2])
def test_a_run_whose_metrics_are_gone_measures_again(kept, backbone, finished, tmp_path, capsys):
    run = shutil.copytree(finished, tmp_path / "run")
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    before = json.loads((run / "summary.json").read_text())
    (run / "summary.json").unlink()
    if kept:
        (run / "metrics.jsonl").write_bytes(b"".join(lines[:-1]))
    else:
        (run / "metrics.jsonl").unlink()
    probe(backbone, *SHORT, f"--workdir={run}")
    output = capsys.readouterr().out
    assert "lacks the last epoch, which is measured again" in output
    assert ("among those that are known, from 3 on" in output) == (not kept)
    after = json.loads((run / "summary.json").read_text())
    assert after["top1"] == pytest.approx(before["top1"])
    assert after["best_top1"] == pytest.approx(before["best_top1"] if kept else before["top1"])


@pytest.mark.slow
def test_a_stopped_run_continues_as_if_nothing_had_happened(backbone, finished, capsys):
    stopped = finished.with_name("stopped")
    probe(backbone, *SHORT, f"--workdir={stopped}")
    assert "Continuing after epoch 2 of 3" in capsys.readouterr().out
    runs = [read_metrics(folder / "metrics.jsonl") for folder in (finished, stopped)]
    for name in ("loss", "learning_rate", "val_top1"):
        whole, continued = ([line[name] for line in run if name in line] for run in runs)
        np.testing.assert_allclose(whole, continued, rtol=1e-6)


@pytest.mark.slow
def test_steps_on_two_replicas(backbone, tmp_path):
    step = ["--schedule=step", "--milestones=1", "--decay=0.5", "--strategy=mirrored"]
    probe(backbone, *SHORT, "--epochs=2", *step, f"--workdir={tmp_path / 'run'}")
    metrics = read_metrics(tmp_path / "run" / "metrics.jsonl")
    rates = [line["learning_rate"] for line in metrics if "val_top1" in line]
    np.testing.assert_allclose(rates, [0.3, 0.15], rtol=1e-5)


@pytest.mark.slow
def test_fast(backbone, tmp_path, capsys):
    folder = f"--workdir={tmp_path / 'fast'}"
    cache = f"--cache_dir={tmp_path / 'cache'}"
    probe(backbone, "--fast", "--raw_pixels", folder, cache)
    output = capsys.readouterr().out
    assert "top-1" in output
    written = json.loads((tmp_path / "fast" / "linear_probe_fast_raw_pixels.json").read_text())
    found, pixels = written["results"]["backbone"], written["results"]["raw pixels"]
    assert f"{100 * found['top1']:.1f}" in output
    assert found["top1"] > 0.85
    assert pixels["top1"] > 0.85
    assert found["top1"] != pixels["top1"]
    with np.load(tmp_path / "fast" / "linear_probe_fast_raw_pixels.npz") as arrays:
        assert np.mean(arrays["labels"] == arrays["predictions"]) == found["top1"]
    # The features are there already.
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    probe(backbone, "--fast", "--labels=100", "--draws=3", folder, cache)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == kept
    written = json.loads((tmp_path / "fast" / "linear_probe_fast_100_draws=3.json").read_text())
    few = written["results"]["backbone"]
    assert few["images"] == 100
    assert len(few["top1_of_draws"]) == len(set(few["top1_of_draws"])) == 3
    assert few["top1"] == pytest.approx(np.mean(few["top1_of_draws"]))
    assert few["top1_deviation"] == pytest.approx(np.std(few["top1_of_draws"], ddof=1))
    assert 0.5 < few["top1"] < found["top1"]
    # Every cell of the table by itself, however many values of C there are.
    output = capsys.readouterr().out
    assert "mean of 3 draws" in output
    (line,) = (line for line in output.splitlines() if line.startswith("backbone "))
    top1 = f"{100 * few['top1']:.1f} ± {100 * few['top1_deviation']:.1f}"
    c = sorted({f"{value:g}" for value in few["chosen_c"]}, key=float)
    c = c[0] if len(c) == 1 else f"{c[0]} to {c[-1]}"
    cells = [cell.strip() for cell in line.split("  ") if cell]
    assert cells[:-1] == ["backbone", top1, f"{100 * few['top5']:.1f}", c]
    # Unless it is given.
    probe(backbone, "--fast", "--labels=100", "--draws=3", "--c=0.0001", folder, cache)
    strong = json.loads(
        (tmp_path / "fast" / "linear_probe_fast_100_draws=3_c=0.0001.json").read_text()
    )
    assert strong["results"]["backbone"]["chosen_c"] == [0.0001] * 3
    assert strong["results"]["backbone"]["top1"] < few["top1"]
    assert strong["settings"]["c"] == 0.0001


def test_several_labels_per_image(backbone, tmp_path, capsys, monkeypatch):
    from keras_bt import data
    from keras_bt.data import ArraySource

    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (120, 3))
    images = np.zeros((120, 8, 8, 3), np.uint8)
    for c in range(3):  # a class shows in a channel of its own
        images[..., c] = 200 * labels[:, c, None, None] + random.integers(0, 50, (120, 8, 8))
    source = ArraySource(images, labels, ["cat", "dog", "owl"], name="pets")
    parts = source.subset(range(80)), source.subset(range(80, 120))
    monkeypatch.setattr(data, "open_source", lambda *arguments, **options: parts)
    flags = [f"--workdir={tmp_path / 'fast'}", f"--cache_dir={tmp_path / 'cache'}"]
    probe(backbone, "--fast", *flags)
    output = capsys.readouterr().out
    written = json.loads((tmp_path / "fast" / "linear_probe_fast.json").read_text())
    found = written["results"]["backbone"]
    assert found["mean_average_precision"] > 0.95
    for word in ("cat", "dog", "owl", "mean", f"{100 * found['mean_average_precision']:.1f}"):
        assert word in output
    common = [f"--backbone={backbone}", "--data=pets", "--image_size=8", *flags]
    line = script.mistake(capsys, "linear_probe", *common)
    assert "one label each; for several, there is trainers.linear_probe --fast" in line
    line = script.mistake(capsys, "linear_probe", *common, "--fast", "--labels=10%")
    assert "one label per image" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--labels=0"], ["not of 0 images", "labels=0"]),
        (["--labels=200%"], ["at most", "labels=200%"]),
        (["--labels=abc", "--fast"], ["such as 1%", "labels=abc"]),
        (["--rate=0"], ["rate must be a number > 0"]),
        (["--schedule=step"], ["given together"]),
        (["--schedule=step", "--milestones=a"], ["milestones must be whole numbers", "a"]),
        (["--schedule=step", "--milestones=7", "--epochs=7"], ["from 1 to 6", "7"]),
        (["--draws=10"], ["--draws requires --fast"]),
        (["--c=1"], ["--c requires --fast"]),
        (["--c=0", "--fast"], ["--c must be a number > 0", "--c=0"]),
        (["--draws=10", "--fast"], ["needs a part of the labels"]),
        (["--raw_pixels"], ["--raw_pixels requires --fast"]),
        (["--strategy=mirrored", "--batch_size=33"], ["divide evenly", "33"]),
        (["--workdir={tmp}/other"], ["holds other files"]),
    ],
)
def test_a_mistake_ends_with_one_line(backbone, tmp_path, capsys, arguments, words):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("")
    arguments = [argument.format(tmp=tmp_path) for argument in arguments]
    good = [f"--backbone={backbone}", "--data=digits", "--image_size=8", "--nodeterministic"]
    good += [f"--workdir={tmp_path / 'run'}", f"--cache_dir={tmp_path / 'cache'}"]
    line = script.mistake(capsys, "linear_probe", *good, *arguments)
    for word in words:
        assert word in line
    assert not (tmp_path / "run").exists()  # nothing half-written
    assert not (tmp_path / "cache").exists()
