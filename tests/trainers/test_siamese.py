"""Calls the real script for a few real steps."""

import io
import json
import shutil
import sys

import keras
import numpy as np
import pytest
import script
import small_network
from PIL import Image

import keras_bt
from keras_bt import data
from keras_bt.callbacks.metrics_log import read_metrics
from keras_bt.evaluation import verification

# Two steps an epoch. (With determinism the tests that follow would be deterministic, too.)
TINY = ["--batch_size=500", "--nodeterministic", "--log_every=1", "--head=8"]
DIGITS = ["--data=digits", "--image_size=8", "--labels=40", "--unseen=7,8,9", "--pairs=500"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a backbone, a run from it in run/, and what that printed."""
    folder = tmp_path_factory.mktemp("siamese")
    backbone = small_network.save(folder / "tiny.keras")
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", printed)
        script.call(
            "siamese", backbone, *DIGITS, *TINY, "--epochs=3", f"--workdir={folder / 'run'}"
        )
    return folder, backbone, printed.getvalue()


@pytest.mark.slow
def test_the_summary_tells_what_the_saved_network_does(runs):
    run, output = runs[0] / "run", runs[2]
    summary = json.loads((run / "summary.json").read_text())
    found = summary["verification"]
    network = keras.models.load_model(run / "siamese.keras")
    assert isinstance(network, keras_bt.Siamese)
    assert network.threshold == pytest.approx(found["threshold"])
    parts = data.paired_parts(*data.open_source("digits"), "7,8,9", "40", 0, 500)
    images = np.concatenate(
        [batch for batch, _ in data.evaluation_batches(parts.test.source, 8, 256)]
    )
    pairs = parts.test.pairs
    distances = network.distance(images[pairs.first], images[pairs.second]).numpy()
    expected = verification.verify(distances, pairs.same, found["threshold"])
    assert found["auc"] == pytest.approx(expected.auc, abs=1e-3)
    assert found["accuracy"] == pytest.approx(expected.accuracy, abs=5e-3)
    embedding = keras.models.load_model(run / "backbone.keras")
    np.testing.assert_allclose(embedding(images[:5]), network(images[:5]), atol=1e-5)
    assert summary["images"] == 35  # 5 of each of seven classes
    assert summary["test_pairs"] == 500
    assert summary["steps"] == 6
    assert "classes that were not trained on: 7, 8, 9" in output
    page = (run / "report.html").read_text()
    assert f"AUC {found['auc']:.4f}" in page
    assert "siamese.keras" in page
    assert "the pictures, in full size" not in page  # of which it draws none
    assert f"AUC {found['auc']:.4f}" in output
    lines = read_metrics(run / "metrics.jsonl")
    assert {line["step"] for line in lines} == set(range(1, 7))
    assert lines[-1]["distance_same"] < lines[-1]["distance_different"]


@pytest.mark.slow
def test_other_commands_measure_the_run(runs, capsys):
    folder = runs[0]
    script.call("knn", f"--backbone={folder / 'run'}", f"--cache_dir={folder / 'cache'}")
    assert "digits" in capsys.readouterr().out  # its own data and image size


@pytest.mark.slow
def test_a_stopped_run_continues_as_if_nothing_had_happened(runs, capsys):
    folder, backbone, _ = runs
    stopped = folder / "stopped"
    shutil.copytree(folder / "run", stopped)
    for name in ("summary.json", "siamese.keras", "backbone.keras"):
        (stopped / name).unlink()
    for checkpoint in ("00000006", "00000004"):
        shutil.rmtree(stopped / "checkpoints" / checkpoint)
    arguments = [backbone, *DIGITS, *TINY, "--epochs=3", f"--workdir={stopped}"]
    script.call("siamese", *arguments)
    assert "Continuing after epoch 1 of 3" in capsys.readouterr().out
    ours, theirs = (
        keras.models.load_model(run / "siamese.keras").get_weights()
        for run in (folder / "run", stopped)
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)
    script.call("siamese", *arguments)
    assert "holds a finished run" in capsys.readouterr().out
    assert "margin=1.0" in script.mistake(capsys, "siamese", *arguments, "--margin=0.5")


@pytest.mark.slow
def test_on_two_devices_as_on_one(runs, tmp_path, capsys):
    folder, backbone, _ = runs
    more = [backbone, *DIGITS, *TINY, "--epochs=1", "--strategy=mirrored"]
    script.call("siamese", *more, f"--workdir={tmp_path / 'two'}")
    assert "2 replicas" in capsys.readouterr().out
    one, two = (read_metrics(run / "metrics.jsonl") for run in (folder / "run", tmp_path / "two"))
    assert two[0]["loss"] == pytest.approx(one[0]["loss"], rel=1e-4)
    odd = [*more, "--batch_size=5", f"--workdir={tmp_path / 'odd'}"]
    assert "evenly across replicas" in script.mistake(capsys, "siamese", *odd)


@pytest.fixture
def table(tmp_path):
    """Writes a table of pairs of noisy images of four shades."""
    rng = np.random.default_rng(0)
    for n in range(12):
        pixels = (60 * (n % 4) + rng.integers(0, 60, (9 + n, 10, 3))).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
    (tmp_path / "x.png").write_bytes(b"no image")
    rows = [f"{a}.png,{b}.png,{int(a % 4 == b % 4)},train" for a in range(12) for b in range(a)]
    rows += ["1.png,5.png,1,test", "1.png,2.png,0,test", "1.png,x.png,0,test"]
    (tmp_path / "t.csv").write_text("\n".join(["path_a,path_b,same,split", *rows]))
    return f"--data=pairs:{tmp_path / 't.csv'}"


@pytest.mark.slow
def test_pairs_of_a_file_on_a_frozen_backbone(runs, table, tmp_path, capsys):
    more = [table, *TINY, "--epochs=1", "--image_size=8", f"--workdir={tmp_path / 'run'}"]
    script.call("siamese", runs[1], *more, "--frozen")
    output = capsys.readouterr().out
    assert "54 pairs of 12 images to train on" in output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["validation_pairs"], summary["test_pairs"]) == (12, 2)
    assert summary["skipped_images"] == ["x.png"]  # of a test pair, which is left out
    assert "Judged on 2 pairs of the test pairs" in output
    assert "Skipped 1 image that could not be read" in output
    kept = keras.models.load_model(tmp_path / "run" / "backbone.keras").layers[1].get_weights()
    file = runs[1].partition("=")[2]
    for one, other in zip(keras.models.load_model(file).get_weights(), kept, strict=True):
        np.testing.assert_array_equal(other, one)


def test_a_run_as_backbone_hands_its_classes_on_and_images_must_be_had_by_number(
    runs, tmp_path, monkeypatch, capsys
):
    flags = [f"--backbone={runs[0] / 'run'}", f"--workdir={tmp_path / 'run'}"]
    line = script.mistake(capsys, "siamese", *flags, "--unseen=1,2,3")
    assert "--unseen must be as in the run" in line
    monkeypatch.setattr(data.ArraySource, "random_access", False)
    assert "in its own order" in script.mistake(capsys, "siamese", *flags)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_without_a_backbone_a_network_starts_from_random_weights(runs, tmp_path, capsys):
    network = runs[1].replace("backbone", "network")
    more = [
        *DIGITS,
        *TINY,
        "--epochs=1",
        "--form=cosine",
        "--seed=1",
        f"--workdir={tmp_path / 'run'}",
    ]
    script.call("siamese", network, *more)
    assert "from random weights" in capsys.readouterr().out
    trained = keras.models.load_model(tmp_path / "run" / "backbone.keras").layers[1]
    other = keras.models.load_model(runs[1].partition("=")[2]).get_weights()[0]
    first = trained.get_weights()[0]
    assert first.shape == other.shape
    assert abs(first - other).max() > 0.01


MISTAKES = {
    "no data": ([], "--data is needed"),
    "frozen from scratch": (["--data=digits", "--frozen"], "Received: --frozen and no --backbone"),
    "a network beside a backbone": (["--backbone=x", "--stem=imagenet"], "without --backbone"),
    "a margin without use": (["--data=digits", "--form=cosine", "--margin=0.5"], "contrastive"),
    "no such class": (["--data=digits", "--unseen=1,x"], "which is none in digits"),
    "too many classes": (["--data=digits", "--unseen=9"], "leave two of the 10"),
    "one label of each class": (["--data=digits", "--labels=7"], "to train on: Pairs need"),
    "no labels": (["--data=npz:{dir}/bare.npz"], "no labels"),
    "classes of a file": (["{table}", "--unseen=2"], "no classes to draw from"),
    "a missing image": (["--data=pairs:{dir}/missing.csv"], "no.png in row 2"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_told_in_one_line_and_leave_nothing(
    case, tmp_path, monkeypatch, capsys, request
):
    arguments, message = MISTAKES[case]
    np.savez(tmp_path / "bare.npz", images=np.zeros((9, 8, 8), np.uint8))
    (tmp_path / "missing.csv").write_text("path_a,path_b,same\nno.png,bare.npz,1\n")
    if "{table}" in arguments:
        arguments = [request.getfixturevalue("table"), *arguments[1:]]
    monkeypatch.chdir(tmp_path)
    arguments = [argument.replace("{dir}", str(tmp_path)) for argument in arguments]
    assert message in script.mistake(capsys, "siamese", *arguments, "--workdir=run")
    assert not (tmp_path / "run").exists()
