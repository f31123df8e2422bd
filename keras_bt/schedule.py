"""The learning rate: linear warm-up, then half a cosine."""

import keras

FINAL_FRACTION = 0.001  # of the peak, as published


def warmup_cosine(
    peak: float, steps: int, warmup_steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns the published schedule: linearly from 0 to the peak, then a cosine to 0.001 peak.

    With w = warmup_steps, at step t the rate is

        peak · t / w                                                       for t < w,
        peak · (q + 0.001 (1 − q)),  q = (1 + cos(π (t − w) / (steps − w))) / 2  afterwards.

    The published rate of kernels is `peak = 0.2 * batch_size / 256`; the `bias_rate_ratio` of
    `LARS` derives the rate of biases and BatchNormalization parameters from it.

    >>> rate = warmup_cosine(1.6, steps=1000, warmup_steps=100)
    >>> [round(float(rate(t)), 4) for t in (0, 50, 100, 550, 1000)]
    [0.0, 0.8, 1.6, 0.8008, 0.0016]

    Args:
        peak: the highest rate, > 0.
        steps: training steps in total.
        warmup_steps: 0 ≤ warmup_steps ≤ steps. If equal, training ends as the peak is reached.

    Returns:
        The rate as a function of the step, constant after the last one.

    Raises:
        ValueError: if an argument is out of range.

    Source: `adjust_learning_rate` of the published code; section 2.2 of the paper.
    """
    if not peak > 0:
        raise ValueError(f"peak must be > 0. Received: peak={peak}.")
    if not 0 <= warmup_steps <= steps or steps < 1:
        raise ValueError(
            "warmup_steps must be at least 0 and at most steps, which must be at least 1. "
            f"Received: warmup_steps={warmup_steps}, steps={steps}."
        )
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup_steps else peak,
        decay_steps=max(1, steps - warmup_steps),
        alpha=FINAL_FRACTION,
        warmup_target=peak if warmup_steps else None,
        warmup_steps=warmup_steps,
    )
