"""Recomputing in the backward pass: `jax.checkpoint`."""

from collections.abc import Callable, Sequence

import jax

from keras_bt.typing import Tensor


def recomputed(
    function: Callable[..., tuple[Tensor, list[Tensor]]], x: Tensor, weights: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Returns `function(x, weights)`, whose gradient calls it again instead of keeping anything.

    Args:
        function: (x, weights) → output and new state, without side effects.
        x: its input.
        weights: what to learn.
    """
    return jax.checkpoint(function)(x, weights)
