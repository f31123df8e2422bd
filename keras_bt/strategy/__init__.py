"""Where training runs: one device, or many, on the backend that Keras runs on."""

import keras

if keras.backend.backend() == "jax":
    from keras_bt.strategy.jax import (
        choose_strategy,
        current_replicas,
        describe,
        distribute_batches,
        has_bfloat16,
        lost_workers_reported,
        on_accelerator,
        one_device,
        resolved_name,
        several_workers,
        sum_over_workers,
        worker_count,
        worker_number,
    )
else:
    from keras_bt.strategy.tensorflow import (
        choose_strategy,
        current_replicas,
        describe,
        distribute_batches,
        has_bfloat16,
        lost_workers_reported,
        on_accelerator,
        one_device,
        resolved_name,
        several_workers,
        sum_over_workers,
        worker_count,
        worker_number,
    )

__all__ = [
    "choose_strategy",
    "current_replicas",
    "describe",
    "distribute_batches",
    "has_bfloat16",
    "lost_workers_reported",
    "on_accelerator",
    "one_device",
    "resolved_name",
    "several_workers",
    "sum_over_workers",
    "worker_count",
    "worker_number",
]
