"""Recomputing in the backward pass, with a gradient of our own.

`tf.recompute_grad` wants a function without variables that change, and lets the recomputation of
one view run beside that of the other, with both in memory.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from keras_bt.typing import Tensor


def recomputed(
    function: Callable[..., tuple[Tensor, list[Tensor]]], x: Tensor, weights: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Returns `function(x, weights)`, whose gradient calls it again instead of keeping anything.

    Args:
        function: (x, weights) → output and new state, without side effects.
        x: its input.
        weights: what to learn, tensors or variables.
    """
    new_state = []

    @tf.custom_gradient
    def run(x, *weights):
        # Gradients are stopped, so that the caller's tape records nothing and keeps nothing alive.
        output, state = function(tf.stop_gradient(x), [tf.stop_gradient(w) for w in weights])
        new_state.extend(state)

        def gradient(upstream):
            with tf.GradientTape() as tape:
                later = _once_known(x, [upstream, *_turn(x.device)])
                tape.watch([t for t in (later, *weights) if t.dtype.is_floating])
                again, _ = function(later, weights)
            gradients = tape.gradient(again, [later, *weights], output_gradients=upstream)
            _end_turn(x.device, gradients)
            return gradients

        return output, gradient

    return run(x, *map(tf.convert_to_tensor, weights)), new_state


def _once_known(x, others):
    """Returns `x` as a tensor that no compiler can compute before all of `others`.

    Otherwise it may recognize the second pass as the first, and keep its results instead. XLA knows
    only data dependencies; it does not simplify 0 times a number, because the number might be
    infinite (and then the gradient is, too). TensorFlow's own optimizer might simplify it, but
    respects control dependencies.
    """
    if tf.executing_eagerly():
        return tf.identity(x)
    with tf.control_dependencies(others):
        if not x.dtype.is_floating:
            return tf.identity(x)
        # The zeros are cast, not the gradients: a large one may be infinite in another dtype.
        zeros = [tf.cast(0 * tf.reshape(other, [-1])[0], x.dtype) for other in others]
        return x + tf.add_n(zeros)


def _turn(device):
    """Returns the list, to be replaced, of the tensors that the next segment must wait for.

    The backward passes of the two views are independent; TensorFlow would run both at the same
    time, with two segments in memory. So they take turns, separately on each device.
    """
    # Owned by the graph, the list lives as long as the graph.
    return [] if tf.executing_eagerly() else tf.compat.v1.get_collection_ref(f"remat {device}")


def _end_turn(device, gradients):
    """Makes the next turn wait for these gradients."""
    of_x, *of_weights = gradients
    # The gradient of the images is not needed; it would be computed only to be waited for.
    known = [g for g in of_weights if g is not None] or [g for g in [of_x] if g is not None]
    _turn(device)[:] = known
