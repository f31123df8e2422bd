"""Real runs of sweeps on the digits: trained, measured, told."""

import contextlib
import io
import json
import shutil

import numpy as np
import pytest
import script
import small_network
import undrawn
from PIL import Image

from keras_bt import data
from keras_bt.evaluation.knn import knn_accuracy
from keras_bt.resnet import STAGES
from keras_bt.workdir import read_record
from trainers.ablations import sweeps
from trainers.runs import fast_probe
from trainers.runs.labelled import labelled_halves
from trainers.runs.pretraining import Pretraining
from trainers.runs.settings import LinearProbeSettings

FLAGS = {"flagfile": "digits", "data": "{data}", "width": 2, "projector": "8", "epochs": 1}
FLAGS |= {"monitor_every": 0, "few_labels": 50, **small_network.PLAIN_SETTINGS}
KEYS = ["knn", "knn_whitened", "probe", "few", "few_labels", "few_labels_deviation", "measured_on"]
KEYS += ["seconds_of_last_call"]


def run(*arguments):
    """A run in this process."""
    script.call("run", *arguments, package="trainers.ablations")


def mistake(capsys, *arguments):
    return script.mistake(capsys, "run", *arguments, package="trainers.ablations")


def read(folder):
    return read_record(folder / "measured.json")


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    """Some of the digits, on which all is measured sooner."""
    path = tmp_path_factory.mktemp("data") / "some.npz"
    some = data.open_source("digits")[0].sample(400, seed=0)
    np.savez(path, images=some.images, labels=some.labels())
    return f"npz:{path}"


@pytest.fixture(scope="module")
def sweep_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "tiny.json"
    _, backbone = small_network.save(path.with_name("small.keras")).split("=")
    runs = [{"at": "invariance alone", "flags": {"variant": "invariance"}}]
    content = {"title": "Tiny", "x": "objective", "runs": runs}
    content["flags"] = FLAGS | {"backbone": backbone}
    path.write_text(json.dumps(content | {"references": ["pixels"]}))
    return path


@pytest.fixture(scope="module")
def finished(sweep_file, spec, tmp_path_factory):
    """Folder and output of a sweep of one training, which is there already, and one reference."""
    out = tmp_path_factory.mktemp("out") / "ablations"
    (training,) = sweeps.read(str(sweep_file), spec, out / "runs").runs
    # In this process, which saves TensorFlow's start, what nobody looks at, and its export.
    with undrawn.runs():
        run(*training.command()[3:])
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        script.call("ablate", f"--sweep={sweep_file}", f"--data={spec}", f"--out={out}")
    return out, printed.getvalue()


@pytest.fixture
def runs(sweep_file, spec, finished):
    """The training and the reference."""
    sweep = sweeps.read(str(sweep_file), spec, finished[0] / "runs")
    return sweep.runs[0], sweep.references[0]


@pytest.mark.slow
def test_a_sweep_leaves_table_picture_and_figures(finished, runs):
    out, output = finished
    assert {path.name for path in out.iterdir()} >= {
        "runs",
        "tiny.md",
        "tiny.png",
        "tiny.results.json",
    }
    trained, pixels = (read(run.folder) for run in runs)
    for found in (trained, pixels):
        assert list(found) == KEYS
        assert "80 of the training images" in found["measured_on"]
        assert all(0.1 < found[key] < 1 for key in ("knn", "probe", "few_labels"))
    rows = [
        " | ".join(f"{100 * found[key]:.1f}" for key in [*KEYS[:3], "few_labels"])
        for found in (trained, pixels)
    ]
    text = (out / "tiny.md").read_text()
    assert f"| invariance alone | {rows[0]} | 1 |\n" in text
    assert f"| raw pixels | {rows[1]} | 1 |\n" in text
    assert rows[0] in output
    found = json.loads((out / "tiny.results.json").read_text())
    assert [row["at"] for row in found["rows"]] == ["invariance alone", "pixels"]
    assert list(found["seconds"]) == [runs[0].folder.name]
    with Image.open(out / "tiny.png") as picture:
        assert np.unique(np.asarray(picture)).size > 5
    config = json.loads((runs[0].folder / "config.json").read_text())
    assert config["settings"]["variant"] == "invariance"  # the workdir is of this objective
    assert not (runs[0].folder / "evaluation").exists()  # not evaluated twice


@pytest.mark.slow
def test_a_second_call_trains_nothing(finished, sweep_file, spec, runs, capsys):
    out, _ = finished
    measured = [run.folder / "measured.json" for run in runs]
    before = [file.stat().st_mtime_ns for file in measured]
    logs = [path.read_text() for path in sorted((out / "runs").rglob("*.log"))]
    assert len(logs) == 1
    script.call("ablate", f"--sweep={sweep_file}", f"--data={spec}", f"--out={out}")
    assert "| invariance alone |" in capsys.readouterr().out
    assert [file.stat().st_mtime_ns for file in measured] == before
    assert [path.read_text() for path in sorted((out / "runs").rglob("*.log"))] == logs


