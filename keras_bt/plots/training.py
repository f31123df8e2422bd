"""Plots of metrics and arrays: PNG files, drawn without pyplot and without a display.

Every function writes one file, atomically, replacing an existing one. Color-blind people can tell
the colors apart, and where colors mean classes the shapes of the markers differ, too.
"""

import math
from collections.abc import Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from keras_bt.plots import figures
from keras_bt.typing import Metrics, Path

_PAPER = ("on_diagonal", "off_diagonal")
# All terms that the objectives of `keras_bt.objectives` log, in the order of their curves.
TERMS = (*_PAPER, "mixed", "alignment", "uniformity", "invariance", "variance", "covariance")
_DASHES = ("-", "--", "-.")
_MOST_PAIRS = 8
_MOST_CLASSES_IN_LEGEND = 40
_MOST_POINTS = 2000  # of a feature map: t-SNE takes about 5 s for so many


def loss_curve(path: Path, runs: list[Metrics] | dict[str, list[Metrics]]) -> None:
    """Draws the loss of one or several runs with its floor, and its terms below.

    The floor, which no loss of the batch size and width is below, is `loss - excess` of each run.
    The redundancy term of Barlow Twins is drawn weighted, `loss - on_diagonal`, so that both terms
    are on the scale of the loss; the terms of other objectives are drawn as they are logged,
    without weights. Terms are left out where the runs do not have the same ones. Axes are
    logarithmic where values span more than a factor of ten.

    Args:
        path: file to write.
        runs: metrics as `read_metrics` returns them, or a dict from run name to such metrics. Each
            entry has `step` and `loss`, and `excess` and the terms if known.

    Raises:
        ValueError: if a run has no finite loss.
    """
    runs = runs if isinstance(runs, dict) else {"": runs}
    curves = {name: _columns(metrics) for name, metrics in runs.items()}
    for name, curve in curves.items():
        if not np.isfinite(curve["loss"]).any():
            raise ValueError(
                "A loss curve needs metrics with a finite loss. "
                f"Received: {len(runs[name])} entries without one{f' in {name}' if name else ''}."
            )
    found = {
        tuple(name for name in TERMS if np.isfinite(curve[name]).any()) for curve in curves.values()
    } - {()}
    terms = found.pop() if len(found) == 1 else ()
    drawn = {name: name for name in terms}
    if terms == _PAPER:
        for curve in curves.values():
            curve["redundancy"] = curve["loss"] - curve["on_diagonal"]
        drawn = {
            "on_diagonal": "invariance (on-diagonal)",
            "redundancy": "redundancy (λ × off-diagonal)",
        }

    several = len(runs) > 1
    figure, panels = figures.new(8, 7.5 if drawn else 4.5, 2 if drawn else 1, sharex=True)
    # By label, because runs of one batch size and width share theirs: value, color, names.
    floors: dict[str, tuple[float, str, list[str]]] = {}
    for index, (name, curve) in enumerate(curves.items()):
        x = curve["step"]
        style = figures.run_style(index, len(x))
        if not several:  # markers only where points are few
            style = {"color": style["color"]} | ({"marker": "o", "ms": 4} if len(x) < 20 else {})
        color = style.pop("color")
        panels[0].plot(x, curve["loss"], color=color, label=name or "loss", **style)
        known = np.isfinite(curve["loss"] - curve["excess"])
        value = np.median((curve["loss"] - curve["excess"])[known]) if known.any() else math.nan
        # That of Barlow Twins may be 0; with other objectives 0 means unknown.
        if known.any() and (value != 0 or np.isfinite(curve["on_diagonal"]).any()):
            floors.setdefault(f"{value:.3g}", (value, color if several else "black", []))
            floors[f"{value:.3g}"][2].append(name)
        for number, term in enumerate(drawn):
            color = color if several else figures.COLORS[number]
            panels[1].plot(x, curve[term], _DASHES[number], color=color, **style)
    for axes in panels:
        figures.log_if_wide(axes)
        figures.count_along_x(axes)
    lowest = min(np.nanmin(curve["loss"]) for curve in curves.values())
    for text, (value, color, names) in floors.items():
        label = f"floor {text}: lower bound for this batch size and width"
        if several and len(floors) > 1:
            label = f"floor {text} ({', '.join(names)})"
        color = color if len(floors) > 1 else "black"
        # On a logarithmic axis, a tiny floor would squeeze the curves into a strip at the top.
        if value < lowest / 50 and panels[0].get_yscale() == "log":
            panels[0].plot([], [], ":", color=color, label=f"{label}, below the picture")
        else:
            panels[0].axhline(value, color=color, linestyle=":", linewidth=1.5, label=label)
    if drawn:
        for number, label in enumerate(drawn.values()):
            color = "0.4" if several else figures.COLORS[number]
            panels[1].plot([], [], _DASHES[number], color=color, label=label)
        panels[1].set_ylabel(f"term of the loss{'' if terms == _PAPER else ', without weight'}")
        panels[1].legend(fontsize=9)
    panels[0].set_title("Loss")
    panels[0].set_ylabel("loss")
    panels[-1].set_xlabel("training step")
    if several:  # names of runs may be long, and curves leave little room between them
        figures.legend_below(figure, *panels[0].get_legend_handles_labels())
    else:
        panels[0].legend(fontsize=9)
    figures.save(figure, path)


