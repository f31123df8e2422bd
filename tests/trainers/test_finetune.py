"""Calls the real script for a few real steps."""

import io
import json
import re
import shlex
import shutil
import sys
import zipfile

import keras
import numpy as np
import pytest
import script
import tensorflow_datasets as tfds
from PIL import Image
from tiny_imagenet import SYNSETS, write_archives

from keras_bt import data
from keras_bt.callbacks.metrics_log import read_metrics
from keras_bt.checkpoint import RunCheckpoint

# Without the flag the tests that follow would be deterministic: nothing can switch it off again.
TINY = ["--data=digits", "--image_size=8", "--flip=0", "--min_area=0.5", "--nodeterministic"]
TINY += ["--log_every=1"]


def write_backbone(path):
    keras.utils.set_random_seed(1)  # other weights than a run of seed 0 draws from scratch
    images = keras.layers.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, use_bias=False, name="conv")(images)
    x = keras.layers.BatchNormalization(name="bn")(x)
    x = keras.layers.GlobalMaxPooling2D()(keras.layers.ReLU()(x))
    keras.Model(images, x, name="tiny").save(path)
    return path


def write_images(folder, count, seed=0):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        pixels = rng.integers(0, 256, (12 + index % 5, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("run") / "tiny.keras")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A run from the backbone, then the one from scratch that it names, with what they print."""
    folder = tmp_path_factory.mktemp("pair") / "a b"
    folder.mkdir()
    arguments = [f"--backbone={write_backbone(folder / 'tiny.keras')}", "--labels=5%", *TINY]
    arguments += ["--head_rate=0.05"]
    given, outputs = [*arguments, "--epochs=3"], []
    while len(outputs) < 2:
        printed = io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", printed)
            script.call("finetune", *(tip(outputs[0]) if outputs else given))
        outputs.append(printed.getvalue())
    return folder, outputs, arguments


@pytest.mark.slow
def test_writes_what_it_promises(pair):
    folder, (output, _), _ = pair
    run = folder / "finetune_5pct"
    assert list((run / "tensorboard").rglob("events*"))
    metrics = read_metrics(run / "metrics.jsonl")
    assert sorted({line["step"] for line in metrics}) == [1, 2, 3, 4, 5, 6]
    metrics = [line for line in metrics if "val_top1" in line]
    assert [line["epoch"] for line in metrics] == [1, 2, 3]
    measured = [line["val_top1"] for line in metrics]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["images"] == 60  # 6 of each of ten classes: 5% of 1297, rounded down
    assert summary["last"]["top1"] == measured[-1]
    assert summary["last"]["top5"] == metrics[-1]["val_top5"]
    assert summary["best"]["top1"] == max(measured)
    assert measured[summary["best"]["epoch"] - 1] == max(measured)
    assert summary["best"]["top5"] == max(line["val_top5"] for line in metrics)
    assert summary["settings"]["batch_size"] == 30
    given = {"labels": "5%", "epochs": 3, "flip": 0.0, "min_area": 0.5}
    assert summary["differs_in"].items() >= given.items()
    assert "batch_size" not in summary["differs_in"]
    assert "warning: The loss is" not in output
    assert summary["steps"] == 6
    page = (run / "report.html").read_text()
    assert output.partition("Finished")[2].partition("\n\nBest")[0] in page
    assert "finetune on digits" in page
    rates = summary["rates"]
    assert rates["backbone"] == 0.001
    assert rates["head"] == 0.05
    assert "rates 0.001 (backbone) and 0.05 (head)" in output
    assert "60 labeled images" in output


@pytest.mark.slow
def test_the_summary_tells_what_the_saved_classifier_does(pair):
    run = pair[0] / "finetune_5pct"
    classifier = keras.models.load_model(run / "classifier.keras")
    _, test = data.open_source("digits")
    images, labels = next(iter(data.evaluation_batches(test, 8, 500)))
    logits = keras.ops.convert_to_numpy(classifier(images, training=False))
    order = np.argsort(-logits, axis=1, kind="stable")
    last = json.loads((run / "summary.json").read_text())["last"]
    for k in (1, 5):
        right = (order[:, :k] == labels.numpy()[:, None]).any(axis=1)
        assert last[f"top{k}"] == pytest.approx(right.mean(), abs=0.003)  # rounding may tip one


def test_the_classifier_is_made_of_core_layers(pair):
    with zipfile.ZipFile(pair[0] / "finetune_5pct" / "classifier.keras") as file:
        assert "keras_bt" not in file.read("config.json").decode()


def test_from_scratch_is_compared_with_the_run_beside_it(pair):
    folder, (_, output), _ = pair
    pretrained, scratch = (
        json.loads((folder / f"finetune_5pct{name}" / "summary.json").read_text())
        for name in ("", "_from_scratch")
    )
    assert scratch["rates"] == {"backbone": 0.5, "head": 0.5}  # not what was given for the other
    gain = 100 * (pretrained["last"]["top1"] - scratch["last"]["top1"])
    assert re.search(rf"{abs(gain):.1f} points of top-1", output)
    for name, summary in (("pretrained", pretrained), ("from scratch", scratch)):
        (row,) = [line for line in output.splitlines() if line.startswith(name)]
        assert float(row.split()[-2]) == pytest.approx(100 * summary["last"]["top1"], abs=0.051)
    kernels = [
        keras.models.load_model(file).get_layer("tiny").get_layer("conv").kernel.numpy()
        for file in folder.glob("*/classifier.keras")
    ]
    start = keras.models.load_model(folder / "tiny.keras").get_layer("conv").kernel.numpy()
    distances = sorted(np.abs(kernel - start).max() for kernel in kernels)
    assert 0 < distances[0] < 0.1 < distances[1]


@pytest.mark.slow
def test_more_epochs_are_measured_now_and_then_and_not_compared(pair, capsys):
    folder, _, arguments = pair
    shutil.copytree(folder / "finetune_5pct_from_scratch", folder / "long_from_scratch")
    flags = ["--epochs=5", "--measure_every=2", f"--workdir={folder / 'long'}"]
    script.call("finetune", *arguments, *flags)
    assert "points of top-1" not in capsys.readouterr().out
    metrics = read_metrics(folder / "long" / "metrics.jsonl")
    assert [line["epoch"] for line in metrics if "val_top1" in line] == [2, 4, 5]
    summary = json.loads((folder / "long" / "summary.json").read_text())
    assert summary["last"]["epoch"] == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "rate", "tried"),
    [
        ([], "--head_rate=100", "head_rate=1"),
        (["--from_scratch"], "--scratch_rate=100", "scratch_rate=1"),
    ],
)
def test_a_rate_that_is_too_high_is_named(tmp_path, backbone, capsys, start, rate, tried):
    folder = tmp_path / "my run"
    arguments = [f"--backbone={backbone}", f"--workdir={folder}", "--labels=20%", *TINY]
    script.call("finetune", *arguments, "--epochs=3", "--batch_size=32", rate, *start)
    output = capsys.readouterr().out
    assert output.count("warning: The loss is") == 1
    assert f"{rate} is too high" in output
    other = tmp_path / f"my run_{tried}"
    assert {f"--{tried}.0", f"--workdir={other}", *start} < set(tip(output))
    if start:  # What it prints runs as it is, on the same labels.
        script.call("finetune", *tip(output))
        other = json.loads((other / "summary.json").read_text())
        mine = json.loads((folder / "summary.json").read_text())
        assert other["rates"]["head"] == 1
        assert other["images"] == mine["images"] == 250
        assert other["steps"] == mine["steps"] == 24
        assert other["settings"]["from_scratch"]


def tip(output):
    """The arguments of the first command in the output."""
    (line, *_) = (line for line in output.splitlines() if line.startswith("  python -m"))
    python, m, module, *arguments = shlex.split(line)
    assert (python, m, module) == ("python", "-m", "trainers.finetune")
    return arguments


def test_a_finished_run_says_so_and_other_settings_are_refused(pair, capsys):
    _, _, arguments = pair
    script.call("finetune", *arguments, "--epochs=3")
    assert "finished run" in capsys.readouterr().out
    line = script.mistake(capsys, "finetune", *arguments, "--epochs=3", "--head_rate=1")
    assert "head_rate=0.05" in line
    assert "head_rate=1.0" in line


@pytest.mark.slow
def test_a_run_whose_metrics_are_gone_measures_again(pair, tmp_path, capsys):
    folder, _, arguments = pair
    run = tmp_path / "run"
    shutil.copytree(folder / "finetune_5pct", run)
    before = json.loads((run / "summary.json").read_text())
    for name in ("metrics.jsonl", "summary.json"):
        (run / name).unlink()
    script.call("finetune", *arguments, "--epochs=3", f"--workdir={run}")
    assert "metrics.jsonl lacks the last epoch, which is measured again" in capsys.readouterr().out
    after = json.loads((run / "summary.json").read_text())
    assert after["last"] == pytest.approx(before["last"])
    assert after["best"] == after["last"]  # the only one that is known


@pytest.mark.slow
def test_a_stopped_run_continues_as_if_nothing_had_happened(
    tmp_path, monkeypatch, capsys, backbone
):
    def start(name):
        arguments = [f"--backbone={backbone}", "--labels=70", "--batch_size=32", "--epochs=5"]
        arguments += ["--schedule=step", "--backbone_rate=0.2", "--head_rate=0.5"]
        arguments += [f"--workdir={tmp_path / name}"]
        script.call("finetune", *arguments, *TINY)

    save = RunCheckpoint.on_epoch_end

    def save_and_copy(self, epoch, logs=None):
        save(self, epoch, logs)
        if epoch + 1 == 2:  # what a run leaves that is killed now
            shutil.copytree(tmp_path / "whole", tmp_path / "stopped")

    with monkeypatch.context() as patch:
        patch.setattr(RunCheckpoint, "on_epoch_end", save_and_copy)
        start("whole")
    capsys.readouterr()
    start("stopped")
    assert "Continuing after epoch 2 of 5" in capsys.readouterr().out
    runs = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "stopped")]
    assert [m["step"] for m in runs[0]] == [m["step"] for m in runs[1]]
    for name in ("loss", "val_loss", "learning_rate"):
        whole, stopped = ([m[name] for m in run if name in m] for run in runs)
        np.testing.assert_allclose(stopped, whole, rtol=1e-4)
    # As reported after a step, the rate is that of the next: epochs 4 and 5 have 0.1 and 0.02.
    rates = [m["learning_rate"] for m in runs[0] if "loss" in m and m["loss"] is not None]
    np.testing.assert_allclose(rates, [0.5] * 8 + [0.1] * 3 + [0.02] * 4, rtol=1e-6)
    weights = [
        keras.models.load_model(tmp_path / name / "classifier.keras").get_weights()
        for name in ("whole", "stopped")
    ]
    for whole, stopped in zip(*weights, strict=True):
        np.testing.assert_allclose(stopped, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_on_two_devices(tmp_path, capsys, backbone):
    run = tmp_path / "run"
    script.call(
        "finetune",
        f"--backbone={backbone}",
        "--labels=15",
        "--epochs=2",
        "--batch_size=7",
        "--strategy=mirrored",
        f"--workdir={run}",
        *TINY,
    )
    output = capsys.readouterr().out
    assert "2 replicas" in output
    assert "cut to 6 images, from 7" in output
    # 10 images (one of each class) in batches of 6: the second is short.
    assert {line["step"] for line in read_metrics(run / "metrics.jsonl")} == {1, 2, 3, 4}


def jpeg(number):
    pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 24, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.slow
def test_imagenet_takes_the_official_subset(tmp_path, monkeypatch, capsys, backbone):
    train = [[jpeg(5 * label + n) for n in range(5)] for label in range(len(SYNSETS))]
    write_archives(tmp_path, train, [jpeg(n) for n in range(6)], [jpeg(n) for n in range(2)])
    listed = [f"{SYNSETS[label]}_{n}.JPEG" for label, n in ((0, 3), (0, 1), (0, 2), (2, 4))]
    (tmp_path / "list.txt").write_text("\n".join(listed))
    # The list of the subset lies on a server; everything else is tfds's own.
    monkeypatch.setattr(
        tfds.download.DownloadManager, "download", lambda self, url: tmp_path / "list.txt"
    )
    run = tmp_path / "run"
    script.call(
        "finetune",
        f"--backbone={backbone}",
        "--labels=10%",
        "--epochs=1",
        *TINY,
        "--data=tfds:imagenet2012",
        f"--data_dir={tmp_path}",
        f"--workdir={run}",
    )
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["images"], summary["classes"]) == (4, 1000)  # a draw would take 3
    assert "6 images" in summary["measured_on"]
    assert "4 labeled images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--labels=0"], ["labels must be", "labels=0"]),
        (["--labels=0%"], ["labels must be", "labels=0%"]),
        (["--labels=0.0001%"], ["not of 0 images", "labels=0.0001%"]),
        (["--labels=few"], ["labels must be", "labels=few"]),
        (["--labels=2000"], ["labels must be", "1297", "2000"]),
        (["--labels=200%"], ["labels must be", "200%"]),
        (["--schedule=linear"], ["<cosine|step>", "linear"]),
        (["--head_rate=0"], ["head_rate must be a number > 0", "--head_rate=0.0"]),
        (["--backbone_rate=nan"], ["backbone_rate", "nan"]),
        (
            ["--from_scratch", "--head_rate=1"],
            ["takes a single rate, --scratch_rate", "--head_rate=1.0"],
        ),
        (["--from_scratch", "--scratch_rate=-1"], ["scratch_rate must be a number > 0", "-1"]),
        (["--epochs=0"], ["epochs", "0"]),
        (["--backbone={tmp}/text.keras"], ["backbone must be a Keras model", "text.keras"]),
        (["--backbone={tmp}/nothing"], ["--backbone must be", "nothing"]),
        (["--data=folder:{tmp}/unlabelled"], ["Labeled images", "unlabelled"]),
        (["--data=folder:{tmp}/one"], ["two classes or more"]),
        (["--workdir={tmp}"], ["which holds other files"]),
    ],
)
def test_a_mistake_ends_with_one_line(tmp_path, capsys, backbone, arguments, words):
    (tmp_path / "text.keras").write_text("no model")
    write_images(tmp_path / "unlabelled", 6)
    write_images(tmp_path / "one" / "train" / "cat", 6)
    write_images(tmp_path / "one" / "test" / "cat", 3)
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    run = tmp_path / "run"
    line = script.mistake(
        capsys, "finetune", f"--backbone={backbone}", f"--workdir={run}", *TINY, *given
    )
    for word in words:
        assert word in line
    assert not run.exists()  # nothing half-written
