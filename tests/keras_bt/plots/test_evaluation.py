import itertools
import math
import os
import warnings

import numpy as np
import pytest
from drawn import assert_nothing_is_cut_off_or_overlaps, collect_figures, line, texts
from matplotlib.colors import to_hex

from keras_bt.plots import evaluation as plots
from keras_bt.plots.figures import RIGHT, WRONG

ANY_SCRIPT = "中国 $x_$ größe"  # as a formula it would be a mistake


@pytest.fixture
def figures(monkeypatch):
    return collect_figures(monkeypatch)


def assert_legible(figure):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # boxes for letters that the font lacks
        assert_nothing_is_cut_off_or_overlaps(figure)


def with_singular_values(values, n, d):
    random = np.random.default_rng(0)
    u, v = (np.linalg.qr(random.standard_normal((size, len(values))))[0] for size in (n, d))
    return (u * values) @ v.T


def test_spectrum_is_that_of_the_matrix(tmp_path, figures):
    values = np.array([8.0, 4.0, 2.0, 1.0, 1.0])
    named = {"untrained": with_singular_values(values, 60, 20), "trained": np.eye(7)}
    plots.spectrum(tmp_path / "s.png", named)
    (figure,) = figures
    (axes,) = figure.axes
    first, second = axes.lines
    np.testing.assert_array_equal(first.get_xdata(), np.arange(1, 21))
    np.testing.assert_allclose(first.get_ydata()[:5], values / 8, rtol=1e-6)
    # What is nothing but rounding is not drawn.
    assert np.isnan(first.get_ydata()[5:]).all()
    np.testing.assert_allclose(second.get_ydata(), 1)
    # Oracle: the exponential of the entropy.
    p = values / values.sum()
    rank = math.exp(-np.sum(p * np.log(p)))
    (legend,) = figure.legends
    assert texts(legend.get_texts()) == [
        f"untrained: RankMe {rank:.1f} of 20",
        "trained: RankMe 7.0 of 7",
    ]
    assert axes.get_yscale() == "log"
    assert axes.get_xlabel() == "rank of the singular value"
    assert len({(x.get_color(), x.get_linestyle(), x.get_marker()) for x in axes.lines}) == 2
    assert_legible(figure)


def test_spectrum_of_collapsed_and_of_many_networks(tmp_path, figures):
    random = np.random.default_rng(0)
    named = {f"{ANY_SCRIPT} {i}": random.standard_normal((30, 12)) for i in range(8)}
    named |= {"zero": np.zeros((30, 12)), "one direction": np.ones((30, 12))}
    plots.spectrum(tmp_path / "s.png", named)
    (figure,) = figures
    (legend,) = figure.legends
    labels = texts(legend.get_texts())
    assert labels[8] == "zero: RankMe 0.0 of 12, all values 0"
    assert labels[9].startswith("one direction: RankMe 1.0 of 12")
    assert labels[0].startswith(ANY_SCRIPT)
    lowest, highest = figure.axes[0].get_ylim()
    assert 0 < lowest < highest
    assert_legible(figure)


def metrics(epochs=6, per_epoch=3, shift=0.0):
    """As a run with a monitor writes them: some lines, and at the end of an epoch a longer one."""
    lines = []
    for epoch in range(1, epochs + 1):
        for i in range(1, per_epoch + 1):
            step = (epoch - 1) * per_epoch + i
            lines.append({"step": step, "epoch": epoch, "loss": 100 / step})
            lines[-1] |= {"diagonal_mean": 0.1 * step + shift, "diagonal_rms": 0.11 * step}
        lines[-1] |= {"knn_accuracy": 0.5 + epoch / 20 + shift, "linear_accuracy": epoch / 10}
    return lines


def test_measures_of_one_run(tmp_path, figures):
    entries = metrics()
    drawn = plots.measures(tmp_path / "m.png", entries)
    assert drawn == ["knn_accuracy", "linear_accuracy", "diagonal_mean", "diagonal_rms"]
    (figure,) = figures
    accuracy, diagonal = figure.axes
    knn = next(c for c in accuracy.lines if len(c.get_xdata()) and c.get_ydata()[0] > 0.5)
    np.testing.assert_array_equal(knn.get_xdata(), range(1, 7))
    np.testing.assert_allclose(knn.get_ydata(), [0.5 + e / 20 for e in range(1, 7)])
    # Of each epoch the last value.
    mean = diagonal.lines[0]
    np.testing.assert_allclose(mean.get_ydata(), [0.1 * 3 * e for e in range(1, 7)])
    assert texts(accuracy.get_legend().get_texts()) == ["nearest neighbors", "linear probe"]
    # The legend shows the looks of the curves.
    shown, drawn = line(accuracy, "nearest neighbors"), knn
    assert (shown.get_color(), shown.get_linestyle()) == (drawn.get_color(), drawn.get_linestyle())
    assert accuracy.yaxis.get_major_formatter()(0.5) == "50%"
    assert {axes.get_xlabel() for axes in figure.axes} == {"epoch"}
    assert_legible(figure)


