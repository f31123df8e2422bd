import pytest
from drawn import assert_nothing_is_cut_off_or_overlaps, collect_figures, texts

from keras_bt.plots import runs as plots


@pytest.fixture
def figures(monkeypatch):
    return collect_figures(monkeypatch)


def test_accuracies_have_a_line_for_each_protocol(tmp_path, figures):
    name = "trainers.linear_probe --fast, data=folder:/somewhere/far/away/$x$, labels=100, seed=3"
    rows = [("kNN", "raw pixels", 0.5, None), ("kNN", "backbone", 0.6, None)]
    rows += [(name, "backbone", 0.7, 0.02)]
    plots.accuracies(tmp_path / "a.png", rows)
    (figure,) = figures
    assert_nothing_is_cut_off_or_overlaps(figure)
    (axes,) = figure.axes
    labels = [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()]
    assert labels == ["kNN", name]
    marks = [tuple(zip(*bar[0].get_data(), strict=True)) for bar in axes.containers]
    assert marks == [((50, 0),), ((60, 0), (70, 1))]
    with pytest.raises(ValueError, match="at least one"):
        plots.accuracies(tmp_path / "a.png", [])


def test_a_table_shows_every_text(tmp_path, figures):
    data = "folder:/somewhere/far/away/and/further/still/photos"
    parts = {
        "final figures": {"kNN, k = 20": ["97.4", "–"], "probe, 5 per class": ["95.4 ± 1.7", "–"]},
        "settings that differ": {"data": ["digits", data], "epochs": ["150", "10"]},
    }
    plots.table(tmp_path / "t.png", ["runs/a", "runs/" + "b" * 40], parts)
    (figure,) = figures
    assert_nothing_is_cut_off_or_overlaps(figure)
    shown = [text.replace("\n", "") for text in texts(figure.axes[0].texts)]
    for heading, rows in parts.items():
        assert heading in shown
        for name, cells in rows.items():
            assert {name, *cells} <= set(shown)
    assert {"runs/a", "runs/" + "b" * 40} <= set(shown)
