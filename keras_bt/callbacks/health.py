"""Numbers that tell a healthy representation from a collapsed one, in NumPy float64."""

import dataclasses
import math

import numpy as np
from threadpoolctl import threadpool_limits

from keras_bt.evaluation.alpha_req import alpha_req
from keras_bt.evaluation.lidar import lidar
from keras_bt.evaluation.rankme import in_span, rankme
from keras_bt.objectives import BarlowTwinsObjective, Objective, OneReplica
from keras_bt.objectives.barlow_twins import EPSILON
from keras_bt.objectives.embeddings import check_embeddings

# Standard deviation relative to the RMS of all values. Relative, because features and embeddings
# have no scale of their own: the objective standardizes. A thousandth is far from both sides: live
# dimensions were between 0.05 and 1 in all networks examined, untrained ones included, and dead
# ones (a ReLU that is never positive, a row of zeros) are constant up to rounding, below 1e-6.
DEAD_BELOW = 1e-3


@dataclasses.dataclass(frozen=True)
class Health:
    """Measurements of a network on two views of n images.

    C is the matrix of the objective (equation 2), over these n images. Even if dimensions are
    unrelated, its off-diagonal entries have an RMS of 1/√(n − 1).

    Attributes:
        diagonal_mean: mean of C_ii, the correlation of a dimension between the two views.
            Training drives it toward 1.
        diagonal_rms: root mean square of C_ii.
        off_diagonal_mean: mean of C_ij, i ≠ j; usually near 0, because signs are arbitrary.
        off_diagonal_rms: root mean square of C_ij, i ≠ j. Training drives it toward 0; at 1 all
            dimensions say the same.
        fixed_excess: the loss of these views minus the smallest possible loss for n images; in
            inference mode on fixed views, hence smoother than the `excess` of training.
        embedding_spread: standard deviation of the L2-normalized embeddings' coordinates over the
            2n views, root mean square over coordinates, times √d: 0 if all embeddings point the
            same way, 1 if they point equally in all directions (a coordinate then deviates by
            1/√d).
        feature_rankme: RankMe of the backbone's features of the 2n views, at most
            min(2n, features).
        embedding_rankme: RankMe of the embeddings of the 2n views, at most min(2n, d).
        feature_lidar: LiDAR of the features, with q = 2 views of n images, at most
            min(n − 1, features).
        embedding_lidar: LiDAR of the embeddings, at most min(n − 1, d).
        feature_alpha: α-ReQ of the features of the 2n views: near 1 is said to be best. NaN where
            fewer than ten directions vary.
        dead_features: number of features that hardly change from view to view: their standard
            deviation is at most `DEAD_BELOW` times the root mean square of all values.
        dead_dimensions: the same for the embedding.
    """

    diagonal_mean: float
    diagonal_rms: float
    off_diagonal_mean: float
    off_diagonal_rms: float
    fixed_excess: float
    embedding_spread: float
    feature_rankme: float
    embedding_rankme: float
    feature_lidar: float
    embedding_lidar: float
    feature_alpha: float
    dead_features: float
    dead_dimensions: float


def measure(features: np.ndarray, za: np.ndarray, zb: np.ndarray, objective: Objective) -> Health:
    """Measures the health of a network on two views of n images.

    Args:
        features: floats (2n, f), the backbone's features of one view's images, then the other's.
        za: floats (n, d), the embeddings of one view.
        zb: floats (n, d), the embeddings of the other view of the same images.
        objective: what the network minimizes.

    Returns:
        The measurements; all are NaN if any input is not finite.

    Raises:
        ValueError: if the embeddings are not both of the same shape (n, d) with n ≥ 2, or there
            are not 2n features.
    """
    features, za, zb = (np.asarray(x, np.float64) for x in (features, za, zb))
    check_embeddings(za, zb)
    if len(features) != 2 * len(za):
        raise ValueError(
            "There must be features for both views of each image. "
            f"Received: {len(features)} for {len(za)} images."
        )
    if not all(np.isfinite(x).all() for x in (features, za, zb)):
        return Health(*[math.nan] * len(dataclasses.fields(Health)))
    n, d = za.shape
    with threadpool_limits(limits=1):  # see keras_bt.evaluation.rankme
        c, total, total_squares = _correlation_sums(_standardize(za), _standardize(zb))
    others = max(d * (d - 1), 1)
    off_diagonal = max(total_squares - np.sum(c**2), 0.0)
    if type(objective) is BarlowTwinsObjective:  # its terms are at hand, in float64
        terms = {"on_diagonal": np.sum((1 - c) ** 2), "off_diagonal": off_diagonal}
    else:
        terms = objective.terms(za.astype(np.float32), zb.astype(np.float32), OneReplica())
    excess = objective.loss(terms) - objective.floor(n, d)
    z = np.concatenate([za, zb])
    # d numbers become at most 2n; what is computed from these needs lengths and angles alone.
    features_in_span, z_in_span = in_span(features), in_span(z)
    return Health(
        diagonal_mean=float(np.mean(c)),
        diagonal_rms=float(np.sqrt(np.mean(c**2))),
        off_diagonal_mean=float((total - np.sum(c)) / others),
        off_diagonal_rms=float(np.sqrt(off_diagonal / others)),
        fixed_excess=float(excess),
        embedding_spread=spread(z),
        feature_rankme=rankme(features_in_span),
        embedding_rankme=rankme(z_in_span),
        feature_lidar=lidar(_by_image(features_in_span)),
        embedding_lidar=lidar(_by_image(z_in_span)),
        feature_alpha=alpha_req(features_in_span),
        dead_features=_dead(features),
        dead_dimensions=_dead(z),
    )


def spread(z: np.ndarray) -> float:
    """Measures how widely the directions of vectors vary, see `Health.embedding_spread`.

    >>> round(spread(np.ones((100, 8))), 3)  # all in one direction
    0.0
    >>> round(spread(np.random.default_rng(0).normal(size=(1000, 8))), 2)  # in all directions
    1.0

    Args:
        z: floats (n, d).

    Returns:
        Spread, 0 to 1. A vector of zeros stays zero when normalized.

    Source: Chen and He 2021 (arXiv 2011.10566), section 4.1, where it reveals collapse.
    """
    length = np.linalg.norm(z, axis=1, keepdims=True)
    unit = z / np.where(length == 0, 1, length)
    return float(np.sqrt(unit.shape[1] * np.mean(unit.var(axis=0))))


def _by_image(z):
    """Arranges (2n, d), one view after the other, as (n, 2, d)."""
    return np.stack(np.split(z, 2), axis=1)


def _dead(z):
    return float(np.sum(z.std(axis=0) <= DEAD_BELOW * np.sqrt(np.mean(z**2))))


def _standardize(z):
    centered = z - z.mean(axis=0)
    return centered / np.sqrt(np.mean(centered**2, axis=0) + EPSILON)


def _correlation_sums(za, zb):
    """Returns C's diagonal, Σ_ij C_ij and Σ_ij C_ij²; builds C only where n × n is no smaller."""
    n, d = za.shape
    c = np.sum(za * zb, axis=0) / n
    total = za.sum(axis=1) @ zb.sum(axis=1) / n
    if n < d:  # the two forms of keras_bt.objectives.barlow_twins
        return c, total, np.sum((za @ za.T) * (zb @ zb.T)) / n**2
    return c, total, np.sum((za.T @ zb / n) ** 2)
