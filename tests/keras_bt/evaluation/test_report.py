import dataclasses

import numpy as np
import pytest

from keras_bt.evaluation import report
from keras_bt.evaluation.knn import knn_accuracy
from keras_bt.evaluation.linear import few_label_probe, logistic_probe
from keras_bt.evaluation.whitening import Whitening


def test_every_figure_is_that_of_its_protocol():
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    features = np.eye(3)[labels] @ random.standard_normal((3, 6)) + random.standard_normal((90, 6))
    data = features[:60], labels[:60], features[60:], labels[60:]
    white = Whitening.fit(data[0])
    few = few_label_probe(*data, labels_per_class=5, seed=3)
    found = report.measure(*data, seed=3)
    assert found == report.Accuracies(
        knn=knn_accuracy(*data, k=20),
        knn_whitened=knn_accuracy(white(data[0]), data[1], white(data[2]), data[3], k=20),
        probe=logistic_probe(*data).top1,
        few_labels=pytest.approx(np.mean(few)),
        few_labels_deviation=pytest.approx(np.std(few, ddof=1)),
    )
    assert found.knn != found.knn_whitened
    few = report.measure(data[0][:12], data[1][:12], *data[2:])  # four of each class
    assert few.few_labels is few.few_labels_deviation is None


def test_what_would_take_minutes_is_not_whitened(monkeypatch):
    monkeypatch.setattr("keras_bt.evaluation.whitening._WIDEST", 5)
    features = np.random.default_rng(0).standard_normal((30, 6))
    found = report.measure(features, np.arange(30) % 3, features, np.arange(30) % 3)
    assert found.knn_whitened is None
    assert "–" in report.table({"raw pixels": found})


def test_columns_of_the_table_never_touch_and_fit_the_terminal():
    row = report.Accuracies(1.0, 0.5, 0.1234, 0.304, 0.071)
    most = report.Accuracies(1.0, 1.0, 1.0, 1.0, 0.1)
    none = dataclasses.replace(row, few_labels=None, few_labels_deviation=None)
    text = report.table({"raw pixels": row, "untrained backbone": most, "Barlow Twins": none})
    assert [line.split("  ") for line in text.replace("   ", "  ").splitlines()]
    lines = text.splitlines()
    assert [cell.strip() for cell in lines[0].split("  ") if cell] == [
        "kNN",
        "kNN, whitened",
        "probe, all labels",
        "probe, 5 per class",
    ]
    cells = [[cell.strip() for cell in line.split("  ") if cell] for line in lines[1:]]
    assert cells == [
        ["raw pixels", "100.0", "50.0", "12.3", "30.4 ± 7.1"],
        ["untrained backbone", "100.0", "100.0", "100.0", "100.0 ± 10.0"],
        ["Barlow Twins", "100.0", "50.0", "12.3", "–"],
    ]
    assert max(map(len, lines)) <= 100
    # However long a cell is.
    wide = report.columns([["", "C", "n"], ["a", "0.0001 to 0.3", "1,000"], ["b" * 30, "1", "2"]])
    assert [line.split() for line in wide][1] == ["a", "0.0001", "to", "0.3", "1,000"]
    assert len({len(line) for line in wide}) == 1
