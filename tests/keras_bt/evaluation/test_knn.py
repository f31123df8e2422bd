"""Oracle: every similarity as its own float64 sum, sorted by Python, votes counted one by one."""

import math
import tracemalloc
from unittest import mock

import numpy as np
import pytest

from keras_bt.evaluation import knn, neighbours


def brute_force(train, queries, k):
    """Neighbors by sorting (-similarity, index); sums in one order, so that equals are equal."""

    def cosine(a, b):
        lengths = math.sqrt(math.fsum(a * a)) * math.sqrt(math.fsum(b * b))
        return math.fsum(a * b) / lengths if lengths > 0 else 0.0

    train, queries = np.asarray(train, np.float64), np.asarray(queries, np.float64)
    similarities, indices = [], []
    for query in queries:
        s = [cosine(query, vector) for vector in train]
        order = sorted(range(len(s)), key=lambda i: (-s[i], i))[:k]
        similarities.append([s[i] for i in order])
        indices.append(order)
    return np.array(similarities), np.array(indices)


def brute_force_vote(similarities, labels, temperature, num_classes):
    scores = np.zeros((len(similarities), num_classes))
    for row, (nearest, classes) in enumerate(zip(similarities, labels, strict=True)):
        for s, c in zip(nearest, classes, strict=True):
            scores[row, c] += math.exp((s - 1) / temperature)
    return scores / scores.sum(axis=1, keepdims=True)


def random_data(n=300, m=40, d=24, classes=5, seed=0):
    random = np.random.default_rng(seed)
    train = random.standard_normal((n, d)).astype(np.float32)
    queries = random.standard_normal((m, d)).astype(np.float32)
    return train, random.integers(0, classes, n), queries


def predict(train, labels, queries, k, temperature=0.07, classes=5):
    similarities, indices = knn.nearest_neighbours(train, queries, k)
    return knn._vote(similarities, np.asarray(labels)[indices], temperature, classes)


@pytest.fixture
def chunks(monkeypatch):
    """A function that sets how many queries and training vectors are compared at once."""

    def compare(queries, training):
        monkeypatch.setattr(neighbours, "_QUERIES", queries)
        monkeypatch.setattr(neighbours, "_TRAINING", training)

    return compare


@pytest.mark.parametrize("k", [1, 20, 200, 299, 300])
def test_scores_and_labels_equal_brute_force(k, chunks):
    train, labels, queries = random_data()
    chunks(16, 64)
    scores, predictions = predict(train, labels, queries, k)
    similarities, indices = brute_force(train, queries, k)
    expected = brute_force_vote(similarities, labels[indices], 0.07, 5)
    assert scores.dtype == np.float32
    assert predictions.dtype == np.int64
    np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(predictions, expected.argmax(axis=1))


@pytest.fixture(scope="module")
def nearest_ten():
    train, _, queries = random_data()
    return brute_force(train, queries, 10)


@pytest.mark.parametrize(
    ("at_once", "training"),
    [(1, 300), (7, 1), (7, 10), (7, 299), (40, 10), (40, 4096), (1000, 299)],
)
def test_neighbours_do_not_depend_on_chunks(at_once, training, nearest_ten, chunks):
    train, _, queries = random_data()
    chunks(at_once, training)
    found = knn.nearest_neighbours(train, queries, 10)
    similarities, indices = nearest_ten
    np.testing.assert_array_equal(found[1], indices)
    np.testing.assert_allclose(found[0], similarities, rtol=0, atol=2e-12)


def tied(kind):
    """Training vectors and queries with more ties than the search keeps candidates."""
    random = np.random.default_rng(2)
    if kind == "quarters":  # rows with four ones each: similarities are multiples of 1/4
        rows = np.array([random.permutation([1.0] * 4 + [0.0] * 8) for _ in range(400)], np.float32)
        return rows[:380], rows[380:]
    if kind == "copies":  # float32 rounding differs between their places in the matrix product
        some = random.standard_normal((40, 33)).astype(np.float32)
        queries = random.standard_normal((20, 33)).astype(np.float32)
        return np.tile(some, (10, 1))[random.permutation(400)], queries
    if kind == "sums":  # of the same numbers in another order: to rounding they are not ties
        numbers = random.standard_normal(33)
        return np.array([random.permutation(numbers) for _ in range(400)]), np.ones((3, 33))
    return np.full((400, 7), 0.1, np.float32), np.full((3, 7), 0.3, np.float32)