def view_pairs(
    path: Path,
    view_a: np.ndarray,
    view_b: np.ndarray,
    mean: float | Sequence[float],
    std: float | Sequence[float],
) -> None:
    """Draws the two views of the first eight images side by side, with normalization undone.

    Args:
        path: file to write.
        view_a: floats (n, h, w, c), n >= 1, normalized; of more than three channels the first
            three are drawn.
        view_b: the same images' other views, of the same shape.
        mean: mean that was subtracted from each channel, on the scale 0 to 1.
        std: standard deviation that each channel was divided by.
    """
    view_a, view_b = np.asarray(view_a, np.float32), np.asarray(view_b, np.float32)
    pairs = min(len(view_a), _MOST_PAIRS)
    blocks = 1 if pairs < 4 else 2  # two pairs per row, to avoid a tall strip
    rows = -(-pairs // blocks)
    columns = ([1, 1, 0.25] * blocks)[:-1]  # an empty narrow column separates the pairs
    height, width = view_a.shape[1:3]
    size = 1.75 * sum(columns), (1.7 * height / width + 0.06) * rows + 0.7
    figure, panels = figures.new(*size, rows, len(columns), width_ratios=columns)
    panels = panels.reshape(rows, len(columns))
    figure.suptitle(f"What the model sees{figures.about_channels(view_a)}", fontsize=12)
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for pair in range(pairs):
        row, block = divmod(pair, blocks)
        for side, (name, view) in enumerate((("view A", view_a), ("view B", view_b))):
            axes = panels[row, 3 * block + side]
            image = np.clip(view[pair] * np.asarray(std) + np.asarray(mean), 0, 1)
            smooth = "nearest" if max(height, width) < 200 else "antialiased"
            axes.imshow(figures.colors(image), interpolation=smooth)
            figures.frame(axes)
            if row == 0:
                axes.set_title(name, fontsize=11)
    figures.save(figure, path)


def correlation(path: Path, matrices: np.ndarray | dict[str, np.ndarray]) -> None:
    """Draws cross-correlation matrices, which training drives toward the identity.

    Args:
        path: file to write.
        matrices: C, floats (d, d), -1 to 1; or a dict from names to such matrices, drawn side by
            side, such as `{"before": c0, "after": c1}`.

    Raises:
        ValueError: if a matrix is not square or not finite.
    """
    matrices = matrices if isinstance(matrices, dict) else {"": matrices}
    matrices = {name: np.asarray(c, np.float32) for name, c in matrices.items()}
    for name, c in matrices.items():
        square = c.ndim == 2 and c.shape[0] == c.shape[1] > 0
        figures.check_matrix(c, square, "A correlation matrix must be square and finite.", name)
    figure, panels = figures.new(5 * len(matrices) + 1, 5.4, 1, len(matrices))
    figure.suptitle("Cross-correlation of the two views' embeddings", fontsize=12)
    for axes, (name, c) in zip(panels, matrices.items(), strict=True):
        d = len(c)
        diagonal = np.diagonal(c)
        # Sums squares without the diagonal: subtracting it afterward would lose digits.
        off_diagonal = np.where(np.eye(d, dtype=bool), 0, c)
        rms = np.sqrt(np.sum(off_diagonal**2, dtype=np.float64) / max(d * (d - 1), 1))
        reduced, block = _strongest_of_blocks(c, 1024)
        picture = axes.imshow(
            reduced, cmap="RdBu_r", vmin=-1, vmax=1, extent=(0, d, d, 0), interpolation="nearest"
        )
        lines = [name] if name else []
        lines.append(f"diagonal: mean {diagonal.mean():.3f}   off-diagonal: RMS {rms:.3f}")
        if block > 1:
            lines.append(f"each dot: the strongest of {block} × {block} entries")
        axes.set_title("\n".join(lines), fontsize=10)
        axes.set_xlabel("feature of view B's embedding")
        axes.set_ylabel("feature of view A's embedding")
    bar = figure.colorbar(picture, ax=panels, shrink=0.75)
    bar.set_label("correlation")
    figures.save(figure, path)


def feature_map(
    path: Path,
    features: np.ndarray,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    method: str = "tsne",
    seed: int = 0,
) -> None:
    """Draws features in two dimensions, colored by class: of more than 2000 images a random part.

    Args:
        path: file to write.
        features: floats (n, d), n >= 3, d >= 2.
        labels: integers (n,) from 0, or None for one color.
        class_names: name of each class; by default its number.
        method: `"pca"`, the two directions of largest variance, or `"tsne"`, which keeps neighbors
            together but whose axes and large distances mean nothing (van der Maaten and Hinton
            2008).
        seed: seed of the random part and of t-SNE.

    Raises:
        ValueError: if shapes do not fit, features are not finite, or `method` is something else.
    """
    features = np.asarray(features, np.float32)
    fits = features.ndim == 2 and len(features) >= 3 and features.shape[1] >= 2
    rule = "features must be finite and of shape (n, d) with n >= 3 and d >= 2."
    figures.check_matrix(features, fits, rule)
    if labels is not None and np.shape(labels) != (len(features),):
        raise ValueError(
            f"labels must hold one class per feature ({len(features)}). "
            f"Received: labels of shape {np.shape(labels)}."
        )
    if method not in ("pca", "tsne"):
        raise ValueError(f'method must be "pca" or "tsne". Received: {method!r}.')
    chosen = np.sort(np.random.default_rng(seed).permutation(len(features))[:_MOST_POINTS])
    # One thread: several wait for each other on busy cores, 36 s against 5 s.
    with threadpool_limits(limits=1):
        points, axis_names = _project(features[chosen], method, seed)

    classes = [] if labels is None else np.unique(np.asarray(labels)[chosen]).tolist()
    names = [str(label) if class_names is None else str(class_names[label]) for label in classes]
    with_legend = 0 < len(classes) <= _MOST_CLASSES_IN_LEGEND
    legend_columns = -(-len(classes) // 20) if with_legend else 0
    longest = max(map(len, names), default=0)
    figure, (axes,) = figures.new(7 + legend_columns * (0.6 + 0.08 * longest), 6.2)
    if labels is None:
        axes.scatter(*points.T, s=14, color=figures.COLORS[0], alpha=0.7, linewidths=0)
    for label, name in zip(classes, names, strict=True):
        tens, ones = divmod(label, 10)
        axes.scatter(
            *points[np.asarray(labels)[chosen] == label].T,
            s=22,
            color=figures.COLORS[ones],
            marker=figures.MARKS[(ones + tens) % 10],  # from ten on, colors pair with other markers
            alpha=0.8,
            edgecolors="white",
            linewidths=0.3,
            label=name.replace("$", r"\$"),  # part of a name, not a formula
        )
    if with_legend:
        style = {"title": "class", "fontsize": 9, "markerscale": 1.5, "ncols": legend_columns}
        figures.legend(figure, loc="outside right center", **style)
    title = f"Features of {len(chosen):,}"
    title += f" of {len(features):,} images" if len(chosen) < len(features) else " images"
    title += {"pca": " (principal components)", "tsne": " (t-SNE)"}[method]
    title += "" if with_legend or labels is None else f", {len(classes)} classes"
    axes.set_title(title)
    axes.set_xlabel(axis_names[0])
    axes.set_ylabel(axis_names[1])
    if method == "tsne":  # its scale means nothing
        axes.set_xticks([])
        axes.set_yticks([])
    figures.save(figure, path)


def _project(features, method, seed):
    """Returns points (n, 2) and the names of the two axes."""
    centered = features - features.mean(axis=0)
    u, s, _ = np.linalg.svd(centered, full_matrices=False)
    if method == "pca":
        share = 100 * s[:2] ** 2 / max(np.sum(s**2), np.finfo(np.float32).tiny)
        names = [f"principal component {i + 1} ({share[i]:.0f}% of the variance)" for i in (0, 1)]
        return u[:, :2] * s[:2], names
    from sklearn.manifold import TSNE  # takes a second to import, needed only here

    # The 50 strongest directions hold the neighborhoods, with less noise and in less time.
    tsne = TSNE(init="pca", perplexity=min(30.0, (len(centered) - 1) / 3), random_state=seed)
    return tsne.fit_transform((u * s)[:, :50]), ["t-SNE axis 1 (no unit)", "t-SNE axis 2 (no unit)"]


def _columns(metrics):
    """Turns a list of dicts into arrays by name, NaN where an entry lacks the value."""
    metrics = [entry for entry in metrics if "loss" in entry]  # others hold validation results
    return {
        name: np.array([entry.get(name, math.nan) for entry in metrics], np.float64)
        for name in ("step", "loss", "excess", *TERMS)
    }


def _strongest_of_blocks(c, largest):
    """Reduces a matrix to at most `largest` rows: each block to its entry of largest magnitude."""
    block = -(-len(c) // largest)
    starts = np.arange(0, len(c), block)
    highest, lowest = (
        reduce.reduceat(reduce.reduceat(c, starts, axis=0), starts, axis=1)
        for reduce in (np.maximum, np.minimum)
    )
    return np.where(highest >= -lowest, highest, lowest), block
