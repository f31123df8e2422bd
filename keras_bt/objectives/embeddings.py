"""What objectives do first with the embeddings of two views: check, cast, count."""

import keras
from keras import ops

from keras_bt.typing import Collectives, Tensor


def check_embeddings(za: Tensor, zb: Tensor, replica_count: int = 1) -> None:
    """Raises ValueError unless both are (n, d) and the global batch holds at least two images."""
    if len(za.shape) != 2 or tuple(za.shape) != tuple(zb.shape):
        raise ValueError(
            "The embeddings of the two views must have the same shape (batch, features). "
            f"Received: {tuple(za.shape)} and {tuple(zb.shape)}."
        )
    if za.shape[0] is not None and za.shape[0] * replica_count < 2:
        raise ValueError(
            "The global batch must hold at least two images, because the objective compares "
            f"them. Received: {za.shape[0] * replica_count}."
        )


def at_least_float32(*tensors: Tensor) -> list[Tensor]:
    """Casts half precision, too coarse for statistics, to float32; float64 is kept."""
    converted = [ops.convert_to_tensor(tensor) for tensor in tensors]
    dtype = keras.backend.result_type("float32", *(tensor.dtype for tensor in converted))
    return [ops.cast(tensor, dtype) for tensor in converted]


def number_of_images(z: Tensor, replicas: Collectives) -> Tensor:
    """Returns n, the rows of z on all replicas, which may hold different numbers, in z's dtype."""
    return replicas.sum(ops.cast(ops.shape(z)[0], z.dtype))
