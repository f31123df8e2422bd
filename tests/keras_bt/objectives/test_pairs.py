"""Losses of pairs against the papers' equations in float64, value and gradient."""

import numpy as np
import pytest
import tensorflow as tf

from keras_bt.objectives.pairs import contrastive_losses, cosine_losses, pair_distances


def contrastive(a, b, same, margin):
    """Equation 4 of Hadsell et al., pair by pair; their Y is 1 for pairs of different things."""
    losses, gradients = [], []
    for x1, x2, y in zip(a, b, 1 - same, strict=True):
        d = np.sqrt(np.sum((x1 - x2) ** 2))
        losses.append((1 - y) / 2 * d**2 + y / 2 * max(0, margin - d) ** 2)
        # Their equations 5 to 8: a spring of force D, and one of force D − m within the margin.
        force = d if y == 0 else min(0, d - margin)
        gradients.append(force * (x1 - x2) / d if d else 0 * x1)
    return np.array(losses), np.array(gradients)


def cosine(a, b, same, margin):
    """½ (cos − t)² and, for the gradient, (cos − t) (b/|b| − cos a/|a|) / |a|."""
    na, nb = (np.linalg.norm(z, axis=1, keepdims=True) for z in (a, b))
    cos = np.sum(a * b, axis=1, keepdims=True) / (na * nb)
    error = cos - np.where(same[:, None] == 1, 1.0, -1.0)
    return (error**2 / 2)[:, 0], error * (b / nb - cos * a / na) / na


def embeddings():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 40, 6)) * rng.uniform(0.1, 0.6, (1, 40, 1))
    a[:4] = b[:4]  # D = 0, of both kinds
    return a, b, rng.integers(0, 2, 40).astype(float)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("ours", "oracle"), [(contrastive_losses, contrastive), (cosine_losses, cosine)]
)
def test_losses_and_gradients_are_the_papers(ours, oracle, dtype):
    a, b, same = embeddings()
    given = (0.7,) if ours is contrastive_losses else ()
    expected, gradient = oracle(a, b, same, 0.7)
    za, zb = tf.constant(a, dtype), tf.constant(b, dtype)
    with tf.GradientTape() as tape:
        tape.watch([za, zb])
        losses = ours(za, zb, same, *given)
    of_a, of_b = tape.gradient(losses, [za, zb])
    assert losses.dtype == dtype
    rtol, atol = (1e-9, 1e-12) if dtype == "float64" else (1e-4, 1e-5)
    np.testing.assert_allclose(losses, expected, rtol=rtol, atol=atol)
    np.testing.assert_allclose(of_a, gradient, rtol=rtol, atol=atol)
    if ours is contrastive_losses:  # beyond the margin nothing happens
        np.testing.assert_allclose(of_b, -gradient, rtol=rtol, atol=atol)
        assert (losses.numpy()[(same == 0) & (np.linalg.norm(a - b, axis=1) > 0.7)] == 0).all()
    else:  # symmetric
        np.testing.assert_allclose(losses, ours(zb, za, same), rtol=1e-6)


def test_half_precision_is_cast_first():
    a, b, _ = embeddings()
    assert pair_distances(tf.constant(a, "float16"), tf.constant(b, "float16")).dtype == "float32"
    with pytest.raises(ValueError, match="same shape"):
        contrastive_losses(a, b[:, :3], np.ones(40))
