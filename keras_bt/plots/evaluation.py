"""Plots of what a network has learned: its spectrum, its neighbors, its mistakes.

Every function writes one file, atomically, replacing an existing one.
"""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from keras_bt.evaluation.rankme import rankme_of_spectrum, singular_values
from keras_bt.plots import figures
from keras_bt.typing import Metrics, Path

_MOST_CLASSES_WITH_NUMBERS = 20
_MOST_CLASSES_WITH_NAMES = 60
# Below this share of the largest singular value, float32 features are nothing but rounding.
_SMALLEST_SHARE = 1e-7
_DASHES = ("-", "--", "-.", ":")
_ACCURACY, _COUNT = "accuracy while training", "dead dimensions"
# Label of a panel → its measures: name in the metrics → name in the legend.
MEASURES = {
    _ACCURACY: {"knn_accuracy": "nearest neighbors", "linear_accuracy": "linear probe"},
    "RankMe (dimensions in use)": {
        "feature_rankme": "features",
        "embedding_rankme": "embeddings",
    },
    "LiDAR (informative dimensions)": {
        "feature_lidar": "features",
        "embedding_lidar": "embeddings",
    },
    "α of the spectrum": {"feature_alpha": "features (α-ReQ: best near 1)"},
    "loss above the floor": {"fixed_excess": "of fixed views, in inference mode"},
    "diagonal of C": {"diagonal_mean": "mean (1 at best)", "diagonal_rms": "RMS"},
    "off-diagonal of C": {"off_diagonal_mean": "mean", "off_diagonal_rms": "RMS (0 at best)"},
    "spread of the embeddings": {"embedding_spread": "0 collapsed, 1 in all directions"},
    _COUNT: {"dead_features": "features", "dead_dimensions": "embeddings"},
}
_KEYS = frozenset(key for keys in MEASURES.values() for key in keys)


class NothingMeasuredError(ValueError):
    """Raised if metrics hold no measures, for example because no callback took any."""


def spectrum(
    path: Path, named_z: Mapping[str, np.ndarray], title: str = "Spectrum of the embeddings"
) -> None:
    """Draws the singular values of several matrices of features, and states their RankMe.

    A healthy spectrum falls slowly. One that drops to nothing early uses only some of its
    dimensions: dimensional collapse (Jing et al. 2022, arXiv 2110.09348). RankMe, the exponential
    of the entropy of the singular values, is a smooth count of the dimensions in use (Garrido et
    al. 2023, arXiv 2210.02885).

    Args:
        path: file to write.
        named_z: features or embeddings, floats (n, d), by a name such as `"trained"`. n images have
            at most n singular values, so n should exceed d.
        title: title of the plot.

    Raises:
        ValueError: if there is no matrix, or one is not of shape (n, d) or not finite.
    """
    matrices = {name: np.asarray(z) for name, z in named_z.items()}
    if not matrices:
        raise ValueError("named_z must hold at least one matrix. Received: none.")
    for name, z in matrices.items():
        rule = "A spectrum needs finite features of shape (n, d)."
        figures.check_matrix(z, z.ndim == 2 and z.size > 0, rule, name)
    figure, (axes,) = figures.new(8, 5)
    lowest = 0.1
    for index, (name, z) in enumerate(matrices.items()):
        values = singular_values(z)
        share = values / values[0] if values[0] > 0 else np.zeros(len(values))
        # A logarithmic axis has no place for zeros: the curve ends there.
        share = np.where(share > _SMALLEST_SHARE, share, np.nan)
        label = f"{name}: RankMe {rankme_of_spectrum(values):.1f} of {min(z.shape):,}"
        if not np.isfinite(share).any():
            label += ", all values 0"
        else:
            lowest = min(lowest, np.nanmin(share))
        look = figures.run_style(index, len(share)) | {"ls": _DASHES[index % 4], "markersize": 6}
        axes.plot(np.arange(1, len(share) + 1), share, label=label, **look)
    axes.set_yscale("log")
    axes.set_ylim(10 ** np.floor(np.log10(lowest)), 1.3)
    axes.set_xlim(0, None)
    figures.count_along_x(axes)
    axes.set_xlabel("rank of the singular value")
    axes.set_ylabel("singular value ÷ the largest")
    axes.set_title(title, parse_math=False)
    figures.legend_below(figure, *axes.get_legend_handles_labels())
    figures.save(figure, path)


