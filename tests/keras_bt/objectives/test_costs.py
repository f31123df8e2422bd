"""The formulas, against what the objective itself multiplies and hands to its collectives."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bt.objectives import barlow_twins as objective
from keras_bt.objectives import costs

FORMS = ("correlation", "gram")
SHAPES = [(4, 7, 1), (4, 7, 3), (12, 5, 2), (2, 64, 8)]  # rows of one replica, d, replicas


class CountingReplicas:
    """Pretends that all replicas hold the same rows, and counts what passes, backward too.

    `backward` is to be set when the gradient is taken, whose code has sums of its own.
    """

    def __init__(self, count):
        self.count = count
        self.backward = False
        self.summed = {"forward": 0, "backward": 0}  # numbers handed in
        self.gathered = 0  # numbers that come out

    def sum(self, x):
        self.summed["backward" if self.backward else "forward"] += math.prod(x.shape)

        @tf.custom_gradient
        def collective(x):
            def gradient(_):
                raise AssertionError("the gradient of a sum would be summed once more")

            return self.count * x, gradient

        return collective(x)

    def gather(self, x):
        @tf.custom_gradient
        def collective(x):
            def gradient(_):
                raise AssertionError("the gradient of a gathered array would be communicated")

            return tf.concat([x] * self.count, axis=0), gradient

        everything = collective(x)
        self.gathered += math.prod(everything.shape)
        return everything


def shares(rows, d, replicas, form):
    """The embeddings of one replica, its share of the loss, and the tape that leads back."""
    embeddings = [tf.constant(keras.random.normal((rows, d), seed=seed)) for seed in (1, 2)]
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        share = sum(objective.barlow_twins_terms(*embeddings, form, replicas))
    return embeddings, share, tape


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("rows", "d", "count"), SHAPES)
def test_communication_is_what_the_collectives_see(rows, d, count, form):
    seen = CountingReplicas(count)
    embeddings, share, tape = shares(rows, d, seen, form)
    seen.backward = True
    gradients = tape.gradient(share, embeddings)
    # It is the real computation: every image so many times over leaves the loss as it is.
    embeddings, alone, tape = shares(rows, d, None, form)
    assert float(share) * count == pytest.approx(float(alone), rel=1e-4)
    for ours, theirs in zip(gradients, tape.gradient(alone, embeddings), strict=True):
        np.testing.assert_allclose(count * ours, theirs, rtol=1e-3, atol=1e-5)

    numbers = sum(seen.summed.values())
    ring = 2 * (count - 1) / count * numbers + (count - 1) / count * seen.gathered
    sent = costs.objective_cost(rows * count, d, count, form).sent
    assert sent == pytest.approx(4 * ring, rel=1e-12)
    # The docstring's list, so that it stays true term by term.
    large = d * d if form == "correlation" else d
    assert seen.summed == {"forward": 1 + 6 * d + large, "backward": 2 * d * (form == "gram")}
    assert seen.gathered == (0 if form == "correlation" else 2 * rows * count * d)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("rows", "d", "count"), [*SHAPES, (1027, 3, 1), (260, 3, 2)])
def test_work_is_that_of_the_matrix_products(monkeypatch, rows, d, count, form):
    work = []
    matmul = keras.ops.matmul

    def counted(x, y):
        *_, n, k = x.shape
        if n > 1 and y.shape[-1] > 1:  # with vectors, such as ones, it is of order n·d
            work.append(2 * n * k * y.shape[-1])
        return matmul(x, y)

    monkeypatch.setattr(objective.ops, "matmul", counted)
    embeddings, share, tape = shares(rows, d, CountingReplicas(count), form)
    cost = costs.objective_cost(rows * count, d, count, form)
    assert cost.forward == pytest.approx(sum(work), rel=1e-12)
    work.clear()
    tape.gradient(share, embeddings)
    assert cost.backward == pytest.approx(sum(work), rel=1e-12)
    assert cost.work == cost.forward + cost.backward


def test_published_run():
    # d = 8192 and n = 2048 on 16 replicas: by hand.
    correlation, gram = (costs.objective_cost(2048, 8192, 16, form) for form in FORMS)
    assert correlation.sent == pytest.approx(2 * 15 / 16 * 4 * (8192**2 + 6 * 8192 + 1))
    assert gram.sent == pytest.approx(15 / 16 * 4 * (2 * 2048 * 8192 + 2 * (9 * 8192 + 1)))
    assert correlation.memory == 4 * (2 * 8192**2 + 8 * 128 * 8192)
    assert gram.memory == 4 * (2 * 2048 * 8192 + 3 * 128 * 2048 + 8 * 128 * 8192)
    assert correlation.work / gram.work == 3  # 3·n·d² against 4·n²·d
    assert costs.summed(174_535_744, 16) == pytest.approx(1.309e9, rel=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_one_replica_sends_nothing_and_gathers_nothing(form):
    cost = costs.objective_cost(64, 32, 1, form)
    assert cost.sent == 0
    large = 2 * 32**2 if form == "correlation" else 3 * 64**2
    assert cost.memory == 4 * (large + 8 * 64 * 32)


@pytest.mark.parametrize(
    # 2 (1 + σ(n)) n < 3d, and σ = 1, 3/4, 5/8, 9/16, … from n = 0, 256, 512, 1024, … on
    ("d", "border"),
    [(4, 3), (5, 3.75), (128, 96), (512, 3 * 512 / 3.5), (1024, 3 * 1024 / 3.25)],
)
def test_one_replica_chooses_by_work_alone(d, border):
    for n in {2, 3, int(border) - 1, int(border), int(border) + 1, d, 3 * d}:
        expected = "gram" if n < border else "correlation"
        assert objective.choose_form(n, d) == expected


@pytest.mark.parametrize(("n", "share"), [(255, 1), (256, 3 / 4), (512, 5 / 8), (1024, 9 / 16)])
def test_one_replica_computes_half_of_a_symmetric_matrix(n, share):
    assert costs.gram_multiplications(n) == share * n * n
    gram = costs.objective_cost(n, 32, 1, "gram")
    assert gram.forward == share * gram.backward
    assert costs.objective_cost(n, 32, 2, "gram").forward == 2 * n * n * 32  # with two, none


def border(d, replicas):
    """The most images of a global batch for which the n×n form is chosen."""
    chosen = [costs.cheaper_form(n, d, replicas) == "gram" for n in range(1, 2 * d)]
    assert chosen == sorted(chosen, reverse=True)  # one border only
    return sum(chosen)


@pytest.mark.parametrize("d", [512, 2048])
def test_border_moves_towards_n_below_d_with_replicas(d):
    borders = [border(d, replicas) for replicas in (2, 8, 64, 1024)]
    assert borders == sorted(set(borders))
    assert 3 * d // 4 <= borders[0] < 0.8 * d
    assert 0.98 * d < borders[-1] < d


def test_border_balances_work_and_communication():
    # Where the times are equal, 4n² − 3nd = 4·balance·(R − 1)·(d − n), small sums left out.
    d, replicas = 2048, 8
    n = border(d, replicas)
    left, right = 4 * n * n - 3 * n * d, 4 * costs.MACHINE_BALANCE * (replicas - 1) * (d - n)
    assert left == pytest.approx(right, rel=0.02)


def test_choice_takes_rows_of_one_replica():
    # 56 rows on each of 8 replicas: 448 of d = 512, past 3d/4 but worth the n×n form there.
    assert objective.choose_form(56, 512, replica_count=8) == "gram"
    assert objective.choose_form(56 * 8, 512) == "correlation"
    # 1640 of d = 2048: for one, which makes use of symmetry, but not for two.
    assert objective.choose_form(1640, 2048) == "gram"
    assert objective.choose_form(820, 2048, replica_count=2) == "correlation"
    assert objective.choose_form(256, 2048, replica_count=8) == "correlation"
    assert objective.choose_form(200, 2048, "correlation", 8) == "correlation"