@pytest.mark.parametrize("kind", ["quarters", "copies", "sums", "constant"])
def test_of_equal_similarities_the_lowest_index_wins(kind, chunks):
    train, queries = tied(kind)
    # k ends in the middle of a group of ten copies.
    _, expected = brute_force(train, queries, 25)
    for training in (1, 13, 399, 4096):
        chunks(1024, training)
        _, found = knn.nearest_neighbours(train, queries, 25)
        np.testing.assert_array_equal(found, expected)


def test_differences_below_float32_are_seen(chunks):
    # Similarities 1 - O(1e-9): all the same in float32.
    random = np.random.default_rng(3)
    train = 1 + 3e-5 * random.standard_normal((300, 16))
    queries = 1 + 3e-5 * random.standard_normal((6, 16))
    chunks(1024, 50)
    _, indices = knn.nearest_neighbours(train, queries, 5)
    exact = brute_force(train, queries, 300)
    # Those 1e-11 apart are ordered as the oracle orders them; nearer ones are close to a tie.
    settled = (exact[0][:, 4] - exact[0][:, 5]) > 1e-11
    assert settled.sum() >= 4
    for row in np.flatnonzero(settled):
        assert set(indices[row]) == set(exact[1][row, :5])


@pytest.mark.parametrize("training", [128, 1300, 4096])
def test_training_data_sorted_towards_the_queries(training, chunks):
    # Each chunk is nearer than the last, so the running best is replaced over and over.
    angles = np.linspace(3, 0, 2000)
    train = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    chunks(1024, training)
    similarities, indices = knn.nearest_neighbours(train, np.array([[5.0, 0.0]]), 50)
    np.testing.assert_array_equal(indices[0], np.arange(1999, 1949, -1))
    np.testing.assert_allclose(similarities[0], np.cos(angles[indices[0]]), atol=1e-12)


def test_scale_of_features_does_not_matter_even_where_squares_overflow():
    train, _, queries = random_data()
    expected = knn.nearest_neighbours(train, queries, 5)[1]
    for factor in (1e-30, 1e30):
        scaled = (train * np.float32(factor)).astype(np.float32)
        np.testing.assert_array_equal(knn.nearest_neighbours(scaled, queries, 5)[1], expected)


def test_a_vector_of_zeros_is_similar_to_nothing():
    train = np.array([[0, 0], [1, 0], [-1, 0.1]], np.float32)
    similarities, indices = knn.nearest_neighbours(train, np.array([[1.0, 0], [0, 0]]), 3)
    np.testing.assert_array_equal(indices, [[1, 0, 2], [0, 1, 2]])
    np.testing.assert_array_equal(similarities[:, :2], [[1, 0], [0, 0]])


def test_low_temperature_does_not_overflow_and_follows_the_nearest():
    train, labels, queries = random_data()
    scores, predictions = predict(train, labels, queries, 20, 1e-4)
    assert np.isfinite(scores).all()
    nearest = brute_force(train, queries, 1)[1][:, 0]
    np.testing.assert_array_equal(predictions, labels[nearest])


