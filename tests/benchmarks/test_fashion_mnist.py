"""The comparison of ten minutes on a GPU, tiny, with its processes within this one."""

import json

import benchmark_run
import pytest
import script

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
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("within_this_process")
def test_trains_both_measures_both_and_makes_nothing_twice(tmp_path, monkeypatch):
    flags = ["--data=heldout:digits", "--tiny", "--few_labels=50", f"--out={tmp_path}"]
    text = benchmark_run.call("fashion_mnist", *flags).stdout
    ours, theirs, untrained, pixels = benchmark_run.cells(text)
    assert [row[0] for row in (ours, theirs, untrained, pixels)] == [*fashion_mnist.ROWS.values()]
    assert ours[5] == "2"  # epochs
    assert theirs[5] in "12"  # which take as long
    assert untrained[5:] == pixels[5:] == ["–"] * 3
    for row in (ours, theirs, untrained, pixels):
        knn, whitened, probe, few, deviation = (
            float(x) for x in " ".join(row[1:5]).split() if x != "±"
        )
        assert 10 < min(knn, whitened, probe, few) <= max(knn, whitened, probe, few) < 100
        assert deviation < few
    assert len({tuple(row[1:5]) for row in (ours, theirs, untrained, pixels)}) == 4
    found = json.loads((tmp_path / "torch" / "measured.json").read_text())
    assert "training images" in found["measured_on"]
    monkeypatch.setattr(fashion_mnist, "make", None)
    assert benchmark_run.call("fashion_mnist", *flags).stdout == text


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
