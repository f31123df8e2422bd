"""The Barlow Twins objective (Zbontar et al., 2021, section 2.1, equations 1 and 2).

With embeddings standardized per feature over the global batch, z ∈ ℝ^{n×d}, and
C = z_Aᵀ z_B / n,

    loss = Σ_i (1 − C_ii)²  +  λ Σ_{i≠j} C_ij².

The sum over the whole matrix can also be computed without forming C, since
tr(CᵀC) = tr(z_A z_Aᵀ z_B z_Bᵀ) / n²:

    Σ_ij C_ij²  =  ‖z_Aᵀ z_B‖² / n²           "correlation":  n·d² multiply-adds, d² values
                =  ⟨z_A z_Aᵀ, z_B z_Bᵀ⟩ / n²   "gram":       2·n²·d multiply-adds, n² values

Neither form's gradient needs a second d×d or n×n array. Both gradients are written out below,
together with that of the standardization.

On R replicas every function returns this replica's *share*: the shares sum to the value for the
global batch, and each replica's own rows receive the gradient of that sum. Keras expects just
this, because its optimizers sum gradients over replicas.
"""

from typing import Any

import keras
from keras import ops

from keras_bt.fused import product
from keras_bt.objectives.embeddings import at_least_float32, check_embeddings, number_of_images
from keras_bt.objectives.objective import Objective, OneReplica
from keras_bt.typing import Collectives, Tensor

EPSILON = 1e-5  # in the standardization; the default of torch.nn.BatchNorm1d, as published
FORMS = ("auto", "correlation", "gram")
SYMMETRIC_FROM = 256  # images: with fewer, products of the halves take as long as the whole product


@keras.saving.register_keras_serializable("keras_bt")
class BarlowTwinsObjective(Objective):
    """The objective of the paper, and the default of `keras_bt.BarlowTwins`.

    >>> objective = BarlowTwinsObjective(redundancy_weight=0.01)
    >>> za = zb = keras.random.normal((256, 64), seed=0)
    >>> terms = objective.terms(za, zb, OneReplica())
    >>> sorted(terms)
    ['off_diagonal', 'on_diagonal']
    >>> bool(objective.loss(terms) == barlow_twins_loss(za, zb, 0.01))
    True

    Args:
        redundancy_weight: λ ≥ 0.
        form: as in `barlow_twins_loss`.

    Raises:
        ValueError: if λ or the form is out of range.
    """

    title = "Barlow Twins"

    def __init__(self, redundancy_weight: float = 5.1e-3, form: str = "auto"):
        check_redundancy_weight(redundancy_weight)
        check_form(form)
        self.redundancy_weight = redundancy_weight
        self.form = form

    def terms(self, za: Tensor, zb: Tensor, replicas: Collectives) -> dict[str, Tensor]:
        """Returns this replica's shares of `on_diagonal` and `off_diagonal`, unweighted."""
        on_diagonal, off_diagonal = barlow_twins_terms(za, zb, self.form, replicas)
        return {"on_diagonal": on_diagonal, "off_diagonal": off_diagonal}

    def loss(self, terms: dict[str, Tensor]) -> Tensor:
        """Returns Σ_i (1 − C_ii)² + λ Σ_{i≠j} C_ij², given the two sums."""
        return terms["on_diagonal"] + self.redundancy_weight * terms["off_diagonal"]

    def floor(self, batch_size: int | Tensor, dim: int) -> float | Tensor:
        """Returns the smallest value of the loss, see `loss_floor`."""
        return loss_floor(batch_size, dim, self.redundancy_weight)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"redundancy_weight": self.redundancy_weight, "form": self.form}


