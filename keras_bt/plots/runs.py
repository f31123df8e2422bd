"""Plots of the figures of runs: accuracies by protocol, and a table of several runs.

Every function writes one file, atomically, replacing an existing one.
"""

import textwrap
from collections.abc import Mapping, Sequence

from keras_bt.plots import figures
from keras_bt.typing import Path


def accuracies(
    path: Path,
    rows: Sequence[tuple[str, str, float, float | None]],
    title: str = "Accuracy",
) -> None:
    """Draws accuracies by protocol: a line for each, with a mark for everything it measured.

    Args:
        path: file to write.
        rows: (protocol, what was measured, accuracy 0 to 1, its deviation or None).
        title: title of the plot.

    Raises:
        ValueError: if there is no row.
    """
    if not rows:
        raise ValueError("Accuracies to draw must be at least one. Received: none.")
    protocols = list(dict.fromkeys(row[0] for row in rows))
    kinds = list(dict.fromkeys(row[1] for row in rows))
    labels = [textwrap.fill(figures.shortened(name, 120), 44) for name in protocols]
    lines = sum(label.count("\n") + 1 for label in labels)
    figure, (axes,) = figures.new(9, 1.3 + 0.22 * lines + 0.1 * len(labels))
    for index, kind in enumerate(kinds):
        mine = [row for row in rows if row[1] == kind]
        axes.errorbar(
            [100 * row[2] for row in mine],
            [protocols.index(row[0]) for row in mine],
            xerr=[100 * (row[3] or 0) for row in mine],
            label=kind,
            linestyle="",
            capsize=3,
            color=figures.COLORS[index % len(figures.COLORS)],
            marker=figures.MARKS[index % len(figures.MARKS)],
        )
    axes.set_yticks(range(len(protocols)), labels, fontsize=9, parse_math=False)
    axes.set_ylim(len(protocols) - 0.5, -0.5)  # the first on top
    axes.grid(alpha=0.3)
    axes.set_xlabel("accuracy in percent; bars: deviation over draws of the labels")
    axes.set_title(title, parse_math=False)
    figures.legend_below(figure, *axes.get_legend_handles_labels())
    figures.save(figure, path)


def table(
    path: Path, names: Sequence[str], sections: Mapping[str, Mapping[str, Sequence[str]]]
) -> None:
    """Draws a table of texts: a column for each run.

    Args:
        path: file to write.
        names: what the columns are called.
        sections: heading of each part → its rows: name → a text for every column.
    """
    names = [textwrap.fill(figures.shortened(name, 90), 22) for name in names]
    entries: list[tuple[str, Sequence[str], bool]] = []
    for heading, rows in sections.items():
        entries.append((heading, names if not entries else [""] * len(names), True))
        entries += [
            (
                textwrap.fill(name, 46, subsequent_indent="    "),
                [textwrap.fill(figures.shortened(text, 110), 22) for text in texts],
                False,
            )
            for name, texts in rows.items()
        ]
    heights = [1 + max(t.count("\n") for t in (name, *texts)) for name, texts, _ in entries]
    first, column, line = 3.8, 2.0, 0.19  # inches
    width = first + column * len(names) + 0.2
    height = sum(line * lines + 0.09 for lines in heights) + 0.2 * len(sections)
    figure, (axes,) = figures.new(width, height)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    top, style = 0.1, {"va": "center", "fontsize": 9, "parse_math": False}
    for number, ((name, texts, is_head), lines) in enumerate(zip(entries, heights, strict=True)):
        weight = "bold" if is_head else "normal"
        top += 0.2 if is_head and number else 0
        below = top + line * lines + 0.09
        axes.text(0.1, (top + below) / 2, name, weight=weight, **style)
        for index, text in enumerate(texts, start=1):
            right = first + column * index
            axes.text(right, (top + below) / 2, text, weight=weight, ha="right", **style)
        if is_head:
            axes.plot([0.1, width - 0.1], [below, below], color="black", linewidth=0.8)
        elif number % 2:
            axes.axhspan(top, below, color="0.95", zorder=0)
        top = below
    figures.save(figure, path)
