"""Runs the benchmark of whole steps with tiny numbers; speed is not tested."""

import contextlib
import importlib.util
import re
import types
from unittest import mock

import benchmark_run
import pytest
import script

import keras_bt
from benchmarks import train_step
from keras_bt.resnet import STAGES

# Not 4: without AVX-512, PyTorch 2.13 writes beyond its memory in channels last of fewer than 8.
TINY = ["--batch_sizes=4", "--image_size=32", "--projector=16", "--width=8", "--steps=1"]
TINY += ["--threads=1"]
HAS_TORCH = importlib.util.find_spec("torch") is not None


@contextlib.contextmanager
def this_process():
    """In place of a new one, which would start TensorFlow or PyTorch; see test_replicas.py."""
    yield lambda function, *arguments: function(*arguments)


@pytest.fixture
def half_of_the_blocks():
    """For both frameworks: a ResNet-18 that is traced in half of the time."""
    half = {18: ((1, 1, 1, 1), False)}
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(STAGES, half))
        if HAS_TORCH:
            from benchmarks import torch_barlow_twins

            stack.enter_context(mock.patch.dict(torch_barlow_twins.DEPTHS, half))
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("half_of_the_blocks")
def test_measures_every_contestant_at_every_batch_size(monkeypatch):
    monkeypatch.setattr(train_step, "own_process", this_process)
    monkeypatch.delitem(train_step.CONTESTANTS, "keras_bt, JAX")  # not in a process of TensorFlow
    flags = ["--networks=resnet18", "--rounds=1", "--float32_only"]
    result = benchmark_run.call("train_step", *TINY, *flags)
    assert re.match(r"\d{4}-\d\d-\d\d, \d+ cores? of \S+", result.stdout)
    assert "projector 16-16-16" in result.stdout
    assert "on: CPU" in result.stdout
    speeds = {}
    for batch, name, speed, ratio, memory in benchmark_run.cells(result.stdout):
        median, least, greatest = map(float, re.findall(r"[\d.]+", speed))
        assert batch == "4"
        assert 0 < least <= median <= greatest
        assert 0.05 < float(memory) < 20
        speeds[name] = median, ratio
    if not HAS_TORCH:
        assert speeds.keys() == {"keras_bt"}
        return
    assert speeds.keys() == {"keras_bt", train_step.PUBLISHED, "PyTorch, channels last"}
    for median, ratio in speeds.values():
        reference = speeds[train_step.PUBLISHED][0]
        rounded = 0.005 / reference  # two digits are printed
        assert float(ratio) == pytest.approx(median / reference, rel=0.02 + rounded, abs=0.01)


def test_contestants_must_train_the_same_number_of_parameters(monkeypatch):
    @contextlib.contextmanager
    def own_process():
        yield lambda function, name, *arguments: {"parameters": len(name)}

    monkeypatch.setattr(train_step, "own_process", own_process)
    args = types.SimpleNamespace(rounds=1, steps=1, width=4, threads=1)
    with pytest.raises(RuntimeError, match="different numbers of parameters"):
        train_step.measured(args, train_step.NETWORKS["resnet18"], 4, ["one", "another"])


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--networks=vgg", "must be among resnet50, resnet18. Received: --networks=vgg"),
        ("--batch_sizes=8,1", "--batch_sizes must be at least 2. Received: --batch_sizes=1"),
    ],
)
def test_a_mistake_is_told(flag, message, capsys):
    assert message in script.mistake(capsys, "train_step", flag, package="benchmarks")


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TORCH, reason="needs PyTorch")
def test_the_published_model_has_our_parameters():
    for network in train_step.NETWORKS.values():
        small = train_step.dataclasses.replace(network, image_size=32, projector=24)
        torch_step = train_step.TorchStep(small, 4, 8, "float32", 1)
        backbone = keras_bt.resnet(small.depth, small.stem, 8, (32, 32, 3))
        head = keras_bt.projector([24] * 3, input_dim=backbone.output_shape[-1])
        model = keras_bt.BarlowTwins(backbone, head)
        ours = sum(v.value.shape.num_elements() for v in model.trainable_variables)
        assert torch_step.parameters == ours