def test_equal_votes_go_to_the_lowest_class():
    train = np.eye(4, dtype=np.float32)
    scores, predictions = predict(train, [3, 2, 1, 2], np.ones((1, 4)), 3, classes=4)
    np.testing.assert_allclose(scores, [[0, 1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)
    assert predictions == [1]


def test_more_queries_than_one_piece_of_the_vote():
    train, labels, queries = random_data(n=50, m=2100, d=4)
    scores, _ = predict(train, labels, queries, 5)
    np.testing.assert_array_equal(scores[2000:], predict(train, labels, queries[2000:], 5)[0])


def brute_force_rank(scores, labels):
    """How many classes come before the right one; infinite where it has no vote."""
    ranks = []
    for row, label in zip(scores, labels, strict=True):
        order = sorted((c for c in range(len(row)) if row[c] > 0), key=lambda c: (-row[c], c))
        ranks.append(order.index(label) if label in order else math.inf)
    return np.array(ranks)


@pytest.mark.parametrize("sizes", [(1024, 4096), (7, 11)])
def test_accuracies_of_several_k_equal_brute_force(sizes, chunks):
    chunks(*sizes)
    train, labels, queries = random_data(m=60, classes=9)
    right = np.random.default_rng(5).integers(0, 10, 60)  # class 9 has no training images
    similarities, indices = brute_force(train, queries, 50)
    search = mock.patch.object(knn, "nearest_neighbours", wraps=knn.nearest_neighbours)
    with search as searched:
        found = knn.knn_accuracies(train, labels, queries, right, (50, 3, 1))
    searched.assert_called_once()  # for all k
    assert list(found) == [50, 3, 1]
    for k, accuracy in found.items():
        scores = brute_force_vote(similarities[:, :k], labels[indices[:, :k]], 0.07, 9)
        rank = brute_force_rank(scores, right)
        assert accuracy.top1 == pytest.approx(np.mean(rank < 1), abs=1e-12)
        assert accuracy.top5 == pytest.approx(np.mean(rank < 5), abs=1e-12)
        assert accuracy.top1 == knn.knn_accuracy(train, labels, queries, right, k)


def test_top5_of_equal_votes():
    # Six neighbors, equally near, of six classes: the lowest five are guessed.
    train, labels = np.eye(8, 7, dtype=np.float32)[:6], np.arange(6)
    right = np.array([0, 4, 5, 6])
    found = knn.knn_accuracies(train, labels, np.ones((4, 7)), right, [6])
    assert found[6] == knn.KnnAccuracy(top1=0.25, top5=0.5)
    # A class without a vote is no guess, although fewer than five classes have one.
    assert knn.knn_accuracies(train, labels, np.ones((4, 7)), right, [2])[2].top5 == 0.25


def test_top5_is_left_out_where_it_says_nothing():
    train, labels, queries = random_data()
    assert knn.knn_accuracies(train, labels, queries, np.zeros(40, int), [20])[20].top5 is None


def test_progress_bar_counts_queries(capsys, chunks):
    train, _, queries = random_data()
    chunks(16, 4096)
    knn.nearest_neighbours(train, queries, 3, progress=True)
    output = capsys.readouterr().out
    assert "0/40" in output
    assert "40/40" in output
    knn.nearest_neighbours(train, queries, 3)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "data", ["random", *(pytest.param(x, marks=pytest.mark.slow) for x in ("constant", "sorted"))]
)
def test_memory_stays_within_the_formula(data, monkeypatch, chunks):
    # The documented constant is far more than this small search would need.
    monkeypatch.setattr(neighbours, "_REFINE_BYTES", 4 * 2**20)
    n, m, d, k, q, t = 20_000, 600, 256, 200, 300, 1024
    chunks(q, t)
    random = np.random.default_rng(0)
    train = random.standard_normal((n, d), dtype=np.float32)
    queries = random.standard_normal((m, d), dtype=np.float32)
    if data == "constant":  # every query is searched a second time in float64
        train, queries = np.ones_like(train), np.ones_like(queries)
    elif data == "sorted":  # the running best is replaced as often as possible
        train, queries = train[np.argsort(train @ queries[0])], np.repeat(queries[:1], m, axis=0)
    tracemalloc.start()
    try:
        result = knn.nearest_neighbours(train, queries, k)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    peak -= sum(array.nbytes for array in result)
    formula = 8 * q * t + 8 * d * (q + t) + 80 * q * (k + 512) + 4 * 2**20
    assert peak < formula
    assert formula < 4 * n * m  # so all similarities were never held at once


def test_features_may_be_memory_mapped(tmp_path):
    train, _, queries = random_data()
    np.save(tmp_path / "train.npy", train)
    mapped = np.load(tmp_path / "train.npy", mmap_mode="r")
    np.testing.assert_array_equal(
        knn.nearest_neighbours(mapped, queries, 9)[1], knn.nearest_neighbours(train, queries, 9)[1]
    )


def test_mistakes_are_named():
    train, labels, queries = random_data(n=30)
    right = np.zeros(40, int)
    for arguments, message in (
        ((train, labels, queries, right, [31]), r"training features \(30\). Received: k=31"),
        ((train, None, queries, right), "one class per feature.*Received: no labels"),
        ((train, np.full(30, 4), queries, right), "at least two classes. Received: only class 4"),
        ((train, labels - 1, queries, right), "integers from 0"),
        ((train, labels.astype(float), queries, right), "integers from 0. Received: dtype float64"),
        ((train, labels, queries, None), "test_labels must hold one class per feature"),
        ((train, labels, queries, right, [5], 0.0), "temperature must be above 0"),
        ((train, labels, queries, right, []), "ks must be numbers of at least 1"),
        ((train, labels, queries, right, [20, 0]), "ks must be numbers of at least 1"),
        ((train, labels, queries[:, :5], right), "the same width. Received: widths 24 and 5"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            knn.knn_accuracies(*arguments)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="k=0"):
        knn.nearest_neighbours(train, queries, 0)
