"""The Barlow Twins objective (Zbontar et al., 2021, section 2.1, equations 1 and 2).

With embeddings standardised per feature over the global batch, z ∈ ℝ^{n×d}, and
C = z_Aᵀ z_B / n,

    loss = Σ_i (1 − C_ii)²  +  λ Σ_{i≠j} C_ij².

The sum over the whole matrix has a second form without the matrix, since
tr(CᵀC) = tr(z_A z_Aᵀ z_B z_Bᵀ) / n²:

    Σ_ij C_ij²  =  ‖z_Aᵀ z_B‖² / n²           "correlation":  n·d² multiply-adds, d² numbers
                =  ⟨z_A z_Aᵀ, z_B z_Bᵀ⟩ / n²   "gram":       2·n²·d multiply-adds, n² numbers

and both have gradients that need no second d×d or n×n array, written out below.

Over R replicas every function returns this replica's *share*: the shares of all replicas sum to
the value for the global batch, and the gradient of that sum arrives at each replica's own rows.
This is what Keras expects, whose optimizers sum gradients over replicas.
"""

import keras
from keras import ops

from keras_bt import costs

EPSILON = 1e-5  # of the standardisation; torch.nn.BatchNorm1d's default, as published
FORMS = ("auto", "correlation", "gram")


class OneReplica:
    """The collectives of a single replica, where there is nothing to communicate.

    `keras_bt.strategy.Replicas` has the same three members for `tf.distribute`.
    """

    count = 1

    def sum(self, x):
        """Returns the sum of `x` over all replicas; same shape as `x`."""
        return x

    def gather(self, x):
        """Returns the rows of `x` of all replicas, in replica order."""
        return x


def barlow_twins_loss(za, zb, redundancy_weight=5.1e-3, form="auto"):
    """The Barlow Twins loss of two batches of embeddings on one device.

    >>> za = zb = keras.random.normal((256, 8192), seed=0)
    >>> round(float(barlow_twins_loss(za, zb)))  # identical views: only the redundancy remains
    1342
    >>> round(loss_floor(256, 8192))  # and no embeddings of this shape can do better than this
    1122

    Args:
        za: float tensor (n, d), the embeddings of one view of n images. Half
            precision is computed in float32.
        zb: float tensor (n, d), the embeddings of the other view of the same images.
        redundancy_weight: float ≥ 0, the λ of equation 1.
        form: `"correlation"` (d×d), `"gram"` (n×n) or `"auto"`, the cheaper of the two.

    Returns:
        float32 scalar tensor.

    Raises:
        ValueError: if the shapes are not two equal (n, d) with n ≥ 2, or an argument is out of
            range.

    Source: equations 1 and 2 of the paper.
    """
    check_redundancy_weight(redundancy_weight)
    on_diagonal, off_diagonal = barlow_twins_terms(za, zb, form)
    return on_diagonal + redundancy_weight * off_diagonal


def barlow_twins_terms(za, zb, form="auto", replicas=None):
    """The two terms of the loss, unweighted: Σ_i (1 − C_ii)² and Σ_{i≠j} C_ij².

    Args:
        za: float tensor (n_r, d): this replica's rows of the embeddings of one view.
        zb: float tensor (n_r, d): the same of the other view.
        form: as in `barlow_twins_loss`.
        replicas: the collectives; `OneReplica()` if None.

    Returns:
        Two float32 scalars, this replica's shares of the two terms.
    """
    replicas = replicas or OneReplica()
    check_embeddings(za, zb, replicas.count)
    form = choose_form(*za.shape, form, replicas.count)
    za, zb = _at_least_float32(za, zb)
    # Replicas may hold different numbers of rows, so the global batch has to be counted.
    n = replicas.sum(ops.cast(ops.shape(za)[0], za.dtype))
    return _terms(_standardise(za, n, replicas), _standardise(zb, n, replicas), n, form, replicas)


def standardise(z):
    """Standardises each feature over the batch: (z − mean) / √(variance + 1e-5).

    Args:
        z: float tensor (n, d).

    Returns:
        float32 tensor (n, d). A constant feature becomes zero.

    Source: the last layer of the published model, `BatchNorm1d(d, affine=False)`.
    """
    (z,) = _at_least_float32(z)
    return _standardise(z, ops.cast(ops.shape(z)[0], z.dtype), OneReplica())


def _at_least_float32(*tensors):
    """Half precision has too few digits for statistics; float64, if somebody wants it, stays."""
    tensors = [ops.convert_to_tensor(tensor) for tensor in tensors]
    dtype = keras.backend.result_type("float32", *(tensor.dtype for tensor in tensors))
    return [ops.cast(tensor, dtype) for tensor in tensors]


def _standardise(z, n, replicas):
    # Two passes: E[z²] − E[z]² loses every digit where a mean is large beside its deviation.
    centred = z - replicas.sum(ops.sum(z, axis=0)) / n
    variance = replicas.sum(ops.sum(ops.square(centred), axis=0)) / n
    return centred * ops.rsqrt(variance + EPSILON)


def cross_correlation(za, zb):
    """The matrix C of equation 2, for looking at.

    Args:
        za: float tensor (n, d).
        zb: float tensor (n, d).

    Returns:
        float32 tensor (d, d).
    """
    check_embeddings(za, zb)
    za, zb = (standardise(z) for z in _at_least_float32(za, zb))
    return ops.matmul(ops.transpose(za), zb) / ops.cast(ops.shape(za)[0], za.dtype)


