"""Runs the comparison of whole trainings with tiny numbers, and looks closely at what is the same.

Both frameworks compute in float32 and round differently. Adam makes much of that: its first update
is the rate times the sign of each derivative, of those as well that nearly cancel. From the same
start, the losses of four steps differ here by 4e-6 of themselves at most; after ten it can be 1e-3,
as between two trainings in PyTorch alone whose weights differ in the last bit.
"""

import re
import types
from unittest import mock

import benchmark_run
import numpy as np
import pytest
import script

from benchmarks import same_training
from keras_bt import data
from keras_bt.resnet import STAGES
from keras_bt.torch_weights import state_dict

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from benchmarks import torch_barlow_twins  # noqa: E402, which needs it

TINY = ["--images=128", "--batch_size=32", "--epochs=1", "--width=4", "--projector=32-32"]
TINY += ["--threads=1"]
FLAGS = {"data": "digits", "images": 40, "epochs": 1, "batch_size": 8, "width": 4}
FLAGS |= {"projector": "16-16"}


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


@pytest.fixture(scope="module")
def training():
    return same_training.opened(args())


@pytest.fixture
def half_of_the_blocks():
    """For both frameworks: a ResNet-18 that is traced in half of the time."""
    half = {18: ((1, 1, 1, 1), False)}
    with mock.patch.dict(STAGES, half), mock.patch.dict(torch_barlow_twins.DEPTHS, half):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("half_of_the_blocks")
def test_from_the_same_start_every_loss_is_the_published_one():
    result = benchmark_run.call("same_training", *TINY, "--seeds=3")
    text = result.stdout
    assert re.match(r"\d{4}-\d\d-\d\d, \d+ cores? of .*\nPython .*tensorflow 2.*torch 2", text)
    assert "128 images to train on, 32 others" in text
    assert "4 steps of 32 images, 8 × 8 pixels" in text
    assert re.search(r"^Raw pixels: \d\d\.\d\d%$", text, re.M)
    [seed, *accuracies], [mean, *_] = benchmark_run.cells(text)
    assert (seed, mean) == ("3", "mean")
    assert all(0 <= float(accuracy) <= 100 for accuracy in accuracies)
    [first, most] = re.findall(r"losses is (\S+) in the first step.* (\S+) in all 4", text)[0]
    assert 0 < float(first) <= float(most) < 1e-4
    # Nothing but which training is done, and how it went.
    said = [line.partition(": 4 steps in ") for line in result.stderr.splitlines()]
    assert [training for training, *_ in said] == [
        f"seed 3, {name}" for name in same_training.TRAININGS
    ]
    ours, own, same = (float(re.search(r"loss ([\d.]+)", rest)[1]) for *_, rest in said)
    assert ours == pytest.approx(same, rel=1e-4, abs=0.01)  # two digits are printed
    assert abs(ours / own - 1) > 1e-2  # another start is another training


def test_prints_a_row_per_seed_and_the_greatest_differences(monkeypatch, capsys):
    def compared(training, seed):
        losses = dict.fromkeys(same_training.TRAININGS, np.ones(training.steps))
        losses[same_training.OURS] = 1 + 1e-6 * (1 + seed) * np.arange(1, training.steps + 1)
        names = (same_training.UNTRAINED, *same_training.TRAININGS)
        return dict.fromkeys(names, 50.0 + seed), losses

    monkeypatch.setattr(same_training, "compared", compared)
    same_training.print_compared(args(seeds=[0, 1], threads=1))
    text = capsys.readouterr().out
    assert [row[:2] for row in benchmark_run.cells(text)] == [
        ["0", "50.00"],
        ["1", "51.00"],
        ["mean", "50.50 ± 0.71"],
    ]
    assert "2e-06 in the first step, at most 1e-05 in the first ten and 1e-05 in all 5" in text


def test_table_has_a_row_per_seed_with_mean_and_deviation():
    names = (same_training.UNTRAINED, *same_training.TRAININGS)
    found = [dict(zip(names, values, strict=True)) for values in ((1, 2, 3, 4), (1, 4, 3, 5))]
    assert benchmark_run.cells(same_training.table(["7", "9"], found)) == [
        ["7", "1.00", "2.00", "3.00", "4.00"],
        ["9", "1.00", "4.00", "3.00", "5.00"],
        ["mean", "1.00 ± 0.00", "3.00 ± 1.41", "3.00 ± 0.00", "4.50 ± 0.71"],
    ]
    assert same_training.mean_and_deviation([2]) == "2.00"


def test_both_start_from_the_same_distribution(training):
    training = same_training.dataclasses.replace(training, width=16, widths=[64, 64])
    ours = same_training.keras_model(training, seed=0)
    ours = state_dict(ours.backbone, ours.projector)
    theirs = same_training.torch_model(training, seed=0).state_dict()
    random = 0
    for name, tensor in theirs.items():
        x, y = ours[name].ravel(), tensor.numpy().ravel()
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
    zero = [name for name, tensor in theirs.items() if "bn2.weight" in name and not tensor.any()]
    assert len(zero) == 8  # the last γ of every block


@pytest.mark.slow
def test_every_weight_is_carried_over(training):
    random = np.random.default_rng(0)
    ours = same_training.keras_model(training, seed=0)
    for variable in ours.weights:  # the last γ of a block, 0 at first, would hide the block
        variable.assign(variable + random.uniform(0.1, 0.5, variable.shape))
    theirs = same_training.torch_model(training, seed=1)
    same_training.load(theirs, ours)
    images = random.random((3, 8, 8, 3), np.float32)
    features = ours.backbone(images, training=False).numpy()
    theirs.eval()
    with torch.no_grad():
        torch_features = theirs.backbone(torch.from_numpy(images).permute(0, 3, 1, 2))
        z = theirs.projector(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(features, torch_features.numpy(), rtol=1e-4)
    np.testing.assert_allclose(ours.projector(features), z, rtol=1e-3)


@pytest.mark.slow
def test_views_are_those_of_the_seed_and_measured_images_are_others(training, monkeypatch):
    # Each is traced; crops and flips remain, which draw from the seed too.
    monkeypatch.setitem(same_training.VIEWS, "jitter", 0.0)
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


@pytest.mark.parametrize("wrong", [{"images": 15}, {"batch_size": 41}])
def test_too_few_images_are_refused(wrong):
    with pytest.raises(ValueError, match="images must be at least"):
        same_training.opened(args(**wrong))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--projector=0-8", "Received: --projector=0-8"),
        ("--seeds=1,x", "Received: --seeds=1,x"),
        ("--threads=0", "Received: --threads=0"),
        ("--data=nothing", "Data must be one of "),
    ],
)
def test_a_mistake_is_told(flag, message, monkeypatch, capsys):
    monkeypatch.setattr(same_training.tensorflow_device, "prepare", lambda threads: None)
    assert message in script.mistake(capsys, "same_training", flag, package="benchmarks")
