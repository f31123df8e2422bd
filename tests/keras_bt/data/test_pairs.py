import numpy as np
import pytest

from keras_bt.data.decoding import DataError
from keras_bt.data.pairs import Pairs, distinct_pairs, draw_pairs

LABELS = np.random.default_rng(0).permutation(np.repeat([3, 5, 9, 2], [40, 25, 1, 7]))


def test_pairs_are_balanced_and_as_the_labels_say():
    pairs = draw_pairs(LABELS, 1001, seed=(1, 2))
    same = LABELS[pairs.first] == LABELS[pairs.second]
    assert (same == pairs.same).all()
    assert same.sum() == 500
    assert len(pairs) == 1001
    assert (pairs.first != pairs.second).all()
    assert 0.3 < pairs.same[:100].mean() < 0.7  # in random order


def test_every_image_takes_part_as_often_as_another():
    pairs = draw_pairs(LABELS, 40 * len(LABELS), seed=0)
    unlike = np.bincount(pairs[~pairs.same].first, minlength=len(LABELS))
    assert unlike.min() == unlike.max() == 20
    alike = np.bincount(pairs[pairs.same].first, minlength=len(LABELS))
    assert alike[LABELS == 9] == 0
    assert np.ptp(alike[LABELS != 9]) <= 1
    # The others, too, are drawn without preference: within a class, and among all strangers.
    second = np.bincount(pairs[pairs.same].second, minlength=len(LABELS))[LABELS == 3]
    assert second.min() > 5
    assert abs(second.mean() - alike[LABELS == 3].mean()) < 1e-9
    strangers = pairs[~pairs.same][LABELS[pairs[~pairs.same].first] == 2]
    counts = np.bincount(strangers.second, minlength=len(LABELS))
    assert counts[LABELS == 2].sum() == 0
    assert (counts[LABELS != 2] > 0).mean() > 0.8


def test_the_seed_decides():
    one, other, again = (draw_pairs(LABELS, 50, seed) for seed in (0, 1, 0))
    assert (one.first == again.first).all()
    assert (one.second == again.second).all()
    assert not (one.first == other.first).all()


@pytest.mark.parametrize("count", [2, 601, 2 * (40 * 39 + 25 * 24 + 7 * 6) // 2])
def test_distinct_pairs_are_no_two_the_same(count):
    pairs = distinct_pairs(LABELS, count, seed=0)
    assert len(pairs) == count
    assert pairs.same.sum() == count // 2
    assert ((LABELS[pairs.first] == LABELS[pairs.second]) == pairs.same).all()
    assert (pairs.first != pairs.second).all()
    assert len(np.unique(np.sort([pairs.first, pairs.second], axis=0), axis=1).T) == count


def test_pairs_among_some_images_keep_what_they_show():
    pairs = draw_pairs(LABELS, 500, seed=0)
    some = np.random.default_rng(1).permutation(len(LABELS))[:50]
    kept = pairs.among(some)
    whole = pairs[np.isin(pairs.first, some) & np.isin(pairs.second, some)]
    assert 0 < len(kept) == len(whole) < 500
    np.testing.assert_array_equal(some[kept.first], whole.first)
    np.testing.assert_array_equal(some[kept.second], whole.second)
    np.testing.assert_array_equal(kept.same, whole.same)
    none = Pairs(*np.zeros((2, 0), int), np.zeros(0, bool))
    assert len(pairs.among([])) == len(none.among([3])) == 0


@pytest.mark.parametrize(
    ("labels", "count", "message"),
    [([1, 1, 1], 4, "1 class"), ([1, 2, 3], 4, "3 images of 3"), ([1, 1, 2], 1, "two pairs")],
)
def test_pairs_that_cannot_be_drawn(labels, count, message):
    with pytest.raises(DataError, match=message):
        draw_pairs(labels, count, seed=0)
