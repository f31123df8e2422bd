"""Runs the benchmark of serving with tiny numbers; how fast anything is, is not tested."""

import importlib.util
import re
from unittest import mock

import benchmark_run
import numpy as np
import pytest

from benchmarks import serving
from keras_bt.resnet import STAGES


@pytest.fixture(scope="module")
def output():
    """What the command prints to a user, for a ResNet-18 with half of its blocks."""
    flags = ["--backbone=resnet18", "--width=4", "--image_size=32", "--batch_sizes=1,3"]
    with mock.patch.dict(STAGES, {18: ((1, 1, 1, 1), False)}):
        return benchmark_run.call("serving", *flags, "--rounds=1", "--seconds=0").stdout


def rows(output):
    """Name → the other cells of its row."""
    return {cells[0]: cells[1:] for cells in benchmark_run.cells(output)}


def speed(cell):
    """Median, least, greatest."""
    return [float(x) for x in re.fullmatch(r"([\d.]+) \(([\d.]+)–([\d.]+)\)", cell).groups()]


def check(row):
    *_, alone, together, difference = row
    for cell in (alone, together):
        median, least, greatest = speed(cell)
        assert 0 < least <= median <= greatest
    assert float(difference) < 1e-4


@pytest.mark.slow
def test_measures_what_tensorflow_serves(output):
    measured = rows(output)
    kinds = {"infer": "preprocessed", "serve": "pixels", "serve_jpeg": "JPEG files"}
    for name, kind in kinds.items():
        row = measured[f"SavedModel, {name}"]
        assert row[0] == kind
        check(row)
    check(measured[serving.KERAS])
    assert re.match(r"\d{4}-\d\d-\d\d, \d+ cores? of .*\nPython .*tensorflow 2", output)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["PyTorch", "ONNX", "LiteRT"])
def test_measures_the_rest_or_says_why_not(output, name):
    found = [row for form, row in rows(output).items() if form.startswith(name)]
    assert bool(found) != (f"{name} is left out: " in output)
    assert found or name != "PyTorch" or not importlib.util.find_spec("torch")
    for row in found:
        check(row)


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "stem"), [(18, "small"), (50, "imagenet")])
def test_pytorch_network_is_torchvisions(depth, stem, monkeypatch):
    torch = pytest.importorskip("torch")
    from benchmarks.torch_barlow_twins import resnet_of
    from keras_bt.resnet import resnet
    from keras_bt.torch_weights import state_dict

    rng = np.random.default_rng(0)
    # Fewer blocks, of which one is not its stage's first.
    monkeypatch.setitem(STAGES, depth, ((1, 2, 1, 1), depth == 50))
    backbone = resnet(depth, stem=stem, width=4)
    for v in backbone.variables:
        if "variance" in v.name or "gamma" in v.name:
            v.assign(rng.uniform(0.5, 1.5, v.shape))
        elif v.ndim == 1:
            v.assign(rng.normal(size=v.shape))
    state = {name: torch.tensor(x) for name, x in state_dict(backbone).items()}
    images = rng.normal(size=(2, 32, 48, 3)).astype("float32")
    with torch.inference_mode():
        found = resnet_of(state)(torch.from_numpy(np.moveaxis(images, -1, 1).copy()))
    expected = backbone(images, training=False).numpy()
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-5 * expected.max())


def test_counts_images_of_whole_calls():
    calls = []
    assert serving.images_per_second(calls.append, np.zeros(5), seconds=0) > 0
    assert len(calls) == 1
    serving.images_per_second(calls.append, np.zeros(5), seconds=0.02)
    assert len(calls) > 10


def test_every_form_and_batch_size_is_measured_in_every_round():
    forms = {"any": ("uint8", len), "other": ("uint8", len)}
    speeds = serving.measure(forms, {"uint8": np.zeros((3, 1))}, [1, 2], rounds=2, seconds=0)
    assert {key: len(x) for key, x in speeds.items()} == {
        (name, size): 2 for name in forms for size in (1, 2)
    }


def test_table_has_medians_with_extremes_and_distances():
    forms = {"slow": ("uint8", None), "fast": ("files", None)}
    speeds = {("slow", 1): [3.0, 1.0, 2.0], ("fast", 1): [300.0, 100.0, 200.0]}
    measured = rows(serving.speed_table(forms, speeds, {"slow": 0.0, "fast": 2e-6}, [1]))
    assert measured["slow"] == ["pixels", "2.0 (1.0–3.0)", "0e+00"]
    assert measured["fast"] == ["JPEG files", "200 (100–300)", "2e-06"]


def test_differences_are_of_the_worst_image():
    features = np.ones((2, 4))
    forms = {
        serving.KERAS: ("uint8", lambda x: features),
        "off": ("uint8", lambda x: features * np.array([[1], [1.5]])),
    }
    assert serving.differences(forms, {"uint8": None}) == {serving.KERAS: 0, "off": 0.5}
