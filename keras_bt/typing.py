"""Types of arguments and results, for annotations."""

import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

Tensor: TypeAlias = Any  # of the backend, or anything it converts; docstrings give the shape
Path: TypeAlias = str | os.PathLike[str]
Size: TypeAlias = int | Sequence[int]  # pixels: (height, width), or one int for both
Metrics: TypeAlias = dict[str, float]  # by name, as `fit` logs them
View: TypeAlias = Callable[..., Tensor]  # images (b, h, w, 3), seed → images (b, h', w', 3)


class Collectives(Protocol):
    """The operations that replicas perform together, both differentiable.

    `keras_bt.objectives.OneReplica` has them for a single replica, and for all devices of JAX;
    `keras_bt.strategy.tensorflow.Replicas` for `tf.distribute`.

    Attributes:
        count: the number of replicas.
        index: which of them this one is, from 0: an int, or an int32 scalar tensor.
    """

    count: int
    index: Tensor

    def sum(self, x: Tensor) -> Tensor:
        """Returns the sum of `x` over all replicas; same shape as `x`."""

    def gather(self, x: Tensor) -> Tensor:
        """Returns the rows of `x` of all replicas, in replica order."""
