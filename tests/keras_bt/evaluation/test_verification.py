import dataclasses
import itertools

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from keras_bt.data.pairs import Pairs
from keras_bt.evaluation import verification
from keras_bt.evaluation.verification import (
    choose_threshold,
    distances,
    reference_distances,
    roc,
    verify,
)


def drawn(alike=120, unlike=1500, decimals=2, seed=0):
    """Distances that overlap, many of them equal."""
    random = np.random.default_rng(seed)
    found = np.append(random.normal(0.7, 0.2, alike), random.normal(1.2, 0.25, unlike))
    order = random.permutation(alike + unlike)
    return np.clip(found, 0, 2).round(decimals)[order], (np.arange(alike + unlike) < alike)[order]


def rates_at(threshold, found, same):
    """Oracle: false accepts and false rejects by counting."""
    return (found[~same] <= threshold).mean(), (found[same] > threshold).mean()


@pytest.mark.parametrize("decimals", [1, 2, 15])
def test_figures_are_those_of_their_definitions(decimals):
    found, same = drawn(decimals=decimals)
    figures = verify(found, same, threshold=0.9)
    wins = found[same][:, None] - found[~same]
    assert figures.auc == pytest.approx((wins < 0).mean() + (wins == 0).mean() / 2)
    assert figures.auc == pytest.approx(roc_auc_score(same, -found))
    assert (figures.same_pairs, figures.different_pairs) == (120, 1500)
    every = [rates_at(t, found, same) for t in (-1, *np.unique(found))]
    for rate, share in figures.true_accepts.items():
        assert share == pytest.approx(max(1 - fr for fa, fr in every if fa <= rate))
    accepts, rejects = rates_at(0.9, found, same)
    assert (figures.false_accepts, figures.false_rejects) == pytest.approx((accepts, rejects))
    assert figures.accuracy == pytest.approx(((found <= 0.9) == same).mean())
    # On the line between two neighboring points of the curve, as random choice among ties would be.
    crossing = [
        a[0] + (b[0] - a[0]) * (a[1] - a[0]) / ((a[1] - a[0]) - (b[1] - b[0]))
        for a, b in itertools.pairwise(every)
        if a[1] > a[0] and b[1] <= b[0]
    ]
    assert [figures.eer] == pytest.approx(crossing)


def test_deviations_are_those_of_new_pairs():
    """Oracle: the same figures of as many pairs, drawn again and again."""
    names = ("auc", "eer", "accuracy")
    again = [verify(*drawn(80, 400, 15, seed), 0.9) for seed in range(30)]
    told = again[0]
    for name in names:
        true = np.std([getattr(one, name) for one in again], ddof=1)
        assert 0.5 < getattr(told, f"{name}_deviation") / true < 2, name
    true = np.std([one.true_accepts[0.01] for one in again], ddof=1)
    assert 0.4 < told.true_accepts_deviation[0.01] / true < 2.5


def test_perfect_reversed_and_collapsed():
    same = np.arange(3000) < 1000
    perfect = verify(np.where(same, 0.5, 1.5), same, threshold=1)
    assert (perfect.auc, perfect.eer, perfect.accuracy) == (1, 0, 1)
    assert perfect.true_accepts == {0.01: 1, 0.001: 1}
    reverse = verify(np.where(same, 1.5, 0.5), same, threshold=1)
    assert (reverse.auc, reverse.eer, reverse.accuracy) == (0, 1, 0)
    collapsed = verify(np.full(3000, 0.3), same)
    assert (collapsed.auc, collapsed.eer) == (0.5, 0.5)
    assert collapsed.true_accepts == {0.01: 0, 0.001: 0}
    assert {getattr(collapsed, f.name) for f in dataclasses.fields(collapsed)[8:]} == {None}


@pytest.mark.parametrize(("unlike", "told"), [(99, 0), (100, 1), (999, 1), (1000, 2)])
def test_too_few_different_pairs_have_no_figure(unlike, told):
    figures = verify(*drawn(20, unlike))
    for of in (figures.true_accepts, figures.true_accepts_deviation):
        assert [value is not None for value in of.values()] == [told > 0, told > 1]


@pytest.mark.parametrize("seed", range(4))
def test_no_threshold_is_better_than_the_chosen_one(seed):
    found, same = drawn(60, 90, decimals=2, seed=seed)
    chosen = choose_threshold(found, same)
    assert chosen not in found

    def gap(threshold):
        accepts, rejects = rates_at(threshold, found, same)
        return abs(accepts - rejects)

    ends = np.unique(found)
    others = [gap(t) for t in (ends[:-1] + ends[1:]) / 2]
    assert gap(chosen) == pytest.approx(min(others))


@pytest.mark.parametrize(
    ("found", "same", "threshold"),
    [
        ([0.2, 0.4, 1.0, 1.2], [1, 1, 0, 0], 0.7),  # half way through the gap
        ([0.2, 0.4, 1.0, 1.2], [1, 0, 1, 0], 0.7),  # half are wrong on either side
        ([0.2, 0.4, 0.6], [1, 0, 1], 0.3),  # of two as good, the one that accepts less
        ([1.0, 0.0], [1, 0], 0.5),  # reversed, but between the ends
        ([0.3, 0.3, 0.3], [1, 0, 1], 0.3),  # collapsed
        ([0.1, 0.1, 0.1, 0.5], [1, 1, 0, 0], 0.3),
        ([1 + 2**-52, 1 + 2**-51], [1, 0], 1 + 2**-52),  # no number lies between
    ],
)
def test_ties_and_ends_of_thresholds(found, same, threshold):
    chosen = choose_threshold(found, same)
    assert chosen == pytest.approx(threshold, abs=1e-12)
    assert sum(np.less_equal(found, chosen)) == sum(np.less_equal(found, threshold))
    assert choose_threshold(found[::-1], same[::-1]) == pytest.approx(threshold, abs=1e-12)


