"""Base class of callbacks that look at the model every few epochs."""

import keras

from keras_bt.typing import Metrics


class Periodic(keras.callbacks.Callback):
    """Calls `look(epoch, logs)` at the end of every `every`-th epoch and of the last one.

    Callbacks later in the list see what `look` adds to `logs`, and so do Keras' progress bar and
    History, which come last.

    Args:
        every: epochs between looks, at least 1. Epochs are counted over the whole run
            (including `fit`'s `initial_epoch`), so a resumed run looks after the same ones.

    Raises:
        ValueError: if `every` is less than one.
    """

    def __init__(self, every: int = 1):
        super().__init__()
        if every < 1:
            raise ValueError(f"every must be at least 1. Received: every={every}.")
        self.every = every

    def on_epoch_end(self, epoch: int, logs: Metrics | None = None) -> None:
        """Looks if a look is due."""
        if (epoch + 1) % self.every == 0 or epoch + 1 == self.params.get("epochs"):
            self.look(epoch, {} if logs is None else logs)

    def look(self, epoch: int, logs: Metrics) -> None:
        """Does what the subclass is for.

        Args:
            epoch: epoch that has ended, from 0 as Keras counts.
            logs: receives the results.
        """
        raise NotImplementedError
