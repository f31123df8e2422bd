"""Features for the embedding projector, as TensorBoard's own plugin serves them."""

import io
import json
import types

import numpy as np
import pytest
from PIL import Image
from tensorboard.plugins import base_plugin
from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
from werkzeug.test import Client

from keras_bt import plots

NAMES = ["a\tb\nc.png", "", " \u2028 ", "é\udcff.jpg", "plain"]


@pytest.mark.parametrize("labels", [None, ["one", "two\t2", "", "a\r\nb", "five"]])
def test_the_plugin_serves_what_was_written(labels, tmp_path):
    random = np.random.RandomState(0)
    features = random.normal(size=(5, 3)).astype(np.float32) * [1, 1e-7, 1e7]
    pictures = random.randint(0, 256, (5, 96, 48, 3), np.uint8)
    plots.embedding_projector(tmp_path / "train", features, pictures, NAMES, labels)
    runs = types.SimpleNamespace(
        list_runs=lambda *args, **_: [types.SimpleNamespace(run_name="train")]
    )
    context = base_plugin.TBContext(logdir=str(tmp_path), data_provider=runs)
    apps = ProjectorPlugin(context).get_plugin_apps()

    def served(route):
        response = Client(apps[route]).get("/", query_string={"run": "train", "name": "features"})
        assert response.status_code == 200
        return response.data

    assert json.loads(served("/runs")) == ["train"]
    (embedding,) = json.loads(served("/info"))["embeddings"]
    assert embedding["tensorShape"] == [5, 3]
    assert embedding["sprite"]["singleImageDim"] == [24, 48]
    tensor = np.frombuffer(served("/tensor"), np.float32).reshape(5, 3)
    np.testing.assert_allclose(tensor, features, rtol=1e-4)
    lines = served("/metadata").decode().split("\n")
    names = ["a b c.png", "(empty)", "(empty)", "é?.jpg", "plain"]
    if labels is not None:
        head, *lines = lines
        assert head == "label\tname"
        names = [
            f"{label}\t{n}"
            for label, n in zip(["one", "two 2", "(empty)", "a  b", "five"], names, strict=True)
        ]
    assert lines == [*names, ""]
    sprite = np.asarray(Image.open(io.BytesIO(served("/sprite_image"))))
    assert sprite.shape == (3 * 48, 3 * 24, 3)
    expected = np.asarray(Image.fromarray(pictures[4]).resize((24, 48), reducing_gap=2.0))
    assert np.abs(sprite[48:96, 24:48].astype(int) - expected).max() < 8


def test_mistakes(tmp_path):
    with pytest.raises(ValueError, match=r"2 features, 2 pictures, 1 names, 2 labels\.$"):
        plots.embedding_projector(
            tmp_path, np.ones((2, 3)), np.zeros((2, 8, 8, 3), np.uint8), ["a"], "ab"
        )
    assert not list(tmp_path.iterdir())
