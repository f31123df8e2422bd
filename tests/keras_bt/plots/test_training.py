import math
import os
import warnings
from unittest import mock

import matplotlib
import numpy as np
import pytest
from drawn import assert_nothing_is_cut_off_or_overlaps, collect_figures, line, texts
from matplotlib import pyplot
from matplotlib.image import imread

from keras_bt import plots
from keras_bt.plots import training


@pytest.fixture
def figures(monkeypatch):
    """What is drawn, without pyplot and its global state."""
    before = dict(matplotlib.rcParams)
    yield collect_figures(monkeypatch)
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == []


def run(n=30, floor=2.5, weight=0.005, scale=1.0):
    entries = []
    for i in range(1, n + 1):
        on, off = scale * (900 * math.exp(-i / 5) + 20), 3000 + 5000 * math.exp(-i / 8)
        loss = on + weight * off
        entry = {"step": 10 * i, "epoch": (i + 4) // 5, "loss": loss, "on_diagonal": on}
        entries.append({**entry, "off_diagonal": off, "excess": loss - floor})
    return entries


def legend_of(axes):
    return texts(axes.get_legend().get_texts())


def test_files_are_png_and_appear_whole(tmp_path):
    path = tmp_path / "plots" / "loss.png"
    plots.loss_curve(path, run())
    assert imread(path).shape == (1125, 1200, 4)
    assert os.listdir(path.parent) == ["loss.png"]
    before = path.read_bytes()
    full = mock.patch.object(os, "replace", side_effect=OSError("disk full"))
    with full, pytest.raises(OSError, match="disk full"):
        plots.loss_curve(path, run(5))
    assert path.read_bytes() == before


def test_loss_curve_of_one_run(tmp_path, figures):
    entries = run()
    plots.loss_curve(tmp_path / "loss.png", entries)
    (figure,) = figures
    loss_axes, term_axes = figure.axes
    np.testing.assert_allclose(line(loss_axes, "loss").get_ydata(), [e["loss"] for e in entries])
    np.testing.assert_allclose(line(loss_axes, "loss").get_xdata(), [e["step"] for e in entries])
    floor = next(line for line in loss_axes.lines if "floor 2.5:" in line.get_label())
    np.testing.assert_allclose(floor.get_ydata(), 2.5)
    assert legend_of(loss_axes)[0] == "loss"
    assert "floor 2.5" in legend_of(loss_axes)[1]
    on, weighted_off = term_axes.lines[:2]
    np.testing.assert_allclose(on.get_ydata(), [e["on_diagonal"] for e in entries])
    np.testing.assert_allclose(
        weighted_off.get_ydata(), [0.005 * e["off_diagonal"] for e in entries]
    )
    assert loss_axes.get_yscale() == "log"
    assert term_axes.get_xlabel() == "training step"
    assert_nothing_is_cut_off_or_overlaps(figure)


def test_loss_curve_axis_is_linear_for_small_ranges_and_gaps_stay_gaps(tmp_path, figures):
    entries = [{"step": i, "loss": 10 + i, "on_diagonal": math.nan} for i in range(1, 9)]
    entries[3]["loss"] = math.nan
    entries[7]["excess"] = 17.0
    plots.loss_curve(tmp_path / "loss.png", entries)
    (axes,) = figures[0].axes  # no terms, no panel for them
    assert axes.get_yscale() == "linear"
    assert math.isnan(line(axes, "loss").get_ydata()[3])
    assert any("floor 1:" in text and "below" not in text for text in legend_of(axes))


def entries_of(terms, floor):
    losses = {n: 20.0 / n for n in range(1, 9)}
    return [{"step": n, "loss": x, "excess": x - floor, **terms} for n, x in losses.items()]


THREE_TERMS = {"invariance": 0.5, "variance": 0.2, "covariance": 3.0}
MIXED_TERMS = {"on_diagonal": 9.0, "off_diagonal": 900.0, "mixed": 700.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("terms", "floor", "panels"),
    [
        (THREE_TERMS, 0.0, 2),
        ({"alignment": -5.0, "uniformity": 7.0}, -1.5, 2),
        (MIXED_TERMS, 2.5, 2),
        ({"of_somebody": 1.0}, 0.0, 1),
    ],
)
def test_loss_curve_of_other_objectives(tmp_path, figures, terms, floor, panels):
    plots.loss_curve(tmp_path / "loss.png", entries_of(terms, floor))
    (figure,) = figures
    upper, *rest = figure.axes
    assert any("floor" in text for text in legend_of(upper)) == (floor != 0)
    assert len(rest) == panels - 1
    for lower in rest:
        assert legend_of(lower) == list(terms)
        assert lower.get_ylabel() == "term of the loss, without weight"
        for curve, (name, value) in zip(lower.lines, terms.items(), strict=False):
            assert set(curve.get_ydata()) == {value}, name
    assert_nothing_is_cut_off_or_overlaps(figure)


@pytest.mark.slow
def test_loss_curves_of_runs_of_one_objective_and_of_several(tmp_path, figures):
    three, mixed = entries_of(THREE_TERMS, 0.0), entries_of(MIXED_TERMS, 2.5)
    for others in ({"a": three, "b": three}, {"a": mixed, "other terms": run()}):
        plots.loss_curve(tmp_path / "loss.png", others)
    plots.loss_curve(
        tmp_path / "loss.png", {"a": entries_of({"of_somebody": 1.0}, 0.0), "b": run()}
    )
    assert [len(figure.axes) for figure in figures] == [2, 1, 2]
    assert legend_of(figures[0].axes[1]) == list(THREE_TERMS)
    for figure in figures:
        assert_nothing_is_cut_off_or_overlaps(figure)
    # One floor of several runs is that of all.
    (legend,) = figures[1].legends
    assert texts(legend.get_texts())[2] == "floor 2.5: lower bound for this batch size and width"


def test_loss_curve_says_that_a_tiny_floor_is_below_the_picture(tmp_path, figures):
    plots.loss_curve(tmp_path / "loss.png", run(floor=0.001))
    loss_axes = figures[0].axes[0]
    assert "below the picture" in legend_of(loss_axes)[1]
    assert loss_axes.get_ylim()[0] > 1


def test_view_pairs_undoes_the_normalization(tmp_path, figures):
    random = np.random.default_rng(0)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    images = random.uniform(size=(2, 10, 16, 12, 3)).astype(np.float32)
    view_a, view_b = (images - mean) / std
    plots.view_pairs(tmp_path / "pairs.png", view_a, view_b, mean, std)
    (figure,) = figures
    shown = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(shown) == 16
    for pair in range(8):
        for side in (0, 1):
            np.testing.assert_allclose(shown[2 * pair + side], images[side, pair], atol=1e-6)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["view A", "view B"] * 2
    assert_nothing_is_cut_off_or_overlaps(figure)


def test_correlation_before_and_after(tmp_path, figures):
    random = np.random.default_rng(0)
    before, after = random.uniform(-0.6, 0.6, (2, 40, 40))
    np.fill_diagonal(after, 0.95)
    plots.correlation(tmp_path / "c.png", {"before": before, "after": after})
    (figure,) = figures
    first, second, bar = figure.axes
    for axes, name, c in ((first, "before", before), (second, "after", after)):
        picture = axes.images[0]
        np.testing.assert_allclose(picture.get_array(), c, atol=1e-7)
        assert picture.get_clim() == (-1, 1)
        off = c[~np.eye(40, dtype=bool)]
        rms = math.sqrt(np.mean(off**2))
        assert axes.get_title() == (
            f"{name}\ndiagonal: mean {np.trace(c) / 40:.3f}   off-diagonal: RMS {rms:.3f}"
        )
    assert bar.get_ylabel() == "correlation"
    assert_nothing_is_cut_off_or_overlaps(figure)


@pytest.mark.slow
def test_loss_curve_of_many_runs(tmp_path, figures):
    runs = {f"{'a long name ' * i}$x_{i}^$ größe 中": run(30 - i, 2.5 + i % 2) for i in range(12)}
    runs["one"] = [*run(), {"step": 300, "epoch": 6, "val_loss": 3.0}]
    plots.loss_curve(tmp_path / "loss.png", runs)
    (figure,) = figures
    (legend,) = figure.legends
    names = [text.replace("\n", " ") for text in texts(legend.get_texts())]
    assert names[:13] == list(runs)  # whole, and not as formulas
    odd = ", ".join(list(runs)[1:12:2])
    assert names[14:] == [f"floor 3.5 ({odd})"]
    looks = {(c.get_color(), c.get_marker()) for c in figure.axes[0].lines[:13]}
    assert len(looks) == 13
    # An entry with validation results alone leaves no gap.
    assert np.isfinite(figure.axes[0].lines[12].get_ydata()).all()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        assert_nothing_is_cut_off_or_overlaps(figure)
    assert min(axes.get_window_extent().height for axes in figure.axes) > 300  # pixels


@pytest.mark.slow
@pytest.mark.parametrize(("d", "block"), [(1024, 1), (1025, 2), (2100, 3)])
def test_large_correlations_are_reduced_to_the_strongest_of_each_block(d, block, tmp_path, figures):
    c = np.random.default_rng(0).uniform(-0.9, 0.9, (d, d)).astype(np.float32)
    plots.correlation(tmp_path / "c.png", c)
    axes = figures[0].axes[0]
    shown = axes.images[0].get_array()
    rows = math.ceil(d / block)
    assert shown.shape == (rows, rows)
    for row, column in ((0, 0), (5, rows - 1), (rows - 1, rows - 1), (rows // 2, 3)):
        entries = c[row * block : (row + 1) * block, column * block : (column + 1) * block].ravel()
        assert shown[row, column] == entries[np.argmax(np.abs(entries))]
    assert ("strongest of" in axes.get_title()) == (block > 1)
    assert axes.get_xlim() == (0, d)


def ten_clusters(n=300):
    random = np.random.default_rng(0)
    labels = np.arange(n) % 10
    return 8 * random.standard_normal((10, 20))[labels] + random.standard_normal((n, 20)), labels


def test_pca_map_is_the_projection_on_the_principal_components(tmp_path, figures):
    features, labels = ten_clusters()
    names = [f"class {i}" for i in range(10)]
    plots.feature_map(tmp_path / "map.png", features, labels, names, method="pca")
    (figure,) = figures
    (axes,) = figure.axes
    # Oracle: eigenvectors of the covariance; their signs are arbitrary.
    centered = features - features.mean(axis=0)
    values, vectors = np.linalg.eigh(centered.T @ centered)
    expected = np.abs(centered @ vectors[:, [-1, -2]])
    for label, points in enumerate(axes.collections):
        assert points.get_label() == names[label]
        found = np.abs(points.get_offsets())
        np.testing.assert_allclose(found, expected[labels == label], rtol=1e-3, atol=1e-3)
    share = 100 * values[-1] / values.sum()
    assert axes.get_xlabel() == f"principal component 1 ({share:.0f}% of the variance)"
    (legend,) = figure.legends
    assert texts(legend.get_texts()) == names
    assert_nothing_is_cut_off_or_overlaps(figure)
    # Beside the axes, not on the points.
    renderer = figure.canvas.get_renderer()
    assert legend.get_window_extent(renderer).x0 >= axes.get_window_extent(renderer).x1


def test_every_class_has_a_color_and_mark_of_its_own(tmp_path, figures):
    features = np.random.default_rng(0).standard_normal((200, 4))
    labels = np.arange(200) % 35
    plots.feature_map(tmp_path / "map.png", features, labels, method="pca")
    looks = [
        (tuple(points.get_facecolor()[0]), points.get_paths()[0].vertices.tobytes())
        for points in figures[0].axes[0].collections
    ]
    assert len(set(looks)) == 35
    assert len({color for color, _ in looks[:10]}) == 10
    assert len({mark for _, mark in looks[:10]}) == 10
    assert_nothing_is_cut_off_or_overlaps(figures[0])


@pytest.mark.slow
def test_tsne_map_keeps_clusters_and_is_seeded(tmp_path, figures):
    features, labels = ten_clusters(120)
    for seed in (0, 0):
        plots.feature_map(tmp_path / f"{len(figures)}.png", features, labels, seed=seed)
    points = [
        np.concatenate([p.get_offsets() for p in figure.axes[0].collections]) for figure in figures
    ]
    np.testing.assert_array_equal(points[0], points[1])
    clusters = points[0].reshape(10, 12, 2)
    own = np.linalg.norm(clusters - clusters.mean(axis=1, keepdims=True), axis=2).max()
    centers = clusters.mean(axis=1)
    apart = np.linalg.norm(centers[:, None] - centers, axis=2)[~np.eye(10, dtype=bool)].min()
    assert own < apart
    assert figures[0].axes[0].get_title() == "Features of 120 images (t-SNE)"


def test_map_without_labels_and_of_a_subset(tmp_path, figures):
    features, labels = ten_clusters()
    with mock.patch.object(training, "_MOST_POINTS", 100):
        for seed in (0, 1):
            plots.feature_map(tmp_path / "map.png", features, method="pca", seed=seed)
    (axes,) = figures[0].axes
    assert len(axes.collections) == 1
    assert len(axes.collections[0].get_offsets()) == 100
    first, second = (np.sort(np.abs(f.axes[0].collections[0].get_offsets()[:, 0])) for f in figures)
    assert not np.allclose(first, second, rtol=1e-3)
    assert not figures.pop().legends
    assert "100 of 300 images" in axes.get_title()
    # Too many classes for a legend are counted in the title.
    plots.feature_map(tmp_path / "map.png", features, np.arange(300) % 50, method="pca")
    assert not figures[1].legends
    assert "50 classes" in figures[1].axes[0].get_title()
    # The same points of the same labels are drawn together.
    plots.feature_map(tmp_path / "map.png", labels[:, None] * [1.0, 2.0], labels, method="pca")
    for points in figures[2].axes[0].collections:
        assert np.ptp(points.get_offsets()[:, 0]) < 1e-4


def test_smallest_maps(tmp_path):
    plots.feature_map(tmp_path / "map.png", np.eye(3), [0, 1, 0])
    plots.feature_map(tmp_path / "map.png", np.ones((5, 2)), method="pca")  # collapsed


def test_mistakes_are_named(tmp_path):
    path = tmp_path / "picture.png"
    nan = np.full((4, 4), np.nan)
    for draw, message in (
        (lambda: plots.loss_curve(path, []), "Received: 0 entries"),
        (lambda: plots.loss_curve(path, {"a": run(), "b": [{"step": 1}]}), "1 entries .* in b"),
        (lambda: plots.correlation(path, np.zeros((3, 4))), r"square .* \(3, 4\)"),
        (lambda: plots.correlation(path, {"after": nan}), "'after' with NaN"),
        (lambda: plots.feature_map(path, np.zeros((2, 5))), r"Received: shape \(2, 5\)"),
        (lambda: plots.feature_map(path, nan), "with NaN or infinity"),
        (lambda: plots.feature_map(path, np.eye(4), [0, 1]), r"labels of shape \(2,\)"),
        (lambda: plots.feature_map(path, np.eye(4), method="umap"), "Received: 'umap'"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            draw()
        assert "\n" not in str(error.value)
    assert not os.listdir(tmp_path)
