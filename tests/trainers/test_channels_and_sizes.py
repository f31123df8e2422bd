"""Images that are neither RGB nor square, through all commands from pretraining to exports."""

import json

import keras
import numpy as np
import pytest
import script
import small_network
import tensorflow as tf
import undrawn
from exported import difference

from keras_bt import data
from keras_bt.evaluation.features import extract_features
from keras_bt.preprocessing import normalization
from keras_bt.resnet import STAGES
from trainers.runs import classifying, pretraining, subject
from trainers.runs.settings import KnnSettings, PretrainingSettings

SHAPE, SIZE = (14, 20, 5), (8, 12)
COLORLESS = ["--normalize=none", "--jitter=0", "--grayscale=0"]
FLAGS = ["--data=digits", "--batch_size=16", "--projector=8-8", "--epochs=1"]
FLAGS += ["--image_size=8x12", *COLORLESS]


def made(count, seed, shape=SHAPE):
    """A source of two classes that differ in the last channel alone."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = rng.integers(0, 200, (count, *shape), dtype=np.uint8)
    images[labels == 1, ..., -1] += 55
    return data.ArraySource(images, labels, ["low", "high"], name="bands")


@pytest.fixture
def opened(monkeypatch):
    """Makes `--data=digits` such images."""

    def use(train, test):
        monkeypatch.setattr(data, "open_source", lambda *_, **__: (train, test))

    return use


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on them, pretrained on the host."""
    folder = tmp_path_factory.mktemp("bands")
    backbone = small_network.save(folder / "small.keras", shape=(None, None, 5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "open_source", lambda *_, **__: (made(48, 0), made(20, 1)))
        script.call("pretrain", *FLAGS, backbone, f"--workdir={folder / 'run'}")
    return folder / "run"


def evaluated(run, source):
    """The features of a source's images as evaluation has them."""
    backbone = keras.models.load_model(run / "backbone.keras")
    batches = data.evaluation_batches(source, SIZE, 8, None, *normalization("none", 5))
    return extract_features(backbone, batches)[0]


@pytest.mark.slow
def test_pretraining_writes_everything(run):
    settings = json.loads((run / "config.json").read_text())["settings"]
    assert (settings["image_size"], settings["normalize"]) == ([8, 12], "none")
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary["accuracies"]) == {"raw pixels", "untrained backbone", "Barlow Twins"}
    assert (run / "plots" / "views.png").stat().st_size > 10_000


@pytest.mark.slow
def test_what_is_served_is_what_was_evaluated(run):
    test = made(20, 1)
    loaded = tf.saved_model.load(run / "saved_model" / "1")
    assert set(loaded.signatures) == {"serving_default", "serve", "infer"}
    assert loaded.preprocess(test.images)["images"].shape == (20, *SIZE, 5)
    assert difference(loaded.serve(test.images)["features"], evaluated(run, test)) < 1e-5
    card = json.loads((run / "saved_model/1/assets.extra/card.json").read_text())
    assert card["inputs"]["serve_jpeg"].startswith("missing: files of images hold 3 channels")
    assert card["preprocessing"]["mean"] == [0] * 5
    assert "until they just cover 9 × 13.5 pixels" in card["preprocessing"]["in words"]


@pytest.mark.slow
def test_every_command_follows_the_run(run, tmp_path, capsys, opened):
    opened(made(48, 0), made(20, 1))
    what = subject.read(KnnSettings(backbone=str(run)))
    np.testing.assert_array_equal(what.features(what.test, "test")[0], evaluated(run, what.test))
    given = f"--backbone={run}"
    script.call("knn", given, "--k=5", "--raw_pixels", f"--out={tmp_path / 'knn.json'}")
    script.call("linear_probe", given, "--epochs=1", f"--workdir={tmp_path / 'linear'}")
    script.call("finetune", given, "--labels=50%", "--epochs=1", f"--workdir={tmp_path / 'tuned'}")
    with undrawn.pictures():
        script.call("plot", run, f"--out={tmp_path / 'plots'}")
    assert (tmp_path / "plots" / "neighbours.png").is_file()
    capsys.readouterr()
    out = f"--out={tmp_path / 'exported'}"
    script.call("export_saved_model", given, out, package="export")
    assert "serve_jpeg" not in capsys.readouterr().out
    loaded = tf.saved_model.load(tmp_path / "exported" / "1")
    expected = evaluated(run, what.test)
    assert difference(loaded.serve(what.test.images)["features"], expected) < 1e-5
    # Once more: what was trained is found, and not refused.
    script.call("linear_probe", given, "--epochs=1", f"--workdir={tmp_path / 'linear'}")


@pytest.mark.slow
def test_onnx(run, tmp_path, opened):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    opened(made(48, 0), made(20, 1))
    target = tmp_path / "bands.onnx"
    script.call("export_portable", f"--backbone={run}", f"--target={target}", package="export")
    images = made(20, 1).images
    (found,) = onnxruntime.InferenceSession(target).run(["features"], {"images": images})
    assert difference(found, evaluated(run, made(20, 1))) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("on", ["host", pytest.param("device", marks=pytest.mark.slow)])
