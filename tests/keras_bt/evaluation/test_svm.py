import dataclasses
import json

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.svm import LinearSVC

from keras_bt.evaluation import svm
from keras_bt.evaluation.average_precision import average_precision
from keras_bt.evaluation.svm import svm_probe


def examples(n, classes, d=20, noise=1.0, seed=0):
    """Features and labels: an image may be of several classes; a third have each of them."""
    random = np.random.default_rng(seed)
    hidden = random.standard_normal((n, classes))
    mixing = np.random.default_rng(99).standard_normal((classes, d))
    features = hidden @ mixing + 0.3 * random.standard_normal((n, d))
    labels = (hidden + noise * random.standard_normal(hidden.shape) > 0.45).astype(int)
    return features.astype(np.float32), labels


def test_equals_scikit_learn_called_directly(capsys):
    (train, labels), (test, test_labels) = examples(300, 4), examples(250, 4, seed=1)
    costs = [0.01, 0.3, 30.0]
    result = svm_probe(train, labels, test, test_labels, costs, seed=5, progress=True)
    assert "4/4" in capsys.readouterr().out

    x, x_test = (f / np.linalg.norm(f.astype(float), axis=1)[:, None] for f in (train, test))
    for label in range(4):
        search = GridSearchCV(
            # The dual, with its randomness, as published; fitted more closely.
            LinearSVC(class_weight={0: 1, 1: 2}, tol=1e-8, max_iter=100_000, random_state=0),
            {"C": costs},
            scoring="average_precision",
            cv=StratifiedKFold(3, shuffle=True, random_state=5),
        ).fit(x, labels[:, label])
        scores = search.decision_function(x_test)
        truth = test_labels[:, label]
        assert result.chosen_c[label] == search.best_params_["C"]
        assert result.average_precisions[label] == pytest.approx(
            average_precision(scores, truth), abs=2e-3
        )
    assert result.mean_average_precision == pytest.approx(np.mean(result.average_precisions))
    assert len(set(result.chosen_c)) > 1  # else the search could be of no consequence
    assert result.mean_area != result.mean_average_precision


def test_positives_weigh_twice(monkeypatch):
    (train, labels), test = examples(200, 1), examples(200, 1, seed=1)
    result = svm_probe(train, labels, *test, costs=1.0)
    monkeypatch.setattr(svm, "_POSITIVE_WEIGHT", 1.0)
    assert svm_probe(train, labels, *test, costs=1.0) != result
    # Which is to say that each of them is there twice.
    twice = np.append(np.arange(200), np.flatnonzero(labels[:, 0] == 1))
    doubled = svm_probe(train[twice], labels[twice], *test, costs=1.0)
    assert doubled.mean_area == pytest.approx(result.mean_area, abs=1e-4)


def test_ignored_examples_have_no_influence():
    (train, labels), (test, test_labels) = examples(300, 2), examples(200, 2, seed=1)
    expected = svm_probe(train, labels, test, test_labels)
    # Misleading ones: of each class those that look like it but are not to be counted.
    more, their_labels = examples(100, 2, noise=0, seed=2)
    for label in range(2):
        ignored = 1 - their_labels
        ignored[:, label] = -1
        result = svm_probe(
            np.concatenate([train, more]),
            np.concatenate([labels, ignored]),
            np.concatenate([test, more]),
            np.concatenate([test_labels, ignored]),
        )
        other = 1 - label
        assert result.average_precisions[label] == expected.average_precisions[label]
        assert result.chosen_c[label] == expected.chosen_c[label]
        assert result.average_precisions[other] != expected.average_precisions[other]


def test_the_length_of_features_does_not_matter():
    (train, labels), (test, test_labels) = examples(200, 2), examples(100, 2, seed=1)
    expected = svm_probe(train, labels, test, test_labels, costs=[0.1, 1])
    lengths = np.random.default_rng(0).uniform(1, 1000, (200, 1))
    result = svm_probe(train * lengths, labels, 50 * test, test_labels, costs=[0.1, 1])
    assert result.average_precisions == pytest.approx(expected.average_precisions, abs=1e-5)
    train[3] = 0  # no direction at all
    svm_probe(train, labels, test, test_labels, costs=1)


@pytest.mark.slow
def test_the_seed_draws_the_folds():
    (train, labels), test = examples(60, 3, noise=3), examples(60, 3, seed=1)
    costs = np.geomspace(1e-3, 1e3, 13)
    chosen = [svm_probe(train, labels, *test, costs, seed).chosen_c for seed in (0, 0, 1, 2, 3)]
    assert chosen[0] == chosen[1]
    assert len(set(chosen)) > 1


def test_classes_that_cannot_be_measured_are_excluded():
    (train, labels), (test, test_labels) = examples(100, 5), examples(100, 5, seed=1)
    labels[:, 0] = [1, 1] + [0] * 98
    labels[:, 1] = [0, 0] + [1] * 97 + [-1]
    test_labels[:, 2] = [-1] * 10 + [0] * 90
    result = svm_probe(train, labels, test, test_labels, costs=1)
    assert result.excluded == (0, 1, 2)
    assert result.average_precisions[:3] == result.chosen_c[:3] == (None,) * 3
    kept = svm_probe(train, labels[:, 3:], test, test_labels[:, 3:], costs=1)
    assert result.average_precisions[3:] == kept.average_precisions
    assert result.mean_average_precision == kept.mean_average_precision
    assert json.loads(json.dumps(dataclasses.asdict(result)))["excluded"] == [0, 1, 2]
    with pytest.raises(ValueError, match="Received: 3 classes, none with these"):
        svm_probe(train, labels[:, :3], test, test_labels[:, :3])


def test_a_fit_that_does_not_converge_is_told(monkeypatch):
    monkeypatch.setattr(svm, "_MAX_ITERATIONS", 2)
    assert not svm_probe(*examples(100, 2), *examples(50, 2, seed=1), costs=1000).converged


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": np.zeros(30, int)}, r"train_labels must have shape \(30, classes\)"),
        ({"test_labels": np.zeros((20, 3), int)}, "labels must have the same width.*2 and 3"),
        ({"train_features": np.full((30, 20), np.nan)}, "train_features must be finite"),
        ({"train_labels": np.full((30, 2), 2)}, "Received: 2"),
        ({"costs": [0, 1]}, "costs must be numbers above 0"),
        ({"costs": []}, "costs must be numbers above 0"),
        ({"test_labels": np.zeros((20, 2), int)}, "none with these"),
    ],
)
def test_wrong_input(change, message):
    names = ("train_features", "train_labels", "test_features", "test_labels")
    arguments = dict(zip(names, examples(30, 2) + examples(20, 2), strict=True))
    with pytest.raises(ValueError, match=message):
        svm_probe(**(arguments | change))
