"""Losses of pairs, which are to be close if they show the same thing and far apart if not.

For embeddings a, b of a pair, and y = 1 if both show the same thing and 0 if they do not,

    contrastive  =  ½ [ y D² + (1 − y) max(0, m − D)² ],   D = ‖a − b‖    (Hadsell et al., eq. 1, 4)
    cosine       =  ½ (cos(a, b) − t)²,                    t = 2y − 1     (after Bromley et al.)

The first pulls pairs of the same thing together and pushes others apart until they are the margin m
from each other; from there on they are left alone. (In the paper Y is 1 − y.) The second compares
directions alone, as the first signature networks did: a pair of the same thing is to have the
angle 0, and any other the opposite direction, which no more than two things can have at once.

Sources: Hadsell, Chopra and LeCun, Dimensionality Reduction by Learning an Invariant Mapping, CVPR
2006. Bromley, Guyon, LeCun, Säckinger and Shah, Signature Verification using a "Siamese" Time Delay
Neural Network, NIPS 1993.
"""

from keras import ops

from keras_bt.objectives.embeddings import at_least_float32, check_embeddings
from keras_bt.typing import Tensor


def pair_distances(a: Tensor, b: Tensor) -> Tensor:
    """Computes the distance D = ‖a − b‖ of each pair; where it is 0, so is its gradient.

    Args:
        a: float (n, d).
        b: float (n, d).

    Returns:
        At least float32 (n,).
    """
    a, b = at_least_float32(a, b)
    squares = ops.sum((a - b) ** 2, axis=1)
    # The derivative of √x at 0 is infinite, and the direction from an embedding to itself is none.
    apart = squares > 0
    return ops.where(apart, ops.sqrt(ops.where(apart, squares, 1.0)), 0.0)


def contrastive_losses(a: Tensor, b: Tensor, same: Tensor, margin: float = 1.0) -> Tensor:
    """Computes the contrastive loss of each pair, ½ [ y D² + (1 − y) max(0, m − D)² ].

    >>> near, far = np.array([[0.0, 0.0]]), np.array([[0.0, 0.5]])
    >>> [float(contrastive_losses(near, far, [y], margin=1.0)[0]) for y in (1.0, 0.0)]
    [0.125, 0.125]

    Args:
        a: float (n, d), embeddings.
        b: float (n, d), those of the other images.
        same: (n,), y: 1 or True for pairs of the same thing, 0 or False for others.
        margin: m > 0.

    Returns:
        At least float32 (n,).

    Raises:
        ValueError: if the shapes differ, or are not (n, d).
    """
    check_embeddings(a, b, 2)  # a single pair has a loss as well
    distances = pair_distances(a, b)
    y = ops.cast(same, distances.dtype)
    return (y * distances**2 + (1 - y) * ops.maximum(0.0, margin - distances) ** 2) / 2


def cosine_losses(a: Tensor, b: Tensor, same: Tensor) -> Tensor:
    """Computes the cosine loss of each pair, ½ (cos(a, b) − (2y − 1))².

    >>> [float(cosine_losses(np.eye(2)[:1], np.eye(2)[1:], [y])[0]) for y in (1.0, 0.0)]
    [0.5, 0.5]

    Args:
        a: float (n, d), embeddings.
        b: float (n, d), those of the other images.
        same: (n,), y: 1 or True for pairs of the same thing, 0 or False for others.

    Returns:
        At least float32 (n,).

    Raises:
        ValueError: if the shapes differ, or are not (n, d).
    """
    check_embeddings(a, b, 2)
    a, b = (ops.normalize(z, axis=1) for z in at_least_float32(a, b))
    cosines = ops.sum(a * b, axis=1)
    return (cosines - (2 * ops.cast(same, cosines.dtype) - 1)) ** 2 / 2
