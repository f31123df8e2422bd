"""Whether all numbers of a step are finite."""

from collections.abc import Sequence

from keras import ops

from keras_bt.typing import Tensor


def all_finite(tensors: Sequence[Tensor | None]) -> Tensor:
    """Returns 1.0 if every element of every tensor is finite, else 0.0, a float32 scalar."""
    # A sum of finite numbers is finite, unless they are so large that their norm is infinite too;
    # a sum with a non-finite number never is. It takes one pass and no array of bools.
    sums = [ops.sum(ops.cast(t, "float32")) for t in tensors if t is not None]
    return ops.cast(ops.all(ops.isfinite(ops.stack(sums))), "float32")
