"""What every kind of source keeps to, and what is special about those in memory."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from numbered_images import CLASSES, KINDS, N, numbers

from keras_bt.data.arrays import ArraySource
from keras_bt.data.decoding import DataError
from keras_bt.data.evaluation import evaluation_batches, raw_pixels
from keras_bt.preprocessing import normalization

RNG = np.random.RandomState(0)
TWO = np.zeros((2, 3, 3, 3), np.uint8)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def one_by_one(source):
    """The numbers and labels of all readable images."""
    decoded = list(source.in_order().map(source.decode).as_numpy_iterator())
    found = numbers(np.array([image[0, 0, 0] for image, readable, _ in decoded if readable]))
    return found, np.array([label for _, readable, label in decoded if readable])


def look(source):
    """The same; both ways to read them agree."""
    found, labels = one_by_one(source)
    batches = evaluation_batches(source, 16, 7, mean=(0, 0, 0), std=(1 / 255,) * 3)
    images, same_labels = map(np.concatenate, zip(*batches.as_numpy_iterator(), strict=True))
    np.testing.assert_array_equal(numbers(np.round(images[:, 0, 0, 0])), found)
    np.testing.assert_array_equal(labels, same_labels)
    return found, labels


@pytest.fixture(scope="module")
def everything(source_of):
    """Returns what there is in a kind of source."""
    return functools.cache(lambda kind: look(source_of(kind)))


def test_every_image_is_read_once_with_its_label(source_of, everything, kind):
    source = source_of(kind)
    found, labels = everything(kind)
    assert sorted(found) == list(range(N)) == list(range(source.num_examples))
    np.testing.assert_array_equal(labels, found // 8)
    np.testing.assert_array_equal(source.labels(), labels)
    if kind != "records":  # tfds shuffles, and knows a thousand classes
        np.testing.assert_array_equal(found, range(N))
        assert source.class_names == CLASSES
    assert len(source.unreadable) == 0


@pytest.mark.slow
def test_a_subset_has_its_own_images_and_labels_but_the_same_record(make_source, everything, kind):
    source = make_source(kind)
    found, labels = everything(kind)
    subset = source.subset(np.array([20, 3, 11]))
    np.testing.assert_array_equal(look(subset), [found[[20, 3, 11]], labels[[20, 3, 11]]])
    assert (subset.num_examples, subset.class_names) == (3, source.class_names)
    assert subset.unreadable is source.unreadable
    assert subset.subset([1]).labels() == labels[[3]]
    fingerprints = {part.fingerprint() for part in (source, subset, subset.subset([1, 0, 2]))}
    assert len(fingerprints) == 3
    assert make_source(kind).fingerprint() == source.fingerprint()


@pytest.mark.slow
def test_a_sample_is_random_where_that_is_cheap(source_of, everything, kind):
    source = source_of(kind)
    sample = source.sample(10, seed=1)
    found, labels = one_by_one(sample)
    assert (sample.num_examples, len(set(found))) == (10, 10)
    np.testing.assert_array_equal(sample.labels(), labels)
    np.testing.assert_array_equal(labels, found // 8)
    assert (list(found) != list(everything(kind)[0][:10])) == source.random_access
    assert sample.unreadable is source.unreadable
    assert source.sample(100, seed=1).num_examples == N
    assert source.num_examples == N


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["files", "cached files", "bytes"])
def test_unreadable_images_are_noted_and_left_out(make_source, kind):
    source = make_source(kind, broken=[4])
    for same in {source, source.cached()}:  # often one
        found, _ = look(same)
        np.testing.assert_array_equal(found, [n for n in range(N) if n != 4])
        assert same.unreadable.names == ("04.png",)
        assert len(same.labels()) == N
    many = make_source(kind, broken=[4, 9, 13])
    images = many.in_order().map(lambda number: many.decode(number, stop=False))
    assert [readable for _, readable, _ in images].count(False) == 3
    assert many.unreadable.names == ("04.png", "09.png", "13.png")


def test_raw_pixels():
    images = RNG.randint(0, 256, (5, 4, 3, 1), np.uint8)
    pixels, labels = raw_pixels(ArraySource(images, [0, 1, 1, 0, 1], "ab"))
    np.testing.assert_allclose(pixels, images.reshape(5, 12) / 255, atol=1e-7)
    np.testing.assert_array_equal(labels, [0, 1, 1, 0, 1])


@pytest.mark.parametrize("kind", ["large arrays", "files"])
def test_raw_pixels_of_others_have_one_size(source_of, kind):
    pixels, labels = raw_pixels(source_of(kind))
    assert pixels.dtype == np.float32
    expected = np.tile(np.arange(N)[:, None] * 10 / 255, (1, 32 * 32 * 3))
    np.testing.assert_allclose(pixels, expected, atol=1e-6)
    np.testing.assert_array_equal(labels, np.arange(N) // 8)


def test_arrays_of_gray_images_become_rgb():
    gray = RNG.randint(0, 256, (4, 3, 2, 1), np.uint8)
    source = ArraySource(gray)
    assert source.image_shape == (3, 2, 3)
    batch = source.batch(tf.constant([2, 0]))
    assert batch.dtype == tf.float32
    np.testing.assert_array_equal(batch, np.repeat(gray[[2, 0]], 3, axis=-1))
    decoded = list(source.in_order().map(source.decode).as_numpy_iterator())
    np.testing.assert_array_equal([image for image, _, _ in decoded], np.repeat(gray, 3, axis=-1))


@pytest.mark.parametrize(("channels", "side"), [(2, 6), (4, 6), (4, 200), (13, 200)])
def test_arrays_of_any_number_of_channels(channels, side):
    images = RNG.randint(0, 256, (3, side, side + 2, channels), np.uint8)
    source = ArraySource(images, [0, 1, 1], "ab")
    assert source.image_shape == (side, side + 2, channels)
    assert source.is_small == (side == 6)
    assert source.channels == source.subset([1, 2]).channels == channels
    np.testing.assert_array_equal(source.batch(tf.constant([2, 0])), images[[2, 0]])
    for batch, _ in evaluation_batches(
        source, (side, side + 2), 3, side, *normalization("none", channels)
    ):
        np.testing.assert_allclose(batch, images / 255, atol=1e-4)
    pixels, _ = raw_pixels(source)
    assert pixels.shape == (3, (6 * 8 if side == 6 else 32 * 32) * channels)
    with pytest.raises(ValueError, match=f"Received: 3 and 3 for images of {channels} channels"):
        evaluation_batches(source, 4, 3)


@pytest.mark.parametrize(
    ("images", "labels", "names", "message"),
    [
        (np.zeros((2, 3, 3), np.uint8), None, None, r"Received: uint8 \(2, 3, 3\)"),
        (np.zeros((2, 3, 3, 0), np.uint8), None, None, r"Received: uint8 \(2, 3, 3, 0\)"),
        (np.zeros((2, 3, 3, 3), np.float32), None, None, "Received: float32"),
        (TWO, [0, 0, 0], "a", "3 labels for 2 images"),
        (TWO, [0, 0], None, "Received: labels alone"),
        (TWO, np.zeros((2, 2), int), "abc", r"column per class name.*\(2, 2\) for 3 class names"),
        (TWO, [0.0, 1.0], "ab", r"must be integers.*float64 and shape \(2,\) in arrays"),
        (TWO, ["a", "b"], "ab", "must be integers.*<U1"),
        (TWO, 1, "ab", r"must be integers.*shape \(\)"),
        (TWO, [0, 5], "ab", "from 0 to 1, as there are 2 class names. Received: a label 5"),
        (TWO, [0, -1], "ab", "from 0 to 1.*Received: a label -1"),
        (TWO, [[0, 1], [2, 0]], "ab", "must be 1, 0 or -1. Received: a label 2"),
    ],
)
def test_wrong_arrays_are_refused(images, labels, names, message):
    with pytest.raises(DataError, match=message):
        ArraySource(images, labels, names)


def test_labels_are_asked_for_in_vain():
    source = ArraySource(TWO, name="idx:/data")
    with pytest.raises(DataError, match=r"Received: idx:/data, which has no labels\.$"):
        source.labels()
    np.testing.assert_array_equal(source.label([1, 0]), [-1, -1])
    assert source.subset([1]).class_names is None
