"""Runs the benchmark of whole steps and the profile of one with tiny numbers."""

import importlib.util
import re

import benchmark_run
import keras
import pytest

import keras_bt
from benchmarks import step_profile, train_step

TINY = ["--batch_sizes=4", "--image_size=32", "--projector=16", "--width=4", "--steps=1"]
HAS_TORCH = importlib.util.find_spec("torch") is not None


def output(module, *arguments, status=0):
    result = benchmark_run.run(module, *TINY, *arguments)
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout if status == 0 else result.stderr


def table(text):
    """First column that is no number → the others, of a Markdown table."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line[:2] == "| "]
    return [[cell.strip() for cell in line] for line in lines]


@pytest.mark.slow
def test_measures_every_contestant_at_every_batch_size():
    text = output("train_step", "--networks=resnet18", "--rounds=1", "--float32_only")
    assert re.match(r"\d{4}-\d\d-\d\d, \d+ cores? of \S+", text)
    assert "projector 16-16-16" in text
    assert "on: CPU" in text
    _, _, *lines = table(text)
    names = [n for n, (framework, precision, _) in train_step.CONTESTANTS.items()]
    expected = {"keras_bt"} | ({train_step.PUBLISHED, "PyTorch, channels last"} & set(names))
    assert {line[1] for line in lines} == (expected if HAS_TORCH else {"keras_bt"})
    speeds = {}
    for batch, name, speed, ratio, memory in lines:
        median, least, greatest = map(float, re.findall(r"[\d.]+", speed))
        assert batch == "4"
        assert 0 < least <= median <= greatest
        assert 0.05 < float(memory) < 20
        speeds[name] = median, ratio
    if HAS_TORCH:
        for median, ratio in speeds.values():
            reference = speeds[train_step.PUBLISHED][0]
            assert float(ratio) == pytest.approx(median / reference, rel=0.02, abs=0.01)


def test_contestants_must_train_the_same_number_of_parameters(monkeypatch):
    class Flags:
        image_size = projector = width = threads = None
        rounds = steps = 1

    monkeypatch.setattr(
        train_step, "in_a_process", lambda name, arguments: {"parameters": len(name)}
    )
    with pytest.raises(RuntimeError, match="different numbers of parameters"):
        train_step.measured(Flags, "resnet18", 4, ["one", "another"])


def test_an_unknown_network_ends_in_one_line():
    (line,) = output("train_step", "--networks=vgg", status=1).strip().splitlines()
    assert line == "error: networks must be among resnet50, resnet18. Received: vgg."


@pytest.mark.parametrize("module", ["train_step", "step_profile"])
@pytest.mark.parametrize("sizes", ["x", "1", "8,0"])
def test_bad_batch_sizes_end_in_one_line(module, sizes):
    (line,) = output(module, f"--batch_sizes={sizes}", status=1).strip().splitlines()
    rule = "error: batch_sizes must be whole numbers of at least 2."
    assert line == f"{rule} Received: {sizes}."


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TORCH, reason="needs PyTorch")
def test_the_published_model_has_our_parameters_and_floating_point_operations():
    from torch.utils.flop_counter import FlopCounterMode

    for network in train_step.NETWORKS.values():
        small = train_step.dataclasses.replace(network, image_size=32, projector=24)
        torch_step = train_step.TorchStep(small, 4, 8, "float32", 2)
        backbone = keras_bt.resnet(small.depth, small.stem, 8, (32, 32, 3))
        head = keras_bt.projector([24] * 3, input_dim=backbone.output_shape[-1])
        model = keras_bt.BarlowTwins(backbone, head, form="correlation")
        assert torch_step.parameters == sum(
            v.value.shape.num_elements() for v in model.trainable_variables
        )
        with FlopCounterMode(display=False) as counter:
            torch_step.run(1)
        work = step_profile.floor(model, 4)
        # The published loss takes the d×d form.
        work["objective"] = 3 * 2 * 4 * 24 * 24
        assert sum(work.values()) == counter.get_total_flops()


@pytest.mark.slow
def test_profile_accounts_for_the_whole_step():
    text = output("step_profile", "--network=resnet18", "--operations=3")
    lines = {line[0]: line[1:] for line in table(text)}
    names = [*step_profile.KINDS, "between operations"]
    assert lines.keys() > {*names, "step"}
    milliseconds = {name: float(lines[name][0]) for name in names}
    assert sum(milliseconds.values()) == pytest.approx(float(lines["step"][0]), abs=len(names))
    for name in ("convolutions, forward", "BatchNormalization", "optimizer"):
        assert milliseconds[name] > 0, name
    assert milliseconds["other"] < 0.1 * float(lines["step"][0])


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("resnet50_1/layer2_0_conv1_1/convolution:_MklNativeConv2D", "convolutions, forward"),
        (
            "gradient_tape/resnet50_1/conv1_1/Conv2DBackpropFilter:_Mkl",
            "convolutions, gradient of kernels",
        ),
        (
            "x/layer2_0_bn1_1/FusedBatchNormV3:_MklFusedBatchNormV3",
            "BatchNormalization",
        ),
        ("resnet50_1/layer2_0_downsample_1_1/add:AddV2", "BatchNormalization"),
        ("gradient_tape/linear2_1/MatMul/MatMul_1:_MklMatMul", "projector, products"),
        ("MatMul_3:_MklMatMul", "objective"),
        ("lars/L2Loss:L2Loss", "optimizer"),
        ("AddN_3:AddN", "sums of gradients"),
        ("resnet50_1/layer4_0_add_1/Add:AddV2", "ReLU, shortcut"),
    ],
)
def test_operations_are_told_apart(operation, kind):
    assert step_profile.kind(operation) == kind


def test_floor_counts_by_hand():
    x = keras.layers.Input((8, 8, 3))
    y = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(x)
    y = keras.layers.Conv2D(5, 1, strides=2, use_bias=False)(y)
    backbone = keras.Model(x, keras.layers.GlobalAveragePooling2D()(y))
    model = keras_bt.BarlowTwins(backbone, keras_bt.projector((6, 7), 5), form="gram")
    work = step_profile.floor(model, 10)
    first, second = 10 * 64 * 9 * 3 * 4, 10 * 16 * 4 * 5
    assert work["convolutions, forward"] == 2 * 2 * (first + second)
    assert work["convolutions, gradient of inputs"] == 2 * 2 * second
    assert work["projector, products"] == 3 * 2 * 2 * 10 * (5 * 6 + 6 * 7)
