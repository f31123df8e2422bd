"""Calls the real script on scikit-learn's digits with a tiny backbone."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import script
from PIL import Image
from places import ROOT

from keras_bt import data
from keras_bt.evaluation.knn import knn_accuracies
from keras_bt.evaluation.whitening import Whitening


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A file with a random projection of 8 × 8 pixels."""
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("backbone") / "tiny.keras"
    layers = [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(12)]
    keras.Sequential(layers).save(path)
    return path


def arrays_of(backbone):
    """Features and labels of the two halves of the digits, each image as it is."""
    model, arrays = keras.models.load_model(backbone), []
    for source in data.open_source("digits"):
        images = np.repeat(source.images, 3, axis=-1)  # 8 × 8 already
        arrays += model(data.normalize(images)).numpy().astype(np.float64), source.labels()
    return arrays


@pytest.fixture(scope="module")
def measured(backbone, tmp_path_factory):
    """Figures of a run with everything, and the command that made them."""
    out = tmp_path_factory.mktemp("out") / "new" / "figures.json"
    arguments = [f"--backbone={backbone}", "--data=digits", "--image_size=8", "--k=20,3,200"]
    script.call("knn", *arguments, "--raw_pixels", f"--out={out}")
    return json.loads(out.read_text()), arguments


@pytest.mark.slow
def test_accuracies_are_those_of_all_images(backbone, measured):
    figures, _ = measured
    train, test = data.open_source("digits")
    pixels = *data.raw_pixels(train), *data.raw_pixels(test)
    rows = {"backbone": arrays_of(backbone), "raw pixels": pixels}
    for name, (fitted, labels, measured_on, test_labels) in list(rows.items()):
        white = Whitening.fit(fitted)
        rows[f"{name}, whitened"] = white(fitted), labels, white(measured_on), test_labels
    assert set(figures["accuracies"]) == set(rows)
    for name, arrays in rows.items():
        found = figures["accuracies"][name]
        assert list(found) == ["20", "3", "200"]
        for k, expected in knn_accuracies(*arrays, (20, 3, 200)).items():
            assert found[str(k)] == pytest.approx(dataclasses.asdict(expected), abs=1e-6)
            assert 0.5 < expected.top1 < expected.top5 <= 1

    assert (figures["training_images"], figures["test_images"]) == (1297, 500)
    assert (figures["classes"], figures["features"]) == (10, 12)
    assert (figures["backbone"], figures["data"]) == (str(backbone), "digits")
    assert "500" in figures["measured_on"]
    assert figures["seconds"] > 0
    assert figures["settings"] == {
        "k": [20, 3, 200],
        "temperature": 0.07,
        "image_size": 8,
        "resize": None,
        "seed": 0,
        "raw_pixels": True,
        "background": "white",
        "exif": "ignore",
        "max_pixels": 64_000_000,
        "normalize": "imagenet",
        "image_feature": None,
        "label_feature": None,
    }
    assert figures["differs_in"] == {"k": [20, 3, 200], "raw_pixels": True}
    assert figures["command"].startswith(f"python -m trainers.knn --backbone={backbone} --data=")


def test_the_second_time_features_are_not_extracted_again(backbone, measured, capsys):
    script.call("knn", *measured[1])  # without --out
    output = capsys.readouterr().out
    assert "batch" not in output  # no progress bar of an extraction
    assert "500/500" in output  # but one of the search
    default = backbone.parent / "evaluation" / "knn_k=20,3,200.json"
    assert f"Written to {default}" in output
    again = json.loads(default.read_text())["accuracies"]
    names = ["backbone", "backbone, whitened"]
    assert again == {name: measured[0]["accuracies"][name] for name in names}
    assert [path.name for path in default.parent.iterdir()] == [default.name]
    # The table shows what the file says.
    cells = [[cell.strip() for cell in line.split("  ") if cell] for line in output.splitlines()]
    for name in names:
        shown = again[name]["20"]
        assert [name, "20", f"{100 * shown['top1']:.2f}", f"{100 * shown['top5']:.2f}"] in cells


