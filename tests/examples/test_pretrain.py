"""The example that pretrains on a folder: it trains, goes on where it stopped, and hands on."""

import runpy
import sys

import keras
import numpy as np
import pytest
import small_network
import tensorflow as tf
from PIL import Image
from places import ROOT

from keras_bt.checkpoint import checkpoints
from keras_bt.resnet import STAGES

SCRIPT = ROOT / "examples" / "pretrain.py"
pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the example in a folder of its own with ten images."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(10):
        pixels = rng.integers(0, 256, (12, 12, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    # One block, and layers of the views that do nothing, are traced in a fraction of the time.
    monkeypatch.setitem(STAGES, 18, ((1,), False))

    def call(*flags):
        arguments = [str(SCRIPT), "photos", "--image_size=8", *flags]
        monkeypatch.setattr(sys, "argv", arguments)
        with small_network.plain_views():
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return tmp_path / "pretrained"

    return call


def test_trains_goes_on_and_hands_on(run, capsys):
    out = run("--epochs=1", "--batch_size=5")
    assert [path.name for path in checkpoints(out / "checkpoints")] == ["00000002"]
    before = (out / "checkpoints" / "00000002").stat().st_mtime_ns
    run("--epochs=3")  # images fewer than a batch: one step
    newest, last = checkpoints(out / "checkpoints")
    assert (newest.name, last.name) == ("00000003", "00000002")
    assert last.stat().st_mtime_ns == before  # not trained again
    backbone = keras.models.load_model(out / "backbone.keras")
    served = tf.saved_model.load(out / "saved_model" / "2")
    images = np.zeros((3, 20, 30, 3), np.uint8)
    assert served.serve(images)["features"].shape == (3, backbone.output_shape[-1])
    assert "to fine-tune" in capsys.readouterr().out


def test_a_mistake_is_one_line(run, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "nowhere"])
    with pytest.raises(SystemExit, match=r"^error: folder: needs a folder .* Received: nowhere"):
        runpy.run_path(str(SCRIPT), run_name="__main__")


def test_is_short():
    assert len(SCRIPT.read_text(encoding="utf-8").splitlines()) <= 80
    assert "trainers" not in SCRIPT.read_text(encoding="utf-8").split('"""', 2)[2]