def barlow_twins_loss(
    za: Tensor, zb: Tensor, redundancy_weight: float = 5.1e-3, form: str = "auto"
) -> Tensor:
    """Returns the Barlow Twins loss of two batches of embeddings on one device.

        loss = Σ_i (1 − C_ii)²  +  λ Σ_{i≠j} C_ij²

    >>> za = zb = keras.random.normal((256, 8192), seed=0)
    >>> round(float(barlow_twins_loss(za, zb)))  # identical views: only the redundancy remains
    1342
    >>> round(loss_floor(256, 8192))  # no embeddings of this shape can do better
    1122

    Args:
        za: float (n, d), the embeddings of one view of n images. Half precision is computed in
            float32.
        zb: float (n, d), the embeddings of the other view of the same images.
        redundancy_weight: λ ≥ 0.
        form: `"correlation"` (d×d), `"gram"` (n×n) or `"auto"`, the cheaper of the two.

    Returns:
        float32 scalar.

    Raises:
        ValueError: if the embeddings do not have the same shape (n, d) with n ≥ 2, or an argument
            is out of range.

    Source: equations 1 and 2 of the paper.
    """
    check_redundancy_weight(redundancy_weight)
    on_diagonal, off_diagonal = barlow_twins_terms(za, zb, form)
    return on_diagonal + redundancy_weight * off_diagonal


def barlow_twins_terms(
    za: Tensor, zb: Tensor, form: str = "auto", replicas: Collectives | None = None
) -> tuple[Tensor, Tensor]:
    """Returns the two terms of the loss, unweighted: Σ_i (1 − C_ii)² and Σ_{i≠j} C_ij².

    Args:
        za: float (n_r, d), this replica's rows of the embeddings of one view.
        zb: float (n_r, d), the same rows for the other view.
        form: as in `barlow_twins_loss`.
        replicas: the collectives; `OneReplica()` if None.

    Returns:
        Two float32 scalars, this replica's shares of the two terms.

    Raises:
        ValueError: as `barlow_twins_loss`.
    """
    replicas = replicas or OneReplica()
    check_embeddings(za, zb, replicas.count)
    rows, d = za.shape  # rows: None where the batch size is open
    form = choose_form(rows, d, form, replicas.count)
    za, zb = at_least_float32(za, zb)
    n = number_of_images(za, replicas)
    return _terms(za, zb, n, form, replicas)


def standardize(z: Tensor) -> Tensor:
    """Standardizes each feature over the batch: (z − mean) / √(variance + 1e-5).

    Args:
        z: float (n, d).

    Returns:
        float32 (n, d). A constant feature becomes zero.

    Source: the last layer of the published model, `BatchNorm1d(d, affine=False)`.
    """
    (z,) = at_least_float32(z)
    return standardized(z, ops.cast(ops.shape(z)[0], z.dtype), OneReplica())[0]


def standardized(z: Tensor, n: Tensor, replicas: Collectives) -> tuple[Tensor, Tensor]:
    """Standardizes each feature over the global batch.

    Args:
        z: float (n_r, d), this replica's rows.
        n: float scalar, images of the global batch.
        replicas: the collectives.

    Returns:
        The standardized embeddings (n_r, d), and each feature's scale 1 / √(variance + 1e-5), (d,).
    """
    # Two passes: E[z²] − E[z]² loses every digit where the mean is large compared with the standard
    # deviation. There even the first mean is too coarse for the gradient; the second pass removes
    # what it leaves.
    centered = z - replicas.sum(_sum_of_rows(z)) / n
    sums = ops.stack([_sum_of_rows(centered), _sum_of_rows(ops.square(centered))])
    left, square = ops.unstack(replicas.sum(sums) / n)
    scale = ops.rsqrt(square - ops.square(left) + EPSILON)
    return (centered - left) * scale, scale


def _sum_of_rows(x):
    """Returns Σ_n x_ni as a product with ones: on CPUs a third of the time of a reduction."""
    return product(ops.ones((1, ops.shape(x)[0]), x.dtype), x)[0]


