import numpy as np
import pytest

from keras_bt import data

LABELS = np.repeat([0, 1, 2, 3], [3, 40, 50, 107])


@pytest.mark.parametrize(
    ("wanted", "counts"),
    [
        ("5%", [2, 2, 2, 2]),  # 10 images, 2 of each class
        ("5.9%", [3, 3, 3, 3]),  # 12
        ("12", [3, 3, 3, 3]),
        ("100", [3, 25, 25, 25]),  # of a class with fewer all
        ("1%", [1, 1, 1, 1]),  # 2, but at least one of each class
        ("1", [1, 1, 1, 1]),
        ("99%", [3, 40, 49, 49]),
        ("100%", [3, 40, 50, 107]),  # all, balanced or not
        ("200", [3, 40, 50, 107]),
    ],
)
def test_a_part_is_balanced(wanted, counts):
    chosen = data.subset_indices(LABELS, wanted, seed=0)
    np.testing.assert_array_equal(np.bincount(LABELS[chosen]), counts)
    np.testing.assert_array_equal(chosen, np.unique(chosen))


def test_a_part_is_seeded_and_every_image_has_its_chance():
    first = data.subset_indices(LABELS, "12", seed=0)
    np.testing.assert_array_equal(first, data.subset_indices(LABELS, "12", seed=0))
    drawn = {i for seed in range(300) for i in data.subset_indices(LABELS, "12", seed=(0, seed))}
    assert drawn == set(range(200))
    # The same as drawing so many of each class.
    labels = LABELS[3:]
    np.testing.assert_array_equal(
        data.subset_indices(labels, "12", seed=7), data.balanced_indices(labels, 4, seed=7)
    )


def test_images_without_a_label_are_never_drawn():
    labels = np.array([-1, 0, 1, -1, 0, 1])
    np.testing.assert_array_equal(data.subset_indices(labels, "100%", seed=0), [1, 2, 4, 5])
    assert set(data.subset_indices(labels, "2", seed=0)) <= {1, 2, 4, 5}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        *[(w, "not of 0 images. Received: labels=") for w in ("0", "0%", "0.0%", "0.01%")],
        *[(w, "here of 200 at most. Received: labels=") for w in ("200%", "201")],
        *[(w, "such as 600. Received: labels=") for w in ("abc", "-5", "1.5", "")],
    ],
)
def test_nonsense_is_refused(wanted, message):
    with pytest.raises(data.DataError, match=f"{message}{wanted}"):
        data.subset_indices(LABELS, wanted, seed=0)


def test_several_labels_per_image_are_refused():
    with pytest.raises(data.DataError, match="one label per image"):
        data.subset_indices(np.zeros((5, 3)), "2", seed=0)
    with pytest.raises(data.DataError, match="needs labeled images"):
        data.subset_indices(np.full(5, -1), "2", seed=0)


def test_a_part_of_a_source():
    train, _ = data.open_source("digits")
    part = data.labelled_subset(train, "10%", seed=1)
    np.testing.assert_array_equal(np.bincount(part.labels()), [13] * 10)
    chosen = data.subset_indices(train.labels(), "10%", seed=1)
    np.testing.assert_array_equal(part.images, train.images[chosen])
    assert data.labelled_subset(train, "100%", seed=1) is train
    unlabelled = data.ArraySource(np.zeros((9, 8, 8, 3), np.uint8), name="photos")
    with pytest.raises(data.DataError, match="Received: photos, which has no labels"):
        data.labelled_subset(unlabelled, "3", seed=1)


def test_balanced_indices():
    labels = np.random.default_rng(0).integers(0, 4, 100)
    chosen = data.balanced_indices(labels, 7, seed=1)
    np.testing.assert_array_equal(np.bincount(labels[chosen]), [7] * 4)
    np.testing.assert_array_equal(chosen, np.unique(chosen))
    np.testing.assert_array_equal(chosen, data.balanced_indices(labels, 7, seed=1))
    assert set(chosen) != set(data.balanced_indices(labels, 7, seed=2))
    smallest = np.bincount(labels).min()
    assert len(data.balanced_indices(labels, smallest, seed=1)) == 4 * smallest
    with pytest.raises(data.DataError, match=f"Received: {smallest} of class"):
        data.balanced_indices(labels, smallest + 1, seed=1)
    with pytest.raises(data.DataError, match=r"at least 1\. Received: 0"):
        data.balanced_indices(labels, 0, seed=1)


def test_the_draws_that_published_figures_rest_on():
    labels = np.arange(30) % 3
    np.testing.assert_array_equal(
        data.balanced_indices(labels, 2, seed=(0, 1)), [2, 3, 5, 10, 22, 27]
    )
