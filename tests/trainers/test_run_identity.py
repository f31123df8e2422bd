"""A run belongs to its images: it goes on, and is called finished, on these alone."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import script
import small_network
import undrawn
from PIL import Image

from keras_bt import data
from keras_bt.callbacks.metrics_log import read_metrics
from keras_bt.strategy import choose_strategy
from keras_bt.strategy import tensorflow as strategy
from keras_bt.workdir import Workdir, write_json
from trainers.runs import pretraining, pretraining_report, running
from trainers.runs.settings import PretrainingSettings

SETTINGS = {"epochs": 1, "batch_size": 8, "projector": "8", "image_size": 8}
SETTINGS |= {"backbone": "small.keras", "data": "folder:images", "workdir": "run"}
SETTINGS |= small_network.PLAIN_SETTINGS
PRETRAIN = [f"--{name}={value}" for name, value in SETTINGS.items()]
PRETRAIN += ["--noevaluate", "--monitor_every=0", "--nodeterministic"]


def draw(folder, seed=0):
    random = np.random.default_rng(seed)
    for number in range(16):
        path = folder / ("cat" if number % 2 else "dog") / f"{number}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8)).save(path)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, with images and what a finished run on them leaves."""
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "images")
    train, _ = data.open_source(SETTINGS["data"])
    run = Workdir("run")
    settings = PretrainingSettings(**SETTINGS, precision="bfloat16")
    with run.claimed(settings.identity(), running.images(training=train)):
        run.write_summary({"seconds_of_last_call": 1.5})
    return tmp_path


def test_finished_on_a_copy_of_the_images(folder, capsys):
    shutil.copytree("images", "copy", copy_function=shutil.copyfile)
    shutil.rmtree("images")
    (folder / "copy").rename("images")
    script.call("pretrain", *PRETRAIN)
    assert "run holds a finished run" in capsys.readouterr().out


def test_a_run_from_before_there_were_other_objectives(capsys):
    config = json.loads(pathlib.Path("run/config.json").read_text())
    del config["settings"]["objective"], config["sha256"]
    write_json("run/config.json", config)
    script.call("pretrain", *PRETRAIN)
    assert "run holds a finished run" in capsys.readouterr().out
    line = script.mistake(capsys, "pretrain", *PRETRAIN, "--objective=dcl")
    assert "run holds a run with objective=barlow_twins. Received: objective=dcl." in line


@pytest.mark.parametrize("unfinished", [False, True])
def test_other_images_are_refused(unfinished, folder, capsys):
    if unfinished:
        (folder / "run" / "summary.json").unlink()
    draw(folder / "images", seed=1)
    line = script.mistake(capsys, "pretrain", *PRETRAIN)
    assert "run holds a run with 16 training images. Received: 16 other images." in line
    for number in range(0, 12, 2):
        (folder / "images" / "dog" / f"{number}.bmp").unlink()
    line = script.mistake(capsys, "pretrain", *PRETRAIN)
    assert "Received: 10 images. Restore the former, or choose another --workdir." in line


def test_a_finished_run_whose_images_are_gone(capsys):
    shutil.rmtree("images")
    script.call("pretrain", *PRETRAIN)
    out = capsys.readouterr().out
    assert "run holds a finished run" in out
    assert "Its data could not be opened: " in out


def test_a_run_keeps_its_precision(capsys):
    script.call("pretrain", *PRETRAIN, "--precision=auto")
    assert "run holds a finished run" in capsys.readouterr().out
    line = script.mistake(capsys, "pretrain", *PRETRAIN, "--precision=float32")
    assert "run holds a run with precision=bfloat16. Received: precision=float32." in line


def test_a_new_run_records_the_precision_that_it_finds(capsys, monkeypatch):
    small_network.save("small.keras")
    monkeypatch.setattr(pretraining.Pretraining, "fit", lambda *_: None)
    monkeypatch.setattr(pretraining_report, "finish", lambda *_: "")
    for found in ("bfloat16", "float32"):
        monkeypatch.setattr(strategy, "cpu_has_bfloat16", lambda found=found: found == "bfloat16")
        script.call("pretrain", *PRETRAIN, f"--workdir={found}")
        assert f"on one device (CPU) in {found}" in capsys.readouterr().out
        assert Workdir(found).read_settings()["precision"] == found


def test_all_workers_compute_in_one_precision(monkeypatch):
    monkeypatch.setattr(pretraining, "worker_count", lambda _: 3)
    for having_it, expected in ((3, "bfloat16"), (2, "float32"), (0, "float32")):
        monkeypatch.setattr(pretraining, "sum_over_workers", lambda *_, n=having_it: n)
        assert pretraining.best_precision(choose_strategy("one")) == expected


@pytest.mark.slow
def test_a_run_from_before_goes_on_and_says_that_it_cannot_compare(folder, capsys, monkeypatch):
    config = json.loads((folder / "run" / "config.json").read_text())
    write_json("run/config.json", {"settings": config["settings"], "versions": {}})
    (folder / "run" / "summary.json").unlink()
    small_network.save("small.keras")
    monkeypatch.setattr(pretraining_report, "export", lambda *_: None)  # it takes seconds
    with undrawn.pictures():
        script.call("pretrain", *PRETRAIN)
    assert "did not record the images" in capsys.readouterr().out
    assert read_metrics("run/metrics.jsonl")[-1]["step"] == 2


@pytest.mark.slow
def test_fine_tuning(folder, capsys):
    small_network.save("small.keras")
    arguments = ["--backbone=small.keras", "--data=folder:images", "--image_size=8"]
    arguments += ["--workdir=tuned", "--labels=100%", "--epochs=1", "--nodeterministic"]
    script.call("finetune", *arguments)
    script.call("finetune", *arguments)
    assert "tuned holds a finished run" in capsys.readouterr().out
    draw(folder / "images", seed=1)
    line = script.mistake(capsys, "finetune", *arguments)
    assert "tuned holds a run with 3 test images. Received: 3 other images. Restore" in line
