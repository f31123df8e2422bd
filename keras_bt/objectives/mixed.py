"""Mixed Barlow Twins: a third view between two images (Bandara et al. 2023, arXiv 2312.02151).

The view y_m = α y_A + (1 − α) y_B[π] mixes each image with another one of the batch: α is uniform,
Beta(1, 1), and π a permutation. If embedding were linear, its embedding would be the same mixture
of embeddings. With all embeddings standardized per feature over the global batch, the paper asks
that of the correlations with either view,

    loss = BT + w λ ( ‖C_mA − α C_AA − (1 − α) C_BA‖² + ‖C_mB − α C_AB − (1 − α) C_BB‖² ),
    C_mA = z_mᵀ z_A / n,   C_AA = z_Aᵀ z_A / n,   C_BA = z_B[π]ᵀ z_A / n   and so on,

with w = 5. Products are linear, so all three of each norm are one: with r = z_m − α z_A − (1 − α)
z_B[π], and Z = [z_A z_B] of both views side by side (n × 2d),

    loss = BT + w λ ‖rᵀ Z / n‖²               "correlation":  d × 2d values
         = BT + w λ ⟨r rᵀ, Z Zᵀ⟩ / n²         "gram":         two n × n matrices.
"""

from typing import Any

import keras
from keras import ops

from keras_bt.fused import product
from keras_bt.objectives.barlow_twins import BarlowTwinsObjective, choose_form, standardized
from keras_bt.objectives.embeddings import at_least_float32, check_embeddings, number_of_images
from keras_bt.objectives.objective import Mixing
from keras_bt.typing import Collectives, Tensor


@keras.saving.register_keras_serializable("keras_bt")
class MixedBarlowTwins(BarlowTwinsObjective):
    """Barlow Twins with a third, mixed view against overfitting of small data.

    The model embeds the third view, so a step takes half as long again. `terms` are those of Barlow
    Twins, to which `mixed_terms` adds `mixed`; without it, the loss is that of Barlow Twins, whose
    floor no loss is below.

    >>> model = keras_bt.BarlowTwins(backbone, projector, objective=MixedBarlowTwins())
    >>> [metric.name for metric in model.metrics]
    ['loss', 'on_diagonal', 'off_diagonal', 'mixed', 'excess']

    Args:
        redundancy_weight: λ ≥ 0.
        form: as in `barlow_twins_loss`, of both parts.
        mixed_weight: w ≥ 0, a factor of λ; 5 as published.
        seed: seed of the mixing, an integer.

    Raises:
        ValueError: if a weight or the form is out of range.
    """

    title = "Mixed Barlow Twins"

    def __init__(
        self,
        redundancy_weight: float = 5.1e-3,
        form: str = "auto",
        mixed_weight: float = 5.0,
        seed: int = 0,
    ):
        super().__init__(redundancy_weight, form)
        if not 0 <= mixed_weight < float("inf"):
            raise ValueError(
                f"mixed_weight must be a finite number ≥ 0. Received: mixed_weight={mixed_weight}."
            )
        self.mixed_weight = mixed_weight
        self.mixing_seed = seed

    def mixed_terms(
        self, za: Tensor, zb: Tensor, zm: Tensor, mixing: Mixing, replicas: Collectives
    ) -> dict[str, Tensor]:
        """Returns this replica's share of `mixed`, ‖rᵀ Z / n‖²."""
        for z in (zb, zm):
            check_embeddings(za, z, replicas.count)
        rows, d = za.shape
        form = choose_form(rows, d, self.form, replicas.count)
        za, zb, zm = at_least_float32(za, zb, zm)
        n = number_of_images(za, replicas)
        za, zb, zm = (standardized(z, n, replicas)[0] for z in (za, zb, zm))
        r, z = zm - mixing(za, zb), ops.concatenate([za, zb], axis=1)
        if form == "correlation":
            difference = replicas.sum(product(ops.transpose(r), z)) / n
            return {"mixed": ops.sum(ops.square(difference)) / replicas.count}
        gram_r, gram_z = (product(x, ops.transpose(replicas.gather(x))) / n for x in (r, z))
        return {"mixed": ops.sum(gram_r * gram_z)}

    def loss(self, terms: dict[str, Tensor]) -> Tensor:
        """Returns the loss, given the terms of Barlow Twins and `mixed`, or these without it."""
        mixed = self.mixed_weight * self.redundancy_weight * terms.get("mixed", 0.0)
        return super().loss(terms) + mixed

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return super().get_config() | {
            "mixed_weight": self.mixed_weight,
            "seed": self.mixing_seed,
        }
