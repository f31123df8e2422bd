"""Rematerialization: activations are recomputed in the backward pass instead of being kept.

From the forward to the backward pass only the outputs of the residual blocks are kept; what is
inside a block is recomputed when its gradient is due. That costs one more forward pass and changes
no result: Chen et al., 2016, arXiv 1604.06174.

Keras has `keras.RematScope`, which wraps single layers. It keeps every layer's input, so it saves
little, and its second pass updates the statistics of BatchNormalization a second time.
"""

import itertools
from collections.abc import Callable

import keras
import tensorflow as tf

from keras_bt.typing import Tensor


def rematerialized(backbone: keras.Model) -> Callable[..., Tensor]:
    """Returns a function that computes what `backbone` does, with less memory in training.

    Values, gradients, moving statistics and random draws (of Keras' own layers, by their seed
    generators) are those of `backbone(images, training=True)`.

    >>> encode = rematerialized(backbone)  # a ResNet-18 with 16 features
    >>> encode(images, training=True).shape  # twelve images
    TensorShape([12, 16])

    Args:
        backbone: a functional or sequential model with one input and one output, and residual
            blocks: layers `keras.layers.Add` through which all that follows must pass. It is not
            copied: its variables stay where they are.

    Returns:
        A callable (images, training=None) → features, which calls `backbone` itself unless
        `training` is true.

    Raises:
        ValueError: if the backbone is not such a model; when it is called, if a layer adds a loss
            of its own, such as an activity regularizer.
    """
    if len(getattr(backbone, "inputs", None) or ()) != 1 or len(backbone.outputs) != 1:
        raise ValueError(
            "Rematerialization needs a functional or sequential keras.Model with one input and "
            f"one output. Received: {backbone!r}."
        )
    blocks = [layer.output for layer in backbone.layers if isinstance(layer, keras.layers.Add)]
    cuts = {id(x): x for x in (backbone.inputs[0], *blocks, backbone.outputs[0])}.values()
    try:
        segments = [_Segment(keras.Function(*ends)) for ends in itertools.pairwise(cuts)]
    except ValueError:  # Keras': something that the end needs does not follow from the start
        blocks = []
    if not blocks:
        raise ValueError(
            "Rematerialization cuts a backbone after each of its residual blocks, the layers "
            f"keras.layers.Add through which all must pass. Received: {backbone.name}, without."
        )

    def encode(images: Tensor, training: bool | None = None) -> Tensor:
        if not training:
            return backbone(images, training=training)
        images = keras.ops.cast(images, backbone.inputs[0].dtype)
        for segment in segments:
            images = _recomputed(segment, images)
        return images

    return encode


class _Segment(keras.layers.Layer):
    """A part of a model's graph; a layer, because a layer's call sets the mode.

    Its own dtype has no effect; the layers in it have theirs.
    """

    def __init__(self, function):
        super().__init__(name="segment", dtype="float32", autocast=False)
        self.function = function
        self.contents = [op for op in function.operations if isinstance(op, keras.layers.Layer)]
        self.built = True

    def call(self, x, training=None):
        return self.function._run_through_graph([x], operation_fn=_in_this_mode)


def _in_this_mode(operation):
    """Drops a `training` recorded in the graph; a functional model overrides it as well."""
    if not isinstance(operation, keras.layers.Layer):
        return operation
    return lambda *args, training=None, **kwargs: operation(*args, **kwargs)


def _recomputed(segment, x):
    """Calls a segment in training mode such that its gradient recomputes it."""
    learned, others = segment.trainable_variables, segment.non_trainable_variables
    # Read once, here: the second pass must see what the first one saw, and change nothing.
    kept = [tf.convert_to_tensor(v.value) for v in others]
    new_state = []

    def stateless(x, weights):
        """Returns the output, and what the variables that are not learned become."""
        mapping = [*zip(learned, weights, strict=True), *zip(others, kept, strict=True)]
        with keras.StatelessScope(mapping, collect_losses=True) as scope:
            output = segment(x, training=True)
        if scope.losses:
            raise ValueError(
                "Rematerialization does not support layers that add losses, such as those with an "
                f"activity regularizer. Received: one among {[x.name for x in segment.contents]}."
            )
        return output, [scope.get_current_value(v) for v in others]

    @tf.custom_gradient
    def run(x, *weights):
        # Gradients are stopped, so that the caller's tape records nothing and keeps nothing alive.
        output, state = stateless(tf.stop_gradient(x), [tf.stop_gradient(w) for w in weights])
        new_state.extend(state)

        def gradient(upstream):
            with tf.GradientTape() as tape:
                later = _once_known(x, [upstream, *_turn(x.device)])
                tape.watch([t for t in (later, *weights) if t.dtype.is_floating])
                again, _ = stateless(later, weights)
            gradients = tape.gradient(again, [later, *weights], output_gradients=upstream)
            _end_turn(x.device, gradients)
            return gradients

        return output, gradient

    output = run(x, *[tf.convert_to_tensor(v.value) for v in learned])
    for variable, value in zip(others, new_state, strict=True):
        variable.assign(value)
    return output


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