def test_of_a_run_the_data_and_the_image_size_are_known(backbone, measured, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "backbone.keras").write_bytes(backbone.read_bytes())
    settings = {"data": "digits", "image_size": 8}
    (run / "config.json").write_text(json.dumps({"settings": settings}))
    script.call("knn", f"--backbone={run}", "--k=200", "--temperature=100")
    assert list((run / "features").glob("*.npy"))
    file = run / "evaluation" / "knn_k=200_temperature=100.0.json"
    found = json.loads(file.read_text())["accuracies"]["backbone"]
    expected = knn_accuracies(*arrays_of(backbone), (200,), temperature=100)[200]
    assert found["200"]["top1"] == pytest.approx(expected.top1, abs=1e-6)
    assert found["200"] != measured[0]["accuracies"]["backbone"]["200"]


@pytest.mark.slow
def test_nothing_is_replaced_by_other_figures(backbone, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "backbone.keras").write_bytes(backbone.read_bytes())
    settings = {"data": "digits", "image_size": 8, "exif": "apply"}
    (run / "config.json").write_text(json.dumps({"settings": settings}))
    other = f"--data={write_folder(tmp_path / 'my images', ['a', 'b'], per_class=10)}"
    script.call("knn", f"--backbone={run}")
    first = (run / "evaluation" / "knn.json").read_bytes()
    for flags, name in (
        ([other, "--k=5", "--seed=1"], r"data=.*my_images-[0-9a-f]{8}_k=5_seed=1"),
        (["--exif=ignore", "--resize=16"], "resize=16_exif=ignore"),
    ):
        before = set((run / "evaluation").iterdir())
        script.call("knn", f"--backbone={run}", *flags)
        (new,) = set((run / "evaluation").iterdir()) - before
        assert re.fullmatch(f"knn_{name}.json", new.name)
        assert len(new.name) < 120
    assert (run / "evaluation" / "knn.json").read_bytes() == first
    # A name that the user chose is not taken from figures made with other settings.
    out = f"--out={run / 'evaluation' / 'knn.json'}"
    line = script.mistake(capsys, "knn", f"--backbone={run}", "--temperature=0.1", out)
    assert "holds figures made with temperature=0.07. Received: temperature=0.1" in line
    (tmp_path / "notes.json").write_text("[]")
    out = f"--out={tmp_path / 'notes.json'}"
    assert "Received: another file" in script.mistake(capsys, "knn", f"--backbone={run}", out)
    assert (run / "evaluation" / "knn.json").read_bytes() == first
    script.call("knn", f"--backbone={run}")  # measured again, with the same settings