def test_measures_of_eight_runs_some_without(tmp_path, figures):
    runs = {f"{'very ' * i}long {ANY_SCRIPT} {i}": metrics(shift=i / 100) for i in range(7)}
    runs["old"] = [{"step": 1, "epoch": 1, "loss": 3.0}]
    runs["other"] = [
        {"step": 9, "epoch": 3, "knn_accuracy": math.nan, "dead_dimensions": 5.0},
        {"step": 12, "epoch": 4, "knn_accuracy": 0.25},
    ]
    plots.measures(tmp_path / "m.png", runs)
    (figure,) = figures
    accuracy, _, dead, spare = figure.axes
    assert not spare.axison
    assert dead.get_ylabel() == "dead dimensions"
    curves = [c for c in accuracy.lines if len(c.get_xdata()) and c.get_linestyle() == "-"]
    np.testing.assert_allclose(
        [c.get_ydata()[0] for c in curves], [0.55 + i / 100 for i in range(7)] + [0.25]
    )
    np.testing.assert_array_equal(curves[-1].get_xdata(), [4])
    assert len({(c.get_color(), c.get_marker()) for c in curves}) == 8
    # A run has one look in all panels and in the legend.
    (legend,) = figure.legends
    assert [t.replace("\n", " ") for t in texts(legend.get_texts())] == list(runs)
    handles = [(h.get_color(), h.get_marker()) for h in legend.get_lines()]
    assert handles[:7] == [(c.get_color(), c.get_marker()) for c in curves[:7]]
    assert handles[8] == (dead.lines[0].get_color(), dead.lines[0].get_marker())
    assert_legible(figure)


def test_nothing_measured_is_said(tmp_path):
    with pytest.raises(plots.NothingMeasuredError, match="Received: none"):
        plots.measures(tmp_path / "m.png", [{"step": 1, "epoch": 1, "loss": 2.0}])
    assert not os.listdir(tmp_path)


def pictures(*shape):
    return np.random.default_rng(0).uniform(size=(*shape, 6, 8, 3))


def test_neighbours_are_marked_right_and_wrong(tmp_path, figures):
    queries, images = pictures(2), pictures(2, 3)
    similarities = np.array([[0.99, 0.9, 0.8], [0.7, 0.6, -0.5]])
    labels = [[0, 1, 0], [2, 2, 1]]
    names = ["cat", ANY_SCRIPT, "an extraordinarily long name of a class of things"]
    plots.neighbours(tmp_path / "n.png", queries, images, similarities, [0, 1], labels, names)
    (figure,) = figures
    panels = np.array(figure.axes).reshape(2, 5)
    for row in range(2):
        np.testing.assert_allclose(panels[row, 0].images[0].get_array(), queries[row])
        for rank in range(3):
            axes = panels[row, rank + 2]
            np.testing.assert_allclose(axes.images[0].get_array(), images[row, rank])
            right = labels[row][rank] == [0, 1][row]
            mark, value, *_ = axes.get_xlabel().split()
            assert mark == ("✓" if right else "✗")
            assert float(value) == similarities[row, rank]
            spine = axes.spines["left"]
            assert to_hex(spine.get_edgecolor()).upper() == (RIGHT if right else WRONG)
            assert (spine.get_linestyle() in ("-", "solid")) == right
    assert panels[0, 0].get_xlabel() == "cat"
    assert panels[1, 4].get_xlabel() == f"✗ -0.50\n{ANY_SCRIPT}".replace("✗", "✓")
    _, *broken = panels[1, 2].get_xlabel().split("\n")
    assert len(broken) > 1
    assert max(map(len, broken)) <= 17
    assert broken[-1].endswith("…")
    assert_legible(figure)


