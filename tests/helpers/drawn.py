"""Looks at what is on a figure."""

import matplotlib.figure

from keras_bt.plots import figures


def collect_figures(monkeypatch):
    """Returns a list that every figure drawn from now on is added to."""
    drawn = []

    class Collected(matplotlib.figure.Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            drawn.append(self)

    monkeypatch.setattr(figures, "Figure", Collected)
    return drawn


def texts(artists):
    return [artist.get_text() for artist in artists]


def line(axes, label):
    return next(line for line in axes.lines if line.get_label() == label)


def assert_nothing_is_cut_off_or_overlaps(figure):
    """In a figure that was saved, panels with labels, titles and legends lie inside and apart."""
    renderer = figure.canvas.get_renderer()
    boxes = [axes.get_tightbbox(renderer) for axes in figure.axes if axes.axison or axes.images]
    boxes += [legend.get_window_extent(renderer) for legend in figure.legends]
    if figure.get_suptitle():
        boxes.append(figure._suptitle.get_window_extent(renderer))
    width, height = figure.canvas.get_width_height()
    for i, box in enumerate(boxes):
        assert min(box.x0, box.y0) >= -2
        assert box.x1 <= width + 2
        assert box.y1 <= height + 2
        assert not any(box.padded(-2).overlaps(other.padded(-2)) for other in boxes[:i])