def cross_correlation(za: Tensor, zb: Tensor) -> Tensor:
    """Returns the matrix C of equation 2, for inspection: C = z_Aᵀ z_B / n.

    >>> za = keras.random.normal((1000, 3), seed=0)
    >>> c = cross_correlation(za, za * [1.0, 2.0, -1.0])
    >>> print(ops.diagonal(c).numpy().round(2))  # the scale has no effect, the sign does
    [ 1.  1. -1.]

    Args:
        za: float (n, d), the embeddings of one view.
        zb: float (n, d), the embeddings of the other view.

    Returns:
        float32 (d, d): C_ij is the correlation of feature i in one view with feature j in the
        other.

    Raises:
        ValueError: if the embeddings do not have the same shape (n, d) with n ≥ 2.
    """
    check_embeddings(za, zb)
    za, zb = (standardize(z) for z in at_least_float32(za, zb))
    return product(ops.transpose(za), zb) / ops.cast(ops.shape(za)[0], za.dtype)


def loss_floor(
    batch_size: int | Tensor, dim: int, redundancy_weight: float = 5.1e-3
) -> float | Tensor:
    """Returns the smallest value that the loss can take for n images and d features.

    Embeddings are centered, so rank(C) ≤ r = n − 1, and C cannot be the identity when d > r. Among
    matrices of rank ≤ r with trace d·t, ‖C‖² ≥ (d·t)²/r, hence

        loss ≥ d (1 − t)² + λ (d²t²/r − d·t²) = d [(1 − t)² + a t²],   a = λ (d/r − 1),

    whose minimum, at t = 1/(1 + a), is d·a/(1 + a).

    >>> round(loss_floor(256, 8192), 1), round(loss_floor(2048, 8192), 1)
    (1122.3, 123.5)

    Args:
        batch_size: n ≥ 2, images in the global batch: an int, or a float32 scalar tensor.
        dim: d, the projector's output width.
        redundancy_weight: λ ≥ 0.

    Returns:
        A float, or a float32 scalar tensor if `batch_size` is one. Zero where d < n.
    """
    smaller = min if isinstance(batch_size, int) else ops.minimum
    rank = smaller(batch_size - 1, dim)
    a = redundancy_weight * (dim / rank - 1)
    return dim * a / (1 + a)


def choose_form(n: int | None, d: int, form: str = "auto", replica_count: int = 1) -> str:
    """Chooses the cheaper form from static shapes: the smaller of the n×n and the d×d matrix.

    That was the faster one at all sizes measured in docs/benchmarks.md.

    >>> choose_form(1024, 8192), choose_form(1024, 512)
    ('gram', 'correlation')

    Args:
        n: rows on this replica; None if the batch size is open.
        d: the projector's output width.
        form: `"auto"`, or a form, which is returned unchanged.
        replica_count: replicas that share the global batch.

    Returns:
        `"correlation"` or `"gram"`.

    Raises:
        ValueError: for any other form.
    """
    check_form(form)
    if form != "auto":
        return form
    if n is None:  # any batch size is possible: keep the array small for common ones
        return "correlation" if d <= 512 else "gram"
    return "gram" if n * replica_count < d else "correlation"


def check_form(form: str) -> None:
    """Raises ValueError unless there is such a form."""
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}. Received: form={form!r}.")


def check_redundancy_weight(redundancy_weight: float) -> None:
    """Raises ValueError unless λ is a finite number ≥ 0."""
    if not 0 <= redundancy_weight < float("inf"):
        raise ValueError(
            "redundancy_weight must be a finite number ≥ 0. "
            f"Received: redundancy_weight={redundancy_weight}."
        )


