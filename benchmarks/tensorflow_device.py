"""Prepares TensorFlow for a benchmark: number of threads, and the GPU if there is one."""

from trainers.cli import command


def prepare(threads):
    """Imports TensorFlow quietly, sets the threads per operation and lets GPU memory grow.

    Returns:
        The GPU's name, or None.
    """
    with command.quiet_start():
        import tensorflow as tf
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    gpus = tf.config.get_visible_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if not gpus:
        return None
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
