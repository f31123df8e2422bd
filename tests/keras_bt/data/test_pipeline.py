"""What batches for pretraining and for classifiers have in common, whatever kind the source is."""

import numpy as np
import pytest
import tensorflow as tf
from numbered_images import BOTH_WAYS, KINDS, PER_CLASS, Look, N, numbers, values

from keras_bt.data import pipeline
from keras_bt.data.decoding import DataError
from keras_bt.data.evaluation import reading
from keras_bt.data.labelled import labelled_views
from keras_bt.data.pretraining import pretraining_views

LOOKS = Look(1), Look(2)
STEPS = 3  # per epoch of 24 images in batches of 8


def pairs(source, seed=5, looks=LOOKS, batch_size=8, epoch=0, **options):
    first_step = round(epoch * (N // batch_size))
    return pretraining_views(source, *looks, batch_size, seed, first_step, **options)


def labelled(source, seed=5, looks=LOOKS, batch_size=8, epoch=0, **options):
    return labelled_views(source, looks[0], batch_size, seed, round(epoch), **options)


EACH = pytest.mark.parametrize("way", [pairs, labelled])
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
SLOW_KINDS = [
    pytest.param(kind, marks=pytest.mark.slow)
    for kind in ("files", "large arrays", "cached files", "bytes", "records")
]
KIND = pytest.mark.parametrize("kind", BOTH_WAYS)


@pytest.mark.slow
@EACH
@EVERY_KIND
def test_every_epoch_has_an_order_of_its_own_and_a_later_start_continues_it(make_source, way, kind):
    source = make_source(kind)
    looks = values(way(source).take(3 * STEPS))
    epochs = numbers(looks[:, 0]).reshape(3, N)
    assert (np.sort(epochs) == np.arange(N)).all()
    assert len({tuple(epoch) for epoch in [*epochs, range(N)]}) == 4
    # All views show the same image, and no draw is made twice: not in the other view, not in
    # another image, not in another epoch.
    assert (numbers(looks) == numbers(looks[:, :1])).all()
    assert len(np.unique(looks % 10)) == looks.size
    for step in (3, 4) if way is pairs else (3,):  # within an epoch, too
        tail = values(way(source, epoch=step / STEPS).take(3 * STEPS - step))
        np.testing.assert_array_equal(tail, looks[step:])


@EVERY_KIND
def test_every_label_belongs_to_its_image(make_source, kind):
    for images, labels in labelled(make_source(kind)).take(2 * STEPS):
        assert labels.dtype == tf.int64
        np.testing.assert_array_equal(numbers(images[:, 0, 0, 0]) // PER_CLASS, labels)


@EACH
@pytest.mark.parametrize("kind", ["arrays", *SLOW_KINDS])
def test_the_seed_decides_and_nothing_else(make_source, way, kind):
    source = make_source(kind)

    def run(seed, threads):
        options = tf.data.Options()
        options.threading.private_threadpool_size = threads
        return values(way(source, seed).with_options(options).take(2 * STEPS))

    first = run(3, threads=16)
    tf.random.set_seed(99)
    np.testing.assert_array_equal(run(3, threads=1), first)
    assert (run(4, threads=16) != first).mean() > 0.9


@EACH
@pytest.mark.slow
@KIND
def test_blocks_do_not_show_in_the_batches(make_source, way, kind, monkeypatch):
    source = make_source(kind)
    expected = values(way(source, batch_size=12).take(5))
    side = {"arrays": 5, "files": 6}[kind]
    monkeypatch.setattr(pipeline, "_BLOCK", 4 * side**2 + 3)
    looks = values(way(source, batch_size=12).take(5))
    np.testing.assert_array_equal(looks, expected)
    np.testing.assert_array_equal(values(way(source, batch_size=12, epoch=1).take(3)), looks[2:])


@pytest.mark.slow
@EACH
@KIND
def test_a_view_depends_on_the_image_and_the_epoch_but_not_on_the_batch_size(
    make_source, way, kind
):
    source = make_source(kind)

    def epochs(batch_size):
        made = values(way(source, batch_size=batch_size).take(2 * N // batch_size))
        return np.moveaxis(made, 1, 0).reshape(-1, 2, N)

    made = epochs(8)
    np.testing.assert_array_equal(made, epochs(12))
    assert len(np.unique(made % 10)) == made.size


@EACH
@pytest.mark.parametrize("kind", ["files", pytest.param("cached files", marks=pytest.mark.slow)])
def test_without_crops_images_need_a_size(make_source, way, kind):
    looks = Look(1, crops=False), Look(2, crops=False)
    with pytest.raises(DataError, match=r"random crop, or an image_size.*Received: folder"):
        way(make_source(kind), looks=looks)
    sized = way(make_source(kind), looks=looks, image_size=4)
    assert sized.element_spec[0].shape[1:] == (4, 4, 3)
    assert sorted(numbers(values(sized.take(STEPS))[:, 0]).ravel()) == list(range(N))


def test_without_crops_images_in_memory_keep_their_size(make_source):
    looks = Look(1, crops=False), Look(2, crops=False)
    sized = pairs(make_source("large arrays"), looks=looks)
    assert sized.element_spec[0] == tf.TensorSpec((8, 200, 200, 3), tf.float32)
    assert sorted(numbers(values(sized.take(STEPS))[:, 0]).ravel()) == list(range(N))


@EACH
def test_more_than_one_per_cent_unreadable_stop_the_run(make_source, way):
    with pytest.raises(DataError, match=r"2 unreadable of 24 .*: 07\.png \(.+\), 11\.png\.$"):
        way(make_source("cached files", broken=[7, 11]))
    source = make_source("files", broken=[7, 11])
    with pytest.raises(DataError, match="2 unreadable of 24 in folder"), reading(source):
        list(way(source).take(STEPS))
