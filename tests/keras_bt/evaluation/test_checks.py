import numpy as np
import pytest

from keras_bt.evaluation.checks import checked_features, checked_labels

GOOD = np.zeros((5000, 4), np.float32)


def broken(value):
    features = GOOD.copy()
    features[4500, 3] = value
    return features


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (GOOD[0], r"queries must have shape \(number, d\).* Received: shape \(4,\)"),
        (GOOD[:0], r"queries must have shape .* Received: shape \(0, 4\)"),
        (GOOD[:, :3], "train and queries must have the same width. Received: widths 4 and 3"),
        (broken(np.nan), "queries must be finite. .* row 4500"),
        (broken(np.inf), "queries must be finite. .* row 4500"),
    ],
)
def test_features_that_do_not_fit(queries, message):
    with pytest.raises(ValueError, match=message):
        checked_features(train=GOOD, queries=queries)
    np.testing.assert_array_equal(checked_features(train=[[1.0]])[0], np.ones((1, 1)))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "Received: no labels"),
        ([0, 1], r"one class per feature \(3\). Received: labels of shape \(2,\)"),
        ([4, 4, 4], "at least two classes. Received: only class 4"),
    ],
)
def test_labels_that_do_not_fit(labels, message):
    with pytest.raises(ValueError, match=f"train_labels.*{message}"):
        checked_labels(labels, 3, "train_labels")
    checked_labels([4, 4, 4], 3, "test_labels")
