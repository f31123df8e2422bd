"""Calls the real `main` on a tiny run, within this process."""

import json
import os
import pathlib
import shutil

import keras
import numpy as np
import pytest
import script
import small_network
import undrawn
from PIL import Image

from keras_bt import data, plots, workdir
from keras_bt.evaluation.features import extract_features
from trainers.runs import network_pictures, opening
from trainers.runs.settings import PretrainingSettings

TINY = ["--projector=16-16", "--batch_size=64", "--log_every=20", "--noevaluate"]
TINY += small_network.PLAIN_VIEWS
OF_ONE_RUN = ("loss", "correlation", "spectrum_features", "spectrum_embeddings", "features")
OF_ONE_RUN += ("features_pca", "neighbours", "confusion")


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    backbone = small_network.save(folder.parent / "small.keras")
    flags = [f"--workdir={folder}", "--image_size=8", "--epochs=2", backbone, *TINY]
    with undrawn.runs():
        script.call("pretrain", *flags)
    return folder


@pytest.fixture
def drawn(monkeypatch):
    """Keeps what the pictures are drawn of: (name of the file, arguments)."""
    calls = []

    def keep(name):
        draw = getattr(plots, name)

        def kept(path, *args, **kwargs):
            calls.append((name, pathlib.Path(path).stem, args))
            return draw(path, *args, **kwargs)

        monkeypatch.setattr(plots, name, kept)

    names = ("spectrum", "neighbours", "confusion_matrix", "measures", "loss_curve", "correlation")
    for name in (*names, "feature_map"):
        keep(name)
    return calls


def arguments(drawn, stem):
    (found,) = [args for _, name, args in drawn if name == stem]
    return found


