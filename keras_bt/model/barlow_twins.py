"""The Barlow Twins model: a backbone and a projector, trained on pairs of views."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from keras_bt.model.backend import at_least, prepare_batch_normalization
from keras_bt.model.exact_steps import ExactSteps, vector_length
from keras_bt.model.mixing import draw_mixing
from keras_bt.model.paired_projection import project_together
from keras_bt.model.remat import rematerialized
from keras_bt.objectives import BarlowTwinsObjective, Mixing, Objective, OneReplica
from keras_bt.optimizer import SkipNonFinite
from keras_bt.typing import Tensor

ON_NONFINITE = ("stop", "skip")


def projector(
    widths: Sequence[int] = (8192, 8192, 8192), input_dim: int = 2048, name: str = "projector"
) -> keras.Sequential:
    """Builds the projector: linear layers, each but the last with BatchNormalization and ReLU.

    No layer has a bias; the objective standardizes the output. Initialization is PyTorch's default
    for linear layers, as in the published code. The published projector, the default, has
    151,060,480 parameters.

    >>> [layer.name for layer in projector((512, 128), input_dim=64).layers]
    ['linear1', 'bn1', 'relu1', 'linear2']

    Args:
        widths: outputs of each linear layer, at least one layer.
        input_dim: length of the backbone's features.
        name: the model's name.

    Returns:
        A built model, (b, input_dim) → (b, widths[-1]).

    Raises:
        ValueError: if there are no widths, or one is not a positive integer.

    Source: section 2.2 of the paper, "Architecture".
    """
    widths = tuple(widths)
    if not widths or any(not isinstance(width, int) or width < 1 for width in widths):
        raise ValueError(f"widths must be positive integers, at least one. Received: {widths}.")
    model = keras.Sequential([layers.Input((input_dim,))], name=name)
    for index, width in enumerate(widths):
        if index > 0:
            model.add(layers.BatchNormalization(epsilon=1e-5, momentum=0.9, name=f"bn{index}"))
            model.add(layers.ReLU(name=f"relu{index}"))
        model.add(
            layers.Dense(
                width,
                use_bias=False,
                kernel_initializer=keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform"),
                name=f"linear{index + 1}",
            )
        )
    return model


@keras.saving.register_keras_serializable("keras_bt")
class BarlowTwins(ExactSteps):
    """Barlow Twins as a Keras model, trained with plain `compile` and `fit` on pairs of views.

    `fit` and `evaluate` take batches (view_a, view_b) of two augmented versions of the same images;
    `predict` and calls take images and return the backbone's features.

    >>> inputs = layers.Input((16, 16, 3))
    >>> features = layers.GlobalAveragePooling2D()(layers.Conv2D(16, 3)(inputs))
    >>> model = BarlowTwins(keras.Model(inputs, features), projector((32, 32), input_dim=16))
    >>> model.compile(optimizer="adam")  # or `keras_bt.LARS`, as published
    >>> history = model.fit(  # views: a tf.data.Dataset of (view_a, view_b), each (n, 16, 16, 3)
    ...     views, epochs=2, shuffle=False, verbose=0
    ... )
    >>> list(history.history)
    ['excess', 'loss', 'off_diagonal', 'on_diagonal']
    >>> model(images).shape  # twelve images
    TensorShape([12, 16])

    Metrics: `loss`; the objective's terms, here `on_diagonal` and `off_diagonal`, unweighted; and
    `excess`, the loss minus the smallest value that it can take for this batch size and width (see
    `loss_floor`).

    Under `strategy.scope()` with several replicas, the statistics of every BatchNormalization and
    of the objective are those of the global batch, and the gradient is the true gradient of its
    loss: training is the same as on one device. To this end the BatchNormalization layers of the
    models passed in are switched to `synchronized`; on one replica they compute the same in one
    operation, see `keras_bt.model.tensorflow.batch_normalization`. On JAX the same holds under
    `keras.distribution.DataParallel`, see `keras_bt.model.jax.steps`.

    `fit` and `evaluate` raise a ValueError for a batch of fewer than two images, or with none for
    one of several replicas; an InvalidArgumentError where that is known only when the step runs.

    Args:
        backbone: a built model, (b, h, w, c) → (b, features).
        projector: a built model, (b, features) → (b, d).
        redundancy_weight: λ ≥ 0 of the paper's objective.
        form: `"auto"`, `"correlation"` or `"gram"`, see `barlow_twins_loss`.
        objective: another objective, see `keras_bt.objectives.Objective`; the paper's if None.
        views: for augmentation on the device, the rest of the two views, such as
            `keras_bt.augmentations.View`s, from which `fit` and `evaluate` make the views, given
            batches of crops with their draws from
            `keras_bt.data.pretraining_views(..., augment_on="device")`. They are not saved with the
            model: set `model.views` again after loading.
        on_nonfinite: what to do about a step whose loss or gradient is not finite on some replica.
            `"stop"` reports its loss as NaN, for a callback to stop at. `"skip"` changes neither
            weights nor statistics, and counts it in the metric `skipped_steps`. In float16 a step
            whose gradient overflows is skipped and counted in any case, and the loss scale falls
            until none does.
        remat: recompute the backbone's activations in the backward pass instead of keeping them,
            see `keras_bt.model.remat`.
        **kwargs: those of `keras.Model`.

    Raises:
        ValueError: if a model is not built or does not return one vector per image; if the two do
            not fit together; if λ, the form or `on_nonfinite` is out of range, or λ or a form is
            given with an objective, to which it would not apply; or if there are not two views.
    """

    def __init__(
        self,
        backbone: keras.Model,
        projector: keras.Model,
        redundancy_weight: float = 5.1e-3,
        form: str = "auto",
        objective: Objective | None = None,
        views: Sequence[Any] | None = None,
        on_nonfinite: str = "stop",
        remat: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        features = vector_length(backbone, "backbone")
        self.embedding_dim = vector_length(projector, "projector")
        if projector.input_shape[-1] != features:
            raise ValueError(
                "The projector must take what the backbone returns. Received: a backbone with "
                f"{features} features, a projector for {projector.input_shape[-1]}."
            )
        paper = BarlowTwinsObjective(redundancy_weight, form)
        if objective is not None and paper.get_config() != BarlowTwinsObjective().get_config():
            raise ValueError(
                "redundancy_weight and form are the default objective's; another one has arguments "
                f"of its own. Received: redundancy_weight={redundancy_weight}, form={form!r}, "
                f"objective={objective!r}."
            )
        self.objective = objective or paper
        prepare_batch_normalization(backbone, projector)
        self.backbone = backbone
        self.projector = projector
        if views is not None and (len(views) != 2 or not all(hasattr(v, "apply") for v in views)):
            raise ValueError(f"views must be two views, or None. Received: views={views}.")
        self.views = views
        if on_nonfinite not in ON_NONFINITE:
            raise ValueError(
                f"on_nonfinite must be one of {', '.join(ON_NONFINITE)}. "
                f"Received: on_nonfinite={on_nonfinite!r}."
            )
        self.on_nonfinite = on_nonfinite
        self.remat = remat
        self._rematerialized = rematerialized(backbone) if remat else None
        z = keras.KerasTensor((2, self.embedding_dim))
        self._terms = tuple(_Terms(self.objective).compute_output_spec(z, z))
        self._track("loss", *self._terms, "excess")
        # Both parts are built, so nothing has to be inferred from a first batch; under a strategy
        # Keras could not do that.
        self.built = True

    def call(self, images: Tensor, training: bool | None = None) -> Tensor:
        """Returns the backbone's features, (b, features), of images (b, h, w, c)."""
        return self.backbone(images, training=training)

    def represent(self, images: Tensor, training: bool | None = None) -> tuple[Tensor, Tensor]:
        """Returns features and embeddings of images.

        Args:
            images: float32 (b, h, w, c).
            training: whether BatchNormalization uses and updates batch statistics.

        Returns:
            The backbone's features (b, features), and the embeddings z (b, d) before
            standardization.
        """
        encode = self._rematerialized or self.backbone
        features = encode(images, training=training)
        return features, self.projector(features, training=training)

    def embed(self, images: Tensor, training: bool | None = None) -> Tensor:
        """Returns the embeddings z, (b, d), before standardization, of images (b, h, w, c)."""
        return self.represent(images, training)[1]

    def compile(
        self, optimizer: str | keras.optimizers.Optimizer = "rmsprop", **kwargs: Any
    ) -> None:
        """Configures training. The loss is the objective, so only the optimizer is open.

        Args:
            optimizer: any Keras optimizer; `LARS` is the published one.
            **kwargs: those of `keras.Model.compile`, except losses and metrics.

        Raises:
            ValueError: for a loss or metrics, which would have no labels to compare with, and for
                gradient accumulation, which would correlate features over the small batches only.
        """
        optimizer = keras.optimizers.get(optimizer)
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        if inner.gradient_accumulation_steps:
            raise ValueError(
                "gradient_accumulation_steps must be None: the loss of a batch is not the sum of "
                "the losses of its parts. "
                f"Received: gradient_accumulation_steps={inner.gradient_accumulation_steps}."
            )
        scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        if self.on_nonfinite == "skip" and not scaled and self.dtype_policy.name != "mixed_float16":
            optimizer = SkipNonFinite(optimizer)
        super().compile(optimizer=optimizer, **kwargs)

    def two_views(self, data: Any) -> tuple[Tensor, Tensor]:
        """Returns the views in a batch, or makes them if it holds crops.

        Args:
            data: (view_a, view_b), each float32 (b, h, w, c); or, for augmentation on the device,
                (crops_a, crops_b), each a dict of "images" (b, h, w, c) and "draws".

        Returns:
            (view_a, view_b), each float32 (b, h, w, c).

        Raises:
            ValueError: if the batch is neither, or holds crops and this model has no `views`.
        """
        batches = _pair(data)
        if not isinstance(batches[0], dict):
            return batches
        if self.views is None:
            raise ValueError(
                "To train on crops, the model must know the rest of the views: "
                "BarlowTwins(..., views=(view_a.rest, view_b.rest)). Received: views=None."
            )
        view_a, view_b = (
            view.apply(crops["images"], crops["draws"])
            for view, crops in zip(self.views, batches, strict=True)
        )
        return view_a, view_b

    def _networks(self):
        return self.backbone, self.projector

    def _batch(self, data):
        return self.two_views(data)

    def _share(self, views, replicas, training):
        """Computes this replica's share of the loss, and those of [*terms, regularizers, rows]."""
        view_a, view_b = (_enough(view, replicas) for view in views)
        # A pass for each: every view has its own batch statistics.
        encode = self._rematerialized or self.backbone
        views, mixing = [view_a, view_b], self._mixing(view_a, replicas, training)
        if mixing is not None:
            views.append(mixing(view_a, view_b))
        features = [encode(view, training=training) for view in views]
        za, zb, *others = project_together(self.projector, features, training)
        terms = self.objective.terms(za, zb, replicas)
        if mixing is not None:
            (zm,) = others
            terms |= self.objective.mixed_terms(za, zb, zm, mixing, replicas)
        loss = self.objective.loss(terms)
        penalty = sum(self.losses) if self.losses else 0.0  # a backbone's own regularizers
        penalty = ops.cast(penalty, loss.dtype) / replicas.count
        rows = ops.cast(ops.shape(za)[0], loss.dtype)
        return loss + penalty, [*(terms[name] for name in self._terms), penalty, rows]

    def _mixing(self, images, replicas, training):
        """Draws how the views are mixed in this step; None if the objective does without."""
        if (seed := self.objective.mixing_seed) is None:
            return None
        step = self.optimizer.iterations if training else 0  # evaluation always draws the same
        return draw_mixing(seed, step, ops.shape(images)[0], replicas)

    def _measured(self, parts):
        """Computes loss, terms and excess of the global batch; every step weighs the same."""
        *terms, penalty, n = parts
        loss = self.objective.loss(dict(zip(self._terms, terms, strict=True)))
        floor = self.objective.floor(n, self.embedding_dim)
        return [(value, 1.0) for value in (loss + penalty, *terms, loss - floor)]

    def _leaves_out_skipped(self):
        return self.on_nonfinite == "skip"

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments except `views`, with the models serialized."""
        if type(self.objective) is BarlowTwinsObjective:
            objective = self.objective.get_config()
        else:
            objective = {"objective": keras.saving.serialize_keras_object(self.objective)}
        return super().get_config() | {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "projector": keras.saving.serialize_keras_object(self.projector),
            **objective,
            "on_nonfinite": self.on_nonfinite,
            "remat": self.remat,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "BarlowTwins":
        """Builds the model from the result of `get_config`."""
        parts = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects)
            for name in ("backbone", "projector", "objective")
            if name in config
        }
        return cls(**(config | parts))


def _pair(data):
    """Unpacks a batch, which `fit` takes for inputs and targets."""
    view_a, view_b, weight = keras.utils.unpack_x_y_sample_weight(data)
    if view_b is None or weight is not None:
        raise ValueError(
            "Training data must be batches (view_a, view_b), two views of the same images. "
            f"Received: {len(data) if isinstance(data, (tuple, list)) else 1} arrays."
        )
    return view_a, view_b


class _Terms(keras.Operation):
    """An objective's terms as an operation, whose result Keras can describe without computing."""

    def __init__(self, objective):
        super().__init__()
        self.objective = objective

    def call(self, za, zb):
        terms = self.objective.terms(za, zb, OneReplica())
        if self.objective.mixing_seed is not None:
            terms |= self.objective.mixed_terms(za, zb, zb, Mixing(0.5, [1, 0]), OneReplica())
        return terms


def _enough(images, replicas):
    """Returns a replica's images, or raises an error where the last batch has too few.

    The loss of a single image would be NaN; what layers do without images differs.
    """
    return at_least(
        2 if replicas.count == 1 else 1,
        images,
        "A batch must hold at least two images, and at least one for each replica: batch with "
        "drop_remainder=True. Received fewer in the last batch.",
    )