@pytest.mark.slow
def test_a_finished_training_that_was_not_measured_is_measured(runs, tmp_path, capsys):
    trained, _ = runs
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    (folder / "measured.json").unlink()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    capsys.readouterr()
    run(*trained.command()[3:], f"--workdir={folder}")
    output = capsys.readouterr().out
    assert "finished run" in output
    for key in ("knn", "probe", "few_labels"):
        assert read(folder)[key] == pytest.approx(read(trained.folder)[key], abs=0.01)
        assert f"{100 * read(folder)[key]:.1f}%" in output
    assert "with 50 labels" in output
    assert {path: path.read_bytes() for path in before} == before
    assert len([path for path in folder.rglob("*") if path.is_file()]) == len(before) + 1


@pytest.mark.slow
def test_another_variant_is_another_run(runs, capsys):
    line = mistake(capsys, *runs[0].command()[3:], "--variant=published")
    assert "holds a run with variant=invariance" in line


@pytest.mark.slow
def test_pixels_are_measured_as_they_are(runs, spec):
    train, test, _ = labelled_halves(*data.open_source(spec), seed=0)
    arrays = *data.raw_pixels(train), *data.raw_pixels(test)
    found = read(runs[1].folder)
    assert found["knn"] == pytest.approx(knn_accuracy(*arrays, k=20))
    assert found["knn"] > 0.9
    few = fast_probe.single(arrays, LinearProbeSettings(labels="50", draws=10, fast=True))
    assert found["few_labels"] == pytest.approx(few["top1"], abs=0.01)
    assert found["few_labels_deviation"] == pytest.approx(few["top1_deviation"], abs=0.01)
    assert found["probe"] > found["few_labels"] > 0.7
    assert {path.name for path in runs[1].folder.iterdir()} == {"measured.json"}  # no training


@pytest.mark.slow
def test_an_untrained_backbone(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(STAGES, 18, ((1, 1), False))  # a quarter of the blocks to trace
    monkeypatch.setattr("trainers.ablations.run.DRAWS", 2)
    tiny = [f"--{key}={value}" for key, value in FLAGS.items() if key not in ("flagfile", "data")]
    found = []
    for seed in (0, 1):
        folder = tmp_path / f"run{seed}"
        run("--measure=untrained", *tiny, f"--seed={seed}", f"--workdir={folder}")
        assert {path.name for path in folder.iterdir()} == {"measured.json"}
        found.append(read(folder))
        assert list(found[-1]) == KEYS
    others = [read(run.folder) for run in runs]
    assert len({measures["knn"] for measures in (*found, *others)}) == 4


def write_images(folder, count, size=16):
    folder.mkdir(parents=True)
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (size, size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--measure=pixels"], ["--workdir is needed"]),
        ([], ["--workdir is needed"]),
        (["--workdir={tmp}/a", "--measure=pixels", "--data=folder:{tmp}/flat"], ["label", "flat"]),
        # Before hours of training, not after.
        (["--workdir={tmp}/a", "--data=folder:{tmp}/flat"], ["one label each", "flat"]),
        (["--workdir={tmp}/a", "--measure=pixels", "--data=folder:{tmp}/none"], ["none"]),
        (["--workdir={tmp}/flat/0.png", "--measure=pixels"], ["0.png"]),
        (["--workdir={tmp}/a", "--measure=all"], ["measure", "pixels"]),
        (["--workdir={tmp}/a", "--variant=best"], ["variant", "unnormalized"]),
        (["--workdir={tmp}/a", "--few_labels=0"], ["few_labels"]),
        (["--workdir={tmp}/a", "--measure=untrained", "--projector=none"], ["projector"]),
    ],
)
def test_a_mistake_ends_with_one_line(tmp_path, capsys, monkeypatch, arguments, words):
    write_images(tmp_path / "flat", 8)
    tiny = ["--width=2", "--projector=8", "--epochs=1", "--batch_size=8", "--image_size=16"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Pretraining, "restore", begun)
    monkeypatch.setattr("trainers.ablations.run.measure", lambda *_: {})  # it takes seconds
    line = mistake(capsys, *tiny, *(argument.format(tmp=tmp_path) for argument in arguments))
    for word in words:
        assert word in line
    assert {path.name for path in tmp_path.iterdir()} == {"flat"}  # nothing half-done


def begun(*_):
    raise ValueError("the training began")
