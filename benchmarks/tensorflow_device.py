"""Prepares TensorFlow for a benchmark: number of threads, and the GPU if there is one."""

import tensorflow as tf


def prepare(threads):
    """Sets the threads per operation, lets GPU memory grow, and returns `gpu_name()`."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    for gpu in tf.config.get_visible_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    return gpu_name()


def gpu_name():
    """Returns the name of the first GPU, or None."""
    gpus = tf.config.get_visible_devices("GPU")
    if not gpus:
        return None
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
