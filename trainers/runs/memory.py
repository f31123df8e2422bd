"""What a training needs of memory at the very least, known before anything is allocated."""

import itertools
import math
import os
import re

from keras_bt.preprocessing import height_and_width
from keras_bt.resnet import STAGES

_FLOAT = 4  # bytes
_COPIES = 3  # of each weight: itself, its gradient, its momentum


def check(settings, channels, workers, views=2):
    """Refuses a network or batches that this machine cannot hold, whatever else it must hold.

    Args:
        settings: `PretrainingSettings`.
        channels: int, those of the images.
        workers: int, number of machines that share a batch.
        views: int, those that are made of an image.

    Raises:
        ValueError: if they need more than the machine's memory.
    """
    have = memory()
    network = _COPIES * _FLOAT * parameters(settings)
    size = settings.image_size
    pixels = math.prod(height_and_width(size)) * channels
    batch = views * _FLOAT * pixels * settings.batch_size // workers
    shape = f"--backbone={settings.backbone}, --width={settings.width}"
    for what, needed, received in (
        (
            "The network's weights, gradients and momenta",
            network,
            f"{shape}, --projector={settings.projector}",
        ),
        (
            "The views of a batch",
            batch,
            f"--batch_size={settings.batch_size}, --image_size={size}",
        ),
    ):
        if needed > have:
            raise ValueError(
                f"{what} must fit into the memory of this machine, {have / 1e9:,.0f} GB. "
                f"Received: {received}, which need {needed / 1e9:,.0f} GB."
            )


def memory():
    """Returns the machine's memory in bytes; infinity if the system cannot say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf


def parameters(settings):
    """Counts the weights of convolutions and dense layers, those of a backbone's file left out."""
    found = re.fullmatch(r"resnet(\d+)", settings.backbone)
    inputs, count = settings.width, 0
    if not found or int(found[1]) not in STAGES:
        inputs = 0
    else:
        blocks, bottleneck = STAGES[int(found[1])]
        for stage, number in enumerate(blocks):
            f = settings.width * 2**stage
            outputs = 4 * f if bottleneck else f
            for _ in range(number):
                inner = 9 * f * f + f * outputs if bottleneck else 9 * f * f
                count += inputs * f * (1 if bottleneck else 9) + inner
                count += inputs * outputs if inputs != outputs else 0  # the shortcut
                inputs = outputs
    return count + sum(a * b for a, b in itertools.pairwise((inputs, *settings.widths)))