def test_views_of_large_images(tmp_path, on, monkeypatch):
    """Those too large to be batched before they are cropped, and a ResNet by name."""
    monkeypatch.setitem(STAGES, 18, ((1, 1), False))  # a quarter of the blocks to trace
    settings = PretrainingSettings(
        width=2,
        projector="8",
        batch_size=4,
        image_size=(8, 12),
        normalize="none",
        contrast=0.0,
        saturation=0.0,
        hue=0.0,
        grayscale=0.0,
        augment_on=on,
        workdir=str(tmp_path / "run"),
    )
    train = made(6, 0, shape=(150, 130, 2))
    strategy = tf.distribute.get_strategy()
    job = pretraining.Pretraining(settings, train, None, strategy, None)
    view_a, view_b = job.first_views
    assert view_a.shape == view_b.shape == (4, *SIZE, 2)
    assert 0 <= view_a.min() < view_a.max() <= 1
    assert job.model.backbone.input_shape == (None, None, None, 2)
    assert job.model.predict(view_a, verbose=0).shape == (4, 4)


def test_labeled_views_of_large_images():
    train = made(6, 0, shape=(150, 130, 2))
    view = classifying.training_view(SIZE, 0.5, 0.5, *normalization("none", 2))
    batches = data.labelled_views(train, view, batch_size=4, seed=0)
    assert [images.shape for images, _ in batches.take(2)] == [(4, *SIZE, 2), (2, *SIZE, 2)]


@pytest.mark.slow
def test_preview(tmp_path, capsys, opened, monkeypatch):
    opened(made(48, 0), made(20, 1))
    titles, captions = [], []
    figure = "matplotlib.figure.Figure.suptitle"
    monkeypatch.setattr(figure, lambda self, title, **_: titles.append(title))
    axes = "matplotlib.axes.Axes.set_ylabel"
    monkeypatch.setattr(axes, lambda self, caption, **_: captions.append(caption))
    with undrawn.pictures():
        script.call("preview_views", *FLAGS, f"--out={tmp_path / 'views.png'}", "--images=2")
        script.call("preview_views", *FLAGS, f"--out={tmp_path / 'views.png'}", "--draws=1")
    narrow = titles.pop()
    assert max(map(len, narrow.splitlines())) < 70
    assert narrow.split() == titles[0].split()
    assert titles == [
        "What the model sees of digits: 8 × 12 pixels (height × width) "
        "(the first three of 5 channels)"
    ]
    # The images' sizes in the order of the title.
    assert {caption.splitlines()[-1] for caption in captions} == {f"{SHAPE[0]} × {SHAPE[1]}"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "for others add --normalize=none --jitter=0 --grayscale=0. Received: bands with 5"),
        (COLORLESS[:2], "for others add --grayscale=0. Received"),
        (COLORLESS[1:], "for others add --normalize=none. Received"),
        ([*COLORLESS, "--backbone={rgb}"], "must take images of 8×12×5"),
        ([*COLORLESS, "--resize=7"], "--resize must be at least --image_size, of two numbers"),
        ([*COLORLESS, "--image_size=7x12"], "image_size must be at least 8"),
    ],
)
def test_mistakes_in_pretraining(tmp_path, capsys, opened, arguments, words):
    opened(made(48, 0), made(20, 1))
    small_network.save(tmp_path / "rgb.keras", shape=(None, None, 3))
    given = [argument.format(rgb=tmp_path / "rgb.keras") for argument in arguments]
    flags = ["--data=folder:bands", "--image_size=8x12", f"--workdir={tmp_path / 'run'}", *given]
    assert words in script.mistake(capsys, "pretrain", *flags, "--batch_size=16")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_mistakes_after_it(run, tmp_path, capsys, opened):
    rgb, given = made(48, 0, (14, 20, 3)), f"--backbone={run}"
    opened(rgb, rgb)
    assert "must take images of 8×12×3" in script.mistake(capsys, "knn", given)
    opened(made(48, 0), rgb)
    arguments = (*FLAGS, f"--workdir={tmp_path / 'run'}")
    assert "equally many channels. Received: 5 and 3" in script.mistake(
        capsys, "pretrain", *arguments
    )
    opened(made(48, 0), made(20, 1))
    line = script.mistake(capsys, "knn", given, "--normalize=imagenet")
    assert "or none (--normalize=none). Received: imagenet for 5 channels" in line


def test_arrays_in_a_file(tmp_path, capsys):
    bands = made(20, 0)
    np.savez(tmp_path / "bands.npz", images=bands.images, labels=bands.labels())
    flags = [f"--data=npz:{tmp_path / 'bands.npz'}", f"--out={tmp_path / 'views.png'}"]
    line = script.mistake(capsys, "preview_views", *flags)
    assert "add --normalize=none --jitter=0 --grayscale=0. Received: npz:" in line
    script.call("preview_views", *flags, *COLORLESS, "--images=1", "--draws=1")
    assert "20 images to train on, in 2 classes: 0, 1" in capsys.readouterr().out
