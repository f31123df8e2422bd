import numpy as np
import pytest

from keras_bt.evaluation.lidar import lidar
from keras_bt.evaluation.rankme import in_span, rankme, rankme_of_spectrum


def reference(z):
    """The paper's equations in all d dimensions, one view at a time."""
    n, q, d = z.shape
    means = [views.mean(axis=0) for views in z]
    grand = np.mean(means, axis=0)
    sigma_b = sum(np.outer(m - grand, m - grand) for m in means) / (n - 1)
    sigma_w = sum(
        np.outer(x - m, x - m) for views, m in zip(z, means, strict=True) for x in views
    ) / (n * (q - 1))
    total = np.sum(z.reshape(n * q, d).var(axis=0))
    values, vectors = np.linalg.eigh(sigma_w + 1e-4 * total / min(n * q, d) * np.eye(d))
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    eigenvalues = np.maximum(np.linalg.eigvalsh(root @ sigma_b @ root), 0)[-min(n, d) :]
    p = eigenvalues / sum(eigenvalues) + 1e-7
    return np.exp(-sum(p * np.log(p)))


def views(n, q, d, noise=0.5):
    random = np.random.default_rng(n + q + d)
    images = random.standard_normal((n, 1, d)) * np.geomspace(1, 0.05, d) + 3
    return images + noise * random.standard_normal((n, q, d)) * np.geomspace(0.1, 1, d)


@pytest.mark.parametrize("shape", [(40, 2, 12), (12, 2, 40), (10, 5, 30), (30, 3, 1), (2, 2, 5)])
def test_agrees_with_an_independent_computation(shape):
    z = views(*shape)
    assert lidar(z.astype(np.float32)) == pytest.approx(reference(z), rel=1e-5)
    # In the span of the vectors it is the same, and so is RankMe.
    flat = z.reshape(-1, shape[2])
    spanned = in_span(flat)
    assert spanned.shape == (len(flat), min(flat.shape))
    np.testing.assert_allclose(spanned @ spanned.T, flat @ flat.T)
    assert lidar(spanned.reshape(*shape[:2], -1)) == pytest.approx(lidar(z), rel=1e-9)
    assert rankme(spanned) == pytest.approx(rankme(flat), rel=1e-9)


def test_counts_the_directions_that_tell_images_apart():
    random = np.random.default_rng(0)
    images = random.standard_normal((2000, 1, 12)) * (np.arange(12) < 4)
    noise = random.standard_normal((2000, 10, 12)) * (np.arange(12) >= 4)
    z = images + noise + 0.01 * random.standard_normal((2000, 10, 12))
    assert rankme(z.reshape(-1, 12)) > 11  # to which any variance is as good
    assert lidar(z) == pytest.approx(4, abs=0.05)
    # In a direction of views alone, λ is 1/q of one in which images differ as much.
    for q in (2, 10):
        both = images + random.standard_normal((2000, q, 12))
        expected = rankme_of_spectrum(np.array([1 + 1 / q] * 4 + [1 / q] * 8))
        assert lidar(both) == pytest.approx(expected, rel=0.03)
    # Views that are the same leave the spectrum of the images.
    same = np.repeat(images + random.standard_normal((2000, 1, 12)), 2, axis=1)
    spectrum = np.linalg.eigvalsh(np.cov(same[:, 0].T))
    assert lidar(same) == pytest.approx(rankme_of_spectrum(spectrum), rel=1e-6)
    assert lidar(np.outer(images[:, 0, 0], np.ones(6)).reshape(1000, 2, 6)) < 1.001


def test_the_same_vector_fills_no_direction():
    assert lidar(np.zeros((5, 2, 3))) == 0
    rounding = np.float32(1) + np.random.default_rng(0).uniform(-1e-7, 1e-7, (50, 2, 8))
    assert lidar(rounding.astype(np.float32)) == 0


@pytest.mark.parametrize(
    ("change", "tolerance"),
    [
        pytest.param(lambda z: 1000 * z, 1e-9, id="scale"),
        pytest.param(lambda z: z + np.arange(12), 1e-9, id="shift"),
        pytest.param(lambda z: z @ np.linalg.qr(z[:12, 0])[0], 1e-9, id="rotation"),
        pytest.param(lambda z: z[::-1, ::-1], 1e-9, id="order"),
        # Of other linear maps only δ depends.
        pytest.param(lambda z: z * np.linspace(1, 2, 12), 1e-2, id="stretch"),
    ],
)
def test_is_invariant(change, tolerance):
    z = views(60, 3, 12)
    assert lidar(change(z)) == pytest.approx(lidar(z), rel=tolerance)


@pytest.mark.parametrize(
    ("z", "words"),
    [
        (np.zeros((4, 3)), r"\(n, q, d\) .* shape \(4, 3\)"),
        (np.zeros((1, 2, 3)), "at least 2 images"),
        (np.zeros((4, 1, 3)), "2 views of each"),
        (np.full((4, 2, 3), np.nan), "NaN"),
    ],
)
def test_mistakes_are_named(z, words):
    with pytest.raises(ValueError, match=words):
        lidar(z)
