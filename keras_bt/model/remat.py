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
from keras import ops

from keras_bt.model.backend import recomputed
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
        images = ops.cast(images, backbone.inputs[0].dtype)
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
    kept = [ops.stop_gradient(v.value) for v in others]

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

    output, state = recomputed(stateless, x, [v.value for v in learned])
    for variable, value in zip(others, state, strict=True):
        variable.assign(value)
    return output
