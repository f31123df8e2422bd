"""LiDAR, the number of directions in which images differ by more than their views, in float64."""

import math

import numpy as np
from threadpoolctl import threadpool_limits

from keras_bt.evaluation.rankme import in_span, rankme_of_spectrum

DELTA = 1e-4  # δ, relative to the mean variance
# Below this, relative to the root mean square, vectors differ by the rounding of float32 alone.
_ROUNDING = 1e-5


def lidar(z: np.ndarray) -> float:
    """Computes LiDAR, a smooth count of the directions that tell images apart.

    The q views of an image are a class. With μ_i the mean of class i and μ that of all classes,

        Σ_b = Σ_i (μ_i − μ)(μ_i − μ)ᵀ / (n − 1)
        Σ_w = Σ_ij (z_ij − μ_i)(z_ij − μ_i)ᵀ / (n (q − 1)) + δI
        p_k = λ_k / ‖λ‖₁ + 1e-7,   LiDAR(z) = exp(−Σ_k p_k log p_k)

    with λ the eigenvalues of Σ_w^−½ Σ_b Σ_w^−½. Where RankMe counts any direction of variance, this
    one weighs it by how little it changes with the view.

    Two things are fixed here that the paper leaves open or does otherwise. Embeddings of Barlow
    Twins have no scale, so δ is not absolute (1e-4 in stable-pretraining, 1e-6 in reptrix) but 1e-4
    times the mean variance of the coordinates, in the vectors' span if n q < d. And of the d
    eigenvalues only the min(n, d) that may be positive count, as in RankMe; each of the others
    would add 1.6e-6 to the exponent by its 1e-7.

    A mean of q views keeps 1/q of their variance, so λ is 1/q in a direction in which only views
    differ. The paper takes q = 50 and finds 10 as good. At q = 2 such directions count, and the
    more of them the more: for 256 images that fill 10 of 64 dimensions, and views that differ half
    as much in all of them, LiDAR is 11.5 at q = 50, 16 at 10 and 31 at 2; where views differ a
    tenth as much, 10, 10 and 11. Also, Σ_w has at most n (q − 1) directions. In the others, if d is
    larger, it is δ, and these outweigh all the rest. So compare values only for the same n, q, d.

    >>> random = np.random.default_rng(0)
    >>> images = random.standard_normal((1000, 1, 8)) * [1, 1, 1, 1, 0, 0, 0, 0]
    >>> views = images + 0.1 * random.standard_normal((1000, 10, 8))
    >>> round(lidar(views), 1)
    4.0

    Args:
        z: floats (n, q, d), features or embeddings of q ≥ 2 views of each of n ≥ 2 images.

    Returns:
        LiDAR, 1 to min(n − 1, d) but for the 1e-7; 0 for vectors that are all the same, up to
        rounding in float32.

    Raises:
        ValueError: if z is not finite or not of such a shape.

    Source: Thilak et al. 2024 (arXiv 2312.04000), equations 1 to 4.
    """
    z = np.asarray(z, np.float64)
    if z.ndim != 3 or z.shape[0] < 2 or z.shape[1] < 2:
        raise ValueError(
            "z must have shape (n, q, d) with at least 2 images and 2 views of each. "
            f"Received: shape {z.shape}."
        )
    n, q, d = z.shape
    z = in_span(z.reshape(n * q, d)).reshape(n, q, -1)
    variance = np.mean(z.var(axis=(0, 1)))
    if variance <= _ROUNDING**2 * np.mean(z**2):
        return 0.0
    means = z.mean(axis=1)
    between = (means - means.mean(axis=0)) / math.sqrt(n - 1)
    within = (z - means[:, None]).reshape(n * q, -1) / math.sqrt(n * (q - 1))
    with threadpool_limits(limits=1):  # see keras_bt.evaluation.rankme
        sigma_w = within.T @ within + DELTA * variance * np.eye(z.shape[-1])
        # With Σ_w = LLᵀ, the eigenvalues are those of L⁻¹ Σ_b L⁻ᵀ, Σ_b = betweenᵀ between.
        whitened = np.linalg.solve(np.linalg.cholesky(sigma_w), between.T)
        eigenvalues = np.linalg.svd(whitened, compute_uv=False) ** 2
    return rankme_of_spectrum(eigenvalues)
