"""Functions that become graphs as they are written, without AutoGraph."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def as_written(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function of tensors for `tf.data` in which, and in what it calls, no code changes.

    `tf.data` rewrites functions so that `if` and `for` may depend on tensors. None here do, and to
    rewrite the hundred that make a batch of views took a quarter of the processor time of a short
    command.
    """
    return tf.autograph.experimental.do_not_convert(function)
