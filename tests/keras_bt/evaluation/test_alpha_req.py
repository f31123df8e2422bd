import math

import numpy as np
import pytest

from keras_bt.evaluation.alpha_req import alpha_req, power_law_exponent


def get_powerlaw(eigenvalues, ranks):
    """The normal equations of Stringer et al. (MouseLand/stringer-pachitariu-et-al-2018b)."""
    x = np.stack([-np.log(ranks), np.ones(len(ranks))], axis=1)
    w = np.diag(1 / ranks)
    return np.linalg.solve(x.T @ w @ x, x.T @ w @ np.log(eigenvalues[ranks - 1]))[0]


def features(alpha, n=300, d=240, used=240):
    """Vectors whose covariance has the eigenvalues j^−α, j ≤ used, around a mean."""
    random = np.random.default_rng(0)
    images = random.standard_normal((n, used))
    u = np.linalg.qr(images - images.mean(axis=0))[0]
    v = np.linalg.qr(random.standard_normal((d, used)))[0]
    return u * np.arange(1, used + 1) ** (-alpha / 2) @ v.T + 0.1


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.5])
def test_finds_the_exponent(alpha):
    z = features(alpha)
    for changed in (z, z.astype(np.float32), 1000 * z, z[::-1], z @ np.linalg.qr(z[:240])[0]):
        assert alpha_req(changed) == pytest.approx(alpha, abs=1e-4)
    # What is rounding alone, in features that do not vary, is no part of the spectrum.
    assert alpha_req(features(alpha, used=80).astype(np.float32)) == pytest.approx(alpha, abs=1e-4)


@pytest.mark.parametrize(("k", "last"), [(1000, 100), (200, 100), (90, 45), (10, 5)])
def test_fits_ranks_4_to_100_of_the_first_half(k, last):
    eigenvalues = np.sort(np.random.default_rng(k).uniform(0.1, 9, k))[::-1]
    expected = get_powerlaw(eigenvalues, np.arange(4, last + 1))
    assert power_law_exponent(eigenvalues) == pytest.approx(expected, rel=1e-9)


def test_too_few_directions_for_a_fit():
    assert math.isnan(power_law_exponent(np.arange(9, 0, -1.0)))
    assert math.isnan(alpha_req(np.ones((20, 30), np.float32) * 0.1))
    with pytest.raises(ValueError, match="NaN"):
        alpha_req(np.array([[1.0, np.nan]]))
