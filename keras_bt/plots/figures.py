"""Figures without pyplot and without a display: creates them, adds legends, saves PNG files.

Color-blind people can tell the colors apart. Names given by users (of classes, of runs) are drawn
as they are, whatever script and characters they contain.
"""

import pathlib
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from keras_bt.files import whole
from keras_bt.typing import Path

# Ten colors of Paul Tol's "muted" scheme: https://personal.sron.nl/~pault/
COLORS = (
    *("#332288", "#CC6677", "#117733", "#88CCEE", "#882255"),
    *("#DDCC77", "#44AA99", "#AA4499", "#999933", "#777777"),
)
MARKS = "os^DvPX*<>"
# Blue and vermillion of Okabe and Ito's scheme, a pair that everyone can tell apart.
RIGHT, WRONG = "#0072B2", "#D55E00"
_DPI = 150


def new(
    width: float, height: float, rows: int = 1, columns: int = 1, **kwargs: Any
) -> tuple[Figure, np.ndarray]:
    """Creates a figure.

    Args:
        width: inches.
        height: inches.
        rows: rows of panels.
        columns: columns of panels.
        **kwargs: see `Figure.subplots`.

    Returns:
        The figure and its panels, (rows · columns,), row by row.
    """
    # Not pyplot's: no global list keeps this Figure, so nothing has to be closed.
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **kwargs).ravel()


def save(figure: Figure, path: Path) -> None:
    """Saves the figure as a PNG file, atomically: a partial one is never seen."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial, warnings.catch_warnings():
        # Names may be in any script: a letter that the font lacks becomes a box, nothing worse.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(partial, format="png")


FRAME = "#d0d0d0"  # light, but seen on white


def frame(axes: Axes) -> None:
    """Draws the edge of a picture, without which a white one has no end."""
    axes.spines[:].set(visible=True, color=FRAME, linewidth=0.8)


def colors(images: np.ndarray) -> np.ndarray:
    """Returns what can be shown of images of any number of channels.

    Args:
        images: (..., c).

    Returns:
        (..., 3): the first three channels as red, green and blue, or the first as gray if there
        are fewer.
    """
    return images[..., :3] if images.shape[-1] >= 3 else np.repeat(images[..., :1], 3, axis=-1)


def about_channels(images: np.ndarray) -> str:
    """Returns what `colors` leaves out of images, for a title; "" if nothing."""
    channels = images.shape[-1]
    if channels in (1, 3):
        return ""
    return f" ({'the first three' if channels > 3 else 'the first'} of {channels} channels)"


def check_matrix(matrix: np.ndarray, fits: bool, rule: str, name: str = "") -> None:
    """Raises ValueError, with the rule and what was received, unless it fits and is finite."""
    finite = np.isfinite(matrix).all()
    if not fits or not finite:
        raise ValueError(
            f"{rule} Received: shape {matrix.shape}{f' for {name!r}' if name else ''}"
            f"{'' if finite else ' with NaN or infinity'}."
        )


def shortened(text: object, most: int) -> str:
    """Returns a text, cut to at most `most` characters with an ellipsis."""
    text = str(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def shortened_within(text: str, most: int) -> str:
    """Returns a text, cut to at most `most` characters with an ellipsis in its middle.

    >>> shortened_within("photos/2021/summer/IMG_0001.jpg", 15)
    'photos/…001.jpg'
    """
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}…{text[most // 2 + 1 - most :]}"


def legend(parent: Figure | Axes, *args: Any, **kwargs: Any) -> Legend:
    """Adds a legend to a figure or axes, with names as they are: `$x$` is not a formula."""
    made = parent.legend(*args, **kwargs)
    for text in made.get_texts():
        text.set_parse_math(False)
    return made


def legend_below(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Adds a legend below all panels; the figure grows by its height, the panels keep theirs.

    Args:
        figure: receives the legend.
        handles: lines that the labels name.
        labels: texts of any length; long ones are wrapped.
    """
    width = int(11.5 * figure.get_figwidth())  # characters of this size in a line
    labels = [textwrap.fill(label, width, break_on_hyphens=False) for label in labels]
    longest = max(len(line) for label in labels for line in label.split("\n"))
    columns = max(1, min(len(labels), width // (longest + 8)))
    lines = sum(label.count("\n") + 1 for label in labels)
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-lines // columns) + 0.15)
    legend(figure, handles, labels, loc="outside lower center", fontsize=9, ncols=columns)


def run_style(index: int, points: int) -> dict[str, Any]:
    """Chooses the color and markers that tell one run's curve from others.

    Args:
        index: number of the run, from 0.
        points: number of points of its curve; about eight of them get a marker.

    Returns:
        Arguments of `Axes.plot`.
    """
    every = max(points // 8, 1)
    return {
        "color": COLORS[index % len(COLORS)],
        # From the eleventh run on, colors pair with other markers.
        "marker": MARKS[(index + index // len(COLORS)) % len(MARKS)],
        "markersize": 5,
        "markevery": (min(index * every // 8, max(points - 1, 0)), every),  # side by side
    }


def count_along_x(axes: Axes) -> None:
    """Gives the horizontal axis whole numbers only, and the panel a light grid."""
    axes.grid(alpha=0.3, which="major")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def log_if_wide(axes: Axes) -> None:
    """Makes the vertical axis logarithmic if its lines are positive and span a factor of ten."""
    lines = [np.asarray(line.get_ydata(), np.float64) for line in axes.lines]
    values = np.concatenate([np.empty(0), *lines])
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0 and values.max() > 10 * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