def test_a_curve_goes_from_nothing_to_everything():
    found, same = drawn(decimals=1)
    false, true, thresholds = roc(found, same)
    assert (false[0], true[0], thresholds[0]) == (0, 0, -np.inf)
    np.testing.assert_array_equal(thresholds[1:], np.unique(found))
    for accepted, right, t in zip(false, true, thresholds, strict=True):
        accepts, rejects = rates_at(t, found, same)
        assert (accepted, right) == pytest.approx((accepts, 1 - rejects))
    twice = roc(np.repeat(found, 2), np.repeat(same, 2))
    np.testing.assert_allclose(roc(found, same, np.full(len(same), 2.0))[0], twice[0])


def test_distances_are_of_normalized_embeddings(monkeypatch):
    monkeypatch.setattr(verification, "_ROWS", 7)
    random = np.random.default_rng(0)
    embeddings = (
        random.normal(size=(30, 5)).astype(np.float32) * np.geomspace(1e-12, 1e12, 30)[:, None]
    )
    embeddings[4:6] = 0
    pairs = Pairs(*random.integers(30, size=(2, 50)), np.ones(50, bool))
    pairs.first[0], pairs.second[0] = 4, 5
    unit = [e / np.sqrt((e.astype(float) ** 2).sum()) if e.any() else e for e in embeddings]
    expected = [
        np.sqrt(((unit[a] - unit[b]) ** 2).sum())
        for a, b in zip(pairs.first, pairs.second, strict=True)
    ]
    np.testing.assert_allclose(distances(embeddings, pairs), expected, atol=1e-9)
    assert distances(embeddings, pairs[:1]) == [0]


@pytest.mark.parametrize("k", [1, 3])
def test_references_by_brute_force(monkeypatch, k):
    monkeypatch.setattr(verification, "_ROWS", 4)
    random = np.random.default_rng(0)
    labels = random.permutation(np.repeat([5, 2, 9, 1], [6, 9, 4, k]))  # class 1 has no other image
    embeddings = random.normal(size=(len(labels), 3))
    nearest, mean, same = reference_distances(embeddings, labels, k, seed=3)
    # Each class has k images that are compared with nothing: find them by what the others measure.
    assert same.sum() == 19 - 3 * k
    assert len(same) == 3 * same.sum()
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    between = np.linalg.norm(unit[:, None] - unit, axis=2)
    if k == 1:
        np.testing.assert_allclose(nearest, mean, atol=1e-12)
    rows = iter(zip(nearest.reshape(-1, 3), mean.reshape(-1, 3), same.reshape(-1, 3), strict=True))
    known = references_of(labels, k, 3)
    for image in sorted(set(np.flatnonzero(labels != 1)) - set(np.concatenate(known))):
        found = next(rows)
        np.testing.assert_allclose(found[0], [between[image, of].min() for of in known], atol=1e-7)
        np.testing.assert_allclose(found[1], [between[image, of].mean() for of in known], atol=1e-7)
        assert found[2].tolist() == [labels[image] == c for c in (2, 5, 9)]
    assert next(rows, None) is None
    other = reference_distances(embeddings, labels, k, seed=4)
    assert not np.array_equal(other[0], nearest)


def references_of(labels, k, seed):
    random = np.random.default_rng(seed)
    return [random.permutation(np.flatnonzero(labels == c))[:k] for c in (2, 5, 9)]


def test_many_comparisons_are_of_a_part_of_the_images(monkeypatch):
    monkeypatch.setattr(verification, "_MOST_COMPARISONS", 30)
    labels = np.arange(100) % 3
    embeddings = np.eye(3)[labels] + np.arange(300).reshape(100, 3) / 1e4
    nearest, _, same = reference_distances(embeddings, labels, 2)
    assert (len(same), same.sum()) == (30, 10)
    assert nearest[same].max() < 0.1 < nearest[~same].min()


def test_mistakes_are_named():
    found, same = drawn(5, 5)
    embeddings, labels = np.ones((4, 2)), [0, 0, 1, 1]
    for mistake, message in (
        (lambda: verify(found, same[:-1]), r"Received: shapes \(10,\) and \(9,\)"),
        (lambda: verify(found * np.nan, same), "must be finite"),
        (lambda: verify(found, np.ones(10)), "Received: 10 and 0"),
        (lambda: choose_threshold(found, np.zeros(10)), "Received: 0 and 10"),
        (lambda: roc([], []), "Received: 0 and 0"),
        (lambda: distances(embeddings, Pairs(*np.array([[0], [4]]), same[:1])), "images 4 to 4"),
        (lambda: reference_distances(embeddings, labels, 2), "two classes .* Received: 0 of them"),
        (lambda: reference_distances(embeddings, labels, 0), "at least 1. Received: 0"),
        (lambda: reference_distances(embeddings, labels[:3], 1), "one class per feature"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            mistake()
        assert "\n" not in str(error.value)
