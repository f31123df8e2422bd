"""Checkpoints of a run: the model with its optimizer, and how many epochs are done."""

import keras
import tensorflow as tf


class RunCheckpoint(keras.callbacks.Callback):
    """Saves a run while it trains, and restores it exactly.

    A checkpoint holds the weights, the optimizer's state and the number of finished epochs. Files
    are written under their own names and only then listed, so a run that is killed while it saves
    still has the checkpoint before.

    >>> checkpoint = RunCheckpoint("runs/digits/checkpoints", model)
    >>> first_epoch = checkpoint.restore()          # 0 in an empty folder
    >>> model.fit(views, initial_epoch=first_epoch, epochs=60, callbacks=[checkpoint])

    Args:
        directory: folder of the checkpoints; made if need be.
        model: a compiled Keras model.
        every: int, epochs between checkpoints. The last epoch is saved in any case.
        keep: int, how many checkpoints stay.

    Raises:
        ValueError: if `every` or `keep` is less than one.
    """

    def __init__(self, directory, model, every=1, keep=3):
        super().__init__()
        if every < 1 or keep < 1:
            raise ValueError(f"every and keep must be at least 1. Received: {every} and {keep}.")
        self._every = every
        model.optimizer.build(model.trainable_variables)  # so that its variables are there to read
        self._epochs_done = tf.Variable(0, dtype="int64", trainable=False)
        self._manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(model=model, epochs_done=self._epochs_done),  # with its optimizer
            str(directory),
            max_to_keep=keep,
        )

    def restore(self):
        """Restores the newest checkpoint, if there is one, and returns the finished epochs.

        Raises:
            ValueError: if the checkpoint does not hold exactly the variables of this model.
        """
        path = self._manager.latest_checkpoint
        if path is None:
            return 0
        try:
            status = self._manager.checkpoint.restore(path)
            status.assert_consumed()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"The checkpoint must hold the variables of this model. Received: {path} ({reason})"
            ) from error
        return int(self._epochs_done.numpy())

    def on_epoch_end(self, epoch, logs=None):
        """Saves when a checkpoint is due."""
        self._epochs_done.assign(epoch + 1)
        if (epoch + 1) % self._every == 0 or epoch + 1 == self.params["epochs"]:
            self._manager.save(checkpoint_number=epoch + 1)
