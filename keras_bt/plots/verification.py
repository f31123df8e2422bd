"""Plots of verification: ROC curves, histograms of distances, the worst mistakes.

Every function writes one file, atomically, replacing an existing one.
"""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np

from keras_bt.evaluation.verification import area_under, equal_error_rate, roc
from keras_bt.plots import figures
from keras_bt.typing import Path

_DASHES = ("-", "--", "-.", ":")
_BINS = 60


def roc_curves(
    path: Path,
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    title: str = "ROC curves of verification",
) -> None:
    """Draws true accepts against false accepts, of several embeddings.

    False accepts are on a logarithmic axis, because a threshold is wanted at which they are rare. A
    curve begins at one false accept.

    Args:
        path: file to write.
        pairs: name of an embedding → distances, floats (n,), and same, bool (n,).
        title: title of the plot.

    Raises:
        ValueError: if there is no embedding, or as in `keras_bt.evaluation.verification.verify`.
    """
    if not pairs:
        raise ValueError("ROC curves need at least one embedding. Received: none.")
    figure, (axes,) = figures.new(8, 5)
    fewest = max(np.count_nonzero(~np.asarray(same, bool)) for _, same in pairs.values())
    for index, (name, (distances, same)) in enumerate(pairs.items()):
        false, true, _ = roc(distances, same)
        area, error = area_under(false, true), equal_error_rate(false, true)
        label = f"{name}: AUC {area:.3f}, equal error rate {100 * error:.1f}%"
        look = figures.run_style(index, 1) | {"ls": _DASHES[index % 4], "marker": ""}
        # A logarithmic axis has no place for zero: the curve enters from the left.
        shown = np.where(false > 0, false, 0.5 / fewest)
        axes.plot(shown, true, drawstyle="steps-post", label=label, **look)
    chance = np.geomspace(0.5 / fewest, 1)
    axes.plot(chance, chance, color="0.6", linewidth=0.8, label="chance")
    axes.set_xscale("log")
    axes.set_xlim(1 / fewest, 1)
    axes.set_ylim(0, 1.01)
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_formatter(_percent)
    axes.yaxis.set_major_formatter(_percent)
    axes.set_xlabel("false accepts, of pairs of different things")
    axes.set_ylabel("true accepts, of pairs of the same thing")
    axes.set_title(title, parse_math=False)
    figures.legend_below(figure, *axes.get_legend_handles_labels())
    figures.save(figure, path)


def distance_histograms(
    path: Path,
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray, float]],
    title: str = "Distances of pairs",
) -> None:
    """Draws how far pairs of the same and of different things are apart: a panel per embedding.

    Args:
        path: file to write.
        pairs: name of an embedding → distances, floats (n,); same, bool (n,); and the threshold.
        title: title of the plot.

    Raises:
        ValueError: if there is no embedding.
    """
    if not pairs:
        raise ValueError("Histograms need at least one embedding. Received: none.")
    figure, panels = figures.new(8, 2.3 * len(pairs) + 0.6, len(pairs), sharex=True)
    figure.suptitle(textwrap.fill(title, 72), fontsize=12, parse_math=False)
    for axes, (name, (distances, same, threshold)) in zip(panels, pairs.items(), strict=True):
        distances, same = np.asarray(distances), np.asarray(same, bool)
        ends = (*np.quantile(distances, (0, 1)), threshold)
        bins = np.linspace(min(ends), max(ends), _BINS + 1)
        for kind, color, label in (
            (same, figures.RIGHT, "the same thing"),
            (~same, figures.WRONG, "different things"),
        ):
            look = {"color": color, "label": label, "histtype": "stepfilled", "alpha": 0.5}
            weights = np.full(kind.sum(), 1 / kind.sum())
            axes.hist(distances[kind], bins, weights=weights, **look)
        axes.axvline(threshold, color="black", linestyle="--", linewidth=1, label="threshold")
        axes.yaxis.set_major_formatter(_percent)
        axes.grid(alpha=0.3)
        accepted = distances <= threshold
        wrong = f"false accepts {100 * accepted[~same].mean():.1f}%"
        wrong += f", false rejects {100 * (~accepted[same]).mean():.1f}%"
        axes.set_title(f"{name}: {wrong} at {threshold:.3f}", fontsize=10, parse_math=False)
        axes.set_ylabel("share of pairs")
    panels[-1].set_xlabel("distance of the embeddings")
    figures.legend_below(figure, *panels[0].get_legend_handles_labels())
    figures.save(figure, path)


def worst_mistakes(
    path: Path,
    far: Sequence[tuple[np.ndarray, np.ndarray, float, str]],
    near: Sequence[tuple[np.ndarray, np.ndarray, float, str]],
    title: str = "The worst mistakes",
) -> None:
    """Draws pairs that a threshold gets wrong by most: the same but far, different but near.

    Args:
        path: file to write.
        far: pairs of the same thing, worst first: two images (h, w, c), uint8 or floats 0 to 1; the
            distance; and what they show, or "".
        near: pairs of different things, likewise.
        title: title of the plot.

    Raises:
        ValueError: if there is no pair.
    """
    rows = max(len(far), len(near))
    if not rows:
        raise ValueError("Mistakes to draw must be at least one. Received: none.")
    first = (*far, *near)[0][0]
    height = 1.6 * min(2.0, first.shape[0] / first.shape[1])
    widths = [1, 1, 0.35, 1, 1]  # the narrow column separates the two kinds
    figure, panels = figures.new(8, (height + 0.35) * rows + 0.9, rows, 5, width_ratios=widths)
    panels = panels.reshape(rows, 5)
    title = textwrap.fill(title + figures.about_channels(first), 80)
    figure.suptitle(title, fontsize=12, parse_math=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for start, pairs, head in ((0, far, "the same, but far"), (3, near, "different, but near")):
        for row, (one, other, distance, shown) in enumerate(pairs):
            for axes, image in zip(panels[row, start : start + 2], (one, other), strict=True):
                axes.set_axis_on()
                axes.set(xticks=[], yticks=[])
                smooth = "nearest" if max(image.shape[:2]) < 100 else "antialiased"
                axes.imshow(figures.colors(image), interpolation=smooth)
                figures.frame(axes)
            left, right = panels[row, start : start + 2]
            left.set_xlabel(figures.shortened(shown, 26), fontsize=9, loc="left", parse_math=False)
            right.set_xlabel(f"{distance:.3f}", fontsize=9, loc="right")
        if pairs:
            panels[0, start].set_title(head, fontsize=10, loc="left")
    figures.save(figure, path)


def _percent(share, _):
    """Formats a tick, with no more digits than it has."""
    return f"{100 * share:g}%"
