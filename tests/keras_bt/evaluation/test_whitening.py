import numpy as np
import pytest

from keras_bt.evaluation import whitening
from keras_bt.evaluation.knn import knn_accuracy
from keras_bt.evaluation.whitening import SHRINKAGE, Whitening


def features(n, d, seed=0):
    """Correlated features of very different variances, far from 0; the last two say nothing."""
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((d, d)) * np.geomspace(10, 0.01, d)[:, None]
    found = random.standard_normal((n, d)) @ mixing + 100
    found[:, -1] = 3.7
    found[:, -2] = found[:, 0]
    return found.astype(np.float32)


@pytest.mark.parametrize(("n", "d"), [(5000, 8), (300, 8), (6, 8), (2, 8), (1, 8)])
def test_variances_are_those_of_the_formula_and_nothing_is_correlated(monkeypatch, n, d):
    monkeypatch.setattr(whitening, "_ROWS", 128)
    train = features(n, d)
    found = Whitening.fit(train)
    white = found(train).astype(np.float64)
    eigenvalues = np.linalg.eigvalsh(np.cov(train.astype(np.float64).T, bias=True))[::-1]
    k = max(1, min(n - 1, d - 2))
    expected = eigenvalues[:k] / (eigenvalues[:k] + SHRINKAGE * eigenvalues.mean() + (n == 1))
    assert white.shape == (n, k)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-4)
    covariance = white.T @ white / n
    np.testing.assert_allclose(np.diag(covariance), expected, rtol=0.01, atol=1e-5)
    np.testing.assert_allclose(covariance - np.diag(np.diag(covariance)), 0, atol=1e-3)
    # New images are mapped by what was learned of the training images alone, row by row.
    test = features(20, d, seed=1)
    np.testing.assert_allclose(found(test), (test - found.mean) @ found.matrix, atol=1e-4)
    assert found(test[:0]).shape == (0, k)


def test_what_is_constant_in_training_does_not_matter_in_the_test_set():
    train, test = features(300, 8), features(20, 8, seed=1)
    found = Whitening.fit(train)
    awake = test.copy()
    awake[:, -1] += 1000
    np.testing.assert_allclose(found(awake), found(test), atol=1e-3)


def test_it_uncovers_what_a_common_direction_hides():
    # Classes in weak directions, beside a mean and a strong direction that all images share.
    random = np.random.default_rng(0)
    labels = np.arange(600) % 5
    weak = 0.5 * np.eye(16)[labels] + 0.1 * random.standard_normal((600, 16))
    strong = random.standard_normal((600, 1)) * random.standard_normal(16)
    found = (30 + 5 * strong + weak).astype(np.float32)
    data = found[:400], labels[:400], found[400:], labels[400:]
    map_ = Whitening.fit(data[0])
    assert knn_accuracy(*data) < 0.5
    assert knn_accuracy(map_(data[0]), data[1], map_(data[2]), data[3]) > 0.95


def test_equal_features_and_files_of_features(tmp_path):
    equal = Whitening.fit(np.full((5, 3), 1e30, np.float32))
    np.testing.assert_array_equal(equal(np.ones((2, 3))), np.zeros((2, 1)))
    train = features(300, 8)
    np.save(tmp_path / "features.npy", train)
    found = Whitening.fit(np.load(tmp_path / "features.npy", mmap_mode="r"))
    np.savez(tmp_path / "whitening.npz", **found.arrays())
    with np.load(tmp_path / "whitening.npz") as arrays:
        again = Whitening.from_arrays(arrays)
    np.testing.assert_array_equal(again(train), Whitening.fit(train)(train))
    assert again(train).dtype == np.float32


def test_mistakes_are_named():
    found = Whitening.fit(features(20, 3))
    for mistake, message in (
        (lambda: Whitening.fit(np.full((3, 2), np.nan)), "must be finite"),
        (lambda: Whitening.fit(np.zeros(3)), "shape"),
        (lambda: found(np.zeros((4, 2))), r"of shape \(n, 3\).* Received: shape \(4, 2\)"),
        (lambda: Whitening.from_arrays({"mean": np.zeros(3)}), "Received: 'matrix'"),
        (
            lambda: Whitening.from_arrays({"mean": np.zeros(3), "matrix": np.zeros((2, 2))}),
            r"Received: shapes \(3,\) and \(2, 2\)",
        ),
    ):
        with pytest.raises(ValueError, match=message) as error:
            mistake()
        assert "\n" not in str(error.value)
