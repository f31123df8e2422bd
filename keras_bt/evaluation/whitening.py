"""Whitening of features, after which every direction counts alike in a cosine similarity.

The features of a network share a mean and a few strong directions. After a short training these are
all that a cosine sees: any two images are 0.97 to 1.00 similar, whatever they show.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Self

import numpy as np
from threadpoolctl import threadpool_limits

from keras_bt.evaluation.checks import checked_features

# Added to every variance, times their mean. Without it, directions of next to no variance, which
# are noise, would count as much as the others: docs/evaluation.md has figures of several data sets.
SHRINKAGE = 0.1
# Directions of less than this times the mean variance are constant but for rounding.
_CONSTANT = 1e-6
_ROWS = 4096  # whitened at once
_WIDEST = 4096  # min(n, d) that is whitened without being asked for
# Multiply-adds above which several threads are worth their overhead, as in `neighbours`.
_THREADED_WORK = 1e10


@dataclasses.dataclass(frozen=True, eq=False)
class Whitening:
    """A map of features to uncorrelated ones of equal variance, but for a little shrinkage.

        w(x) = (x − μ) V diag(λ + 0.1 λ̄)^−½

    with μ the mean of the features that it was fitted to, V the eigenvectors of their covariance, λ
    its eigenvalues and λ̄ the mean of these. Directions without variance are left out, as are most
    where there are fewer features than dimensions.

    >>> random = np.random.default_rng(0)
    >>> features = random.standard_normal((1000, 3)) * [100, 1, 0] + 50
    >>> whitening = Whitening.fit(features)
    >>> whitening(features).shape  # one direction is constant
    (1000, 2)

    Attributes:
        mean: float32 (d,), μ.
        matrix: float32 (d, k), V diag(λ + 0.1 λ̄)^−½, strongest direction first; 1 ≤ k ≤ d.
    """

    mean: np.ndarray
    matrix: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray) -> Self:
        """Computes it from features, those to search or to train with and no others.

        Memory: 24*d*d bytes, or 16*n*d if n < d, and some MB. Time: n*d*d multiply-adds and an
        eigenvalue problem of size d: 3 s for 10,000 × 2048 on one core.

        Args:
            features: floats (n, d); may be memory-mapped.

        Returns:
            The map. If all features are equal, it maps everything to 0.

        Raises:
            ValueError: if the shape does not fit or a feature is not finite.
        """
        (features,) = checked_features(features=features)
        n, d = features.shape
        with threadpool_limits(limits=1 if n * d * d < _THREADED_WORK else None):
            mean = sum(part.sum(axis=0) for part in _parts(features)) / n
            if n < d:
                _, singular, directions = np.linalg.svd(features - mean, full_matrices=False)
                variances, directions = singular**2 / n, directions.T
            else:
                covariance = sum((part - mean).T @ (part - mean) for part in _parts(features)) / n
                variances, directions = (part[..., ::-1] for part in np.linalg.eigh(covariance))
        average = variances.sum() / d
        k = max(1, int(np.sum(variances > _CONSTANT * average)))
        deviations = np.sqrt(np.maximum(variances[:k], 0) + SHRINKAGE * average)
        scale = np.divide(1, deviations, out=np.zeros(k), where=deviations > 0)
        return cls(mean.astype(np.float32), (directions[:, :k] * scale).astype(np.float32))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Whitens features.

        Args:
            features: floats (n, d); may be memory-mapped.

        Returns:
            float32 (n, k).

        Raises:
            ValueError: if they are not of width d.
        """
        whitened = np.empty((len(features), self.matrix.shape[1]), np.float32)
        for number, part in enumerate(self.parts(features)):
            whitened[number * _ROWS : (number + 1) * _ROWS] = part
        return whitened

    def parts(self, features: np.ndarray) -> Iterator[np.ndarray]:
        """Whitens features part by part, for those that do not fit into memory.

        Args:
            features: floats (n, d); may be memory-mapped.

        Yields:
            float32, the next rows of `whitening(features)`.

        Raises:
            ValueError: if they are not of width d.
        """
        d, _ = self.matrix.shape
        if np.ndim(features) != 2 or np.shape(features)[1] != d:
            raise ValueError(
                f"features must be of shape (n, {d}), as those that the whitening was fitted to. "
                f"Received: shape {np.shape(features)}."
            )
        for part in _parts(features):
            yield (part - self.mean).astype(np.float32) @ self.matrix

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns what `from_arrays` takes, to be written with `np.savez(file, **arrays)`."""
        return {"mean": self.mean, "matrix": self.matrix}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Returns the whitening that `arrays` were of; `np.load(file)` will do as well.

        Raises:
            ValueError: if they are not those of a whitening.
        """
        try:
            mean, matrix = (np.asarray(arrays[name], np.float32) for name in ("mean", "matrix"))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"A whitening consists of the arrays mean and matrix. Received: {error}."
            ) from error
        if mean.ndim != 1 or matrix.ndim != 2 or len(mean) != len(matrix) or 0 in matrix.shape:
            raise ValueError(
                "A whitening consists of mean, shape (d,), and matrix, shape (d, k). "
                f"Received: shapes {mean.shape} and {matrix.shape}."
            )
        return cls(mean, matrix)


def too_wide(features: np.ndarray) -> bool:
    """Returns whether whitening takes minutes: more than 4096 dimensions, and as many images.

    So are the pixels of 64 × 64 images, whose neighbors are not worth as much.

    >>> too_wide(np.zeros((9, 12_288))), too_wide(np.zeros((5000, 2048)))
    (False, False)
    >>> too_wide(np.zeros((5000, 12_288), bool))
    True
    """
    return min(features.shape) > _WIDEST


def _parts(features):
    """Yields the features in float64, some rows at a time."""
    for start in range(0, len(features), _ROWS):
        yield np.asarray(features[start : start + _ROWS], np.float64)
