import warnings

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from threadpoolctl import threadpool_info

from keras_bt.data.subsets import balanced_indices
from keras_bt.evaluation import linear


def clusters(n, d, classes, spread=1.0, seed=0):
    """Features whose classes overlap more with a larger spread."""
    random = np.random.default_rng(seed)
    centers = random.standard_normal((classes, d))
    labels = np.arange(n) % classes
    features = centers[labels] + spread * random.standard_normal((n, d))
    return features.astype(np.float32), labels


def split(features, labels, n):
    return features[:n], labels[:n], features[n:], labels[n:]


def digits():
    images, labels = load_digits(return_X_y=True)
    return split(images.astype(np.float32), labels, 1437)


def test_is_logistic_regression_on_standardized_features():
    train, labels, test, test_labels = split(*clusters(400, 12, 4, spread=1.5), 250)
    result = linear.logistic_probe(7 * train + 3, labels, 7 * test + 3, test_labels, 0.1)
    mean, deviation = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    classifier = LogisticRegression(C=0.1, tol=1e-8, max_iter=10_000)
    classifier.fit((train - mean) / deviation, labels)
    # The probe stops at a gradient of 1e-4: points on a border may fall to its other side.
    expected = classifier.predict((test - mean) / deviation)
    assert np.mean(result.predictions == expected) >= 0.99
    assert result.top1 == np.mean(result.predictions == test_labels)
    assert (result.chosen_c, result.search, result.converged) == (0.1, (), True)


def test_search_takes_the_least_log_loss_of_cross_validation():
    # Of more dimensions than images.
    train, labels, test, test_labels = split(*clusters(400, 120, 4, spread=4), 100)
    result = linear.logistic_probe(train, labels, test, test_labels)
    c, losses = zip(*result.search, strict=True)
    assert c == linear.SEARCH_C[: len(c)]
    assert result.chosen_c == c[np.argmin(losses)] < linear.SEARCH_C[-1]
    assert len(c) == np.argmin(losses) + 2  # the first rise ends it
    # scikit-learn's.
    features = linear._standardize(train.astype(np.float64), test)[0]
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    classifier = LogisticRegression(C=c[2], max_iter=2000)
    expected = cross_val_score(classifier, features, labels, scoring="neg_log_loss", cv=folds)
    assert losses[2] == pytest.approx(-expected.mean(), rel=1e-3)


def test_search_never_sees_the_test_set():
    train, labels, test, test_labels = digits()
    result = linear.logistic_probe(train, labels, test, test_labels)
    swapped = linear.logistic_probe(train, labels, test[::-1] + 5, np.roll(test_labels, 3))
    assert swapped.search == result.search
    assert swapped.chosen_c == result.chosen_c


def test_search_never_trains_on_the_held_out_part():
    # Noise in more dimensions than images: whatever is trained on is classified rightly.
    random = np.random.default_rng(0)
    noise, labels = random.standard_normal((200, 400)), random.integers(0, 2, 200)
    result = linear.logistic_probe(noise, labels, noise, labels)
    assert result.top1 > 0.9
    assert min(loss for _, loss in result.search) > 0.6  # chance has 0.69


def test_the_search_ends_where_a_weaker_penalty_changes_nothing(monkeypatch):
    losses = iter([3.0, 2.0, 2.0, 1.0])
    one_fold = linear._folds(np.arange(40) % 3, 0)[:1]
    monkeypatch.setattr(linear, "_folds", lambda labels, seed: one_fold)
    monkeypatch.setattr(linear, "_log_losses", lambda *_: np.array([next(losses)]))
    result = linear.logistic_probe(*split(*clusters(60, 4, 3), 40))
    assert result.chosen_c == linear.SEARCH_C[1]
    assert [loss for _, loss in result.search] == [3, 2, 2]


@pytest.mark.parametrize(
    ("counts", "folds", "held_out"),
    [
        ([20, 20, 30], 5, 70),
        ([10, 10], 5, 20),
        ([9, 9, 9], 0, 0),  # too few
        ([2, 9, 9, 100], 0, 0),
        ([1, 10, 50], 5, 61),
        ([1, 20], 4, 16),  # but not the fold whose rest is of one class
        ([3000, 3000], 1, 1200),
    ],
)
def test_folds_hold_equal_shares_of_the_classes_out(counts, folds, held_out):
    labels = np.repeat(np.arange(len(counts)), counts)
    found = linear._folds(labels, seed=0)
    assert len(found) == folds
    assert len({image for _, part in found for image in part}) == held_out
    for fitted, part in found:
        assert sorted([*fitted, *part]) == list(range(len(labels)))
        if min(counts) > 1:
            np.testing.assert_array_equal(np.bincount(labels[part]), np.array(counts) / 5)
    assert [list(part) for _, part in linear._folds(labels, 0)] == [list(p) for _, p in found]


@pytest.mark.parametrize("images", [6, 54])  # of six classes
def test_with_few_images_c_is_fixed(images):
    train, labels, test, test_labels = split(*clusters(100, 8, 6, spread=0.1), images)
    result = linear.logistic_probe(train, labels, test, test_labels)
    assert result.search == ()
    assert result.chosen_c == linear.FEW_LABEL_C
    assert result.top1 == 1


