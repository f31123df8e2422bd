"""Objectives and projectors that the paper compares with its own in table 5, and other optimizers.

They are not meant for use, but show what each part of the method is for.

published     what --objective names, by default Σ_i (1 − C_ii)² + λ Σ_{i≠j} C_ij²
invariance    the first term alone
redundancy    the second term alone
features      C = z_Aᵀ z_B / n with each embedding standardized over its d features instead of each
              feature over the n images
unnormalized  the published objective on a projector without BatchNormalization
adam          Adam instead of LARS, at a thousandth of --rate
high_end      LARS, whose cosine ends at a tenth of the peak instead of a thousandth
averaged      the same, and in the end the moving average of the weights over some hundred steps
"""

import dataclasses

import keras
from keras import ops

from keras_bt.model import projector
from keras_bt.objectives import BarlowTwinsObjective
from keras_bt.objectives.barlow_twins import standardize
from keras_bt.optimizer import LARS
from trainers.runs.pretraining import lars, schedule


class _OneTerm(BarlowTwinsObjective):
    """Reports both terms and minimizes one; 0, its smallest value, is not always reached."""

    def floor(self, batch_size, dim):
        return 0.0


class InvarianceOnly(_OneTerm):
    """Minimizes the invariance term only."""

    def loss(self, terms):
        """See `Objective.loss`."""
        return terms["on_diagonal"]


class RedundancyOnly(_OneTerm):
    """Minimizes the redundancy term only."""

    def loss(self, terms):
        """See `Objective.loss`."""
        return self.redundancy_weight * terms["off_diagonal"]


class AlongFeatures(BarlowTwinsObjective):
    """The published objective with embeddings normalized along their features, on one replica."""

    def terms(self, za, zb, replicas):
        """See `Objective.terms`."""
        if replicas.count > 1:
            raise ValueError(
                "Normalization along features requires one device: --strategy=one. "
                f"Received: {replicas.count} replicas."
            )
        # Transposed, so that each embedding gets mean 0 and deviation 1: (d, n).
        za, zb = (standardize(ops.transpose(z)) for z in (za, zb))
        correlation = ops.matmul(za, ops.transpose(zb)) / ops.cast(ops.shape(za)[1], za.dtype)
        squares = ops.square(ops.diagonal(correlation))
        return {
            "on_diagonal": ops.sum(ops.square(1 - ops.diagonal(correlation))),
            "off_diagonal": ops.sum(ops.square(correlation)) - ops.sum(squares),
        }


def unnormalized_projector(widths, input_dim):
    """Builds the projector without BatchNormalization; arguments and result are `projector`'s.

    This leaves ReLUs and linear layers with biases, which BatchNormalization would make redundant.
    """
    inputs = x = keras.Input((input_dim,))
    for layer in projector(tuple(widths), input_dim).layers:
        if isinstance(layer, keras.layers.Dense):
            x = keras.layers.Dense.from_config(layer.get_config() | {"use_bias": True})(x)
        elif isinstance(layer, keras.layers.ReLU):
            x = keras.layers.ReLU.from_config(layer.get_config())(x)
    return keras.Model(inputs, x, name="projector")


def adam(settings, steps, warmup_steps):
    """Builds Adam."""
    slower = dataclasses.replace(settings, rate=settings.rate / 1000)
    return keras.optimizers.Adam(schedule(slower, steps, warmup_steps))


def lars_with_a_high_end(settings, steps, warmup_steps, **averaging):
    """Builds LARS, whose rate does not fall to nearly zero."""
    published = schedule(settings, steps, warmup_steps)
    rate = type(published).from_config(published.get_config() | {"alpha": 0.1})
    return LARS(rate, settings.bias_rate_ratio, settings.weight_decay, **averaging)


def averaging_lars(settings, steps, warmup_steps):
    """Builds the same, with Keras' average, which `fit` puts in place of the weights."""
    average = {"use_ema": True, "ema_momentum": 0.99}
    return lars_with_a_high_end(settings, steps, warmup_steps, **average)


# Classes of objectives, and functions that build projectors and optimizers.
VARIANTS = {
    "published": (BarlowTwinsObjective, projector, lars),
    "invariance": (InvarianceOnly, projector, lars),
    "redundancy": (RedundancyOnly, projector, lars),
    "features": (AlongFeatures, projector, lars),
    "unnormalized": (BarlowTwinsObjective, unnormalized_projector, lars),
    "adam": (BarlowTwinsObjective, projector, adam),
    "high_end": (BarlowTwinsObjective, projector, lars_with_a_high_end),
    "averaged": (BarlowTwinsObjective, projector, averaging_lars),
}


def made(settings):
    """Returns a variant's objective, and the functions that build its projector and optimizer.

    The objective is None where the variant leaves it as it is, the one of the settings.
    """
    objective, projector, optimizer = VARIANTS[settings.variant]
    if objective is BarlowTwinsObjective:
        return None, projector, optimizer
    return objective(settings.redundancy_weight, settings.form), projector, optimizer
