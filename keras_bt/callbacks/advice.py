"""What to say when training goes wrong, in plain words, and when to keep quiet.

Every rule is a function of numbers, returning the text or None. The limits are far from what
healthy runs show: over 40 epochs on handwritten digits the RMS of C off the diagonal stayed below
0.31 and below 0.62 of that on it, once that passed 0.3; with λ = 0 it passes 0.7 and 0.9. Untrained
networks (ResNets 18 and 50, a plain one without normalization) had a spread of 0.2 or more, and
fewer than 15% of dead features.
"""

import numpy as np

NO_SPREAD = 1e-5
LEAST_SPREAD = 0.01
REDUNDANT_RMS = 0.6
REDUNDANT_SHARE = 0.8  # of the diagonal's RMS
LEAST_IMAGES = 32  # below, chance alone correlates dimensions: by 1/√(n − 1)
DEAD_SHARE = 1 / 3
PLATEAU_EPOCHS = 12
PLATEAU_GAIN = 0.005
PLATEAU_ABOVE = 0.5


def constant(health, settled):
    """Whether all images get the same embedding.

    Args:
        health: `Health` after an epoch.
        settled: bool, whether BatchNormalization's moving statistics can be relied on. As long as
            they cannot, only what is constant to rounding is: a healthy network whose weights have
            run ahead of its statistics was seen with a spread of 0.003.

    Returns:
        The warning, or None.
    """
    if not health.embedding_spread < (LEAST_SPREAD if settled else NO_SPREAD):
        return None
    return (
        "the embeddings have collapsed: they are the same for every image (embedding_spread "
        f"{health.embedding_spread:.2g}, healthy is about 1; RankMe "
        f"{health.embedding_rankme:.1f}). What to try: a lower rate or a longer warm-up; make sure "
        "that the projector's last layer is trained and not all zeros; look at the views, whether "
        "anything is left of the images."
    )


def redundant(health, before, num_images, dim, redundancy_weight):
    """Whether the dimensions of the embedding all say the same: what λ is there to prevent.

    Untrained networks can be so, too, where images differ in their brightness most of all; so it
    must also be no better than it was before training.

    Args:
        health: `Health` after an epoch.
        before: `Health` before training.
        num_images: n, images that were measured.
        dim: d, width of the projector.
        redundancy_weight: λ.

    Returns:
        The warning, or None.
    """
    off, on = health.off_diagonal_rms, health.diagonal_rms
    if num_images < LEAST_IMAGES or dim < 2:
        return None
    if not (off > REDUNDANT_RMS and off > REDUNDANT_SHARE * on):
        return None
    if off < before.off_diagonal_rms:
        return None
    return (
        f"the embeddings have collapsed into a few directions: their {dim:,} dimensions all say "
        f"nearly the same (RMS of C {off:.2f} off the diagonal, {on:.2f} on it; RankMe "
        f"{health.embedding_rankme:.1f} of at most {min(2 * num_images, dim):,}). What to try: a "
        f"larger redundancy_weight λ (now {redundancy_weight:g}; published is 0.0051); a larger "
        "batch; a lower rate."
    )


def dead(health, num_features, dim):
    """Whether many dimensions of features or embeddings are the same for all images.

    Args:
        health: `Health` after an epoch.
        num_features: int, length of the backbone's features.
        dim: d, width of the projector.

    Returns:
        The warning, or None.
    """
    counts = (
        (health.dead_features, num_features, "features of the backbone"),
        (health.dead_dimensions, dim, "dimensions of the embedding"),
    )
    worst = [
        f"{count:,.0f} of {size:,} {name}"
        for count, size, name in counts
        if count > DEAD_SHARE * size
    ]
    if not worst:
        return None
    return (
        f"{' and '.join(worst)} are dead: they hardly change from image to image. What to try: a "
        "lower rate or a longer warm-up; BatchNormalization before the ReLUs; a narrower network, "
        "which has no use for so many."
    )


def plateau(excesses, floor, dim):
    """Whether the loss has stopped falling far above the smallest value possible.

    Compared are the means of the last six epochs and of the six before. An embedding whose views
    have nothing in common loses about d, one per dimension; far above the floor means that less
    than half of the way from there has been made. Where more has been made, a loss that slows down
    is what the end of training looks like.

    Args:
        excesses: floats, `excess` of every epoch so far.
        floor: float, the smallest loss possible for the training batch.
        dim: d, width of the projector.

    Returns:
        The warning, or None.
    """
    if len(excesses) < PLATEAU_EPOCHS:
        return None
    half = PLATEAU_EPOCHS // 2
    earlier = np.mean(excesses[-PLATEAU_EPOCHS:-half])
    now = np.mean(excesses[-half:])
    if not now > max(PLATEAU_ABOVE * (dim - floor), (1 - PLATEAU_GAIN) * earlier):
        return None
    return (
        f"the loss has not moved for {PLATEAU_EPOCHS} epochs and is still {now:,.0f} above the "
        f"smallest possible ({floor:,.0f}; {dim:,} is where views have nothing in common). What to "
        "try: another rate, ten times lower if the loss jumps about, higher if it stands still; "
        "weaker views (look at them: can you tell which two belong together?); a smaller "
        "redundancy_weight λ."
    )
