"""Batches of pairs: which images, whether they are the same, and views of their own."""

import numbered_images
import numpy as np
import pytest
from numbered_images import BOTH_WAYS, PER_CLASS, Look

from keras_bt.data.decoding import DataError
from keras_bt.data.paired import LEAST_PAIRS, paired_views, pairs_per_epoch
from keras_bt.data.pairs import Pairs

SIZE = 100  # ten steps an epoch


def steps(source, count, **options):
    """Values of both images (steps, 2, b), and the answers (steps, b)."""
    batches = paired_views(source, Look(), SIZE, seed=3, **options).take(count)
    parts = [(a.numpy(), b.numpy(), same.numpy()) for a, b, same in batches]
    a, b, same = (np.stack(part) for part in zip(*parts, strict=True))
    assert same.dtype == np.float32
    return np.stack([a, b], axis=1)[..., 0, 0, 0], same


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOTH_WAYS)
def test_an_epoch_of_pairs(make_source, kind):
    source = make_source(kind)
    values, same = steps(source, 12)
    numbers = numbered_images.numbers(values)
    a, b = numbers.swapaxes(0, 1)
    assert (a != b).all()
    assert (same == (a // PER_CLASS == b // PER_CLASS)).all()
    assert same[:10].sum() == LEAST_PAIRS / 2
    assert len(np.unique(numbers)) == source.num_examples
    # An image has another crop and another view wherever it occurs again.
    assert len(np.unique(values)) > 0.99 * values.size
    assert min(np.ptp(values[:10][numbers[:10] == n]) for n in range(24)) > 2
    # The next epoch has other pairs.
    assert not (numbers[10] == numbers[0]).all()
    # The same from any step on, across the end of an epoch.
    later, same_later = steps(source, 3, first_step=9)
    assert (later == values[9:]).all()
    assert (same_later == same[9:]).all()


def test_pairs_of_a_file_in_a_new_order_each_time(make_source):
    rng = np.random.default_rng(0)
    first = np.arange(24).repeat(10)
    pairs = Pairs(first, (first + rng.integers(1, 24, 240)) % 24, rng.random(240) < 0.5)
    values, same = steps(make_source("arrays"), 20, pairs=pairs)
    a, b = (side.ravel() for side in numbered_images.numbers(values).swapaxes(0, 1))
    rows = list(zip(a, b, same.ravel().astype(bool), strict=True))
    given = sorted(zip(pairs.first, pairs.second, pairs.same, strict=True))
    assert sorted(rows[:240]) == sorted(rows[240:480]) == sorted(rows[1000:1240]) == given
    assert rows[:240] != rows[240:480] != rows[1000:1240]


def test_pairs_with_an_unreadable_image_are_left_out(make_source):
    source = make_source("files", broken=(5,))
    given = Pairs(np.array([5, 1, 2]), np.array([1, 2, 5]), np.array([True, True, False]))
    for a, b, same in paired_views(source, Look(), 3, 0, pairs=given).take(2):
        found = [numbered_images.numbers(x.numpy()[:, 0, 0, 0]).tolist() for x in (a, b)]
        assert found == [[1], [2]]
        assert same.numpy().tolist() == [1]
    assert source.unreadable.names == ("05.png",)


def test_epochs_of_whole_batches():
    assert pairs_per_epoch(10, 64) == 960
    assert pairs_per_epoch(10, 3000) == 3000
    assert pairs_per_epoch(42_001, 1000) == 42_000


def test_what_cannot_be_paired(make_source):
    one_class = make_source("arrays").subset(np.arange(8))
    with pytest.raises(DataError, match="two classes or more"):
        paired_views(one_class, Look(), 4, 0)
    with pytest.raises(DataError, match="batch_size must be at least 1"):
        paired_views(make_source("arrays"), Look(), 0, 0)
