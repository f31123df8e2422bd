"""Figures without pyplot and without a display: made, given legends and saved as PNG files.

Colors are told apart by color-blind people. Names that users give (of classes, of runs) are drawn
as they are, whatever script they are in and whatever signs they hold.
"""

import pathlib
import textwrap
import warnings

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from keras_bt.files import whole

# Ten colors of Paul Tol's "muted" scheme: https://personal.sron.nl/~pault/
COLORS = (
    *("#332288", "#CC6677", "#117733", "#88CCEE", "#882255"),
    *("#DDCC77", "#44AA99", "#AA4499", "#999933", "#777777"),
)
MARKS = "os^DvPX*<>"
# Blue and vermillion of Okabe and Ito's scheme, the pair told apart by everyone.
RIGHT, WRONG = "#0072B2", "#D55E00"
_DPI = 150


def new(width, height, rows=1, columns=1, **kwargs):
    """Returns a figure of so many inches and its panels, row after row.

    Args:
        width: Inches.
        height: Inches.
        rows: Of panels.
        columns: Of panels.
        **kwargs: Those of `Figure.subplots`.
    """
    # A Figure of its own, not pyplot's: no global list keeps it, so nothing has to be closed.
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **kwargs).ravel()


def save(figure, path):
    """Writes the picture beside its place and moves it there, so that no half one is ever seen."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial, warnings.catch_warnings():
        # Names of any script: a letter that the font lacks is a box, and no more than that.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(partial, format="png")


def shortened(text, most):
    """The text, or where it is longer its first characters with an ellipsis."""
    text = str(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def legend(parent, *args, **kwargs):
    """The legend of a figure or of axes, with names drawn as they are: `$x$` is no formula."""
    made = parent.legend(*args, **kwargs)
    for text in made.get_texts():
        text.set_parse_math(False)
    return made


def legend_below(figure, handles, labels):
    """A legend under all panels, which keep their size: the figure grows by what it needs.

    Args:
        figure: The figure.
        handles: What the labels stand for.
        labels: Texts of any length; long ones are broken.
    """
    width = int(11.5 * figure.get_figwidth())  # characters of this size that fit beside each other
    labels = [textwrap.fill(label, width, break_on_hyphens=False) for label in labels]
    longest = max(len(line) for label in labels for line in label.split("\n"))
    columns = max(1, min(len(labels), width // (longest + 8)))
    lines = sum(label.count("\n") + 1 for label in labels)
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-lines // columns) + 0.15)
    legend(figure, handles, labels, loc="outside lower center", fontsize=9, ncols=columns)


def run_style(index, points):
    """Color and marks that tell one run's curve from those of others.

    Args:
        index: Number of the run.
        points: Number of points of its curve; a mark stands on about eight of them.

    Returns:
        dict, arguments of `Axes.plot`.
    """
    every = max(points // 8, 1)
    return {
        "color": COLORS[index % len(COLORS)],
        # Past ten runs, other pairs of color and mark.
        "marker": MARKS[(index + index // len(COLORS)) % len(MARKS)],
        "markersize": 5,
        "markevery": (min(index * every // 8, max(points - 1, 0)), every),  # beside each other
    }


def log_if_wide(axes):
    """Makes the vertical axis logarithmic if its lines are positive and span a factor of ten."""
    values = [np.asarray(line.get_ydata(), np.float64) for line in axes.lines]
    values = np.concatenate([np.empty(0), *values])
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0 and values.max() > 10 * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
