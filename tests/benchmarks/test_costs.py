"""The formulas, against what the objective itself multiplies and hands to its collectives."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import costs
from keras_bt.objectives import barlow_twins as objective

FORMS = ("correlation", "gram")
SHAPES = [(4, 7, 1), (4, 7, 3), (12, 5, 2), (2, 64, 8)]  # rows of one replica, d, replicas


class CountingReplicas:
    """Pretends that all replicas hold the same rows, and counts the numbers that pass."""

    def __init__(self, count):
        self.count, self.summed, self.gathered = count, 0, 0

    def sum(self, x):
        self.summed += math.prod(x.shape)
        return self.count * x

    def gather(self, x):
        self.gathered += self.count * math.prod(x.shape)
        return tf.concat([x] * self.count, axis=0)


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
    gradients = tape.gradient(share, embeddings)
    # It is the real computation: every image so many times over leaves the loss as it is.
    embeddings, alone, tape = shares(rows, d, None, form)
    assert float(share) * count == pytest.approx(float(alone), rel=1e-4)
    for ours, theirs in zip(gradients, tape.gradient(alone, embeddings), strict=True):
        np.testing.assert_allclose(count * ours, theirs, rtol=1e-3, atol=1e-5)
    ring = (count - 1) / count * (2 * seen.summed + seen.gathered)
    sent = costs.objective_cost(rows * count, d, count, form).sent
    assert sent == pytest.approx(4 * ring, rel=1e-12)


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


def test_published_run():
    # d = 8192 and n = 2048 on 16 replicas: by hand.
    correlation, gram = (costs.objective_cost(2048, 8192, 16, form) for form in FORMS)
    assert correlation.sent == pytest.approx(2 * 15 / 16 * 4 * (8192**2 + 6 * 8192 + 1))
    assert gram.sent == pytest.approx(15 / 16 * 4 * (2 * 2048 * 8192 + 2 * (9 * 8192 + 1)))
    assert correlation.memory == 4 * (2 * 8192**2 + 8 * 128 * 8192)
    assert gram.memory == 4 * (2 * 2048 * 8192 + 3 * 128 * 2048 + 8 * 128 * 8192)
    assert costs.objective_cost(64, 32, 1, "gram").memory == 4 * (3 * 64**2 + 8 * 64 * 32)
    assert costs.summed(174_535_744, 16) == pytest.approx(1.309e9, rel=1e-3)


@pytest.mark.parametrize(
    ("rows", "d", "count"), [(511, 512, 1), (512, 512, 1), (511, 4096, 8), (512, 4096, 8)]
)
def test_the_form_is_what_the_objective_chooses(rows, d, count):
    chosen = objective.choose_form(rows, d, replica_count=count)
    assert costs.chosen_form(rows * count, d) == chosen
