"""Runs the comparison of whole trainings with tiny numbers, and looks closely at what is the same.

Both frameworks compute in float32 and round differently. Adam makes much of that: its first update
is the rate times the sign of each derivative, of those as well that nearly cancel. From the same
start, the losses of four steps differ here by 4e-6 of themselves at most; after ten it can be 1e-3,
as between two trainings in PyTorch alone whose weights differ in the last bit.
"""

import json
import os
import re
import statistics
import sys
import types

import benchmark_run
import numpy as np
import pytest
import script

from benchmarks import same_training
from keras_bt import data
from keras_bt.torch_weights import state_dict

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

TINY = ["--images=128", "--batch_size=32", "--epochs=1", "--width=4", "--projector=32-32"]
TINY += ["--threads=1"]
STEPS = 4
FLAGS = {
    "data": "digits",
    "images": 40,
    "image_size": None,
    "epochs": 1,
    "batch_size": 8,
    "width": 4,
    "projector": "16-16",
    "rate": 0.001,
    "seeds": ["0"],
    "out": None,
}


def args(**changes):
    """What the flags would be."""
    return types.SimpleNamespace(**FLAGS | changes)


@pytest.fixture(autouse=True, scope="module")
def _one_thread_of_pytorch():
    """Two would wait busily for each other, for minutes where other tests run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def finished(*flags):
    """The finished command, as quiet as a user sees it."""
    env = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return benchmark_run.run("same_training", *flags, env=env)


@pytest.fixture(scope="module")
def training():
    return same_training.opened(args(), [16, 16])


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """The finished command with two seeds, and what it wrote."""
    out = tmp_path_factory.mktemp("out") / "results.json"
    result = finished(*TINY, "--seeds=0,3", f"--out={out}")
    assert result.returncode == 0, result.stdout + result.stderr
    return result, json.loads(out.read_text())


@pytest.mark.slow
def test_from_the_same_start_every_loss_is_the_published_one(printed):
    for result in printed[1]["seeds"]:
        ours, same, own = (
            np.array(result[name]["losses"])
            for name in (same_training.OURS, same_training.SAME_START, same_training.OWN_START)
        )
        assert len(ours) == len(same) == len(own) == STEPS
        np.testing.assert_allclose(ours, same, rtol=1e-4)
        assert np.abs(ours / own - 1).max() > 1e-3  # another start is another training


@pytest.mark.slow
def test_prints_the_results_that_are_in_the_file(printed):
    text, content = printed[0].stdout, printed[1]
    assert re.match(r"\d{4}-\d\d-\d\d, \d+ cores? of .*\nPython .*tensorflow 2.*torch 2", text)
    assert "128 images to train on, 32 others" in text
    assert "1 epochs of 4 batches of 32, 8 × 8 pixels" in text
    assert f"Raw pixels: {100 * content['raw_pixels']:.2f}%" in text
    *seeds, mean = benchmark_run.cells(text)
    assert [row[0] for row in seeds] == ["0", "3"]
    for column, name in enumerate((same_training.UNTRAINED, *same_training.TRAININGS), start=1):
        accuracies = [100 * result[name]["accuracy"] for result in content["seeds"]]
        for row, result, accuracy in zip(seeds, content["seeds"], accuracies, strict=True):
            losses = result[name].get("losses")
            expected = [accuracy, np.mean(losses)] if losses else [accuracy]
            numbers = [float(x) for x in re.findall(r"[\d.]+", row[column])]
            assert numbers == pytest.approx(expected, abs=0.006)
        expected = [statistics.mean(accuracies), statistics.stdev(accuracies)]
        numbers = [float(x) for x in re.findall(r"[\d.]+", mean[column])]
        assert numbers[:2] == pytest.approx(expected, abs=0.006)
    # Nothing but which training is done.
    lines = printed[0].stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        f"seed {seed}, {name}" for seed in (0, 3) for name in same_training.TRAININGS
    ]


def test_both_start_from_the_same_distribution(training):
    training = same_training.dataclasses.replace(training, width=16, widths=[64, 64])
    ours = same_training.keras_model(training, seed=0)
    ours = state_dict(ours.backbone, ours.projector)
    theirs = same_training.torch_model(training, seed=0).state_dict()
    random = 0
    for name, tensor in theirs.items():
        x, y = ours[same_training.official_name(name)].ravel(), tensor.numpy().ravel()
        if len(set(x.tolist())) == 1:
            np.testing.assert_array_equal(x, y, name)  # γ, β and statistics
            continue
        random += 1
        assert not np.array_equal(x, y)
        tolerance = 4 / np.sqrt(len(x))
        assert x.std() / y.std() == pytest.approx(1, abs=tolerance), name
        # 3 for a normal distribution, 9/5 for a uniform one
        kurtoses = [np.mean(z**4) / np.mean(z**2) ** 2 for z in (x, y)]
        assert kurtoses[0] == pytest.approx(kurtoses[1], abs=0.3 + 10 * tolerance), name
        if "projector" in name:
            bound = tensor.shape[1] ** -0.5
            assert max(abs(x).max(), abs(y).max()) == pytest.approx(bound, rel=0.01)
            assert max(abs(x).max(), abs(y).max()) <= bound
    assert random == 20 + 2
    zero = [name for name, tensor in theirs.items() if "1.weight" in name and not tensor.any()]
    assert len(zero) == 8  # the last γ of every block


@pytest.mark.slow
def test_every_weight_is_carried_over(training):
    random = np.random.default_rng(0)
    ours = same_training.keras_model(training, seed=0)
    for variable in ours.weights:  # the last γ of a block, 0 at first, would hide the block
        variable.assign(variable + random.uniform(0.1, 0.5, variable.shape))
    theirs = same_training.torch_model(training, seed=1)
    same_training.load(theirs, state_dict(ours.backbone, ours.projector))
    batches = training.batches(training.held_out)
    features, labels = same_training.keras_features(ours, batches)
    torch_features, torch_labels = same_training.torch_features(theirs, batches)
    np.testing.assert_array_equal(labels, torch_labels)
    np.testing.assert_allclose(features, torch_features, rtol=1e-4)
    with torch.no_grad():
        z = theirs.projector(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(ours.projector(features), z, rtol=1e-3)


@pytest.mark.slow
def test_views_are_those_of_the_seed_and_measured_images_are_others(training):
    view_a, view_b = training.views(seed=0)
    assert view_a.shape == view_b.shape == (5, 8, 8, 8, 3)
    assert view_a.dtype == view_b.dtype == np.float32
    assert not np.array_equal(view_a, view_b)
    np.testing.assert_array_equal(view_a, training.views(seed=0)[0])
    assert not np.array_equal(view_a, training.views(seed=1)[0])
    fitted, held_out = (
        {image.tobytes() for image in source.images}
        for source in (training.fitted, training.held_out)
    )
    assert (len(fitted), len(held_out)) == (40, 10)
    assert not fitted & held_out
    test = {image.tobytes() for image in data.open_source("digits")[1].images}
    assert not test & (fitted | held_out)


def made_up(ours, theirs):
    names = same_training.OURS, same_training.OWN_START
    return [
        {name: {"accuracy": x} for name, x in zip(names, pair, strict=True)}
        for pair in zip(ours, theirs, strict=True)
    ]


def test_verdict_compares_means_with_the_spread():
    def verdict(*results):
        return same_training.verdict(made_up(*results), same_training.OWN_START)

    assert verdict([0.5, 0.6], [0.57, 0.57]) == (
        "keras_bt − PyTorch, own start: -2.00 percentage points of mean accuracy, "
        "within the spread over seeds: standard deviations 7.07 and 0.00."
    )
    assert "+9.00 percentage points of mean accuracy, beyond " in verdict([0.5, 0.6], [0.4, 0.52])
    assert verdict([0.5], [0.4]).endswith(
        "+10.00 percentage points of mean accuracy; one seed has no spread."
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seeds": ["1", "x"]}, "seeds must be different whole numbers. Received: 1,x"),
        ({"seeds": ["1", "01"]}, "seeds must be different whole numbers. Received: 1,01"),
        ({"seeds": []}, "seeds must be different whole numbers. Received: none"),
        ({"rate": 0.0}, "rate must be a number above 0. Received: 0.0"),
        ({"rate": float("nan")}, "rate must be a number above 0. Received: nan"),
        ({"out": "/no/such/x.json"}, "out must be a file in a folder that exists. Received: /no"),
    ],
)
def test_wrong_flags_are_refused(wrong, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        same_training.checked(args(**wrong))


@pytest.mark.parametrize("wrong", [{"images": 15}, {"batch_size": 41}])
def test_too_few_images_are_refused(wrong):
    with pytest.raises(ValueError, match="images must be at least"):
        same_training.opened(args(**wrong), [16])


def test_without_pytorch_says_so(monkeypatch):
    monkeypatch.setattr(same_training.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs PyTorch: pip install torch"):
        same_training.checked(args())


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--projector=0-8", "projector must be widths such as 256-256. Received: 0-8"),
        ("--images=1200", "images must be at least 256, for a batch and 20 neighbors, and at "),
        ("--data=nothing", "Data must be one of "),
    ],
)
def test_a_mistake_ends_in_one_line(flag, message, capsys, monkeypatch):
    # runpy warns of what it finds there.
    monkeypatch.delitem(sys.modules, "benchmarks.same_training")
    # The number of threads can be set in a new process only.
    monkeypatch.setattr("benchmarks.tensorflow_device.prepare", lambda threads: None)
    line = script.mistake(capsys, "same_training", flag, package="benchmarks")
    assert line.startswith(f"error: {message}")