@pytest.mark.slow
def test_neighbours_without_labels_have_no_marks(tmp_path, figures):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (3, 5, 8, 8, 3), np.uint8)
    plots.neighbours(tmp_path / "n.png", images[:, 0], images, np.full((3, 5), 0.5))
    (figure,) = figures
    captions = {axes.get_xlabel() for axes in figure.axes}
    assert captions == {"", "0.50"}
    assert "✓" not in figure.get_suptitle()
    assert not any(axes.spines["left"].get_visible() for axes in figure.axes)
    assert_legible(figure)


def test_confusion_is_percent_of_the_true_class(tmp_path, figures):
    labels = np.array([0] * 4 + [1] * 5)
    predictions = np.array([0, 0, 0, 2, 1, 1, 1, 1, 0])
    plots.confusion_matrix(tmp_path / "c.png", labels, predictions, ["a", "b", "c"], "Probe")
    (figure,) = figures
    axes, bar = figure.axes
    shown = np.ma.filled(axes.images[0].get_array(), np.nan)
    np.testing.assert_allclose(shown, [[75, 0, 25], [20, 80, 0], [np.nan] * 3])
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "75", (2, 0): "25", (0, 1): "20", (1, 1): "80"}
    assert axes.get_title() == "Probe\n77.8% of 9 images correct"
    assert texts(axes.get_yticklabels()) == ["a", "b", "c"]
    assert axes.get_ylabel() == "true class"
    assert bar.get_ylabel() == "share of the true class"
    assert_legible(figure)


@pytest.mark.parametrize(
    ("classes", "numbers", "names"),
    [
        (20, True, True),
        (21, False, True),
        pytest.param(60, False, True, marks=pytest.mark.slow),
        (61, False, False),
        pytest.param(1000, False, False, marks=pytest.mark.slow),
    ],
)
def test_confusion_of_many_classes(classes, numbers, names, tmp_path, figures):
    labels = np.arange(2000) % classes
    class_names = [f"a long name of class {i} {ANY_SCRIPT}" for i in range(classes)]
    plots.confusion_matrix(tmp_path / "c.png", labels, labels, class_names)
    (figure,) = figures
    axes = figure.axes[0]
    assert len(axes.texts) == numbers * classes
    ticks = [text for text in texts(axes.get_xticklabels()) if "class" in text]
    assert len(ticks) == names * classes
    assert_legible(figure)
    if names:  # those of neighboring classes do not overlap
        renderer = figure.canvas.get_renderer()
        boxes = [t.get_window_extent(renderer) for t in axes.get_yticklabels()]
        assert all(a.y0 >= b.y1 - 1 for a, b in itertools.pairwise(boxes))


def test_numbers_in_cells_can_be_read(tmp_path, figures):
    random = np.random.default_rng(0)
    labels, predictions = random.integers(0, 4, (2, 3000))
    predictions = np.where(random.uniform(size=3000) < 0.4, labels, predictions)
    plots.confusion_matrix(tmp_path / "c.png", labels, predictions, list("abcd"))
    axes = figures[0].axes[0]
    picture = axes.images[0]
    for text in axes.texts:
        column, row = map(int, text.get_position())
        background = picture.cmap(picture.norm(picture.get_array()[row, column]))
        luminance = np.dot(np.array(background[:3]) ** 2.2, [0.2126, 0.7152, 0.0722])
        letter = 0 if text.get_color() == "black" else 1
        contrast = (max(luminance, letter) + 0.05) / (min(luminance, letter) + 0.05)
        assert contrast > 4.5  # what the Web Content Accessibility Guidelines ask of small text


def test_mistakes_are_named(tmp_path):
    path = tmp_path / "picture.png"
    nan = np.full((4, 4), np.nan)
    for draw, message in (
        (lambda: plots.spectrum(path, {}), "at least one"),
        (lambda: plots.spectrum(path, {"a": np.zeros(3)}), r"\(3,\) for 'a'"),
        (lambda: plots.spectrum(path, {"a": nan}), "'a' with NaN"),
        (lambda: plots.confusion_matrix(path, [0], [0, 1], "ab"), r"\(1,\) and \(2,\)"),
        (lambda: plots.confusion_matrix(path, [], [], "ab"), r"n >= 1"),
        (lambda: plots.confusion_matrix(path, [0, 2], [0, 1], "ab"), "0 to 1.*0 to 2"),
        (lambda: plots.confusion_matrix(path, [0, 1], [0, -1], "ab"), "-1 to 1"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            draw()
        assert "\n" not in str(error.value)
    assert not os.listdir(tmp_path)
