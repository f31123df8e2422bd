"""Prepares TensorFlow for a benchmark: number of threads, and the GPU if there is one."""

import tensorflow as tf


def prepare(threads):
    """Sets the threads per operation and lets GPU memory grow; returns the GPU's name, or None."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    gpus = tf.config.get_visible_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if not gpus:
        return None
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
