"""From ImageNet's archives to a trained backbone, in small, with the real builder of tfds."""

import io
import json

import keras
import numpy as np
import pytest
import script
import small_network
import tensorflow_datasets as tfds
import undrawn
from image_files import photo
from PIL import Image
from places import ROOT
from tiny_imagenet import SYNSETS, write_archives

from keras_bt import data
from keras_bt.callbacks.metrics_log import read_metrics
from keras_bt.data.tfds import RecordSource
from trainers.runs import pretraining_report

SMALL = ["--image_size=32", "--backbone=resnet18", "--width=4", "--projector=16-16"]
SMALL += ["--batch_size=16", "--epochs=1", "--warmup_epochs=0.5", "--log_every=1"]
SMALL += ["--nodeterministic"]  # which nothing can switch off again for the tests after these
PER_CLASS = 14  # 42 images, 2 steps of 16


def jpeg(number, **options):
    """A colorful image with a size of its own."""
    pixels = photo(40 + number % 7, 50 + number % 11)[:, :, np.roll([0, 1, 2], number)]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    train = [
        [jpeg(PER_CLASS * label + n, progressive=n % 2 == 0) for n in range(PER_CLASS)]
        for label in range(len(SYNSETS))
    ]
    write_archives(folder, train, [jpeg(n) for n in range(9)], [jpeg(n) for n in range(2)])
    return folder


@pytest.fixture
def arguments(monkeypatch, data_dir):
    """What every command gets: the recipe as in the README."""
    monkeypatch.chdir(ROOT)
    return ["--flagfile=trainers/recipes/imagenet.flags", f"--data_dir={data_dir}"]


@pytest.mark.slow
def test_the_recipe_trains_two_steps_on_tiny_archives(tmp_path, monkeypatch, capsys, arguments):
    opened, open_source = [], data.open_source

    def open_and_keep(spec, data_dir, **options):
        # The whole of ImageNet does not fit in memory and is streamed.
        opened.extend(open_source(spec, data_dir, **options, cache_bytes=0))
        return opened

    monkeypatch.setattr(data, "open_source", open_and_keep)
    monkeypatch.setattr(pretraining_report, "export", lambda *_: None)  # it takes seconds
    run = tmp_path / "run"
    backbone = small_network.save(tmp_path / "small.keras", side=32)
    flags = [*arguments, *SMALL, backbone, "--noevaluate", "--strategy=mirrored"]
    with undrawn.pictures():
        script.call("pretrain", f"--workdir={run}", *flags)
    output = capsys.readouterr().out
    assert "tfds:imagenet2012, 42 images to train on" in output
    assert "on 2 replicas" in output
    assert isinstance(opened[0], RecordSource)
    *metrics, measured = read_metrics(run / "metrics.jsonl")
    assert [m["step"] for m in metrics] == [1, 2]
    assert all(np.isfinite(m["loss"]) for m in metrics)
    assert {"linear_accuracy", "embedding_rankme"} < set(measured)
    settings = json.loads((run / "config.json").read_text())["settings"]
    assert (settings["blur_a"], settings["solarize_b"]) == (1.0, 0.2)
    assert settings["stem"] == "imagenet"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["skipped_images"] == []
    assert keras.models.load_model(run / "backbone.keras").output_shape == (None, 16)


@pytest.mark.slow
def test_the_views_are_previewed_with_the_same_flags(tmp_path, capsys, arguments):
    out = tmp_path / "views.png"
    with undrawn.pictures():
        script.call("preview_views", *arguments, f"--out={out}", *SMALL, "--images=2")
    output = capsys.readouterr().out
    assert "42 images to train on, in 1,000 classes: n01440764, n01443537, n01484850" in output
    assert "9 images to measure on" in output
    assert out.is_file()


def test_the_subset_is_the_listed_part_of_the_archives(monkeypatch, data_dir, tmp_path):
    listed = [f"{SYNSETS[0]}_3.JPEG", f"{SYNSETS[2]}_5.JPEG"]
    (tmp_path / "list.txt").write_text("\n".join(listed))
    # The list of the 1% lies on a server; everything else is tfds's own.
    monkeypatch.setattr(
        tfds.download.DownloadManager, "download", lambda self, url: tmp_path / "list.txt"
    )
    train, test = data.open_source("tfds:imagenet2012_subset/1pct", str(data_dir), cache_bytes=0)
    assert (train.num_examples, test.num_examples) == (2, 9)
    keys = [train.parse(*r)[1] for r in train.in_order()]
    assert sorted(key.numpy().decode() for key in keys) == listed
    assert sorted(train.labels()) == [0, 2]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("imagenet2012", ["ILSVRC2012_img_train.tar", "downloads/manual"]),
        ("imagenet2012_subset/1pct", ["ILSVRC2012_img_train.tar", "downloads/manual"]),
        ("imagenet2012_subset/5pct", ["tfds cannot open", "1pct", "10pct"]),
    ],
)
def test_a_mistake_ends_with_one_line(tmp_path, capsys, arguments, name, words):
    arguments += [f"--data=tfds:{name}", f"--workdir={tmp_path / 'run'}", f"--data_dir={tmp_path}"]
    line = script.mistake(capsys, "pretrain", *arguments)
    for word in words:
        assert word in line
    assert not (tmp_path / "run").exists()