def write_folder(folder, classes, per_class=6, side=8):
    random = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = random.integers(0, 256, (side, side, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return f"folder:{folder}"


def test_few_classes_have_no_top5_and_a_fifth_is_held_out(backbone, tmp_path, capsys):
    spec = write_folder(tmp_path / "images", ["a", "b", "c"], per_class=10)
    out = tmp_path / "figures.json"
    flags = [f"--backbone={backbone}", "--image_size=8", f"--data={spec}", f"--out={out}"]
    script.call("knn", *flags, "--k=24", f"--cache_dir={tmp_path / 'cache'}")
    figures = json.loads(out.read_text())
    assert (figures["training_images"], figures["test_images"]) == (24, 6)
    assert figures["accuracies"]["backbone"]["24"]["top5"] is None
    assert "–" in capsys.readouterr().out
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--k=0"], "--k must be at least 1. Received: --k=0"),
        (["--k=20,,3"], "Received: --k=20,,3"),
        (["--k="], "Received: --k="),
        (["--k=2.5"], "Received: --k=2.5"),
        (["--temperature=0"], "temperature must be a number > 0. Received: --temperature=0"),
        (["--temperature=nan"], "temperature must be finite"),
        (["--temperature=inf"], "temperature must be finite"),
        (["--batch_size=0"], "batch_size"),
        (["--k=20,1298"], "number of training images. Received: --k=1298 for 1,297"),
        (["--data=nothing"], "nothing"),
        (["--data=folder:{tmp}/unlabelled"], "Labeled images"),
        (["--data=folder:{tmp}/one"], "two classes"),
        (["--image_size=9"], "must take images of 9×9×3"),
        (["--backbone=/nowhere/x.keras"], "there is no /nowhere/x.keras"),
        (["--backbone={tmp}/notes.keras"], "Keras model"),
        (["--backbone={tmp}"], "no"),
        (["--backbone="], "--backbone must be a text that is not empty"),
        (["--out={tmp}/notes.keras/knn.json"], "{tmp}/notes.keras"),
        (
            ["--out={tmp}"],
            "can be written to. Received: {tmp}, a folder.",
        ),
        (["--cache_dir={tmp}/notes.keras"], "{tmp}/notes.keras"),
        (["stray"], "stray"),
        (["--resize=7"], "of two numbers the smaller one. Received: --resize=7, --image_size=8"),
    ],
)
def test_mistakes_are_one_line(backbone, tmp_path, capsys, flags, message):
    write_folder(tmp_path / "unlabelled", ["."])
    write_folder(tmp_path / "one" / "train", ["cats"])
    (tmp_path / "notes.keras").write_text("not a model")
    good = [f"--backbone={backbone}", "--data=digits", "--image_size=8", "--k=5"]
    line = script.mistake(capsys, "knn", *good, *(flag.format(tmp=tmp_path) for flag in flags))
    assert message.format(tmp=tmp_path) in line
    assert not [*backbone.parent.rglob("*partial*"), *tmp_path.rglob("*partial*")]


@pytest.mark.slow
def test_more_unreadable_images_than_neighbours_are_left(backbone, tmp_path, capsys):
    spec = write_folder(tmp_path / "images", ["train/a", "train/b", "test/a", "test/b"], 60)
    (tmp_path / "images" / "train" / "a" / "0.png").write_bytes(b"no image")
    good = [f"--backbone={backbone}", "--image_size=8", f"--data={spec}"]
    good += [f"--cache_dir={tmp_path / 'cache'}", f"--out={tmp_path / 'knn.json'}"]
    script.call("knn", *good, "--k=119")
    assert json.loads((tmp_path / "knn.json").read_text())["training_images"] == 119
    assert "119" in script.mistake(capsys, "knn", *good, "--k=120")


@pytest.mark.slow
def test_the_command_itself_starts_quietly(backbone, measured, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    result = subprocess.run(
        [sys.executable, "-m", "trainers.knn", *measured[1], f"--out={tmp_path / 'knn.json'}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "batch" not in result.stdout  # the features were known again in another process
    assert json.loads((tmp_path / "knn.json").read_text())["accuracies"]


@pytest.mark.slow
def test_images_that_cannot_be_read_are_said_to_be_left_out(backbone, tmp_path, capsys):
    for number in range(20):
        folder = tmp_path / "photos" / ("train" if number < 12 else "test") / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (20 * (number % 2), 0, 0)).save(folder / f"{number}.png")
    (tmp_path / "photos" / "test" / "a" / "12.png").write_text("text")
    arguments = [f"--data=folder:{tmp_path / 'photos'}", "--image_size=8"]
    for k in ((), ("--k=3",)):  # the features are extracted, then kept
        script.call(
            "knn", f"--backbone={backbone}", f"--cache_dir={tmp_path / 'c'}", *arguments, *k
        )
        output = capsys.readouterr().out
        assert ("There are 12 training images, so --k=1." in output) == (not k)
        assert "\n1 of the 8 test images could not be read: left out.\n" in output
        assert "training images could not" not in output
