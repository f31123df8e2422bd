import numpy as np
import pytest
from drawn import assert_nothing_is_cut_off_or_overlaps, collect_figures, line, texts
from matplotlib.colors import to_hex

from keras_bt.evaluation.verification import verify
from keras_bt.plots import figures as looks
from keras_bt.plots import verification as plots

SAME = np.arange(1500) < 500


@pytest.fixture
def figures(monkeypatch):
    return collect_figures(monkeypatch)


def drawn(gap, seed=0):
    random = np.random.default_rng(seed)
    return np.where(SAME, random.normal(0.6, 0.2, 1500), random.normal(0.6 + gap, 0.2, 1500))


def test_curves_are_those_of_the_distances(tmp_path, figures):
    named = {"raw pixels": (drawn(0.2), SAME), "$x_$ trained": (drawn(0.7, 1), SAME)}
    plots.roc_curves(tmp_path / "roc.png", named, title="ROC $x_$")
    assert (tmp_path / "roc.png").stat().st_size > 10_000
    (figure,) = figures
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert axes.get_xlim() == pytest.approx((1 / 1000, 1))
    labels = texts(figure.legends[0].get_texts())
    for label, (found, same) in zip(labels, named.values(), strict=False):
        expected = verify(found, same)
        assert f"AUC {expected.auc:.3f}, equal error rate {100 * expected.eer:.1f}%" in label
        curve = line(axes, label)
        false, true = curve.get_xdata(), curve.get_ydata()
        threshold = 0.75
        accepts = (found[~same] <= threshold).mean()
        place = np.searchsorted(false, accepts, side="right") - 1
        assert false[place] == pytest.approx(accepts)
        assert true[false <= accepts].max() >= (found[same] <= threshold).mean()
        assert true[false < accepts].max() <= (found[same] <= threshold).mean()
    assert labels[2] == "chance"
    assert_nothing_is_cut_off_or_overlaps(figure)


def test_histograms_show_what_the_threshold_does(tmp_path, figures):
    named = {"plain": (drawn(0.2), SAME, 0.7), "whitened $x_$": (drawn(0.9), SAME, 1.1)}
    plots.distance_histograms(tmp_path / "distances.png", named)
    (figure,) = figures
    assert len(figure.axes) == 2
    for axes, (name, (found, same, threshold)) in zip(figure.axes, named.items(), strict=True):
        accepts = 100 * (found[~same] <= threshold).mean()
        rejects = 100 * (found[same] > threshold).mean()
        wrong = f"false accepts {accepts:.1f}%, false rejects {rejects:.1f}% at {threshold:.3f}"
        assert axes.get_title() == f"{name}: {wrong}"
        assert line(axes, "threshold").get_xdata() == [threshold, threshold]
        colors = [to_hex(patch.get_facecolor()).upper() for patch in axes.patches]
        assert colors == [looks.RIGHT, looks.WRONG]
        for patch, kind in zip(axes.patches, (same, ~same), strict=True):
            corners = patch.get_xy()
            assert corners[:, 0].min() <= found[kind].min()
            # The area of bars of the share of the pairs in each.
            x, y = corners.T
            area = abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2
            width = np.diff(np.unique(x)).min()
            assert area / width == pytest.approx(1, rel=1e-3)
    assert texts(figure.legends[0].get_texts()) == [
        "the same thing",
        "different things",
        "threshold",
    ]
    assert_nothing_is_cut_off_or_overlaps(figure)


def test_mistakes_stand_beside_their_distances(tmp_path, figures):
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    far = [(images[0], images[1], 1.25, "coat")]
    near = [(images[2], images[3], 0.25, "shirt, " + "c" * 40), (images[4], images[5], 0.5, "$x_$")]
    plots.worst_mistakes(tmp_path / "mistakes.png", far, near, "The worst of 7 pairs")
    (figure,) = figures
    panels = np.reshape(figure.axes, (2, 5))
    expected = [*images[:4], None, None, *images[4:]]
    for axes, image in zip(panels[:, [0, 1, 3, 4]].flat, expected, strict=True):
        shown = [picture.get_array() for picture in axes.images]
        assert len(shown) == (image is not None)
        if shown:
            np.testing.assert_array_equal(shown[0], image)
    below = [axes.get_xlabel() for axes in panels[:, [0, 1, 3, 4]].flat]
    assert below[:4] == ["coat", "1.250", looks.shortened(near[0][3], 26), "0.250"]
    assert below[4:] == ["", "", "$x_$", "0.500"]
    assert panels[0, 3].get_title(loc="left") == "different, but near"
    assert_nothing_is_cut_off_or_overlaps(figure)
    # Of any number of channels, of one kind alone, and upright.
    tall = np.ones((30, 10, 5))
    plots.worst_mistakes(tmp_path / "mistakes.png", [], [(tall, tall, 0.0, "")])
    assert "first three of 5 channels" in figures[1].get_suptitle()
    assert_nothing_is_cut_off_or_overlaps(figures[1])


def test_nothing_to_draw_is_a_mistake(tmp_path):
    for mistake in (
        lambda path: plots.roc_curves(path, {}),
        lambda path: plots.distance_histograms(path, {}),
        lambda path: plots.worst_mistakes(path, [], []),
    ):
        with pytest.raises(ValueError, match=r"at least one.* Received: none"):
            mistake(tmp_path / "none.png")
    assert not list(tmp_path.iterdir())
