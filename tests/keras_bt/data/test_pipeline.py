"""What batches for pretraining and for classifiers have in common, whatever kind the source is."""

import functools

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


def in_threads(batches, count):
    options = tf.data.Options()
    options.threading.private_threadpool_size = count
    return batches.with_options(options)


@pytest.fixture(scope="module")
def three_epochs(source_of):
    """Returns the batches of three epochs of a kind of source, made once and by many threads."""

    def make(way, kind):
        return list(in_threads(way(source_of(kind)), 16).take(3 * STEPS))

    return functools.cache(make)


EACH = pytest.mark.parametrize("way", [pairs, labelled])
# Pairs of cached files and of bytes are made in test_pretraining.py and test_multilabel.py.
OF_PAIRS = (*BOTH_WAYS, "large arrays", "records")
OF_BOTH = [(pairs, kind) for kind in OF_PAIRS]
OF_BOTH += [(labelled, kind) for kind in (*OF_PAIRS, "cached files", "bytes")]


@pytest.mark.slow
@pytest.mark.parametrize(("way", "kind"), OF_BOTH)
def test_every_epoch_has_an_order_of_its_own_and_a_later_start_continues_it(
    source_of, three_epochs, way, kind
):
    looks = values(three_epochs(way, kind))
    epochs = numbers(looks[:, 0]).reshape(3, N)
    assert (np.sort(epochs) == np.arange(N)).all()
    assert len({tuple(epoch) for epoch in [*epochs, range(N)]}) == 4
    # All views show the same image, and no draw is made twice: not in the other view, not in
    # another image, not in another epoch.
    assert (numbers(looks) == numbers(looks[:, :1])).all()
    assert len(np.unique(looks % 10)) == looks.size
    # Neither threads nor TensorFlow's own seed have a say.
    tf.random.set_seed(99)
    step = 4 if way is pairs else 3  # within an epoch, too
    tail = in_threads(way(source_of(kind), epoch=step / STEPS), 1).take(3 * STEPS - step)
    np.testing.assert_array_equal(values(tail), looks[step:])


@pytest.mark.parametrize("kind", KINDS)
def test_every_label_belongs_to_its_image(three_epochs, kind):
    for images, labels in three_epochs(labelled, kind):
        assert labels.dtype == tf.int64
        np.testing.assert_array_equal(numbers(images[:, 0, 0, 0]) // PER_CLASS, labels)


# Numbered before they are read, and records, which are not.
@EACH
@pytest.mark.parametrize("kind", ["arrays", pytest.param("records", marks=pytest.mark.slow)])
def test_another_seed_makes_other_epochs(source_of, three_epochs, way, kind):
    other = values(way(source_of(kind), seed=4).take(STEPS))
    assert (other != values(three_epochs(way, kind)[:STEPS])).mean() > 0.9


@pytest.mark.slow
@EACH
@pytest.mark.parametrize("kind", BOTH_WAYS)
def test_neither_blocks_nor_the_batch_size_show_in_the_views(
    source_of, three_epochs, way, kind, monkeypatch
):
    side = {"arrays": 5, "files": 6}[kind]
    monkeypatch.setattr(pipeline, "_BLOCK", 4 * side**2 + 3)  # three of them in a batch
    looks = values(way(source_of(kind), batch_size=12, epoch=1).take(4))
    expected = values(three_epochs(way, kind)[STEPS:])
    for made, same in zip(looks.swapaxes(0, 1), expected.swapaxes(0, 1), strict=True):
        np.testing.assert_array_equal(made.ravel(), same.ravel())


@EACH
@pytest.mark.parametrize("kind", ["files", pytest.param("cached files", marks=pytest.mark.slow)])
def test_without_crops_images_need_a_size(source_of, way, kind):
    looks = Look(1, crops=False), Look(2, crops=False)
    with pytest.raises(DataError, match=r"random crop, or an image_size.*Received: folder"):
        way(source_of(kind), looks=looks)
    sized = way(source_of(kind), looks=looks, image_size=4)
    assert sized.element_spec[0].shape[1:] == (4, 4, 3)
    assert sorted(numbers(values(sized.take(STEPS))[:, 0]).ravel()) == list(range(N))


def test_without_crops_images_in_memory_keep_their_size(source_of):
    looks = Look(1, crops=False), Look(2, crops=False)
    sized = pairs(source_of("large arrays"), looks=looks)
    assert sized.element_spec[0] == tf.TensorSpec((8, 200, 200, 3), tf.float32)
    assert sorted(numbers(values(sized.take(STEPS))[:, 0]).ravel()) == list(range(N))


@EACH
def test_more_than_one_per_cent_unreadable_stop_the_run(make_source, way):
    with pytest.raises(DataError, match=r"2 unreadable of 24 .*: 07\.png \(.+\), 11\.png\.$"):
        way(make_source("cached files", broken=[7, 11]))
    source = make_source("files", broken=[7, 11])
    with pytest.raises(DataError, match="2 unreadable of 24 in folder"), reading(source):
        list(way(source).take(STEPS))