def loss_floor(batch_size, dim, redundancy_weight=5.1e-3):
    """The smallest value that the loss can take for n images and d features.

    Centred embeddings make rank(C) ≤ r = n − 1, so C cannot be the identity when d > r. Among
    matrices with trace d·t, ‖C‖² ≥ (d·t)²/r, hence

        loss ≥ d (1 − t)² + λ (d²t²/r − d·t²) = d [(1 − t)² + a t²],   a = λ (d/r − 1),

    whose minimum, at t = 1/(1 + a), is d·a/(1 + a).

    >>> round(loss_floor(256, 8192), 1), round(loss_floor(2048, 8192), 1)
    (1122.3, 123.5)

    Args:
        batch_size: n, images in the global batch: an int, or a float32 scalar tensor.
        dim: int d, the projector's width.
        redundancy_weight: float λ.

    Returns:
        float, or a float32 scalar tensor if `batch_size` is one. Zero where d < n.
    """
    smaller = min if isinstance(batch_size, int) else ops.minimum
    rank = smaller(batch_size - 1, dim)
    a = redundancy_weight * (dim / rank - 1)
    return dim * a / (1 + a)


def choose_form(n, d, form="auto", replica_count=1):
    """Chooses the cheaper form, from static shapes.

    With n_g images in the global batch on R replicas, each form takes

        time = flops / speed + bytes / bandwidth,   speed / bandwidth = 100 flops per byte

    by the formulas of `keras_bt.costs`: the matrix products, forward and backward, and what a
    replica sends. On one replica the n×n form wins for 4·n_g < 3d; with many, whose work is divided
    while their communication is not, the border rises towards n_g < d.

    Args:
        n: int or None, the rows on this replica.
        d: int, the projector's width.
        form: `"auto"`, or a form to be returned as it is.
        replica_count: int, replicas that share the global batch.

    Returns:
        `"correlation"` or `"gram"`.

    Raises:
        ValueError: for any other form.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}. Received: form={form!r}.")
    if form != "auto":
        return form
    if n is None:  # any batch size may come: keep the array of the common ones small
        return "correlation" if d <= 512 else "gram"
    return costs.cheaper_form(n * replica_count, d, replica_count)


def check_redundancy_weight(redundancy_weight):
    """Raises ValueError unless λ is a finite number ≥ 0."""
    if not 0 <= redundancy_weight < float("inf"):
        raise ValueError(
            "redundancy_weight must be a finite number ≥ 0. "
            f"Received: redundancy_weight={redundancy_weight}."
        )


def check_embeddings(za, zb, replica_count=1):
    """Raises ValueError unless both are (n, d) with a global batch of at least two images."""
    if len(za.shape) != 2 or tuple(za.shape) != tuple(zb.shape):
        raise ValueError(
            "The embeddings of the two views must have one shape (batch, features). "
            f"Received: {tuple(za.shape)} and {tuple(zb.shape)}."
        )
    if za.shape[0] is not None and za.shape[0] * replica_count < 2:
        raise ValueError(
            "The global batch must hold at least two images, because the objective correlates "
            f"features over the batch. Received: {za.shape[0] * replica_count}."
        )


def _terms(za, zb, n, form, replicas):
    """Shares of both terms for standardised embeddings, with their gradients written out.

    With c the diagonal of C, ∂/∂z_A of the first term is −2 (1 − c) ∘ z_B / n and of the second
    2 (z_B Cᵀ − c ∘ z_B) / n, or in the other form 2 (z_B z_Bᵀ z_A / n − c ∘ z_B) / n. Only sums
    over rows cross replicas, and none in the backward pass.
    """

    @ops.custom_gradient
    def terms(za, zb):
        # Σ C_ij² − Σ C_ii² cancels when C ≈ I. Taken row by row the differences are small from
        # the start, and their rounding errors do not add up with one sign.
        if form == "correlation":
            correlation = replicas.sum(ops.matmul(ops.transpose(za), zb)) / n
            c = ops.diagonal(correlation)
            rows = ops.sum(ops.square(correlation), axis=1) - ops.square(c)
            off_diagonal = ops.sum(rows) / replicas.count
        else:
            c = replicas.sum(ops.sum(za * zb, axis=0)) / n
            all_za, all_zb = replicas.gather(za), replicas.gather(zb)
            gram_a = ops.matmul(za, ops.transpose(all_za))  # (n_r, n): this replica's rows only
            gram_b = ops.matmul(zb, ops.transpose(all_zb))
            rows = ops.sum(gram_a * gram_b, axis=1) / n - ops.sum(c * za * zb, axis=1)
            off_diagonal = ops.sum(rows) / n
        on_diagonal = ops.sum(ops.square(1 - c)) / replicas.count

        def gradient(*args, upstream=None):
            # Every replica's share has the same weight in the sum, so the weight of the own one
            # stands for all.
            d_on, d_off = upstream if upstream is not None else args
            if form == "correlation":
                product_a = ops.matmul(zb, ops.transpose(correlation))
                product_b = ops.matmul(za, correlation)
            else:
                product_a = ops.matmul(gram_b, all_za) / n
                product_b = ops.matmul(gram_a, all_zb) / n
            diagonal = (d_on * (1 - c) + d_off * c) * (-2 / n)
            d_off = d_off * (2 / n)
            return d_off * product_a + diagonal * zb, d_off * product_b + diagonal * za

        return (on_diagonal, off_diagonal), gradient

    return terms(za, zb)
