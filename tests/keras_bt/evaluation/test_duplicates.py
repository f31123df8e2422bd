"""Groups of near-duplicates are those of all pairs, compared in float64."""

import numpy as np
import pytest

from keras_bt.evaluation import duplicates
from keras_bt.evaluation.duplicates import near_duplicates


def brute_force(features, similarity):
    """Groups, partners and similarities by Warshall's closure of all pairs."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.where(length > 0, length, 1)
    similar = unit @ unit.T
    np.fill_diagonal(similar, -2)
    joined = (similar >= similarity) | np.eye(len(unit), dtype=bool)
    for middle in range(len(unit)):
        joined |= joined[:, middle : middle + 1] & joined[middle]
    alone = joined.sum(axis=1) == 1
    firsts = joined.argmax(axis=1)
    numbers = {first: number for number, first in enumerate(np.unique(firsts[~alone]))}
    groups = [-1 if alone[i] else numbers[firsts[i]] for i in range(len(unit))]
    nearest = np.where(alone, -1, similar.argmax(axis=1))
    to_first = np.where(alone, 0, (unit * unit[firsts]).sum(axis=1))
    return groups, nearest, np.where(alone, 0, similar.max(axis=1)), to_first


def images(n=300, d=6):
    """Random vectors of any length, some of which are near-copies of others, and two zeros."""
    random = np.random.RandomState(0)
    features = random.standard_normal((n, d)) * random.uniform(0.1, 100, (n, 1))
    copies = random.permutation(n)[: n // 2]
    features[copies] = features[random.randint(0, n, n // 2)] * 0.5
    features[copies] += 0.01 * random.standard_normal((n // 2, d))
    features[[7, n - 1]] = 0
    return features


@pytest.mark.parametrize("block", [7, 100, 2048])
@pytest.mark.parametrize("similarity", [0.3, 0.95, 0.999])
def test_all_pairs_and_no_others(block, similarity, monkeypatch):
    monkeypatch.setattr(duplicates, "_BLOCK", block)
    monkeypatch.setattr(duplicates, "_HITS", 11)
    features = images()
    found = near_duplicates(features, similarity)
    groups, nearest, similarities, to_first = brute_force(features, similarity)
    np.testing.assert_array_equal(found.groups, groups)
    np.testing.assert_allclose(found.similarities, similarities, atol=1e-5)
    np.testing.assert_allclose(found.to_first, to_first, atol=1e-5)
    # Where several are as near, any of them will do.
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
    theirs = (unit * unit[found.nearest]).sum(axis=1)
    np.testing.assert_allclose(np.where(nearest < 0, 0, theirs), similarities, atol=1e-5)
    np.testing.assert_array_equal(found.nearest < 0, nearest < 0)
    assert 1 < len(set(groups)) < 300


def test_equal_vectors_are_duplicates_at_the_highest_threshold():
    features = np.repeat(np.random.RandomState(0).standard_normal((50, 97)), 2, axis=0)
    found = near_duplicates(features.astype(np.float32), similarity=1)
    np.testing.assert_array_equal(found.groups, np.repeat(np.arange(50), 2))
    np.testing.assert_array_equal(found.nearest, np.arange(100) ^ 1)
    assert found.similarities.max() <= 1


def test_of_one_image_and_of_equal_ones():
    assert near_duplicates(np.ones((1, 3)), 0.9).groups.tolist() == [-1]
    assert near_duplicates(np.ones((5, 3)), 0.9).groups.tolist() == [0] * 5
    assert near_duplicates(np.zeros((5, 3)), 0.9).groups.tolist() == [-1] * 5


def test_mistakes():
    for features, similarity, message in (
        (np.ones(3), 0.9, "features"),
        (np.full((2, 2), np.nan), 0.9, "features"),
        (np.ones((2, 2)), 0, "similarity must be above 0 and at most 1. Received: similarity=0"),
        (np.ones((2, 2)), 1.1, "similarity must be"),
    ):
        with pytest.raises(ValueError, match=message):
            near_duplicates(features, similarity)
