"""Runs the benchmark of the objective's forms with tiny numbers; speed is not tested."""

import math
import re

import benchmark_run
import pytest

import keras_bt
from benchmarks import costs, replicas


@pytest.mark.slow
def test_measures_every_form_and_number_of_replicas():
    # In a process of its own: those that it starts inherit its peak of memory.
    result = benchmark_run.run(
        "replicas", "--sizes=8x2048", "--counts=2", "--rounds=1", "--steps=1"
    )
    assert result.returncode == 0, result.stderr
    assert re.match(r"\d{4}-\d\d-\d\d, \d+ cores of .*\nPython .*tensorflow 2", result.stdout)
    table = benchmark_run.cells(result.stdout)
    expected = [[place, form] for place in ("none", "2") for form in ("correlation", "gram *")]
    assert [row[1:3] for row in table] == expected
    for size, place, form, time, cpu, mib, by_formula, work, sent in table:
        assert size == "8 × 2048"
        median, least, greatest = (float(x) for x in re.findall(r"\d+", time))
        assert 0 <= least <= median <= greatest
        assert float(cpu) >= 0
        count = 1 if place == "none" else int(place)
        cost = costs.objective_cost(8, 2048, count, form.removesuffix(" *"))
        assert float(by_formula) == pytest.approx(count * cost.memory / 2**20, abs=0.5)
        assert float(work) == pytest.approx((cost.forward + cost.backward) / 1e9, abs=0.005)
        assert float(sent) == pytest.approx(cost.sent / 1e6, abs=0.005)
        if form == "correlation":  # 16 MiB, more than once on every replica
            assert float(mib) > 16 * count


def test_model_prints_a_table_for_a_fixed_and_a_growing_batch():
    result = benchmark_run.call("replicas", "--model", "--model_replicas=8,16")
    fixed, growing = (benchmark_run.cells(part) for part in result.stdout.split("\n\n")[1:])
    assert [row[:2] for row in fixed] == [["8", "2048"], ["16", "2048"]]
    assert growing[0][:2] == ["8", "128"]
    # 2 · 15/16 · 4 · (8192² + 49153) bytes, 15/16 · 4 · (2 · 256 · 8192 + 2 · 73729), and
    # 2 · 15/16 · 4 · 174,535,744; in milliseconds at 25 GB/s
    gradients = "1309.0 (52.4)"
    assert growing[1] == ["16", "256", "503.7 (20.1)", "16.3 (0.7)", gradients, "gram"]


@pytest.mark.slow
def test_parameters_are_those_of_the_published_model():
    # The projector has two layers with BatchNormalization and a last one without.
    backbone = sum(math.prod(weight.shape) for weight in keras_bt.resnet(50).trainable_weights)
    projector = 2048 * 8192 + 2 * 8192**2 + 2 * 2 * 8192
    assert backbone + projector == replicas.PARAMETERS


@pytest.mark.parametrize(
    ("size", "counts", "message"),
    [
        ("64", [1], "--sizes must be NxD.* Received: 64"),
        ("64xd", [1], "--sizes must be NxD.* Received: 64xd"),
        ("64x8", [1, 3], "divide the global batch evenly. Received: 64 images, 3 replicas"),
    ],
)
def test_bad_sizes(size, counts, message):
    with pytest.raises(ValueError, match=message):
        replicas.settings_for(size, counts)
