"""Runs the benchmark of growth with tiny numbers; how fast anything grows is not tested."""

import math
import re

import benchmark_run
import numpy as np
import pytest
from PIL import Image

from benchmarks import growth
from keras_bt.objectives import costs

SIZES = ("--n=16,32,64", "--fixed_d=64", "--d=64,128", "--fixed_n=16", "--replicas_n=16")
STEPS = ("--sides=16,24", "--step_batch=4", "--batches=4,8", "--side=16", "--replicas_d=64")


@pytest.mark.slow
def test_prints_an_exponent_for_every_range_and_draws_them(tmp_path):
    out = tmp_path / "growth.png"
    result = benchmark_run.run(
        "growth", *SIZES, *STEPS, "--counts=1,2", "--rounds=1", f"--out={out}"
    )
    assert result.returncode == 0, result.stderr
    assert re.match(r"\d{4}-\d\d-\d\d, \d+ cores of .*\nPython .*tensorflow 2", result.stdout)
    table = benchmark_run.cells(result.stdout)
    found = {tuple(row[i] for i in (0, 2, 3)): row for row in table}
    assert len(found) == len(table) == 2 * (3 * 2 + 2)
    ranges = {(row[0], row[1]) for row in table}
    expected = {("batch n", "16–64"), ("width d", "64–128"), ("replicas", "1–2")}
    assert ranges == expected | {("image side", "16–24"), ("batch of the step", "4–8")}

    def expectation(*key):
        return float(found[key][-1])

    assert expectation("batch n", "gram, d = 64", "ms") == 2
    assert expectation("batch n", "correlation, d = 64", "ms") == 1
    assert expectation("width d", "gram, n = 16", "ms") == 1
    assert expectation("width d", "correlation, n = 16", "ms") == 2
    assert expectation("image side", "training step, batch 4", "ms") == 2
    assert expectation("batch of the step", "training step, 16 × 16", "MiB") == 1
    assert expectation("replicas", "gram, n = 16, d = 64", "ms") == 0
    one, two = (count * costs.objective_cost(16, 64, count, "gram").memory for count in (1, 2))
    memory = expectation("replicas", "gram, n = 16, d = 64", "MiB")
    assert memory == pytest.approx(math.log2(two / one), abs=0.006)
    for row in table:  # an exponent of two points is the quotient of logarithms
        first, last = (float(x) for x in row[4].split("–"))
        begin, end = (float(x) for x in row[1].split("–"))
        if row[1] != "16–64" and first > 0 and row[5] != "nan":
            slope = math.log(last / first) / math.log(end / begin)
            assert float(row[5]) == pytest.approx(slope, abs=0.06)
    with Image.open(out) as picture:
        assert min(picture.size) > 500
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20


def test_fit_finds_a_known_power():
    x = np.array([2, 3, 8, 21])
    assert growth.exponent(x, 0.3 * x**1.7) == pytest.approx(1.7)
    spread = 0.3 * x**1.7 * np.exp([0.1, -0.1, -0.1, 0.1])
    assert growth.exponent(x, spread) != pytest.approx(1.7, abs=1e-3)
    assert growth.exponent(7 * x, 9 * spread) == pytest.approx(growth.exponent(x, spread))
    assert math.isnan(growth.exponent(x, [0, 1, 2, 3]))


def series(**changes):
    known = {
        "variable": "width d",
        "name": "gram",
        "x": [64, 256, 1024],
        "measured": {"time": [0.002, 0.008, 0.032], "memory": [2**21, 2**21, 2**21]},
        "counted": {"time": [5, 20, 80], "memory": [1, 16, 256]},
    }
    return growth.Series(**(known | changes))


def test_rows_of_known_measurements():
    start = ["width d", "64–1024", "gram"]
    time, memory = growth.rows([series()])
    assert time == [*start, "ms", "2–32", "1.00", "1.00"]
    assert memory == [*start, "MiB", "2–2", "0.00", "2.00"]


def test_picture_shows_points_fits_and_expectations():
    measured = {"time": [0.002, 0.02, 0.03], "memory": [0, 1, 2]}
    other = series(variable="replicas", name="all", measured=measured)
    figure = growth.picture([series(), series(name="second"), other])
    panels = figure.axes
    assert [panel.get_xlabel() for panel in panels] == ["width d", "replicas"] * 2
    points, fitted, expected, *second = panels[2].lines  # memory: constant, quadratic expected
    assert len(second) == 3
    np.testing.assert_allclose(points.get_ydata(), [2, 2, 2])
    np.testing.assert_allclose(fitted.get_ydata(), [2, 2, 2])
    np.testing.assert_allclose(expected.get_ydata(), [2 / 16, 2, 2 * 16])
    assert fitted.get_linestyle() == "-"
    assert expected.get_linestyle() == "--"
    texts = [text.get_text() for text in panels[2].get_legend().get_texts()]
    assert texts[0] == "gram\n0.00, expected 2.00"
    assert not panels[3].lines  # a zero has no logarithm


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--n=16", "n must be two whole numbers or more. Received: ['16']."),
        ("--d=16,x", "d must be two whole numbers or more. Received: ['16', 'x']."),
        ("--counts=1,3", "Replicas must divide the batch evenly. Received: 512 images, 3 replicas"),
    ],
)
def test_bad_ranges_are_one_line(flag, message):
    result = benchmark_run.run("growth", flag)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1
