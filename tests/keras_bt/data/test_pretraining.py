import time

import numpy as np
import pytest
import tensorflow as tf
from numbered_images import BOTH_WAYS, Look, N, numbers, values

from keras_bt.augmentations import RandomResizedCrop, View
from keras_bt.data import pipeline, pretraining
from keras_bt.data.decoding import DataError
from keras_bt.data.pretraining import pretraining_views

A, B = Look(1), Look(2)
KIND = pytest.mark.parametrize("kind", BOTH_WAYS)


@pytest.mark.slow
@KIND
def test_what_is_left_over_differs_from_epoch_to_epoch(source_of, kind):
    source = source_of(kind)
    looks = values(pretraining_views(source, A, B, batch_size=10, seed=1).take(12))
    epochs = numbers(looks[:, 0]).reshape(6, 20)
    assert all(len(set(epoch)) == 20 for epoch in epochs)
    assert set(epochs.ravel()) == set(range(N))
    tail = pretraining_views(source, A, B, batch_size=10, seed=1, first_step=3)
    np.testing.assert_array_equal(values(tail.take(9)), looks[3:])


@pytest.mark.slow
def test_an_order_is_drawn_from_all_orders(make_source):
    views = pretraining_views(make_source("arrays", n=4), A, B, batch_size=4, seed=7).take(2400)
    orders, counts = np.unique(numbers(values(views)[:, 0]), axis=0, return_counts=True)
    assert len(orders) == 24
    # χ² with 23 degrees of freedom exceeds 50 once in a thousand times.
    assert ((counts - 100) ** 2 / 100).sum() < 50


def test_starting_late_costs_nothing(source_of):
    source = source_of("files")
    start = time.perf_counter()
    views = pretraining_views(source, A, B, batch_size=8, seed=5, first_step=10**9)
    assert values(views.take(1)).shape == (1, 2, 8)
    assert time.perf_counter() - start < 10


@KIND
def test_two_views_of_the_same_layers_draw_differently(source_of, kind):
    views = values(pretraining_views(source_of(kind), A, A, batch_size=8, seed=1).take(3))
    a, b = views.swapaxes(0, 1)
    assert (numbers(a) == numbers(b)).all()
    assert (np.abs(a - b) > 1e-3).mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_a_function_in_a_view_may_branch_on_tensors(make_source, compiled):
    def capped(images):
        if tf.reduce_max(images) > 100:
            return tf.minimum(images, 100.0)
        return images

    view = View([RandomResizedCrop(4), capped])
    source = make_source("arrays")
    batches = pretraining_views(source, view, view, 8, seed=1, compile_views=compiled)
    pairs = np.array(list(batches.take(N // 8).as_numpy_iterator()))
    assert pairs.max() == 100


@pytest.mark.slow
def test_shards_make_the_views_of_the_whole(source_of, monkeypatch):
    source = source_of("arrays")
    whole = values(pretraining_views(source, A, B, batch_size=8, seed=5, first_step=1).take(7))
    for count, pixels in ((2, 50), (4, 25)):  # two blocks of two images, or of one
        monkeypatch.setattr(pipeline, "_BLOCK", pixels)
        shards = [
            pretraining_views(source, A, B, 8, 5, 1, shard_index=i, num_shards=count).take(7)
            for i in range(count)
        ]
        together = np.concatenate([values(shard) for shard in shards], axis=-1)
        np.testing.assert_array_equal(together, whole)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["files", "records"])
def test_shards_divide_the_batches(source_of, kind):
    source = source_of(kind)
    shards = [
        pretraining_views(source, A, B, 8, 5, shard_index=i, num_shards=2).take(6) for i in range(2)
    ]
    looks = [values(shard) for shard in shards]
    assert [look.shape for look in looks] == [(6, 2, 4)] * 2
    together = np.concatenate(looks, axis=-1)
    if kind == "records":  # each worker reads its own, which together are all
        epochs = numbers(together[:, 0]).reshape(2, N)
        assert (np.sort(epochs) == np.arange(N)).all()
    else:
        whole = values(pretraining_views(source, A, B, batch_size=8, seed=5).take(6))
        np.testing.assert_array_equal(together, whole)
    assert len(np.unique(together % 10)) == together.size
    # The shards' own files are theirs already: TensorFlow must not divide them again.
    policy = shards[0].options().experimental_distribute.auto_shard_policy
    assert policy == tf.data.experimental.AutoShardPolicy.OFF


@pytest.mark.slow
def test_a_neighbour_takes_the_place_of_an_unreadable_image(source_of, make_source):
    whole = values(pretraining_views(source_of("files"), A, B, batch_size=8, seed=5).take(6))
    expected = numbers(whole[:, 0])
    rows, columns = np.nonzero(expected == 7)
    assert len(rows) == 2
    for row, column in zip(rows, columns, strict=True):
        expected[row, column] = expected[row, (column + 1) % 8]
    for kind in ("files", "cached files"):
        source = make_source(kind, broken=[7])
        looks = values(pretraining_views(source, A, B, batch_size=8, seed=5).take(6))
        np.testing.assert_array_equal(numbers(looks), np.stack([expected] * 2, axis=1))
        assert source.unreadable.names == ("07.png",)
        # It is cut alike, but not colored alike.
        assert len(np.unique(looks % 10)) == looks.size
        tail = pretraining_views(source, A, B, batch_size=8, seed=5, first_step=4)
        np.testing.assert_array_equal(values(tail.take(2)), looks[4:])


def test_the_next_readable_image():
    readable = tf.constant([False, True, False, False, True, True, False])
    found = pretraining._next_readable(readable)
    np.testing.assert_array_equal(found, [1, 1, 4, 4, 4, 5, 1])
    np.testing.assert_array_equal(pretraining._next_readable(tf.zeros(3, bool)), [0, 1, 2])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 1}, "at least 2.*Received: batch_size=1"),
        ({"batch_size": 25}, "Received: batch_size=25 for 24 images in arrays"),
        ({"num_shards": 3}, "divisible by the number of workers"),
        ({"num_shards": 2, "shard_index": 2}, "shard_index must be"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 2**31}, "seed must be"),
        ({"first_step": -1}, "first_step must be"),
    ],
)
def test_impossible_numbers_are_refused(make_source, wrong, message):
    source, arguments = make_source("arrays"), {"batch_size": 8, "seed": 1} | wrong
    with pytest.raises(ValueError, match=message) as error:
        pretraining_views(source, A, B, **arguments)
    assert isinstance(error.value, DataError) == (str(error.value).startswith("batch_size"))
    if set(wrong) == {"batch_size"}:
        with pytest.raises(DataError, match=message):
            pretraining.check_pretraining(source, wrong["batch_size"])
