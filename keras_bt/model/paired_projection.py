"""The projector for all views at once.

Called for one view after the other, it reads its weights twice, and two gradients of their size are
computed and then added: 0.6 GB each for the published projector, which with small batches takes
longer than the arithmetic. Layers that treat every row by itself give the same result when the rows
of all views are stacked. BatchNormalization does not, and is called for each view.
"""

from collections.abc import Sequence

import keras
from keras import layers, ops

from keras_bt.typing import Tensor

ROW_BY_ROW = (layers.Dense, layers.ReLU, layers.Activation, layers.LayerNormalization)


def project_together(
    projector: keras.Model, features: Sequence[Tensor], training: bool
) -> list[Tensor]:
    """Returns `projector(x)` for each x of `features`, in one pass where its layers allow.

    Args:
        projector: a built model, (n, features) → (n, d).
        features: floats (n, features) of two views or more.
        training: whether BatchNormalization uses and updates batch statistics.

    Returns:
        As many float tensors (n, d).
    """
    if not can_be_stacked(projector):
        return [projector(x, training=training) for x in features]
    x = ops.concatenate(features)
    for layer in projector.layers:
        if isinstance(layer, layers.BatchNormalization):
            views = ops.split(x, len(features))
            x = ops.concatenate([layer(rows, training=training) for rows in views])
        else:
            x = layer(x)
    return ops.split(x, len(features))


def can_be_stacked(projector: keras.Model) -> bool:
    """Returns whether all layers are known to treat each row, or each view, by itself."""
    return isinstance(projector, keras.Sequential) and all(
        type(layer) is layers.BatchNormalization
        or (type(layer) in ROW_BY_ROW and layer.activity_regularizer is None)
        for layer in projector.layers
    )
