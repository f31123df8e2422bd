"""Draws how the views of a step are mixed, for objectives that want a mixed view."""

from keras import ops

from keras_bt.model.backend import fold_in, uniform
from keras_bt.objectives import Mixing
from keras_bt.typing import Collectives, Tensor


def draw_mixing(seed: int, step: Tensor, rows: Tensor, replicas: Collectives) -> Mixing:
    """Draws α, the same on all replicas, and a permutation of this replica's rows.

    A function of the arguments alone, so that a run that goes on draws what it would have drawn.
    Rows are mixed within a replica, so that no images travel.

    Args:
        seed: of the objective.
        step: integer scalar, steps done.
        rows: integer scalar, images of this replica.
        replicas: the collectives, of which the index of this replica counts.

    Returns:
        `Mixing`, α uniform in [0, 1).
    """
    of_step = fold_in((seed, 0), step)
    of_replica = fold_in(of_step, replicas.index)
    return Mixing(
        alpha=uniform(of_step, ()),
        partner=ops.argsort(uniform(of_replica, (rows,))),
    )
