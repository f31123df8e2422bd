import numpy as np
import pytest

from keras_bt.evaluation.rankme import rankme, rankme_of_spectrum, singular_values


def reference(z):
    """The paper's equations on the eigenvalues of the smaller Gram matrix, one term at a time."""
    z = np.asarray(z, np.float64)
    gram = z @ z.T if z.shape[0] <= z.shape[1] else z.T @ z
    sigma = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0))
    norm = sum(sigma)
    entropy = 0.0
    for value in sigma:
        p = value / norm + 1e-7
        entropy -= p * np.log(p)
    return np.exp(entropy)


@pytest.mark.parametrize("shape", [(200, 30), (30, 200), (64, 64), (1, 5), (5, 1)])
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_agrees_with_an_independent_computation(shape, shift):
    random = np.random.default_rng(sum(shape))
    z = (shift + random.standard_normal(shape) * np.geomspace(1, 1e-2, shape[1])).astype("float32")
    assert rankme(z) == pytest.approx(reference(z), rel=1e-6)
    values = singular_values(z)
    assert values.dtype == np.float64
    assert values.shape == (min(shape),)
    assert (np.diff(values) <= 0).all()
    assert np.sum(values**2) == pytest.approx(np.sum(z.astype(float) ** 2), rel=1e-10)


def test_counts_directions():
    random = np.random.default_rng(0)
    orthogonal = np.linalg.qr(random.standard_normal((100, 20)))[0]
    # The paper's 1e-7 under the logarithm is all that keeps it from 20.
    assert rankme(orthogonal) == pytest.approx(20, rel=1e-5)
    assert rankme(orthogonal[:, :3] @ random.standard_normal((3, 20))) < 3.1
    assert rankme(np.ones((100, 20))) == pytest.approx(1, abs=1e-4)
    assert rankme(np.zeros((4, 3))) == 0


def test_is_not_centered_and_has_no_scale():
    z = np.random.default_rng(0).standard_normal((50, 10))
    assert rankme(1000 * z) == pytest.approx(rankme(z), rel=1e-12)
    assert rankme(z + 10) < rankme(z) / 2
    assert rankme_of_spectrum(singular_values(z)) == rankme(z)


@pytest.mark.parametrize("measure", [singular_values, rankme])
def test_mistakes_are_named(measure):
    for z, words in (
        (np.zeros(3), "shape \\(3,\\)"),
        (np.zeros((0, 3)), "shape \\(0, 3\\)"),
        (np.array([[1.0, np.nan]]), "NaN"),
        (np.array([[1.0, np.inf]]), "infinity"),
    ):
        with pytest.raises(ValueError, match=words):
            measure(z)
