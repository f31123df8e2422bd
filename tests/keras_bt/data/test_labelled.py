import numpy as np
import pytest
from numbered_images import CLASSES, KINDS, Look, N, numbers

from keras_bt.data.arrays import ArraySource
from keras_bt.data.decoding import DataError
from keras_bt.data.labelled import check_labelled, labelled_features, labelled_views

EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def values(batches):
    return [images.numpy()[:, 0, 0, 0] for images, _ in batches]


@pytest.mark.slow
@EVERY_KIND
def test_the_last_batch_of_an_epoch_is_short(source_of, kind):
    batches = values(labelled_views(source_of(kind), Look(), 10, seed=1).take(9))
    assert [len(batch) for batch in batches] == [10, 10, 4] * 3
    epochs = numbers(np.concatenate(batches)).reshape(3, N)
    assert (np.sort(epochs) == np.arange(N)).all()
    if kind in ("files", "records"):  # the others count epochs as files do
        later = labelled_views(source_of(kind), Look(), 10, seed=1, first_epoch=1).take(6)
        np.testing.assert_array_equal(np.concatenate(values(later)), np.concatenate(batches[3:]))


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("arrays", 1),
        ("files", 1),
        pytest.param("arrays", N, marks=pytest.mark.slow),
        pytest.param("files", 50, marks=pytest.mark.slow),
    ],
)
def test_any_batch_size_will_do(source_of, kind, size):
    batches = labelled_views(source_of(kind), Look(), size, seed=1).take(2 * -(-N // size))
    epochs = numbers(np.concatenate(values(batches))).reshape(2, N)
    assert (np.sort(epochs) == np.arange(N)).all()


@pytest.mark.slow
def test_unreadable_images_are_left_out_and_move_no_other(source_of, make_source):
    whole = values(labelled_views(source_of("files"), Look(), 8, seed=2).take(6))
    for kind in ("files", "cached files"):
        source = make_source(kind, broken=[7])
        found = values(labelled_views(source, Look(), 8, seed=2).take(6))
        for batch, whole_batch in zip(found, whole, strict=True):
            kept = whole_batch[numbers(whole_batch) != 7]
            np.testing.assert_allclose(batch, kept, atol=1)  # other draws of the rest
        assert source.unreadable.names == ("07.png",)


@pytest.mark.parametrize("kind", ["files", pytest.param("cached files", marks=pytest.mark.slow)])
def test_no_batch_is_empty(make_source, kind):
    source = make_source(kind, broken=[7])
    batches = values(labelled_views(source, Look(), 1, seed=2).take(2 * (N - 1)))
    assert {len(batch) for batch in batches} == {1}
    assert 7 not in numbers(np.concatenate(batches))


def test_features_come_in_the_order_of_the_images(source_of, tmp_path):
    np.save(tmp_path / "features.npy", np.arange(3 * N, dtype=np.float32).reshape(N, 3))
    features = np.load(tmp_path / "features.npy", mmap_mode="r")
    for first_epoch in (0, 1):
        views = labelled_views(source_of("arrays"), Look(), 10, 5, first_epoch).take(6)
        found = labelled_features(features, np.arange(N), 10, 5, first_epoch).take(6)
        for (rows, labels), batch in zip(found, values(views), strict=True):
            np.testing.assert_array_equal(labels, numbers(batch))
            np.testing.assert_array_equal(rows, features[labels])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"first_epoch": -1}, "first_epoch must be at least 0"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_impossible_numbers_are_refused(make_source, arguments, message):
    wrong = {"batch_size": 8, "seed": 1} | arguments
    with pytest.raises(ValueError, match=message):
        labelled_views(make_source("arrays"), Look(), **wrong)
    with pytest.raises(ValueError, match=message):
        labelled_features(np.zeros((4, 2), np.float32), np.arange(4), **wrong)


def test_one_label_per_image_is_needed():
    images = np.zeros((4, 8, 8, 3), np.uint8)
    unlabelled = ArraySource(images, name="photos")
    several = ArraySource(images, np.zeros((4, 3), int), CLASSES)
    for source, what in ((unlabelled, "photos, which has no labels"), (several, "several labels")):
        for refuse in (check_labelled, lambda s: labelled_views(s, Look(), 2, seed=5)):
            with pytest.raises(DataError, match=f"one label each. Received: .*{what}"):
                refuse(source)
    with pytest.raises(DataError, match=r"one label per feature. Received: labels of shape \(5,\)"):
        labelled_features(np.zeros((4, 2), np.float32), np.arange(5), 2, 0)
