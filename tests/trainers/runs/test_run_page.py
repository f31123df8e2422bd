"""The page of a run, from whatever its folder holds."""

import dataclasses
import json
import types

import keras
import numpy as np
import pytest

from keras_bt import data, workdir
from keras_bt.evaluation.features import extract_features
from keras_bt.objectives import BarlowTwinsObjective
from trainers.runs import run_page
from trainers.runs.settings import PretrainingSettings

ACCURACIES = {
    "raw pixels": {"knn": 0.5, "probe": 0.4},
    "untrained backbone": {"knn": 0.3, "probe": 0.2},
    "Barlow Twins": {"knn": 0.9, "probe": 0.8},
}


@pytest.fixture
def job(tmp_path):
    """What is left of a run of three epochs on twenty images of two classes."""
    images = np.random.RandomState(0).randint(0, 256, (20, 8, 8, 3), np.uint8)
    source = data.ArraySource(images, np.arange(20) % 2, ["cat", "<b>dog"], name="twenty")
    settings = PretrainingSettings(data="twenty", epochs=3, image_size=8, projector="8")
    run = workdir.Workdir(tmp_path / "run & more")
    with run.claimed(settings.identity()):
        pass
    layers = [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(6)]
    return types.SimpleNamespace(
        run=run,
        settings=settings,
        train=source,
        test=source.subset(np.arange(12)),
        sources=[source],
        mean=data.IMAGENET_MEAN,
        std=data.IMAGENET_STD,
        steps_per_epoch=5,
        objective=BarlowTwinsObjective(),
        model=types.SimpleNamespace(
            backbone=keras.Sequential(layers, name="tiny"), embedding_dim=8
        ),
    )


def log(run, step):
    run.metrics.write_text(
        json.dumps({"step": step, "epoch": step // 5, "time": 0, "loss": 4.0, "excess": 3.0}) + "\n"
    )


def page_of(job):
    return job.run.report.read_text(encoding="utf-8")


def test_a_finished_run(job, capsys):
    log(job.run, 15)
    summary = {"accuracies": ACCURACIES, "measured_on": "12 images", "seconds_of_last_call": 1.0}
    job.run.write_summary(summary)
    words = run_page.words_of(job)
    run_page.finish(job, job.model.backbone, words)
    assert capsys.readouterr().out == ""
    page = page_of(job)
    (sentence,) = words
    assert sentence == "By every measure it is ahead of raw pixels and of the untrained backbone."
    for shown in (
        "Barlow Twins on twenty, 20 images: tiny, projector 8.",
        "Trained for 3 epochs of 5 steps, the last of them on 1970-01-01 at 00:00 UTC.",
        f"<p>{sentence}</p>",
        "<p>Loss 4.00, 3.00 above its lower bound.</p>",
        '<td class="number">90.0</td>',
        "Accuracy in percent, at the end of the run on 12 images",
        "python -m trainers.pretrain --data=twenty --projector=8 --image_size=8 --epochs=3 --warm",
        '<a class="path" href="summary.json">',
        "among the test set (12 images)",
        "&lt;b&gt;dog",
    ):
        assert shown in page.replace("\n", " ")
    assert "<b>dog" not in page
    projector = job.run.tensorboard / "train" / "projector"
    labels = (projector / "labels.tsv").read_text().splitlines()
    assert labels == ["label\tname", *(f"{['cat', '<b>dog'][i % 2]}\t{i}" for i in range(12))]


@pytest.mark.parametrize(
    ("steps", "summary", "shown", "hidden"),
    [
        (0, None, "Not finished: 0 of 3 epochs of 5 steps.", "Outcome"),
        (15, None, "<p>Trained for 3 epochs of 5 steps, the last", "Outcome"),
        (10, None, "Not finished: 2 of 3 epochs of 5 steps, the last", "Outcome"),
        (15, "not measured: the images have no labels", "Accuracy: not measured: the", "<table>"),
    ],
)
def test_runs_that_lack_something(job, steps, summary, shown, hidden):
    if steps:
        log(job.run, steps)
    if summary:
        none = {"accuracies": None, "measured_on": summary, "seconds_of_last_call": 1.0}
        job.run.write_summary(none)
    run_page.of_pretraining(job.run.report, job, steps // 5, run_page.words_of(job), None)
    page = page_of(job)
    assert shown in page
    assert hidden not in page.partition("<details>")[0].partition("</style>")[2]


def test_what_cannot_be_written_loses_nothing_else(job, capsys, monkeypatch):
    def failing(*_, **__):
        raise MemoryError

    job.run.write_summary({"measured_on": "", "seconds_of_last_call": 1.0})
    before = job.run.summary.read_bytes()
    monkeypatch.setattr(run_page, "look", failing)
    run_page.finish(job, None, ["Well done."])
    assert capsys.readouterr().out.startswith("Nearest neighbors and TensorBoard's projector could")
    assert "<p>Well done.</p>" in page_of(job)
    job.run.report.unlink()
    monkeypatch.setattr(run_page.report, "write", failing)
    run_page.finish(job, None, [])
    _, line = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{job.run.report} could not be written: MemoryError")
    assert line.endswith(f"python -m trainers.plot '{job.run.path}'")
    assert not job.run.report.exists()
    assert job.run.summary.read_bytes() == before


@pytest.mark.parametrize("labeled", [True, False])
def test_what_is_looked_at(job, labeled, monkeypatch):
    monkeypatch.setattr(run_page, "MOST_IMAGES", 7)
    if not labeled:
        job.train = data.ArraySource(job.train.images, name="twenty")
        job.test = None
    seen = run_page.look(job, job.model.backbone)
    numbers = [int(name) for name in seen.names]
    assert len(set(numbers)) == 7
    source = job.train.subset(numbers)
    batches = data.evaluation_batches(source, 8, 7)
    features, _ = extract_features(job.model.backbone, batches)
    np.testing.assert_allclose(seen.features, features, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(seen.pictures, job.train.images[numbers])
    assert seen.labels == ([["cat", "<b>dog"][n % 2] for n in numbers] if labeled else None)
    expected = "the test set (12 images)" if labeled else "the 20 training images"
    assert seen.where == f"7 images of {expected}"

    found = run_page.neighbors(seen, seed=0)
    nearest = np.array(found.similarities)
    assert nearest.shape == (7, 6)
    itself = (found.neighbors == found.queries[:, None]).all(axis=(2, 3, 4))
    assert not itself.any()
    assert np.all(np.diff(nearest, axis=1) <= 0)
    if labeled:
        assert sorted(found.query_names) == sorted(seen.labels)
    one = dataclasses.replace(seen, features=seen.features[:1])
    assert run_page.neighbors(one, seed=0) is None
