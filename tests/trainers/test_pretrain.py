"""Calls the real `main` for a few real steps."""

import dataclasses
import html
import json
import os
import pathlib
import re
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import script
import small_network
import tensorflow as tf
import undrawn
from PIL import Image
from places import ROOT

from keras_bt import data
from keras_bt.callbacks.metrics_log import read_metrics
from keras_bt.checkpoint import RunCheckpoint, checkpoints
from keras_bt.objectives import BarlowTwinsObjective
from keras_bt.workdir import Workdir
from trainers.runs import pretraining, results
from trainers.runs.settings import PretrainingSettings

TINY = ["--projector=16-16", "--batch_size=128", "--log_every=1"]
TINY += ["--precision=float32"]  # also in a process of its own
STEPS = 1297 // 128  # per epoch of the digits


def pretrain(*arguments):
    """Runs the command as a user does, and returns what it prints."""
    result = subprocess.run(
        [sys.executable, "-m", "trainers.pretrain", *arguments],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "AutoGraph" not in result.stderr  # which warns of what it does not convert
    return result.stdout


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """The flags of the finished run; tracing a ResNet would take it as long again."""
    backbone = small_network.save(tmp_path_factory.mktemp("backbone") / "small.keras")
    return ["--epochs=2", *TINY, backbone, "--image_size=8"]


@pytest.fixture(scope="module")
def finished_run(several, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "digits"
    output = pretrain(f"--workdir={workdir}", *several)
    return workdir, output


@pytest.mark.slow
def test_writes_everything_that_it_promises(finished_run):
    workdir, output = finished_run
    for name in ("config.json", "summary.json", "metrics.jsonl", "backbone.keras"):
        assert (workdir / name).is_file()
    for name in ("loss", "views", "correlation", "features"):
        assert (workdir / "plots" / f"{name}.png").stat().st_size > 10_000
    assert list((workdir / "tensorboard").rglob("events*"))
    served = tf.saved_model.load(workdir / "saved_model" / "1")
    images = np.random.default_rng(0).integers(0, 256, (3, 9, 9, 3), dtype=np.uint8)
    resized = data.normalize(data.center_crop(images, 8, 8))
    backbone = keras.models.load_model(workdir / "backbone.keras")
    # As digits are evaluated: none of their pixels is cut off.
    np.testing.assert_allclose(
        served.serve(images)["features"], backbone.predict(resized, verbose=0), rtol=1e-4, atol=1e-6
    )
    card = json.loads((workdir / "saved_model/1/assets.extra/card.json").read_text())
    summary = json.loads((workdir / "summary.json").read_text())
    assert card["metrics"]["accuracies"] == summary["accuracies"]
    kept = [path.name for path in checkpoints(workdir / "checkpoints")]
    assert kept == [f"{2 * STEPS:08}", f"{STEPS:08}"]
    for word in ("raw pixels", "untrained backbone", "5 labels per class", str(workdir)):
        assert word in output
    page = (workdir / "report.html").read_text()
    told = output.partition("5 per class\n")[2].partition("\n\n")[2].partition("\n\n")[0]
    assert told
    assert all(f"<p>{html.escape(sentence)}</p>" in page for sentence in told.splitlines())
    assert "among the test set (500 images)" in page
    projector = workdir / "tensorboard" / "train" / "projector"
    assert len((projector / "features.tsv").read_text().splitlines()) == 500


@pytest.mark.slow
def test_metrics_and_summary_agree(finished_run):
    workdir, _ = finished_run
    *metrics, measured = read_metrics(workdir / "metrics.jsonl")
    assert [m["step"] for m in metrics] == list(range(1, 2 * STEPS + 1))
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["loss"] == metrics[-1]["loss"]
    for m in metrics:
        weighted = m["on_diagonal"] + 0.0051 * m["off_diagonal"]
        assert m["loss"] == pytest.approx(weighted, rel=1e-3)
        assert m["excess"] == pytest.approx(m["loss"] - summary["floor"], rel=1e-3, abs=1e-3)
    assert set(summary["accuracies"]) == {"raw pixels", "untrained backbone", "Barlow Twins"}
    for row in summary["accuracies"].values():
        assert 0.1 < row["few_labels"] < row["probe"] <= 1
    # Raw pixels of this split do not depend on training: they tell a wrong evaluation.
    assert summary["accuracies"]["raw pixels"]["knn"] > 0.9
    # After the last epoch, on a line of its own: of the digits all images are looked at.
    assert (measured["step"], measured["epoch"]) == (2 * STEPS, 2)
    assert measured["knn_accuracy"] == summary["accuracies"]["Barlow Twins"]["knn"]
    assert 0.1 < measured["linear_accuracy"] <= 1
    assert 1 < measured["embedding_rankme"] <= 16
    assert 0 < measured["diagonal_mean"] < 1
    settings = json.loads((workdir / "config.json").read_text())["settings"]
    assert not [name for name in settings if "monitor" in name]  # so runs from before continue


@pytest.mark.slow
def test_backbone_loads_with_plain_keras(finished_run):
    workdir, _ = finished_run
    assert keras.models.load_model(workdir / "backbone.keras").output_shape == (None, 16)
    # test_downstream.py loads such a file where there is no keras_bt.
    with zipfile.ZipFile(workdir / "backbone.keras") as file:
        config = file.read("config.json").decode()
    modules = re.findall(r'"module": "?([^",]*)', config)
    assert len(modules) > 5
    assert [name for name in modules if name.partition(".")[0] != "keras"] == []


@pytest.mark.slow
def test_a_finished_run_says_so(several, finished_run, capsys):
    workdir, _ = finished_run
    before = (workdir / "metrics.jsonl").read_bytes()
    script.call("pretrain", f"--workdir={workdir}", *several)
    assert "finished run" in capsys.readouterr().out
    assert (workdir / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_other_settings_are_refused_by_name(several, finished_run, capsys):
    workdir, _ = finished_run
    line = script.mistake(capsys, "pretrain", f"--workdir={workdir}", *several, "--epochs=3")
    assert "epochs=2" in line
    assert "epochs=3" in line


@pytest.fixture
def small(tmp_path):
    """What runs in this process have in common; to draw and to export would take longer."""
    backbone = small_network.save(tmp_path / "small.keras")
    flags = ["--image_size=8", "--nodeterministic"]  # determinism would stay on
    with undrawn.runs():
        yield [*TINY, *small_network.PLAIN_VIEWS, backbone, *flags]


@keras.saving.register_keras_serializable("tests")
class Half(BarlowTwinsObjective):
    """The paper's terms, with another loss."""

    def loss(self, terms):
        return terms["on_diagonal"] + 0.5 * terms["off_diagonal"]


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_from_python_another_objective_is_part_of_the_run(tmp_path):
    backbone = str(tmp_path / "small.keras")
    settings = PretrainingSettings(
        **{"workdir": str(tmp_path / "run"), "epochs": 1, "image_size": 8, "batch_size": 512},
        **{"projector": "8", "backbone": backbone, "evaluate": False, "monitor_every": 0},
        **small_network.PLAIN_SETTINGS,
        deterministic=False,  # it would stay on
    )
    run = pretraining.pretrain(settings, objective=Half())
    (metrics,) = read_metrics(run.metrics)
    weighted = metrics["on_diagonal"] + 0.5 * metrics["off_diagonal"]
    assert metrics["loss"] == metrics["excess"] + json.loads(run.summary.read_text())["floor"]
    assert metrics["loss"] == pytest.approx(weighted, rel=1e-4)
    # Without it the run would go on with the paper's objective, or seem to be finished.
    with pytest.raises(ValueError, match=r"{'name': 'Half',.* Received: objective=barlow_twins"):
        pretraining.pretrain(settings)
    with pytest.raises(ValueError, match=r"or as an argument\. Received: objective='vicreg' in"):
        pretraining.pretrain(dataclasses.replace(settings, objective="vicreg"), objective=Half())
    pretraining.pretrain(settings, objective=Half())


FASHION_MNIST = pathlib.Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.slow
@pytest.mark.skipif(
    not FASHION_MNIST.is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)
def test_all_of_fashion_mnist(small, tmp_path, capsys):
    arguments = [*small, "--batch_size=2048", "--epochs=1", "--noevaluate", "--monitor_every=0"]
    arguments += [f"--data=idx:{FASHION_MNIST}", f"--workdir={tmp_path / 'run'}"]
    script.call("pretrain", *arguments)
    assert "60,000 images" in capsys.readouterr().out
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 60_000 // 2048


@pytest.mark.slow
def test_a_run_can_be_repeated_and_the_seed_matters(several, finished_run, tmp_path, monkeypatch):
    def losses(workdir):
        return [m["loss"] for m in read_metrics(workdir / "metrics.jsonl") if "loss" in m]

    def run(workdir, steps, *flags):
        def leave(self, batch, logs=None):
            if len(losses(workdir)) == steps:
                raise SystemExit(7)

        # Another process than that of the finished run, and neither measured nor monitored.
        flags = [f"--workdir={workdir}", *several, "--noevaluate", "--monitor_every=0", *flags]
        monkeypatch.setattr(RunCheckpoint, "on_train_batch_end", leave)
        with undrawn.pictures(), pytest.raises(SystemExit, match="7"):
            script.call("pretrain", *flags)
        return losses(workdir)

    expected = losses(finished_run[0])
    steps = STEPS + 2  # some of the second epoch too
    assert run(tmp_path / "again", steps) == expected[:steps]
    (loss,) = run(tmp_path / "other", 1, "--seed=1")
    assert loss != expected[0]


def write_images(folder, count, size):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(count)
    for index in range(count):
        shape = (size + index % 5, size + index % 7, 3)
        image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
        image.save(folder / f"{index}.{'png' if index % 2 else 'jpg'}")


@pytest.mark.slow
def test_another_objective_on_a_folder_of_labelled_images(small, tmp_path, capsys):
    for label in ("cat", "dog"):
        write_images(tmp_path / "data" / "train" / label, 20, 40)
    arguments = [f"--data=folder:{tmp_path / 'data'}", f"--workdir={tmp_path / 'run'}", *small]
    arguments += ["--objective=vicreg", "--vicreg_weights=10,20,2", "--monitor_every=0"]
    script.call("pretrain", *arguments, "--epochs=1", "--batch_size=16")
    output = capsys.readouterr().out
    assert "40 images" in output
    assert "held out from the probes" in output
    last = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    weighted = 10 * last["invariance"] + 20 * last["variance"] + 2 * last["covariance"]
    assert last["loss"] == pytest.approx(weighted, rel=1e-4)
    assert "Training: VICReg, 1 epochs of 2 steps" in output
    assert f"Loss {last['loss']:.2f}.\n" in output  # nothing about a floor, which is not known
    assert not [words for words in ("cannot fall", "λ", "Barlow") if words in output]
    rows = json.loads((tmp_path / "run" / "summary.json").read_text())["accuracies"]
    assert list(rows) == ["raw pixels", "untrained backbone", "VICReg"]
    (found,) = {
        r.accuracy
        for r in results.read(Workdir(tmp_path / "run"))
        if "kNN, k" in r.name and r.of == results.OURS
    }
    assert found == rows["VICReg"]["knn"]


def save_backbone(path, vectors):
    layers = [keras.layers.Input((32, 32, 3)), keras.layers.Conv2D(4, 3)]
    if vectors:
        layers += [keras.layers.Flatten(), keras.layers.Dense(4)]
    keras.Sequential(layers).save(path)


@pytest.mark.slow
def test_a_flat_folder_without_labels_and_a_backbone_of_ones_own(small, tmp_path, capsys):
    save_backbone(tmp_path / "mine.keras", vectors=True)
    write_images(tmp_path / "data", 20, 40)
    arguments = [f"--data=folder:{tmp_path / 'data'}", f"--workdir={tmp_path / 'run'}"]
    arguments += [*small, f"--backbone={tmp_path / 'mine.keras'}", "--image_size=32"]
    script.call("pretrain", *arguments, "--epochs=1", "--batch_size=16")
    assert "the images have no labels" in capsys.readouterr().out
    backbone = keras.models.load_model(tmp_path / "run" / "backbone.keras")
    assert backbone.output_shape == (None, 4)
    last = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["feature_rankme"] > 1
    assert "knn_accuracy" not in last


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data=imagenot"], ["Data must be one of digits", "imagenot"]),
        (["--data=folder:{tmp}/empty"], ["empty"]),
        (["--data=folder:{tmp}/missing"], ["missing"]),
        (["--data=idx:{tmp}/empty"], ["empty"]),
        (["--batch_size=5000"], ["batch_size", "5000"]),
        (["--batch_size=1"], ["batch_size", "1"]),
        (["--epochs=-3"], ["epochs", "-3"]),
        (["--redundancy_weight=0"], ["redundancy_weight must be a number > 0", "0"]),
        (["--redundancy_weight=-1"], ["redundancy_weight must be a number > 0", "-1"]),
        (["--projector=8192-x"], ["projector must be layer widths", "8192-x"]),
        (["--image_size=4"], ["image_size must be at least 8", "4"]),
        pytest.param(
            ["--backbone=resnet42"], ["backbone must be one of", "resnet42"], marks=pytest.mark.slow
        ),
        (["--backbone={tmp}/maps.keras"], ["one vector per image", "30"]),
        pytest.param(
            ["--backbone={tmp}/vectors.keras", "--image_size=16"],
            ["must take images of 16×16×3"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--backbone={tmp}/nothing.keras"],
            ["backbone must be a Keras model"],
            marks=pytest.mark.slow,
        ),
        (["--workdir={tmp}/files"], ["which holds other files"]),
        (["--strategy=tpu"], ["strategy=tpu needs a TPU", "TPUs not found"]),
        (["--flip=1.5"], ["flip", "1.5"]),
        (["--warmup_epochs=200"], ["--warmup_epochs must be at most --epochs"]),
        (["--unknown_flag=1"], ["unknown_flag"]),
        (["--flagfile=nowhere.flags"], ["nowhere.flags"]),
        (["digits"], ["--name=value", "digits"]),
        (["--rate=nan"], ["rate must be finite"]),
    ],
)
def test_a_mistake_ends_with_one_line(tmp_path, capsys, arguments, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "thesis.tex").write_text("all my work")
    for name in ("maps", "vectors"):
        if any(name in argument for argument in arguments):
            save_backbone(tmp_path / f"{name}.keras", vectors=name == "vectors")
    arguments = [argument.format(tmp=tmp_path) for argument in arguments]
    if not any("workdir" in argument for argument in arguments):
        arguments.append(f"--workdir={tmp_path / 'run'}")
    line = script.mistake(capsys, "pretrain", *arguments)
    for word in words:
        assert word in line
    assert not (tmp_path / "run").exists()  # nothing half-written
