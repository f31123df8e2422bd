"""Rematerialization: activations are recomputed in the backward pass instead of being kept.

From the forward to the backward pass only the tensors between segments of the backbone are kept;
those inside a segment are recomputed when its gradient is due. That costs one more forward pass and
changes no result: Chen et al., 2016, arXiv 1604.06174.

Keras has `keras.RematScope`, which wraps single layers. It keeps every layer's input, so it saves
little, and its second pass updates the statistics of BatchNormalization a second time.
"""

import itertools

import keras
import tensorflow as tf
from keras import ops

from keras_bt.model.graph_cuts import is_chain, pieces_of, segments_of_least_peak, sizes
from keras_bt.typing import Tensor

# In 3.12 a `keras.Function` from a tensor within a graph fails with "Graph disconnected".
SUPPORTED = tuple(map(int, keras.__version__.split(".")[:2])) >= (3, 13)


def rematerialized(backbone: keras.Model) -> "Rematerialized":
    """Returns a function that computes what `backbone` does, with less memory in training.

    Values, gradients, moving statistics, losses of layers and random draws (of Keras' own layers,
    by their seed generators) are those of `backbone(images, training=True)`. It works eagerly, in
    `tf.function`, compiled by XLA, in a replica of a strategy, and under every precision policy.
    Only first derivatives can be taken.

    >>> encode = rematerialized(backbone)  # a ResNet-18 with 16 features
    >>> encode(images, training=True).shape  # twelve images
    TensorShape([12, 16])
    >>> [names[-1] for names in encode.segments]  # the layers whose outputs are kept
    ['layer1_0_add', 'layer1_1_relu', 'layer2_0_relu', 'layer3_0_relu', 'avgpool']

    The segments minimize an estimate of the memory peak: see
    `keras_bt.model.graph_cuts.segments_of_least_peak`.

    Args:
        backbone: a functional or sequential model with one input and one output. It is not copied:
            its variables, and those of the layers in it, stay where they are.

    Returns:
        A callable (images, training=None) → features, which calls `backbone` itself unless
        `training` is true. Its attribute `segments` is a tuple of tuples of layer names, in order.

    Raises:
        ValueError: if the backbone is not such a model, or Keras is too old to cut one.
    """
    if not SUPPORTED:
        raise ValueError(
            "Rematerialization needs Keras 3.13 or newer, which can cut a model's graph (and needs "
            f"Python 3.11). Received: Keras {keras.__version__}."
        )
    if not is_chain(backbone):
        raise ValueError(
            "Rematerialization needs a functional or sequential keras.Model with one input and "
            f"one output, whose graph it can cut. Received: {backbone!r}."
        )
    return Rematerialized(backbone)


class Rematerialized:
    """The function that `rematerialized` returns.

    It is not a layer, so that a model with it as an attribute does not own the backbone twice.
    """

    def __init__(self, backbone: keras.Model):
        self._encoder = _Encoder(backbone)
        self.segments = tuple(segment.names for segment in self._encoder.segments)

    def __call__(self, images: Tensor, training: bool | None = None) -> Tensor:
        """Returns the features (b, features) of images (b, h, w, c)."""
        return self._encoder(images, training=training)


class _Encoder(keras.layers.Layer):
    """The segments as parts of one layer call, so that losses are cleared only once."""

    def __init__(self, backbone):
        # Named explicitly, because TensorFlow refuses scopes that begin with an underscore.
        super().__init__(name="rematerialized", dtype="float32", autocast=False)
        self.backbone = backbone
        pieces = list(pieces_of(backbone))
        bounds = segments_of_least_peak(*sizes(backbone, pieces))
        self.segments = tuple(
            _Segment(pieces[start:end]) for start, end in itertools.pairwise(bounds)
        )
        self.built = True

    def call(self, images, training=None):
        if not training:
            return self.backbone(images, training=training)
        x = ops.convert_to_tensor(images)
        for segment in self.segments:
            x, losses = _recomputed(segment, x)
            for loss in losses:
                # Bypasses `Functional.add_loss`, which is not implemented.
                keras.layers.Layer.add_loss(self.backbone, loss)
        return x


class _Segment(keras.layers.Layer):
    """Consecutive pieces of a model's graph; a layer, because a layer's call sets the mode.

    Its own dtype has no effect; the layers in it have theirs.
    """

    def __init__(self, pieces):
        super().__init__(name="segment", dtype="float32", autocast=False)
        self.pieces = tuple(pieces)
        operations = [operation for piece in pieces for operation in piece.operations]
        self.names = tuple(
            dict.fromkeys(
                operation.name
                for operation in operations
                if not isinstance(operation, keras.layers.InputLayer)
            )
        )
        self.contents = tuple(op for op in operations if isinstance(op, keras.layers.Layer))
        self.built = True

    def call(self, x, training=None):
        for piece in self.pieces:
            # A model within the model takes its input in the dtype that it was built for.
            x = ops.cast(x, piece.inputs[0].dtype)
            x = piece._run_through_graph([x], operation_fn=_in_this_mode)
        return x

    def state(self):
        """Returns two lists of variables, each variable once: trainable ones and the others."""
        variables = list({id(v): v for layer in self.contents for v in layer.variables}.values())
        learned = {id(v) for layer in self.contents for v in layer.trainable_variables}
        return (
            [v for v in variables if id(v) in learned],
            [v for v in variables if id(v) not in learned],
        )


def _in_this_mode(operation):
    """Drops a `training` recorded in the graph; a functional model overrides it as well."""
    if not isinstance(operation, keras.layers.Layer):
        return operation

    def call(*args, training=None, **kwargs):
        return operation(*args, **kwargs)

    return call


def _recomputed(segment, x):
    """Calls a segment in training mode such that its gradient recomputes it.

    Returns:
        Its output, and the list of its layers' losses.
    """
    learned, others = segment.state()
    # The second pass must see what the first one saw, so all variables are read once, here.
    kept = [tf.convert_to_tensor(v.value) for v in others]
    updates = []

    def stateless(x, weights):
        """Returns output and losses, and new values of the variables that a pass would change."""
        mapping = [*zip(learned, weights, strict=True), *zip(others, kept, strict=True)]
        with keras.StatelessScope(mapping, collect_losses=True) as scope:
            before = [scope.get_current_value(v) for v in others]
            output = segment(x, training=True)
        after = [scope.get_current_value(v) for v in others]
        changes = zip(others, before, after, strict=True)
        return [output, *scope.losses], [(v, new) for v, old, new in changes if new is not old]

    @tf.custom_gradient
    def run(x, *weights):
        # Gradients are stopped, so that the caller's tape records nothing and keeps nothing alive.
        outputs, changes = stateless(tf.stop_gradient(x), [tf.stop_gradient(w) for w in weights])
        updates.extend(changes)

        def gradient(*upstream):
            with tf.GradientTape() as tape:
                later = _once_known(x, [upstream[0], *_turn(x.device)])
                tape.watch([t for t in (later, *weights) if t.dtype.is_floating])
                again, _ = stateless(later, weights)
            gradients = tape.gradient(again, [later, *weights], output_gradients=upstream)
            _end_turn(x.device, gradients)
            return gradients

        return outputs, gradient

    output, *losses = run(x, *[tf.convert_to_tensor(v.value) for v in learned])
    for variable, value in updates:
        variable.assign(value)
    return output, losses


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