def _terms(za, zb, n, form, replicas):
    """Computes this replica's shares of both terms, with their gradients written out.

    With c = diag C and P = z_B Cᵀ = z_B z_Bᵀ z_A / n, the gradients with respect to z_A are

        −2 (1 − c) ∘ z_B / n      of  Σ_i (1 − C_ii)²,
         2 (P − c ∘ z_B) / n      of  Σ_{i≠j} C_ij².

    The standardization, z = scale ∘ (x − mean(x)), turns a gradient g with respect to z into

        scale ∘ (g − mean(g) − mean(g ∘ z) ∘ z)

    with respect to x. Here mean(g) = 0, because the columns of P and z_B are combinations of
    centered ones, and mean(g ∘ z_A) follows from mean(z_B ∘ z_A) = c and
    mean(P ∘ z_A)_i = Σ_j C_ij². The same holds for z_B, with Cᵀ for C.
    """

    @ops.custom_gradient
    def terms(xa, xb):
        za, scale_a = standardized(xa, n, replicas)
        zb, scale_b = standardized(xb, n, replicas)
        # Σ C_ij² − Σ C_ii² cancels when C ≈ I. Row by row the differences are small to begin with,
        # and their rounding errors do not all have one sign.
        if form == "correlation":
            correlation = replicas.sum(product(ops.transpose(za), zb)) / n
            c = ops.diagonal(correlation)
            squares = ops.square(correlation)
            energy_a, energy_b = ops.sum(squares, axis=1), _sum_of_rows(squares)  # Σ_j, Σ_i C_ij²
            off_diagonal = ops.sum(energy_a - ops.square(c)) / replicas.count
        else:
            products = za * zb
            c = replicas.sum(_sum_of_rows(products)) / n
            all_za, all_zb = replicas.gather(za), replicas.gather(zb)
            gram_a = _gram(za, all_za, replicas) / n  # (n_r, n): this replica's rows only
            gram_b = _gram(zb, all_zb, replicas) / n
            rows = ops.sum(gram_a * gram_b, axis=1) - product(products, c[:, None])[:, 0] / n
            off_diagonal = ops.sum(rows)
        on_diagonal = ops.sum(ops.square(1 - c)) / replicas.count

        def gradient(*upstream):
            # All shares have the same weight in the sum, so this replica's upstream gradient
            # stands for all of them. TensorFlow hands on two gradients, JAX a pair of them.
            d_on, d_off = keras.tree.flatten(upstream)
            diagonal = (d_on * (1 - c) + d_off * c) * (-2 / n)
            d_off = d_off * (2 / n)

            def through_standardization(z, other, scale, moved, energy):
                mean = d_off * energy + diagonal * c
                return (scale * d_off) * moved + (scale * diagonal) * other - (scale * mean) * z

            if form == "correlation":
                moved_a = _times_transposed(zb, correlation)
                moved_b = product(za, correlation)
                energies = energy_a, energy_b
            else:
                moved_a = product(gram_b, all_za)
                moved_b = product(gram_a, all_zb)
                sums = [_sum_of_rows(moved_a * za), _sum_of_rows(moved_b * zb)]
                energies = ops.unstack(replicas.sum(ops.stack(sums)) / n)
            return (
                through_standardization(za, zb, scale_a, moved_a, energies[0]),
                through_standardization(zb, za, scale_b, moved_b, energies[1]),
            )

        return (on_diagonal, off_diagonal), gradient

    return terms(za, zb)


def _gram(z, all_z, replicas):
    """Returns this replica's rows of z zᵀ; on a single replica one corner mirrors the other."""
    n = z.shape[0]
    if replicas.count > 1 or n is None or n < SYMMETRIC_FROM:
        return _times_transposed(z, all_z)
    half = n // 2
    upper, lower = z[:half], z[half:]
    corner = _times_transposed(lower, upper)
    return ops.concatenate(
        [
            ops.concatenate([_gram(upper, upper, replicas), ops.transpose(corner)], axis=1),
            ops.concatenate([corner, _gram(lower, lower, replicas)], axis=1),
        ]
    )


def _times_transposed(x, y):
    """Returns x yᵀ as a batch of one: TensorFlow on CPUs is twice as fast for few, long rows."""
    return product(x[None], ops.transpose(y[None], (0, 2, 1)))[0]
