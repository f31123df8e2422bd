"""The comparison of ten minutes on a GPU, tiny, with its processes within this one."""

import json
from unittest import mock

import benchmark_run
import pytest
import script
import undrawn

from keras_bt.resnet import STAGES
from keras_bt.workdir import Workdir
from trainers.ablations import run

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from benchmarks import fashion_mnist, torch_barlow_twins  # noqa: E402, which need it


@pytest.fixture
def within_this_process(monkeypatch):
    """What would be processes are calls, which saves the start of TensorFlow."""

    def call(argv, **_):
        _, _, module, *flags = argv
        package, _, name = module.rpartition(".")
        script.call(name, *flags, package=package)
        return 0

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two would wait busily for each other where other tests run
    monkeypatch.setattr(fashion_mnist.subprocess, "call", call)
    monkeypatch.setattr(run, "DRAWS", 2)
    monkeypatch.setattr(fashion_mnist, "TIMED", 5)
    for depths in (STAGES, torch_barlow_twins.DEPTHS):  # half of the blocks are traced sooner
        monkeypatch.setitem(depths, 18, ((1, 1, 1, 1), False))
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("within_this_process")
def test_trains_both_measures_both_and_makes_nothing_twice(tmp_path, monkeypatch):
    flags = ["--data=heldout:digits", "--tiny", "--few_labels=50", f"--out={tmp_path}"]
    flags += ["--parts=keras_bt,torch", "--epochs=3"]
    loss = mock.Mock(wraps=torch_barlow_twins.published_loss)
    monkeypatch.setattr(torch_barlow_twins, "published_loss", loss)
    with undrawn.runs():
        text = benchmark_run.call("fashion_mnist", *flags).stdout
    ours = Workdir(tmp_path / "keras_bt").read_settings()["redundancy_weight"]
    assert {call.args[3] for call in loss.call_args_list} == {ours}
    ours, theirs = benchmark_run.cells(text)
    assert [ours[0], theirs[0]] == ["keras_bt", "published code in PyTorch"]
    assert ours[5] == "3"  # epochs
    assert theirs[5] in "123"  # which take as long
    for row in (ours, theirs):
        *accuracies, few = row[1:5]
        few, deviation = few.split(" ± ")
        assert min(map(float, (*accuracies, few))) > 10
        assert max(map(float, (*accuracies, few))) < 100
        assert float(deviation) < float(few)
    assert ours[1:5] != theirs[1:5]
    found = json.loads((tmp_path / "torch" / "measured.json").read_text())
    assert "training images" in found["measured_on"]
    monkeypatch.setattr(fashion_mnist, "make", None)
    assert benchmark_run.cells(benchmark_run.call("fashion_mnist", *flags).stdout) == [ours, theirs]


@pytest.mark.parametrize("setting", "012")
def test_the_schedule_is_the_published_one(setting, fixture_arrays):
    found = fixture_arrays("schedule", setting)
    per_epoch, batch = int(found["steps_per_epoch"]), int(found["batch_size"])
    steps, warmup = (int(found[name]) * per_epoch for name in ("epochs", "warmup_epochs"))
    rates = [torch_barlow_twins.rate_at(t, steps, warmup, batch / 256) for t in found["step"]]
    assert rates == pytest.approx(found["rate_before_multiplier"].tolist(), rel=1e-12)


def test_a_mistake_is_told(capsys):
    message = script.mistake(capsys, "fashion_mnist", "--parts=keras", package="benchmarks")
    assert "--parts must be among keras_bt, torch, untrained, pixels." in message