def test_classes_too_rare_for_the_folds_do_no_harm():
    train, labels, test, test_labels = split(*clusters(400, 8, 4, spread=0.1), 200)
    rare = np.concatenate([labels[:120], [7]])  # the only one of its class
    result = linear.logistic_probe(train[:121], rare, test, test_labels)
    assert result.top1 > 0.95
    assert np.isfinite([loss for _, loss in result.search]).all()


@pytest.mark.parametrize(("classes", "has_top5"), [(2, False), (5, False), (6, True)])
def test_top5_only_where_it_says_something(classes, has_top5):
    result = linear.logistic_probe(*split(*clusters(300, 6, classes, spread=2), 200), 1.0)
    assert (result.top5 is not None) == has_top5
    assert 0.2 < result.top1 <= 1


def test_labels_need_not_begin_at_0_and_untrained_classes_are_wrong():
    train, labels, test, test_labels = split(*clusters(300, 10, 4, spread=0.3), 200)
    names = np.array([3, 10, 11, 900])
    result = linear.logistic_probe(train, names[labels], test, names[test_labels], 1.0)
    assert result.top1 == 1
    assert set(result.predictions) == set(names)
    some_unknown = names[test_labels]
    some_unknown[:25] = [0, 5, 12, 901, 10**6] * 5
    result = linear.logistic_probe(train, names[labels], test, some_unknown, 1.0)
    assert result.top1 == 0.75


def test_scale_and_dead_features_do_not_matter():
    train, labels, test, test_labels = split(*clusters(500, 12, 5, spread=1.5), 300)
    expected = linear.logistic_probe(train, labels, test, test_labels, 1.0)
    random = np.random.default_rng(0)
    # A constant feature, one that is constant but for rounding, and others of any scale.
    dead = np.full((500, 2), 3.7, np.float32)
    dead[:, 1] += 1e-6 * random.standard_normal(500)
    scale = np.float32(10.0) ** np.arange(-6, 6)
    wide_train = np.concatenate([train * scale, dead[:300]], axis=1)
    # In the test set the dead ones come alive.
    wide_test = np.concatenate([test * scale, dead[300:] + 1], axis=1)
    result = linear.logistic_probe(wide_train, labels, wide_test, test_labels, 1.0)
    assert np.mean(result.predictions == expected.predictions) >= 0.99


def test_no_convergence_is_reported_not_warned_of(monkeypatch):
    monkeypatch.setattr(linear, "_MAX_ITERATIONS", 2)
    data = split(*clusters(300, 10, 4), 200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not linear.logistic_probe(*data, 10.0).converged


def test_small_probes_use_one_thread(monkeypatch):
    # Several threads that wait for each other took 8 s where one takes 0.1 s.
    threads = []

    class Looks(linear.LogisticRegression):
        def fit(self, features, labels):
            threads.extend(library["num_threads"] for library in threadpool_info())
            return super().fit(features, labels)

    monkeypatch.setattr(linear, "LogisticRegression", Looks)
    linear.logistic_probe(*split(*clusters(300, 10, 4), 200), 1.0)
    assert set(threads) == {1}


def test_few_labels_are_balanced_seeded_and_measured_one_by_one():
    train, labels, test, test_labels = digits()
    result = linear.few_label_probe(train, labels, test, test_labels, draws=10, seed=7)
    assert len(result) == 10
    assert 0.72 < np.mean(result) < 0.86
    assert 0.01 < np.std(result) < 0.08
    # Draws are a function of the seed and their number only.
    fewer = linear.few_label_probe(train, labels, test, test_labels, draws=3, seed=7)
    assert fewer == result[:3]
    other = linear.few_label_probe(train, labels, test, test_labels, draws=3, seed=8)
    assert other != fewer
    # Each is a probe on nothing but its own images.
    chosen = balanced_indices(labels, 5, seed=(7, 1))
    probe = linear.logistic_probe(train[chosen], labels[chosen], test, test_labels, seed=7)
    assert probe.top1 == result[1]
    strong = linear.few_label_probe(
        train, labels, test, test_labels, draws=2, seed=7, regularization=1e-4
    )
    assert np.mean(strong) < np.mean(result[:2])


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_accuracy_equals_a_stable_sort(k):
    random = np.random.default_rng(0)
    scores = random.integers(0, 4, (500, 7)).astype(np.float32)  # full of ties
    labels = random.integers(-1, 7, 500)
    right = [
        label in sorted(range(7), key=lambda c: (-row[c], c))[:k]
        for row, label in zip(scores, labels, strict=True)
    ]
    assert linear.top_k_accuracy(scores, labels, k) == np.mean(right)


def test_mistakes_are_named():
    features, labels = clusters(60, 5, 3)
    for arguments, message in (
        ((features, None, features, labels), "train_labels must hold .* Received: no labels"),
        ((features, labels, features, labels[:5]), "test_labels .* Received: labels of shape"),
        ((features, 0 * labels, features, labels), "at least two classes. Received: only class 0"),
        ((features, labels, np.inf * features, labels), "test_features must be finite"),
        ((features, labels, features, labels, 0.0), "regularization must be None"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            linear.logistic_probe(*arguments)
        assert "\n" not in str(error.value)
    for wrong, message in (
        ({"labels_per_class": 21}, "Received: 20 of class 0, 21 wanted"),
        ({"labels_per_class": 0}, "Labels per class must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            linear.few_label_probe(features, labels, features, labels, **wrong)
