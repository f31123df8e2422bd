"""Warnings, in plain words, for when training goes wrong.

Every rule is a function of numbers that returns the warning or None. The limits are far from what
healthy runs show: over 40 epochs on handwritten digits the RMS of C off the diagonal stayed below
0.31, and below 0.62 times the RMS on the diagonal once the latter had passed 0.3; with λ = 0 they
pass 0.7 and 0.9. Untrained networks (ResNets 18 and 50, and a plain one without normalization) had
a spread of at least 0.2, and fewer than 15% of their features were dead.
"""

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np

from keras_bt.callbacks.health import Health
from keras_bt.typing import Metrics

NO_SPREAD = 1e-5
LEAST_SPREAD = 0.01
REDUNDANT_RMS = 0.6
REDUNDANT_SHARE = 0.8  # of the diagonal's RMS
LEAST_IMAGES = 32  # below this, chance alone correlates dimensions: by 1/√(n − 1)
DEAD_SHARE = 1 / 3
PLATEAU_EPOCHS = 12
PLATEAU_GAIN = 0.005
PLATEAU_ABOVE = 0.5
STILL_FALLING = 0.02  # from the last quarter but one to the last
PEAKED_BY = 0.03  # accuracy lost since its best


def constant(health: Health, settled: bool) -> str | None:
    """Warns if all images get the same embedding.

    Args:
        health: measured after an epoch.
        settled: whether BatchNormalization's moving statistics can be relied on. Until then only
            embeddings that are constant up to rounding are warned about: a healthy network whose
            weights had run ahead of its statistics was seen with a spread of 0.003.

    Returns:
        The warning, or None.
    """
    if not health.embedding_spread < (LEAST_SPREAD if settled else NO_SPREAD):
        return None
    return (
        "the embeddings have collapsed: they are the same for every image (embedding_spread "
        f"{health.embedding_spread:.2g}, healthy is about 1; RankMe "
        f"{health.embedding_rankme:.1f}). Try a lower learning rate or a longer warm-up; check "
        "that the projector's last layer is trained and not all zeros; look at the views to see "
        "whether anything is left of the images."
    )


def redundant(
    health: Health, before: Health, num_images: int, dim: int, redundancy_weight: float | None
) -> str | None:
    """Warns if all dimensions of the embedding say the same, which λ is there to prevent.

    An untrained network can be like that, too, where images differ mostly in brightness; so there
    is a warning only if redundancy is no lower than before training.

    Args:
        health: measured after an epoch.
        before: measured before training.
        num_images: n, images measured.
        dim: d, width of the projector.
        redundancy_weight: λ; None for an objective that has none.

    Returns:
        The warning, or None.
    """
    off, on = health.off_diagonal_rms, health.diagonal_rms
    if num_images < LEAST_IMAGES or dim < 2:
        return None
    if not off > max(REDUNDANT_RMS, REDUNDANT_SHARE * on) or off < before.off_diagonal_rms:
        return None
    weight = ""
    if redundancy_weight is not None:
        weight = (
            f"redundancy_weight λ (now {redundancy_weight:g}; the paper uses 0.0051), a larger "
        )
    return (
        f"the embeddings have collapsed into a few directions: their {dim:,} dimensions all say "
        f"nearly the same (RMS of C {off:.2f} off the diagonal, {on:.2f} on it; RankMe "
        f"{health.embedding_rankme:.1f} of at most {min(2 * num_images, dim):,}). Try a "
        f"larger {weight}batch or a lower learning rate."
    )


