"""Choosing rows by coverage, against a float64 oracle."""

import numpy as np
import pytest

from keras_bt.evaluation import coverage
from keras_bt.evaluation.coverage import farthest_first, typical_first


def oracle(features, k, first=None):
    x = np.asarray(features, np.float64)
    distances = np.linalg.norm(x[:, None] - x[None], axis=2)
    chosen = [np.linalg.norm(x - x.mean(axis=0), axis=1).argmin() if first is None else first]
    while len(chosen) < k:
        to_chosen = distances[:, chosen].min(axis=1)
        to_chosen[chosen] = -1
        chosen.append(to_chosen.argmax())
    return chosen


@pytest.mark.parametrize(("first", "k"), [(None, 600), (17, 100), (599, 1)])
def test_farthest_first_is_the_oracles_choice(first, k):
    features = np.random.RandomState(0).normal(size=(600, 7)).astype(np.float32)
    features[300:] = features[:300] + np.float32(1000)  # far from 0, where float32 is coarse
    chosen = farthest_first(features, k, first)
    assert chosen.dtype == np.int64
    assert len(set(chosen)) == k
    np.testing.assert_array_equal(chosen, oracle(features, k, first))


def test_of_equals_the_first_is_taken_and_copies_come_last():
    features = np.repeat([[0.0, 0], [0, 3], [4, 0]], 400, axis=0)
    chosen = farthest_first(features, 1200, first=0)
    np.testing.assert_array_equal(chosen[:4], [0, 800, 400, 1])
    assert sorted(chosen) == list(range(1200))


@pytest.mark.parametrize(
    ("shape", "wanted", "message"),
    [
        ((5, 2), {"k": 6}, r"^k must be between 1 and the number of features \(5\).*k=6\.$"),
        ((5, 2), {"k": 0}, r"k=0\.$"),
        ((5, 2), {"k": 2, "first": 5}, r"^first must be a row, 0 to 4\. Received: first=5\.$"),
        ((5,), {"k": 1}, r"^features must have shape"),
    ],
)
def test_mistakes(shape, wanted, message):
    with pytest.raises(ValueError, match=message):
        farthest_first(np.zeros(shape), **wanted)


def test_typical_rows_are_the_middles_of_groups_farthest_first():
    random = np.random.RandomState(0)
    centers = np.array([[0, 0], [0, 30], [40, 0], [90, 90]], np.float32)
    groups = random.normal(size=(4, 1500, 2)).astype(np.float32) + centers[:, None]
    groups -= groups.mean(axis=1, keepdims=True) - centers[:, None]
    features = groups.transpose(1, 0, 2).reshape(-1, 2)
    oracle = np.argsort(np.linalg.norm(groups - centers[:, None], axis=2), axis=1)[:, 0]
    chosen = typical_first(features, 4)
    np.testing.assert_array_equal(sorted(chosen % 4), [0, 1, 2, 3])
    np.testing.assert_array_equal(chosen // 4, oracle[chosen % 4])
    # Nearest to the mean of the four, then the farthest from it, then from both.
    np.testing.assert_array_equal(chosen % 4, [2, 3, 1, 0])


@pytest.mark.parametrize("k", [1, 2, 3, 50])
def test_typical_rows_differ_even_if_features_are_copies(k):
    features = np.repeat(np.eye(3, dtype=np.float32)[:2], 25, axis=0)
    chosen = typical_first(features, k)
    assert len(set(chosen.tolist())) == k
    assert k == 1 or {*chosen[:2] // 25} == {0, 1}


def test_typical_rows_of_many_are_sought_among_all(monkeypatch):
    monkeypatch.setattr(coverage, "_CLUSTERED", 60)
    features = np.random.RandomState(0).normal(size=(5000, 2)) + 9 * np.eye(2).repeat(2500, axis=0)
    chosen = typical_first(features, 2, seed=1)
    # The sample's centers are a tenth of a deviation off, its own rows not all that near to them.
    assert np.all(np.linalg.norm(features[chosen] - 9 * np.eye(2)[chosen // 2500], axis=1) < 0.5)
    np.testing.assert_array_equal(chosen, typical_first(features, 2, seed=1))