def files(folder):
    """Every file below a folder with its content."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_images_that_the_run_tolerated_do_not_stop_it(digits_run, tmp_path, capsys, monkeypatch):
    def opened(spec, settings):
        raise ValueError(f"{settings.max_unreadable} of {spec}")

    monkeypatch.setattr(opening, "open_data", opened)
    line = script.mistake(capsys, "plot", digits_run, f"--out={tmp_path}")
    assert line == "error: 100% of digits"


@pytest.mark.slow
def test_draws_a_run_and_leaves_it_as_it_was(digits_run, tmp_path, capsys, drawn):
    before = files(digits_run)
    script.call("plot", digits_run, f"--out={tmp_path}", "--max_images=200")
    output = capsys.readouterr().out
    assert files(digits_run) == before
    assert {path.stem for path in tmp_path.iterdir()} == {*OF_ONE_RUN, "measures", "report"}
    assert f"\n{tmp_path / 'report.html'}\n" in output
    link = f'href="{os.path.relpath(digits_run / "summary.json", tmp_path)}"'
    assert link in (tmp_path / "report.html").read_text()
    for name in (*OF_ONE_RUN, "measures"):
        assert f"\n{tmp_path / name}.png\n" in f"\n{output}"
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert np.unique(np.asarray(picture)).size > 5
    assert "after epoch 2 of 2" in output
    assert "Not drawn: accuracies.png, as nothing has been measured after training." in output

    features = arguments(drawn, "spectrum_features")[0]
    embeddings = arguments(drawn, "spectrum_embeddings")[0]
    assert list(features) == list(embeddings) == ["untrained", "after epoch 2"]
    for name in features:
        assert features[name].shape == (200, 16)
        assert embeddings[name].shape == (200, 16)
    assert {c.shape for c in arguments(drawn, "correlation")[0].values()} == {(16, 16)}
    mapped, labels, names, method = arguments(drawn, "features")
    np.testing.assert_array_equal(mapped, features["after epoch 2"])
    assert names == tuple("0123456789")
    assert method == "tsne"
    assert arguments(drawn, "features_pca")[3] == "pca"
    truth, predictions, _, title = arguments(drawn, "confusion")
    np.testing.assert_array_equal(truth, labels)
    assert np.mean(truth == predictions) > 0.3  # of ten classes; a mix-up of images leaves 0.1
    assert title == "Linear probe with 200 labels"

    # The network is that of the newest checkpoint: here, of the backbone saved at the end.
    train, test = data.open_source("digits")
    backbone = keras.models.load_model(digits_run / "backbone.keras")
    train_features, test_features = (
        extract_features(backbone, data.evaluation_batches(source, 8, 256))[0]
        for source in (train, test)
    )
    for row in (0, 100, 199):
        errors = np.abs(test_features - mapped[row]).max(axis=1)
        assert errors.min() < 1e-4
        assert labels[row] == test.labels()[np.argmin(errors)]
    assert np.abs(features["untrained"] - mapped).max() > 0.01

    check_neighbours(arguments(drawn, "neighbours"), train, train_features, test, test_features)


def check_neighbours(drawn, train, train_features, test, test_features):
    """They are near ones of the training set, with their own images, labels and similarities."""
    queries, images, similarities, query_labels, found_labels, *_ = drawn
    assert images.shape == (8, 8, 8, 8, 3)
    assert len(set(query_labels)) == 8  # as many classes as rows
    assert (np.diff(similarities, axis=1) <= 0).all()

    def number(source, picture):
        pixels = np.repeat(source.images, 3, axis=-1).astype(np.float32) / 255
        errors = np.abs(pixels - picture).max(axis=(1, 2, 3))
        assert errors.min() < 1e-5
        return np.argmin(errors)

    for row, query in enumerate(queries):
        asked = number(test, query)
        assert query_labels[row] == test.labels()[asked]
        for rank in range(8):
            found = number(train, images[row, rank])
            assert found_labels[row, rank] == train.labels()[found]
            a, b = test_features[asked], train_features[found]
            cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            assert similarities[row, rank] == pytest.approx(cosine, abs=1e-4)
    assert similarities[:, 0].mean() > 0.9


@pytest.mark.slow
def test_an_unfinished_run_without_labels(digits_run, tmp_path, capsys, drawn):
    (tmp_path / "data").mkdir()
    for index in range(70):
        pixels = np.random.default_rng(index).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / f"{index}.png")
    run = copy(digits_run, tmp_path / "run", data=f"folder:{tmp_path / 'data'}", epochs=41)
    with undrawn.pictures():
        script.call("plot", run, "--max_images=100")
    assert not (run / "plots").exists()
    (run / "plots_max_images=100").rename(run / "plots")
    output = capsys.readouterr().out
    assert "after epoch 40 of 41" in output
    assert (
        "Not drawn: the colors of classes and confusion.png (the images have no labels)" in output
    )
    assert not (run / "plots" / "confusion.png").exists()
    for name in set(OF_ONE_RUN) - {"confusion"}:
        assert (run / "plots" / f"{name}.png").is_file()
    assert arguments(drawn, "features")[1] is None
    # An image is not its own neighbor.
    queries, images, _, *labels, _, _ = arguments(drawn, "neighbours")
    assert labels == [None, None]
    assert images.shape == (8, 8, 8, 8, 3)
    for query, nearest in zip(queries, images, strict=True):
        assert np.abs(nearest - query).max(axis=(1, 2, 3)).min() > 0.1


def copy(run, folder, **settings):
    """A run with other settings, or None for one taken away; its metrics are kept."""
    shutil.copytree(run / "checkpoints", folder / "checkpoints")
    shutil.copy(run / "metrics.jsonl", folder)
    config = json.loads((run / "config.json").read_text())
    config.pop("sha256", None)  # changed on purpose
    config["settings"] |= settings
    for name in [name for name, value in settings.items() if value is None]:
        del config["settings"][name]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.slow
def test_the_confusion_of_the_fast_probe_is_taken_where_it_fits(digits_run, tmp_path):
    run, (_, test) = workdir.Workdir(copy(digits_run, tmp_path / "run")), data.open_source("digits")
    assert network_pictures.probe_of(run, test) is None
    probe = run.path / "evaluation" / "linear_probe_fast.npz"
    probe.parent.mkdir()
    predictions = (test.labels() + 1) % 10
    np.savez(probe, labels=test.labels(), predictions=predictions)
    *found, title = network_pictures.probe_of(run, test)
    np.testing.assert_array_equal(found, [test.labels(), predictions])
    assert title == "Linear probe (trainers.linear_probe --fast)"
    # One that is older than the checkpoint is not of this network.
    os.utime(probe, (1e9, 1e9))
    assert network_pictures.probe_of(run, test) is None
    for arrays in ({"labels": predictions, "predictions": predictions}, {"labels": predictions}):
        np.savez(probe, **arrays)  # of other images, or something else
        assert network_pictures.probe_of(run, test) is None
    probe.write_text("text")
    assert network_pictures.probe_of(run, test) is None


@pytest.mark.slow
def test_several_runs_share_the_pictures_of_curves(
    digits_run, tmp_path, capsys, drawn, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    runs = [copy(digits_run, tmp_path / name / "digits") for name in "ab"]
    lines = [{"step": 80, "epoch": 1, "loss": 8.0, "excess": 7.0, "knn_accuracy": 0.5}]
    (runs[1] / "metrics.jsonl").write_text(json.dumps(lines[0]) + "\n")
    shutil.rmtree(runs[1] / "checkpoints")  # curves need none
    capsys.readouterr()
    script.call("plot", *runs, runs[0])
    names = ["loss.png", "measures.png", "table.png"]
    output = capsys.readouterr().out
    assert output.split()[:3] == [f"plots/{name}" for name in names]
    assert "final figures         a/digits  b/digits" in output
    assert "settings that differ" not in output
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == names
    (compared,) = arguments(drawn, "loss")
    assert list(compared) == ["a/digits", "b/digits"]
    assert compared["b/digits"] == lines
    assert arguments(drawn, "measures") == (compared,)


def test_several_labels_per_image_are_no_classes():
    class Source:
        class_names = ("a", "b")
        num_examples = 3
        multilabel = True
        role = "the test set"

        def labels(self):
            return np.array([[1, 0], [1, 1], [0, 1]])

    class Job:
        train = test = Source()
        settings = PretrainingSettings()

    train, test, why_not = network_pictures.labels_or_reason(Job)
    assert train is test is None
    assert why_not == "the images have several labels each"


def test_queries_are_of_as_many_classes_as_possible():
    choose = network_pictures.choose_queries
    labels = np.repeat([3, 1, 0], [50, 2, 1])
    chosen = choose(labels, 8, seed=0)
    assert len(set(chosen)) == 8
    assert labels[chosen].tolist() == sorted(labels[chosen])
    assert np.bincount(labels[chosen]).tolist() == [1, 2, 0, 5]
    assert choose(labels, 8, seed=0) == chosen != choose(labels, 8, seed=1)
    assert set(labels[choose(labels, 3, seed=2)]) == {0, 1, 3}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda run: run / "nowhere", ["A run is a folder", "nowhere"]),
        (lambda run: run / "metrics.jsonl", ["A run is a folder", "metrics.jsonl"]),
        (lambda run: run / "checkpoints", ["must hold config.json", "checkpoints"]),
        (
            lambda run: overwrite(run / "config.json", "{"),
            ["config.json is damaged: it is not JSON"],
        ),
        (lambda run: overwrite(run / "config.json", "[]"), ["it is not a JSON object"]),
        pytest.param(
            lambda run: change(run, projector="8-16"),
            ["checkpoint must hold the variables of this model"],
        ),
        (lambda run: change(run, data="idx:/none"), ["/none"]),
        (lambda run: overwrite(run / "metrics.jsonl", ""), ["Nothing has been logged yet"]),
        (lambda run: overwrite(run / "metrics.jsonl", "a\nb\n"), ["one JSON object", "line 1"]),
        (lambda run: remove(run / "metrics.jsonl"), ["Nothing has been logged yet"]),
        (lambda run: remove(run / "checkpoints"), ["must hold a checkpoint"]),
    ],
)
def test_a_mistake_ends_with_one_line(digits_run, tmp_path, capsys, make, words):
    run = make(copy(digits_run, tmp_path / "run"))
    with undrawn.pictures():
        line = script.mistake(capsys, "plot", run, f"--out={tmp_path / 'pictures'}")
    for word in words:
        assert word in line


def overwrite(path, text):
    path.write_text(text)
    return path.parent


def change(run, **settings):
    return copy(run, run.parent / "changed", **settings)


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return path.parent


@pytest.mark.slow
def test_mistakes_of_the_command(digits_run, tmp_path, capsys):
    assert "at least one run" in script.mistake(capsys, "plot")
    (tmp_path / "file").write_text("mine")
    line = script.mistake(capsys, "plot", digits_run, f"--out={tmp_path / 'file'}")
    assert "--out must be a folder" in line
    line = script.mistake(capsys, "plot", digits_run, "--max_images=0")
    assert "max_images" in line
    assert (tmp_path / "file").read_text() == "mine"
    # Of several runs the one at fault is named.
    line = script.mistake(capsys, "plot", digits_run, tmp_path, f"--out={tmp_path / 'p'}")
    assert str(tmp_path) in line
