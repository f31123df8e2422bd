"""Pictures of any sizes in rows, with what is known of them."""

import textwrap
from collections.abc import Sequence

import numpy as np

from keras_bt.plots import figures
from keras_bt.typing import Path

_INCHES = 1.35  # of a picture's side
_LINE = 19  # letters
_LINES = 3


def picture_rows(
    path: Path,
    rows: Sequence[Sequence[tuple[np.ndarray, str, str]]],
    titles: Sequence[str],
    title: str,
) -> None:
    """Draws rows of pictures, each with a caption and a name below.

    Args:
        path: file to write, a PNG.
        rows: of each row its pictures, `(image, caption, name)`: uint8 (h, w, 3), of any size;
            text; and the path or name, of which the middle is left out if it is long.
        titles: text to the left above each row; "" for none.
        title: of the whole picture.
    """
    columns = max(map(len, rows))
    size = (
        max(4.5, 1.06 * _INCHES * columns),
        (_INCHES + 0.17 * (_LINES + 1) + 0.3) * len(rows) + 0.5,
    )
    figure, panels = figures.new(*size, len(rows), columns)
    for axes in panels:
        axes.set_axis_off()
    figure.suptitle(textwrap.fill(title, int(9 * size[0])), fontsize=11, parse_math=False)
    for row, (pictures, text) in enumerate(zip(rows, titles, strict=True)):
        panels[row * columns].set_title(text, fontsize=9, loc="left", parse_math=False)
        for column, (image, caption, name) in enumerate(pictures):
            axes = panels[row * columns + column]
            axes.set_axis_on()
            axes.set(xticks=[], yticks=[])
            figures.frame(axes)
            axes.imshow(
                image, interpolation="nearest" if max(image.shape[:2]) < 100 else "antialiased"
            )
            lines = textwrap.wrap(figures.shortened_within(name, _LINE * (_LINES - 1)), _LINE)
            text_below = "\n".join([caption, *lines])
            axes.set_xlabel(text_below, fontsize=7, parse_math=False)
    figures.save(figure, path)
