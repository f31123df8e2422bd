"""Singular values and RankMe, the number of directions that vectors fill, in float64."""

import numpy as np
from threadpoolctl import threadpool_limits

EPSILON = 1e-7  # the paper's: keeps log p finite if a singular value is zero


def singular_values(z: np.ndarray) -> np.ndarray:
    """Computes the singular values of a matrix of vectors, one vector per row.

    The vectors are not centered: a mean far from zero is a direction like any other, and a strong
    one. For the spectrum of the covariance, use `singular_values(z - z.mean(axis=0))`.

    Args:
        z: floats (n, d), features or embeddings of n images.

    Returns:
        float64 (min(n, d),), largest first.

    Raises:
        ValueError: if z is not a finite matrix with at least one entry.
    """
    z = _checked(z)
    # One thread: several wait for each other on cores busy with other work, such as training:
    # 30 s against 1.2 s for (1024, 8192) on two busy cores.
    with threadpool_limits(limits=1):
        return np.linalg.svd(z, compute_uv=False)


def in_span(z: np.ndarray) -> np.ndarray:
    """Rotates vectors into the space that they span, in which they are shorter if n < d.

    Lengths and angles stay, and with them singular values, RankMe, LiDAR and α-ReQ. Those that need
    several of these rotate once: it takes longer than all that follows.

    >>> in_span(np.ones((2, 100))).shape
    (2, 2)

    Args:
        z: floats (n, d), one vector per row.

    Returns:
        float64 (n, min(n, d)).

    Raises:
        ValueError: if z is not a finite matrix with at least one entry.
    """
    z = _checked(z)
    n, d = z.shape
    if d <= n:
        return z
    with threadpool_limits(limits=1):
        r = np.asarray(np.linalg.qr(z.T, mode="r"))  # zᵀ = QR, hence z = RᵀQᵀ
    return r.T


def rankme(z: np.ndarray) -> float:
    """Computes RankMe, a smooth count of the directions that vectors fill.

        p_k = σ_k / ‖σ‖₁ + 1e-7,   RankMe(z) = exp(−Σ_k p_k log p_k)

    with σ the singular values of z, which is not centered. It is about 1 if all vectors are
    multiples of one, and min(n, d) if all directions are equally strong; so compare values only
    for the same n and d.

    >>> round(rankme(np.eye(8)), 3), round(rankme(np.ones((100, 8))), 3)
    (8.0, 1.0)

    Args:
        z: floats (n, d), features or embeddings of n images.

    Returns:
        RankMe; 0 for all-zero vectors, where the paper's p is 0/0: they fill no direction.

    Raises:
        ValueError: if z is not a finite matrix with at least one entry.

    Source: Garrido et al. 2023 (arXiv 2210.02885), equations 1 and 2.
    """
    return rankme_of_spectrum(singular_values(z))


def rankme_of_spectrum(sigma: np.ndarray) -> float:
    """Computes RankMe from given singular values.

    Args:
        sigma: floats (k,), none negative.

    Returns:
        See `rankme`.
    """
    sigma = np.asarray(sigma, np.float64)
    total = sigma.sum()
    if total == 0:
        return 0.0
    p = sigma / total + EPSILON
    return float(np.exp(-np.sum(p * np.log(p))))


def _checked(z):
    z = np.asarray(z, np.float64)
    finite = np.isfinite(z).all()
    if z.ndim != 2 or z.size == 0 or not finite:
        raise ValueError(
            "z must be finite and of shape (n, d), neither being 0. "
            f"Received: shape {z.shape}{'' if finite else ' with NaN or infinity'}."
        )
    return z
