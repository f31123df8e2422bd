"""VICReg: variance, invariance and covariance (Bardes et al. 2022, arXiv 2105.04906, section 4.1).

With the d features of each view centered over the n images of the global batch, and with their
covariance matrix K = zᵀz / (n − 1),

    loss = 25/(n d) Σ_ni (z_A − z_B)²
         + 25/2d Σ_i [ max(0, 1 − √(K_A,ii + 1e-4)) + max(0, 1 − √(K_B,ii + 1e-4)) ]
         +  1/d Σ_{i≠j} [ K_A,ij² + K_B,ij² ]

As with Barlow Twins, Σ_ij K_ij² = ‖z zᵀ‖² / (n − 1)², so the last term can be computed from an n×n
matrix instead of the d×d one. The factor 1/2 of the second term is that of the published code.
"""

from typing import Any

import keras
from keras import ops

from keras_bt.fused import product
from keras_bt.objectives.barlow_twins import check_form, choose_form
from keras_bt.objectives.embeddings import at_least_float32, check_embeddings, number_of_images
from keras_bt.objectives.objective import Objective
from keras_bt.typing import Collectives, Tensor

EPSILON = 1e-4  # within the square root, as published


@keras.saving.register_keras_serializable("keras_bt")
class VICReg(Objective):
    """The objective of VICReg (Bardes et al. 2022).

    >>> objective = VICReg()
    >>> za = zb = keras.random.normal((256, 64), seed=0)
    >>> terms = objective.terms(za, zb, keras_bt.objectives.OneReplica())
    >>> sorted(terms), float(terms["invariance"])
    (['covariance', 'invariance', 'variance'], 0.0)

    Args:
        invariance_weight: ≥ 0, of the mean squared difference of the views.
        variance_weight: ≥ 0, of the features' missing deviation.
        covariance_weight: ≥ 0, of the features' covariances.
        form: of the covariance term, `"correlation"` (d×d), `"gram"` (n×n) or `"auto"`.

    Raises:
        ValueError: if a weight or the form is out of range.
    """

    def __init__(
        self,
        invariance_weight: float = 25.0,
        variance_weight: float = 25.0,
        covariance_weight: float = 1.0,
        form: str = "auto",
    ):
        self.weights = {
            "invariance": invariance_weight,
            "variance": variance_weight,
            "covariance": covariance_weight,
        }
        for name, weight in self.weights.items():
            if not 0 <= weight < float("inf"):
                raise ValueError(
                    f"{name}_weight must be a finite number ≥ 0. Received: {name}_weight={weight}."
                )
        check_form(form)
        self.form = form

    def terms(self, za: Tensor, zb: Tensor, replicas: Collectives) -> dict[str, Tensor]:
        """Returns this replica's shares of the three terms, unweighted.

        Raises:
            ValueError: if the embeddings do not have the same shape (n, d), or n < 2.
        """
        check_embeddings(za, zb, replicas.count)
        rows, d = za.shape
        form = choose_form(rows, d, self.form, replicas.count)
        za, zb = at_least_float32(za, zb)
        n = number_of_images(za, replicas)
        variance = covariance = 0.0
        for z in (za, zb):
            z = z - replicas.sum(ops.sum(z, axis=0)) / n
            variances = replicas.sum(ops.sum(ops.square(z), axis=0)) / (n - 1)
            missing = ops.relu(1 - ops.sqrt(variances + EPSILON))
            variance += ops.sum(missing) / (2 * d * replicas.count)
            covariance += _off_diagonal(z, variances, n, form, replicas) / d
        return {
            "invariance": ops.sum(ops.square(za - zb)) / (n * d),
            "variance": variance,
            "covariance": covariance,
        }

    def loss(self, terms: dict[str, Tensor]) -> Tensor:
        """Returns the weighted sum of the terms."""
        return sum(weight * terms[name] for name, weight in self.weights.items())

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        weights = {f"{name}_weight": weight for name, weight in self.weights.items()}
        return weights | {"form": self.form}


def _off_diagonal(z, variances, n, form, replicas):
    """Returns this replica's share of Σ_{i≠j} K_ij² of centered embeddings z (n_r, d)."""
    if form == "correlation":
        covariance = replicas.sum(product(ops.transpose(z), z)) / (n - 1)
        # Row by row, where the difference is small from the start.
        rows = ops.sum(ops.square(covariance), axis=1) - ops.square(variances)
        return ops.sum(rows) / replicas.count
    gram = product(z, ops.transpose(replicas.gather(z))) / (n - 1)
    own = product(ops.square(z), variances[:, None])[:, 0] / (n - 1)
    rows = ops.sum(ops.square(gram), axis=1) - own
    return ops.sum(rows)
