"""Callbacks that look at the model every few epochs."""

import keras


class Periodic(keras.callbacks.Callback):
    """Calls `look(epoch, logs)` at the end of every `every`-th epoch, and of the last.

    What `look` puts into `logs` is seen by the callbacks that come later in the list, and by
    Keras' progress bar and History, which come last.

    Args:
        every: int ≥ 1, epochs between looks. Epochs are counted over the whole run
            (`initial_epoch` of `fit` included), so a resumed run looks after the same ones.

    Raises:
        ValueError: if `every` is less than one.
    """

    def __init__(self, every=1):
        super().__init__()
        if every < 1:
            raise ValueError(f"every must be at least 1. Received: every={every}.")
        self.every = every

    def on_epoch_end(self, epoch, logs=None):
        """Looks if it is due."""
        if (epoch + 1) % self.every == 0 or epoch + 1 == self.params.get("epochs"):
            self.look(epoch, {} if logs is None else logs)

    def look(self, epoch, logs):
        """What there is to do.

        Args:
            epoch: int, from 0 as Keras counts.
            logs: dict that results are to be put into.
        """
        raise NotImplementedError
