"""What a model of two views minimizes, as an object that `BarlowTwins` takes."""

from typing import Any, NamedTuple

from keras import ops

from keras_bt.typing import Collectives, Tensor


class OneReplica:
    """The collectives of a single replica, which has nothing to communicate.

    `keras_bt.strategy.tensorflow.Replicas` has the same members for `tf.distribute`.
    """

    count = 1
    index = 0

    def sum(self, x: Tensor) -> Tensor:
        """Returns the sum of `x` over all replicas; same shape as `x`."""
        return x

    def gather(self, x: Tensor) -> Tensor:
        """Returns the rows of `x` of all replicas, in replica order."""
        return x


class Mixing(NamedTuple):
    """Mixes two views of a batch, or what was computed of them, row by row.

    >>> mixing = Mixing(alpha=0.75, partner=[1, 0])
    >>> print(mixing(np.array([[0.0], [4.0]]), np.array([[8.0], [0.0]])).numpy())
    [[0.]
     [5.]]

    Attributes:
        alpha: float scalar α, 0 to 1.
        partner: integers (n_r,), a permutation of this replica's rows.
    """

    alpha: Tensor
    partner: Tensor

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns α a + (1 − α) b[partner], for floats (n_r, …), in their dtype."""
        alpha = ops.cast(self.alpha, a.dtype)
        return alpha * a + (1 - alpha) * ops.take(b, self.partner, axis=0)


class Objective:
    """An objective on the embeddings of two views: `BarlowTwins(..., objective=…)` minimizes it.

    A subclass defines `terms` and `loss`; `floor` if it is known; and `get_config` if its
    constructor has arguments. Registered with `keras.saving.register_keras_serializable`, it is
    saved and loaded with the model.

    >>> class Distance(Objective):
    ...     def terms(self, za, zb, replicas):
    ...         n = replicas.sum(keras.ops.cast(keras.ops.shape(za)[0], za.dtype))  # all images
    ...         return {"distance": keras.ops.sum((za - zb) ** 2) / n}
    ...
    ...     def loss(self, terms):
    ...         return terms["distance"]
    >>> model = keras_bt.BarlowTwins(backbone, projector, objective=Distance())
    >>> [metric.name for metric in model.metrics]
    ['loss', 'distance', 'excess']

    Attributes:
        title: what tables and plots call it; the name of the class unless this defines one.
        mixing_seed: None; an int for an objective that also needs a mixed view. The model then
            draws a `Mixing` for each step from this seed and the number of the step, embeds the
            mixture of both views as well, and adds `mixed_terms` to the terms.
    """

    title: str = "Objective"
    mixing_seed: int | None = None

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        # Not inherited: a variant of an objective would pass for the original.
        cls.title = cls.__dict__.get("title", cls.__name__)

    def terms(self, za: Tensor, zb: Tensor, replicas: Collectives) -> dict[str, Tensor]:
        """Returns this replica's shares of the terms of the loss.

        Args:
            za: float (n_r, d), this replica's rows of the embeddings of one view.
            zb: float (n_r, d), the same rows for the other view.
            replicas: the collectives, for sums over the global batch and all of its rows.

        Returns:
            Float32 scalars by name, each reported as a metric; half precision has to be cast before
            sums are taken. Summed over the replicas they are the terms of the global batch, and
            each replica's rows get the gradient of that sum: a sum over this replica's rows is its
            share as it is, as above; what is computed from `replicas.sum` is the same on all, and
            its share is that divided by `replicas.count`. Both collectives are differentiable.
        """
        raise NotImplementedError

    def mixed_terms(
        self, za: Tensor, zb: Tensor, zm: Tensor, mixing: Mixing, replicas: Collectives
    ) -> dict[str, Tensor]:
        """Returns this replica's shares of further terms, for objectives with a `mixing_seed`.

        Args:
            za: as in `terms`.
            zb: as in `terms`.
            zm: float (n_r, d), the embeddings of the mixed view.
            mixing: how that was mixed.
            replicas: as in `terms`.
        """
        raise NotImplementedError

    def loss(self, terms: dict[str, Tensor]) -> Tensor:
        """Returns the loss, a float32 scalar, given the terms or one replica's shares of them.

        It must be linear in the terms, so that the shares of the loss add up as well.
        """
        raise NotImplementedError

    def floor(self, batch_size: int | Tensor, dim: int) -> float | Tensor:
        """Returns the smallest value that the loss can take, 0 where unknown.

        Args:
            batch_size: n, images in the global batch: an int, or a float32 scalar tensor.
            dim: d, the embeddings' width.
        """
        return 0.0

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Objective":
        """Builds the objective from the result of `get_config`."""
        return cls(**config)
