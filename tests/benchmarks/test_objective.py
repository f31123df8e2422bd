"""Runs the benchmark of the objective with tiny numbers; speed is not tested."""

import importlib.util
import re
import sys

import benchmark_run
import numpy as np
import pytest
import script

from benchmarks import costs, objective

MIB, GIB = 2**20, 2**30
HAS_TORCH = importlib.util.find_spec("torch") is not None


def number(cell):
    return float(cell.removesuffix(" *"))


@pytest.fixture(scope="module")
def output():
    """Where the d×d form and PyTorch are allowed for 8 × 512, of which the latter needs 7 MiB."""
    result = benchmark_run.run(
        "objective", "--n=8,600", "--d=512,4096", f"--max_gib={160 / 1024}", "--rounds=1"
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_rows_are_consistent(output):
    assert re.match(r"\d{4}-\d\d-\d\d, \d+ cores of .*\nPython .*tensorflow 2", output)
    assert re.search(r"^(CPU, \d+ threads|.+); float32$", output, re.MULTILINE)
    table = benchmark_run.cells(output)
    assert [row[0] for row in table] == ["8 × 512", "600 × 512", "8 × 4096", "600 × 4096"]
    for row in table:
        *ms, speed, worse = row[1:6]
        *mib, saving = row[6:]
        for form, ratio in ((ms, speed), (mib, saving)):
            [chosen] = [number(x) for x in form[:2] if x.endswith(" *")]
            if ratio != "–" and chosen > 0:
                assert float(ratio) == pytest.approx(number(form[2]) / chosen, rel=0.02, abs=0.06)
        measured = [number(x) for x in ms[:2] if x != "–"]
        [chosen] = [number(x) for x in ms[:2] if x.endswith(" *")]
        assert float(worse) == pytest.approx(chosen / min(measured), abs=0.02)
    by_size = {row[0]: row for row in table}
    assert by_size["8 × 512"][2].endswith(" *")
    assert by_size["600 × 512"][1].endswith(" *")


@pytest.mark.slow
def test_memory_is_that_of_the_formulas(output):
    by_size = {row[0]: row for row in benchmark_run.cells(output)}
    correlation = number(by_size["8 × 4096"][6])
    assert correlation == pytest.approx(
        costs.objective_cost(8, 4096, 1, "correlation").memory / MIB, rel=0.1
    )
    gram = number(by_size["600 × 4096"][7])
    assert gram == pytest.approx(costs.objective_cost(600, 4096, 1, "gram").memory / MIB, rel=0.25)


@pytest.mark.slow
def test_leaves_out_what_cannot_be_measured_and_says_so(output):
    by_size = {row[0]: row for row in benchmark_run.cells(output)}
    assert by_size["600 × 4096"][1] == by_size["600 × 4096"][6] == "–"  # 128 MiB and the rows
    assert by_size["8 × 4096"][1] != "–"
    [skipped] = re.findall(r"Not measured \(need more than [\d.]+ GiB\): (.*)\.$", output, re.M)
    names = {"correlation at 600 × 4096"}
    if HAS_TORCH:
        names |= {"PyTorch at 8 × 4096", "PyTorch at 600 × 4096"}
        assert number(by_size["8 × 512"][3]) > 0
        assert re.search(r"TensorFlow \d+\.\d\d GiB, PyTorch \d+\.\d\d GiB", output)
    else:
        assert "PyTorch is left out: it is not installed." in output
    assert set(skipped.split(", ")) == names


def test_rows_of_known_measurements():
    cell = {
        "correlation": {"seconds": 0.006, "memory": 30 * MIB, "loss": 2.0},
        "gram": {"seconds": 0.002, "memory": 10 * MIB, "loss": 2.0},
        "PyTorch": {"seconds": 0.05, "memory": None, "loss": 2.0},
    }
    row = ["7 × 9", "6", "2 *", "50", "25.0", "1.00", "30", "10 *", "–", "–"]
    assert objective.row(7, 9, cell, "gram") == row
    slower = objective.row(7, 9, cell, "correlation")
    assert slower[1:6] == ["6 *", "2", "50", "8.3", "3.00"]


def test_different_losses_are_an_error():
    cell = {"gram": {"loss": 100.0}, "PyTorch": {"loss": 100.009}}
    objective.check_losses(2, 2, cell)
    cell["PyTorch"]["loss"] = 100.02
    with pytest.raises(RuntimeError, match=r"the same loss for 2 × 3\. Received: .*100\.02"):
        objective.check_losses(2, 3, cell)


class Allocations(objective.Framework):
    """A framework whose step takes what it says and says what it took."""

    gpu = None

    def __init__(self):
        self.prepared, self.steps_taken = [], 0
        self.in_use, self.peak = 100, 1000

    def steps(self, n, d):
        self.prepared.append((n, d))

        def step():
            self.steps_taken += 1
            self.peak = max(self.peak, self.in_use + n * d)
            return np.float32(n + d)

        return {"gram": step}

    def wait(self):
        pass

    def memory(self, reset):
        if reset:
            self.peak = self.in_use
        return self.in_use, self.peak


def test_measures_one_size_at_a_time(monkeypatch):
    monkeypatch.setattr(objective, "_TURN_SECONDS", 0)  # one step
    framework = Allocations()
    answers = [framework.measure(n, 3, "gram") for n in (5, 5, 6)]
    assert [(a["loss"], a["memory"]) for a in answers] == [(8, 15), (8, 15), (9, 18)]
    assert framework.prepared == [(5, 3), (6, 3)]  # not again for the same
    assert framework.steps_taken == (2 + 1) + 1 + (2 + 1)  # two to warm up


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Only Linux tells")
def test_peak_of_the_process_is_found_though_it_had_more_before():
    np.ones(64 * MIB, np.uint8)  # freed at once

    def step():
        np.ones(32 * MIB, np.uint8)

    peak = objective.peak_memory(step, objective.process_memory)
    assert peak == pytest.approx(32 * MIB, rel=0.1)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--n=1", "--n must be at least 2. Received: --n=1"),
        ("--d=x", "Received: --d=x"),
        ("--n=", "--n must not be empty"),
        ("--max_gib=nan", "--max_gib must be finite. Received: --max_gib=nan"),
    ],
)
def test_mistakes_are_told(flag, words, capsys):
    assert words in script.mistake(capsys, "objective", flag, package="benchmarks")
