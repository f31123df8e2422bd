"""LARS, with the separate rate of biases and BatchNormalization parameters."""

import keras
from keras import ops

from keras_bt import fused


@keras.saving.register_keras_serializable("keras_bt")
class LARS(keras.optimizers.Optimizer):
    """Layer-wise adaptive rate scaling, as the published code of Barlow Twins has it.

    For a tensor w of two or more dimensions (kernels), with gradient g and rate ε,

        g ← g + β w                              weight decay, before the trust ratio
        g ← g · η ‖w‖ / ‖g‖                      unless either norm is zero
        m ← μ m + g
        w ← w − ε m                              the rate stays outside the momentum

    and for a vector (biases, BatchNormalization's gamma and beta) neither decay nor adaptation:

        m ← μ m + g
        w ← w − (bias_rate_ratio · ε) m

    The published rates are 0.2 for kernels and 0.0048 for vectors (times batch/256 and the
    schedule), hence 0.024. The published code also divides every gradient by the number of GPUs,
    which the trust ratio cancels for kernels but not for vectors: to repeat a run on W GPUs
    exactly, take `bias_rate_ratio=0.024 / W`. Gradients here are those of the global batch on any
    number of replicas.

    Args:
        learning_rate: float or `LearningRateSchedule`, the rate ε of kernels.
        bias_rate_ratio: float ≥ 0, the rate of vectors over that of kernels.
        weight_decay: float ≥ 0, β; 1e-6 in the published code, 1.5e-6 in the paper.
        momentum: float in [0, 1), μ.
        trust_coefficient: float > 0, η.
        name: string.
        **kwargs: those of `keras.optimizers.Optimizer`, `clipnorm` for instance.

    Raises:
        ValueError: if an argument is out of range.

    Source: You et al., 2017 (arXiv 1708.03888), algorithm 1; section 2.2 of Barlow Twins.
    """

    def __init__(
        self,
        learning_rate=0.2,
        bias_rate_ratio=0.024,
        weight_decay=1e-6,
        momentum=0.9,
        trust_coefficient=0.001,
        name="lars",
        **kwargs,
    ):
        for label, value, good in (
            ("bias_rate_ratio", bias_rate_ratio, bias_rate_ratio >= 0),
            ("weight_decay", weight_decay, weight_decay >= 0),
            ("momentum", momentum, 0 <= momentum < 1),
            ("trust_coefficient", trust_coefficient, trust_coefficient > 0),
        ):
            if not good:
                raise ValueError(f"{label} is out of range. Received: {label}={value}.")
        # Keras' own `weight_decay` is decoupled from the gradient; the base class gets none.
        super().__init__(learning_rate=learning_rate, weight_decay=None, name=name, **kwargs)
        self.bias_rate_ratio = bias_rate_ratio
        self.kernel_decay = weight_decay
        self.momentum = momentum
        self.trust_coefficient = trust_coefficient

    def build(self, variables):
        """Creates a momentum for each of `variables`."""
        if self.built:
            return
        super().build(variables)
        self.momenta = self.add_optimizer_variables(variables, "momentum")

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable in place."""
        m = self.momenta[self._get_variable_index(variable)]
        g = ops.cast(gradient, variable.dtype)
        rate = ops.cast(learning_rate, variable.dtype)
        if len(variable.shape) > 1:
            g = g + self.kernel_decay * variable
            g = g * self._trust_ratio(variable, g)
        else:
            rate = rate * self.bias_rate_ratio
        fused.momentum_step(variable, m.value, g, rate, self.momentum)

    def _trust_ratio(self, w, g):
        """η ‖w‖ / ‖g‖, or 1 where either norm is zero."""
        w_norm, g_norm = fused.norm(w), fused.norm(g)
        both = ops.logical_and(w_norm > 0, g_norm > 0)
        ratio = self.trust_coefficient * w_norm / ops.where(both, g_norm, 1.0)
        return ops.where(both, ratio, 1.0)

    def get_config(self):
        """Returns the constructor's arguments."""
        return super().get_config() | {
            "bias_rate_ratio": self.bias_rate_ratio,
            "weight_decay": self.kernel_decay,
            "momentum": self.momentum,
            "trust_coefficient": self.trust_coefficient,
        }


@keras.saving.register_keras_serializable("keras_bt")
class SkipNonFinite(keras.optimizers.LossScaleOptimizer):
    """Leaves out the steps of another optimizer whose gradient is not finite, in any precision.

    Keras has this for float16, where an overflow halves the scale of the loss. Here the scale
    stays 1, and is no state to be saved: a run may go on with or without this around its
    optimizer.

    Args:
        inner_optimizer: a Keras optimizer.
        **kwargs: `name`.
    """

    def __init__(self, inner_optimizer, **kwargs):
        kwargs |= {"initial_scale": 1.0, "dynamic_growth_steps": 2**31 - 1}
        super().__init__(inner_optimizer, **kwargs)

    def _stateful_handle_non_finite_grads(self):
        """What Keras does on such a step besides skipping it: nothing here."""

    @property
    def variables(self):
        """Those of the other optimizer."""
        return self.inner_optimizer.variables