def measures(path: Path, runs: list[Metrics] | dict[str, list[Metrics]]) -> list[str]:
    """Draws the measures that callbacks took while one or several runs trained.

    Each kind of measure that any run has gets a panel; runs without it are missing there. With
    several runs, colors stand for runs and line styles for measures; with one run, both stand for
    measures.

    Args:
        path: file to write.
        runs: metrics as `read_metrics` returns them, or a dict from run name to such metrics. The
            last value of each epoch counts.

    Returns:
        Names of the measures drawn, as in the metrics.

    Raises:
        NothingMeasuredError: if no run has any measure.
    """
    runs = runs if isinstance(runs, dict) else {"": runs}
    curves = {name: _by_epoch(metrics) for name, metrics in runs.items()}
    known = {key for curve in curves.values() for key in curve}
    drawn = [(label, keys) for label, keys in MEASURES.items() if known & keys.keys()]
    if not drawn:
        raise NothingMeasuredError(
            "The metrics must hold a measure such as knn_accuracy. Received: "
            f"{', '.join(sorted(known)) or 'none'}."
        )
    columns = 2 if len(drawn) > 1 else 1
    rows = -(-len(drawn) // columns)
    figure, panels = figures.new(6 * columns, 3.2 * rows + 0.5, rows, columns, sharex=True)
    figure.suptitle("Measures during training", fontsize=12)
    several = len(runs) > 1
    for axes, (label, keys) in zip(panels, drawn, strict=False):
        present = [key for key in keys if key in known]
        for which, key in enumerate(present):
            for index, curve in enumerate(curves.values()):
                if key not in curve:
                    continue
                x, y = curve[key]
                look = figures.run_style(index if several else which, len(x))
                axes.plot(x, y, linestyle=_DASHES[which % 4], **look)
            style = figures.run_style(which, 1) | (
                {"color": "0.4", "marker": ""} if several else {}
            )
            axes.plot([], [], linestyle=_DASHES[which % 4], label=keys[key], **style)
        figures.log_if_wide(axes)
        if label == _ACCURACY:
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        if label == _COUNT:
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(label)
        figures.count_along_x(axes)
        axes.legend(fontsize=9)
    for axes in panels[len(drawn) :]:
        axes.set_axis_off()
    for axes in panels[max(len(drawn) - columns, 0) : len(drawn)]:  # bottom of each column
        axes.set_xlabel("epoch")
        axes.xaxis.set_tick_params(labelbottom=True)
    if several:
        handles = [
            Line2D([], [], **(figures.run_style(index, 1) | {"markevery": 1}))
            for index in range(len(runs))
        ]
        figures.legend_below(figure, handles, list(runs))
    figures.save(figure, path)
    return [key for _, keys in drawn for key in keys if key in known]


def _by_epoch(metrics):
    """Returns a dict from measure to (epochs, values), the last finite value of each epoch."""
    found: dict[str, Metrics] = {}
    for entry in metrics:
        for key, value in entry.items():
            if key in _KEYS and "epoch" in entry and np.isfinite(value):
                found.setdefault(key, {})[entry["epoch"]] = value
    return {key: (list(values), list(values.values())) for key, values in found.items()}


def neighbours(
    path: Path,
    queries: np.ndarray,
    images: np.ndarray,
    similarities: np.ndarray,
    query_labels: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    title: str = "Nearest neighbors by cosine similarity of features",
) -> None:
    """Draws query images, each with its nearest neighbors to the right.

    The similarity and class are below each neighbor. A check mark and a solid blue frame mark the
    query's class, a cross and a dashed orange frame any other.

    Args:
        path: file to write.
        queries: images (q, h, w, c), floats 0 to 1 or uint8; of more than three channels the first
            three are drawn.
        images: neighbors of each query, most similar first, (q, k, h, w, c), of the same dtype.
        similarities: floats (q, k), -1 to 1.
        query_labels: integers (q,) from 0, or None for unlabeled images.
        labels: integers (q, k) from 0, or None for unlabeled images.
        class_names: name of each class; by default its number.
        title: title of the plot.
    """
    q, k = similarities.shape
    title += figures.about_channels(queries)
    queries, images = figures.colors(queries), figures.colors(images)
    labelled = query_labels is not None and labels is not None
    query_labels, labels = np.asarray(query_labels), np.asarray(labels)
    if labelled:
        title += " (✓ the query's class, ✗ another)"

    def name(label):
        text = label if class_names is None else class_names[label]
        return textwrap.fill(figures.shortened(text, 34), 17)

    lines = 2  # of text under a row
    if labelled:
        lines += max(name(label).count("\n") for label in {*labels.ravel(), *query_labels})
    inches, height = 1.35, queries.shape[1] / queries.shape[2]
    widths = [1, 0.25, *[1] * k]  # the narrow column separates queries from neighbors
    size = inches * 1.06 * sum(widths), (inches * height + 0.17 * lines + 0.1) * q + 0.8
    figure, panels = figures.new(*size, q, k + 2, width_ratios=widths)
    panels = panels.reshape(q, k + 2)
    figure.suptitle(textwrap.fill(title, int(9 * size[0])), fontsize=12, parse_math=False)
    smooth = "nearest" if max(queries.shape[1:3]) < 100 else "antialiased"
    for row in range(q):
        for axes in panels[row]:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        panels[row, 0].imshow(queries[row], interpolation=smooth)
        caption = name(query_labels[row]) if labelled else ""
        panels[row, 0].set_xlabel(caption, fontsize=9, weight="bold", parse_math=False)
        for rank in range(k):
            axes = panels[row, rank + 2]
            axes.imshow(images[row, rank], interpolation=smooth)
            caption = f"{similarities[row, rank]:.2f}"
            if labelled:
                right = query_labels[row] == labels[row, rank]
                color = figures.RIGHT if right else figures.WRONG
                caption = f"{'✓' if right else '✗'} {caption}\n{name(labels[row, rank])}"
                dashes = "-" if right else (0, (3, 1.5))
                axes.spines[:].set(visible=True, color=color, linewidth=2.5, linestyle=dashes)
                axes.spines[:].set_capstyle("butt")  # projecting caps would fill the gaps
                axes.xaxis.label.set_color(color)
            axes.set_xlabel(caption, fontsize=8, parse_math=False)
    panels[0, 0].set_title("query", fontsize=10)
    panels[0, 2].set_title("nearest →", fontsize=10)
    figures.save(figure, path)


def confusion_matrix(
    path: Path,
    labels: np.ndarray,
    predictions: np.ndarray,
    class_names: Sequence[str],
    title: str = "Confusion matrix",
) -> None:
    """Draws which classes a classifier confuses, in percent of each true class.

    Cells show their numbers for up to 20 classes, axes the names for up to 60.

    Args:
        path: file to write.
        labels: integers (n,), the true classes.
        predictions: integers (n,), the predicted classes.
        class_names: name of each class.
        title: title of the plot; the accuracy is added.

    Raises:
        ValueError: if the shapes do not fit, there is no image, or a class has no name.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.ndim != 1 or labels.shape != predictions.shape or not len(labels):
        raise ValueError(
            "labels and predictions must have the same shape (n,), n >= 1. "
            f"Received: {labels.shape} and {predictions.shape}."
        )
    c = len(class_names)
    lowest, highest = min(labels.min(), predictions.min()), max(labels.max(), predictions.max())
    if lowest < 0 or highest >= c:
        raise ValueError(
            f"Classes must be 0 to {c - 1}, because there are {c} names. "
            f"Received: {lowest} to {highest}."
        )
    counts = np.zeros((c, c), np.int64)
    np.add.at(counts, (labels, predictions), 1)
    totals = counts.sum(axis=1, keepdims=True)
    percent = np.where(totals > 0, 100 * counts / np.maximum(totals, 1), np.nan)

    numbers, names = c <= _MOST_CLASSES_WITH_NUMBERS, c <= _MOST_CLASSES_WITH_NAMES
    short = [figures.shortened(name, 30) for name in class_names]
    longest = max(map(len, short)) if names else 4
    side = max(4.5, c * (0.5 if numbers else 0.2)) if names else 7
    figure, (axes,) = figures.new(side + 1.6 + 0.08 * longest, side + 0.9 + 0.08 * longest)
    # A square-root scale, so that a few percent of mistakes are visible beside 100.
    scale = PowerNorm(0.5, vmin=0, vmax=100)
    picture = axes.imshow(percent, cmap="Blues", norm=scale, interpolation="nearest")
    accuracy = 100 * np.mean(labels == predictions)
    caption = f"{title}\n{accuracy:.1f}% of {len(labels):,} images correct"
    axes.set_title(caption, fontsize=11, parse_math=False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if names:
        style = {"fontsize": 9 if numbers else 7, "parse_math": False}
        axes.set_xticks(range(c), short, rotation=90 if longest > 3 else 0, **style)
        axes.set_yticks(range(c), short, **style)
    # Not scikit-learn's ConfusionMatrixDisplay: it imports pyplot, writes zeros and NaN into the
    # cells, and chooses the color of the numbers for a linear scale.
    if numbers:
        for (row, column), value in np.ndenumerate(percent):
            if counts[row, column]:
                text = f"{value:.0f}" if value >= 0.5 else "<1"
                color = "white" if scale(value) > 0.6 else "black"
                axes.text(column, row, text, color=color, ha="center", va="center", fontsize=8)
    bar = figure.colorbar(picture, ax=axes, shrink=0.75, format=PercentFormatter())
    bar.set_label("share of the true class")
    figures.save(figure, path)
