"""Reads what TensorBoard was given."""

import tensorflow as tf


def values(folder):
    """From (tag, step) to the tensor of each value in the event files of a folder."""
    found = {}
    for file in folder.glob("events*"):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            found |= {(value.tag, event.step): value.tensor for value in event.summary.value}
    return found
