"""Contrastive objectives: the other images of the batch are pushed away.

With ẑ the 2n embeddings of both views at length 1, s_ij = ⟨ẑ_i, ẑ_j⟩ / τ, and i⁺ the other view of
the image of i,

    NT-Xent  =  1/2n Σ_i [ −s_ii⁺ + log Σ_{j ≠ i} exp s_ij ]             (Chen et al., equation 1)
    DCL      =  1/2n Σ_i [ −s_ii⁺ + log Σ_{j ∉ {i, i⁺}} exp s_ij ]       (Yeh et al., equation 6)

NT-Xent, SimCLR's loss, is InfoNCE with all other images of the batch as negatives. In its gradient
every image is weighted by 1 − p(i⁺ | i), which vanishes where the pair is easy to find, as it is in
small batches; DCL leaves the pair out of the sum and has no such factor.
"""

from typing import Any

import keras
from keras import ops

from keras_bt.fused import product
from keras_bt.objectives.embeddings import at_least_float32, check_embeddings
from keras_bt.objectives.objective import Objective
from keras_bt.typing import Collectives, Tensor


@keras.saving.register_keras_serializable("keras_bt")
class InfoNCE(Objective):
    """NT-Xent, the objective of SimCLR (Chen et al. 2020, arXiv 2002.05709, equation 1).

    >>> objective = InfoNCE(temperature=0.5)
    >>> za = zb = keras.random.normal((64, 16), seed=0)
    >>> terms = objective.terms(za, zb, keras_bt.objectives.OneReplica())
    >>> sorted(terms)
    ['alignment', 'uniformity']
    >>> bool(objective.loss(terms) > objective.floor(64, 16))
    True

    Args:
        temperature: τ > 0. SimCLR's is 0.1 on ImageNet and 0.5 on CIFAR-10.

    Raises:
        ValueError: if the temperature is out of range.
    """

    decoupled = False

    def __init__(self, temperature: float = 0.1):
        if not 0 < temperature < float("inf"):
            raise ValueError(
                f"temperature must be a finite number > 0. Received: temperature={temperature}."
            )
        self.temperature = temperature

    def terms(self, za: Tensor, zb: Tensor, replicas: Collectives) -> dict[str, Tensor]:
        """Returns this replica's shares of `alignment` and `uniformity`, the means of both logs.

        Raises:
            ValueError: if the embeddings do not have the same shape (n, d), or n < 2.
        """
        check_embeddings(za, zb, replicas.count)
        za, zb = (ops.normalize(z, axis=1) for z in at_least_float32(za, zb))
        rows = ops.shape(za)[0]
        counts = replicas.gather(ops.reshape(rows, (1,)))  # which may differ
        images = ops.sum(counts)
        n = ops.cast(images, za.dtype)
        before = ops.arange(replicas.count) < replicas.index
        first = ops.sum(ops.where(before, counts, 0))

        everyone = ops.concatenate([replicas.gather(za), replicas.gather(zb)])  # (2n, d)
        s = product(ops.concatenate([za, zb]), ops.transpose(everyone)) / self.temperature
        image = first + ops.arange(rows)  # this replica's rows among the n
        column = ops.arange(ops.shape(everyone)[0])
        if self.decoupled:  # neither the view itself nor the other one
            left_out = column[None] % images == ops.concatenate([image, image])[:, None]
        else:
            left_out = column[None] == ops.concatenate([image, images + image])[:, None]
        return {
            "alignment": -ops.sum(za * zb) / (self.temperature * n),
            "uniformity": ops.sum(ops.logsumexp(ops.where(left_out, -1e9, s), axis=1)) / (2 * n),
        }

    def loss(self, terms: dict[str, Tensor]) -> Tensor:
        """Returns the sum of both terms."""
        return terms["alignment"] + terms["uniformity"]

    def floor(self, batch_size: int | Tensor, dim: int) -> float | Tensor:
        """Returns a bound that is reached where d ≥ n − 1, by the corners of a simplex.

        Both views coincide there and the similarity of different images is −1 / (n − 1). By
        Jensen's inequality, and since ‖Σ ẑ_i‖² ≥ 0, nothing is below.
        """
        n = ops.cast(batch_size, "float32")
        nearer = n / ((n - 1) * self.temperature)  # the pair's s minus that of any other image
        others = ops.log(2 * (n - 1)) - nearer
        return _number(others if self.decoupled else ops.softplus(others), batch_size)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"temperature": self.temperature}


@keras.saving.register_keras_serializable("keras_bt")
class DecoupledContrastive(InfoNCE):
    """DCL: NT-Xent without the pair in the sum (Yeh et al. 2022, arXiv 2110.06848, equation 6).

    Args:
        temperature: τ > 0.

    Raises:
        ValueError: if the temperature is out of range.
    """

    title = "DCL"
    decoupled = True


def _number(x, like):
    return float(x) if isinstance(like, int) else x