def dead(health: Health, num_features: int, dim: int) -> str | None:
    """Warns if many dimensions of features or embeddings are the same for all images.

    Args:
        health: measured after an epoch.
        num_features: length of the backbone's features.
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
        f"{' and '.join(worst)} are dead: they hardly change from image to image. Try a lower "
        "learning rate or a longer warm-up, BatchNormalization before the ReLUs, or a narrower "
        "network, which would not need so many."
    )


def knows_far(names: Collection[str]) -> bool:
    """Tells whether it is known how far above its floor a loss is far, from the names of metrics.

    It is known of the objective of Barlow Twins, which is recognized by its term; not with a mixed
    view, whose term belongs to the excess as well, but can be large in healthy runs.

    Args:
        names: names of the metrics of an epoch.
    """
    return {"loss", "excess", "on_diagonal"} <= set(names) and "mixed" not in names


def plateau(excesses: Sequence[float], floor: float, dim: int) -> str | None:
    """Warns if the loss of Barlow Twins has stopped falling far above the smallest possible value.

    Compares the mean of the last six epochs with that of the six before. An embedding whose views
    have nothing in common has a loss of about d; "far above" means that less than half of the way
    from there to the floor has been covered.

    Args:
        excesses: `excess` of every epoch so far.
        floor: the smallest possible loss for the training batch.
        dim: d, width of the projector.

    Returns:
        The warning, or None.
    """
    if len(excesses) < PLATEAU_EPOCHS:
        return None
    half = PLATEAU_EPOCHS // 2
    earlier = float(np.mean(excesses[-PLATEAU_EPOCHS:-half]))
    now = float(np.mean(excesses[-half:]))
    if not now > max(PLATEAU_ABOVE * (dim - floor), (1 - PLATEAU_GAIN) * earlier):
        return None
    return (
        f"the loss has not moved for {PLATEAU_EPOCHS} epochs and is still {now:,.0f} above the "
        f"smallest possible value ({floor:,.0f}; at {dim:,} the views have nothing in common). "
        "Try another learning rate, ten times lower if the loss jumps around, higher if it stands "
        "still; weaker views (look at them: can you tell which two belong together?); or a smaller "
        "redundancy_weight λ."
    )


def next_step(metrics: Sequence[Metrics], dim: int, num_features: int) -> str | None:
    """Says in one line what to try after a training whose accuracies are low.

    The first of these that holds: the loss is not finite; embeddings are constant, or features
    dead; the accuracy had been higher; the loss still falls; it stands still far above the floor;
    it has reached its end. How far "far" is, is not known of every objective, see `knows_far`.

    Args:
        metrics: lines as `read_metrics` returns them. `loss` and `excess` are needed; the fields of
            `Health` and `knn_accuracy` are used where there are any.
        dim: d, width of the projector.
        num_features: length of the backbone's features.

    Returns:
        The advice, or None if no loss is known.
    """
    lines = [entry for entry in metrics if "loss" in entry and "excess" in entry]
    if not lines:
        return None
    if not np.isfinite(lines[-1]["loss"]):
        return "The loss was not finite in the end: try a lower learning rate or a longer warm-up."
    names = [field.name for field in dataclasses.fields(Health)]
    looks = [entry for entry in metrics if "embedding_spread" in entry]
    if looks:  # earlier versions logged fewer measures
        health = Health(**{name: looks[-1].get(name, np.nan) for name in names})
        for warning in (constant(health, settled=True), dead(health, num_features, dim)):
            if warning is not None:
                return f"{warning[0].upper()}{warning[1:]}"
    measured = [entry for entry in metrics if np.isfinite(entry.get("knn_accuracy", np.nan))]
    if measured:
        best = max(measured, key=lambda entry: entry["knn_accuracy"])
        if best["knn_accuracy"] > measured[-1]["knn_accuracy"] + PEAKED_BY:
            return (
                f"During training kNN reached {100 * best['knn_accuracy']:.1f}% after epoch "
                f"{best['epoch']:.0f} and was at {100 * measured[-1]['knn_accuracy']:.1f}% in the "
                "end: stop earlier, or try other views or a lower learning rate."
            )
    excesses = np.array([entry["excess"] for entry in lines])
    quarter = len(excesses) // 4
    if not quarter:
        return "The training was too short to learn much: train longer."
    before, last = excesses[-2 * quarter : -quarter].mean(), excesses[-quarter:].mean()
    floor = lines[-1]["loss"] - lines[-1]["excess"]
    if last < (1 - STILL_FALLING) * before:
        return (
            f"The loss was still falling (its excess by {100 * (1 - last / before):.0f}% in the "
            "last quarter of the training): train longer."
        )
    if knows_far(lines[-1]) and last > PLATEAU_ABOVE * (dim - floor):
        return (
            f"The loss stands still {last:,.0f} above the smallest possible value, where the views "
            f"have little in common (nothing at {dim - floor:,.0f}): try another learning rate, "
            "weaker views, or a smaller redundancy_weight λ."
        )
    return (
        "The loss no longer falls, so training longer would change little: try other views (look "
        "at them: do they keep what you would call the same image, and change the rest?), another "
        "learning rate or a wider network."
    )
