"""LARS, with a separate rate for biases and BatchNormalization parameters."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_bt import fused
from keras_bt.typing import Tensor


@keras.saving.register_keras_serializable("keras_bt")
class LARS(keras.optimizers.Optimizer):
    """Layer-wise adaptive rate scaling, as in the published code of Barlow Twins.

    For a tensor w of two or more dimensions (kernels), with gradient g and rate ε,

        g ← g + β w                              weight decay, before the trust ratio
        g ← g · η ‖w‖ / ‖g‖                      unless either norm is zero
        m ← μ m + g
        w ← w − ε m                              the rate stays outside the momentum

    and for a vector (biases, BatchNormalization's gamma and beta), without decay or adaptation,

        m ← μ m + g
        w ← w − (bias_rate_ratio · ε) m

    The published rates are 0.2 for kernels and 0.0048 for vectors (times batch/256 and the
    schedule), hence the ratio 0.024. The published code also divides every gradient by the number
    of GPUs, which the trust ratio cancels for kernels but not for vectors: to repeat a run on W
    GPUs exactly, use `bias_rate_ratio=0.024 / W`. Gradients here are those of the global batch on
    any number of replicas.

    >>> w = keras.Variable([[3.0, 4.0]])  # ‖w‖ = 5
    >>> LARS(0.2, weight_decay=0.0).apply([keras.ops.array([[0.0, 1e6]])], [w])
    >>> print(w.numpy())  # a first step is ε η ‖w‖ = 0.001 long, however large the gradient
    [[3.    3.999]]

    Args:
        learning_rate: the rate ε of kernels.
        bias_rate_ratio: rate of vectors divided by that of kernels, ≥ 0.
        weight_decay: β ≥ 0; 1e-6 in the published code, 1.5e-6 in the paper.
        momentum: μ in [0, 1).
        trust_coefficient: η > 0.
        name: the optimizer's name.
        **kwargs: those of `keras.optimizers.Optimizer`, such as `clipnorm`.

    Raises:
        ValueError: if an argument is out of range.

    Source: You et al., 2017 (arXiv 1708.03888), algorithm 1; section 2.2 of Barlow Twins.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.2,
        bias_rate_ratio: float = 0.024,
        weight_decay: float = 1e-6,
        momentum: float = 0.9,
        trust_coefficient: float = 0.001,
        name: str = "lars",
        **kwargs: Any,
    ):
        for label, value, good in (
            ("bias_rate_ratio", bias_rate_ratio, bias_rate_ratio >= 0),
            ("weight_decay", weight_decay, weight_decay >= 0),
            ("momentum", momentum, 0 <= momentum < 1),
            ("trust_coefficient", trust_coefficient, trust_coefficient > 0),
        ):
            if not good:
                raise ValueError(f"{label} is out of range. Received: {label}={value}.")
        # The base class gets no `weight_decay`, because Keras decouples it from the gradient.
        super().__init__(learning_rate=learning_rate, weight_decay=None, name=name, **kwargs)
        self.bias_rate_ratio = bias_rate_ratio
        self.kernel_decay = weight_decay
        self.momentum = momentum
        self.trust_coefficient = trust_coefficient

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates a momentum for each of `variables`."""
        if self.built:
            return
        super().build(variables)
        self.momenta = self.add_optimizer_variables(variables, "momentum")

    def update_step(
        self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor
    ) -> None:
        """Updates one variable in place."""
        m = self.momenta[self._get_variable_index(variable)]
        g = ops.cast(gradient, variable.dtype)
        rate = ops.cast(learning_rate, variable.dtype)
        if len(variable.shape) > 1:
            g = g + self.kernel_decay * variable
            g = g * self._trust_ratio(variable, g)
        else:
            rate = rate * self.bias_rate_ratio
        fused.momentum_step(variable, m, g, rate, self.momentum)

    def _trust_ratio(self, w, g):
        """Returns η ‖w‖ / ‖g‖, or 1 where either norm is zero."""
        w_norm, g_norm = fused.norm(w), fused.norm(g)
        both = ops.logical_and(w_norm > 0, g_norm > 0)
        ratio = self.trust_coefficient * w_norm / ops.where(both, g_norm, 1.0)
        return ops.where(both, ratio, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return super().get_config() | {
            "bias_rate_ratio": self.bias_rate_ratio,
            "weight_decay": self.kernel_decay,
            "momentum": self.momentum,
            "trust_coefficient": self.trust_coefficient,
        }


@keras.saving.register_keras_serializable("keras_bt")
class SkipNonFinite(keras.optimizers.LossScaleOptimizer):
    """A wrapper that skips an optimizer's steps with non-finite gradients, in any precision.

    Keras does this for float16, where an overflow also halves the loss scale. Here the scale stays
    1 and is not part of the saved state: a run may continue with or without this wrapper around its
    optimizer.

    Args:
        inner_optimizer: the optimizer that takes the steps.
        **kwargs: `name`.
    """

    def __init__(self, inner_optimizer: keras.optimizers.Optimizer, **kwargs: Any):
        kwargs |= {"initial_scale": 1.0, "dynamic_growth_steps": 2**31 - 1}
        super().__init__(inner_optimizer, **kwargs)

    def _stateful_handle_non_finite_grads(self):
        """Does nothing; Keras lowers the loss scale here."""

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Returns the loss as it is."""
        return loss

    def stateless_apply(
        self,
        optimizer_variables: Sequence[Tensor],
        grads: Sequence[Tensor],
        trainable_variables: Sequence[Tensor],
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Returns what `trainable_variables` and `optimizer_variables` become by a step."""
        before = list(trainable_variables), list(optimizer_variables)
        return ops.cond(
            self.check_finite(grads),
            lambda: self.inner_optimizer.stateless_apply(
                optimizer_variables, grads, trainable_variables
            ),
            lambda: before,
        )

    @property
    def variables(self) -> list[keras.Variable]:
        """The variables of the inner optimizer."""
        return self.inner_optimizer.variables
