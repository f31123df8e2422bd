from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from keras_bt.evaluation.average_precision import average_precision


def oracle(scores, labels, interpolation):
    """The definition, threshold by threshold, in exact fractions."""
    examples = [(s, int(y)) for s, y in zip(scores, labels, strict=True) if y != -1]
    positives = sum(y for _, y in examples)
    curve = []
    for threshold in {s for s, _ in examples}:
        taken = [y for s, y in examples if s >= threshold]
        curve.append((Fraction(sum(taken), positives), Fraction(sum(taken), len(taken))))

    def highest(recall):
        return max((p for r, p in curve if r >= recall), default=Fraction(0))

    if interpolation == "11-point":
        return float(sum(highest(Fraction(i, 10)) for i in range(11)) / 11)
    levels = sorted({r for r, _ in curve} | {Fraction(0)})
    return float(sum((b - a) * highest(b) for a, b in pairwise(levels)))


@pytest.mark.parametrize("interpolation", ["11-point", "area"])
@pytest.mark.parametrize("distinct", [3, 20, 10**9])
def test_equals_the_definition_written_out(interpolation, distinct):
    random = np.random.default_rng(distinct)
    for _ in range(40):
        n = random.integers(1, 60)
        scores = random.integers(0, distinct, n) / 7 - 1
        labels = random.choice([-1, 0, 1], n, p=[0.2, 0.5, 0.3])
        labels[random.integers(n)] = 1
        found = average_precision(scores, labels, interpolation)
        assert found == pytest.approx(oracle(scores, labels, interpolation), abs=1e-12)


def test_a_recall_of_three_tenths_reaches_the_threshold_of_three_tenths():
    # 3 of 10 positives first, then all negatives: 0.3 as a float must not miss 3 / 10.
    labels = [1] * 3 + [0] * 10 + [1] * 7
    expected = (4 * 1 + 7 * 10 / 20) / 11
    assert average_precision(-np.arange(20.0), labels) == pytest.approx(expected)


def test_extremes():
    assert average_precision([3, 2, 1], [1, 1, 0]) == 1
    assert average_precision([1, 2, 3], [1, 0, 0]) == pytest.approx(1 / 3)
    assert average_precision([5.0], [1]) == 1
    assert average_precision(np.array([0, 255], np.uint8), [0, 1]) == 1


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1, 2], [0, -1], "none of them positive"),
        ([], [], "none of them positive"),
        ([np.inf, 2], [0, 1], "infinity"),
        ([1, 2, 3], [0, 1], r"shapes \(3,\) and \(2,\)"),
        ([[1], [2]], [[0], [1]], r"shape \(n,\)"),
        ([1, 2], [0, 2], "Received: 2"),
        ([np.nan, 2], [0, 1], "NaN"),
    ],
)
def test_wrong_input(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        average_precision(np.array(scores), np.array(labels, int))
    with pytest.raises(ValueError, match="11-point or area"):
        average_precision([1.0], [1], "trapezoid")
