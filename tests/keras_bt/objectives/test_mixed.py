"""Mixed Barlow Twins, against the paper's formula in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import relative_error

from keras_bt import BarlowTwins, projector
from keras_bt.model.mixing import draw_mixing
from keras_bt.objectives import MixedBarlowTwins, Mixing, OneReplica
from keras_bt.strategy import choose_strategy, current_replicas

ALPHA, WEIGHT, MIXED_WEIGHT = 0.3, 0.01, 4.0
PARTS = [slice(0, 7), slice(7, None)]


def embeddings(n, d):
    random = np.random.default_rng(n)
    za = random.normal(size=(n, d)) * random.uniform(0.5, 2, d) + random.normal(size=d)
    zb, zm = (za + 0.5 * random.normal(size=(n, d)) for _ in range(2))
    return za, zb, zm


def partners(n):
    """A permutation that stays within the two parts of unequal replicas."""
    parts = [np.arange(n)[part] for part in PARTS]
    return np.concatenate([np.random.default_rng(0).permutation(part) for part in parts])


def published(za, zb, zm, partner):
    """The loss of the paper, by all of its correlation matrices."""
    n, d = za.shape

    def standardized(z):
        deviations = tf.math.sqrt(tf.math.reduce_variance(z, 0) + 1e-5)
        return (z - tf.reduce_mean(z, 0)) / deviations

    def c(x, y):
        return tf.matmul(x, y, transpose_a=True) / n

    za, zb, zm = map(standardized, (za, zb, zm))
    other = tf.stack([zb[i] for i in partner])
    loss = tf.reduce_sum((c(za, zb) - tf.eye(d, dtype="float64")) ** 2 * _weights(d))
    for z in (za, zb):
        expected = ALPHA * c(za, z) + (1 - ALPHA) * c(other, z)
        loss += MIXED_WEIGHT * WEIGHT * tf.reduce_sum((c(zm, z) - expected) ** 2)
    return loss


def _weights(d):
    return np.where(np.eye(d), 1, WEIGHT)


def with_gradients(loss, *z):
    z = [tf.convert_to_tensor(one) for one in z]
    with tf.GradientTape() as tape:
        tape.watch(z)
        found = loss(*z)
    return found, *tape.gradient(found, z)


def share(objective, partner, replicas):
    mixing = Mixing(tf.constant(ALPHA, "float64"), partner)

    def of(za, zb, zm):
        terms = objective.terms(za, zb, replicas)
        return objective.loss(terms | objective.mixed_terms(za, zb, zm, mixing, replicas))

    return of


@pytest.mark.parametrize("form", ["correlation", "gram"])
@pytest.mark.parametrize(("n", "d"), [(16, 5), (12, 20)])
def test_equals_the_paper(form, n, d):
    objective, partner = MixedBarlowTwins(WEIGHT, form, MIXED_WEIGHT), partners(n)
    z = embeddings(n, d)
    expected = with_gradients(lambda *z: published(*z, partner), *z)
    for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-5)):
        loss = share(objective, partner, OneReplica())
        for ours, theirs in zip(
            with_gradients(loss, *(x.astype(dtype) for x in z)), expected, strict=True
        ):
            assert ours.dtype == dtype
            assert relative_error(ours, theirs) < tolerance


@pytest.mark.slow  # two devices
@pytest.mark.parametrize("form", ["correlation", "gram"])
def test_two_replicas_of_unequal_size_equal_one(form):
    objective, partner, z = MixedBarlowTwins(0.01, form), partners(16), embeddings(16, 5)
    where = choose_strategy("mirrored")

    def distributed(x):
        return where.experimental_distribute_values_from_function(
            lambda context: tf.constant(x[PARTS[context.replica_id_in_sync_group]])
        )

    @tf.function(autograph=False)
    def step(partner, *z):
        return with_gradients(share(objective, partner, current_replicas()), *z)

    within = partner - np.repeat([0, 7], [7, 9])
    shares, *gradients = where.run(step, (distributed(within), *map(distributed, z)))
    loss, *expected = with_gradients(share(objective, partner, OneReplica()), *z)
    shares = where.experimental_local_results(shares)
    assert sum(map(float, shares)) == pytest.approx(float(loss), rel=1e-12)
    for ours, theirs in zip(gradients, expected, strict=True):
        rows = tf.concat(where.experimental_local_results(ours), 0)
        assert relative_error(rows, theirs) < 1e-10


def test_the_draw_depends_on_seed_step_and_replica_alone():
    def drawn(seed=0, step=0, index=0, rows=50, draw=draw_mixing):
        replicas = OneReplica()
        replicas.index = index
        alpha, partner = draw(seed, tf.constant(step, "int64"), rows, replicas)
        return float(alpha), tuple(partner.numpy())

    alpha, partner = drawn()
    assert (alpha, partner) == drawn(draw=tf.function(draw_mixing))
    assert sorted(partner) == list(range(50))
    assert partner != tuple(range(50))
    assert drawn(index=1)[0] == alpha
    assert len({drawn(*arguments)[1] for arguments in ((0,), (1,), (0, 1), (0, 0, 1))}) == 4
    assert len({drawn(*arguments)[0] for arguments in ((0,), (1,), (0, 1))}) == 3
    alphas = [drawn(step=step, rows=2)[0] for step in range(40)]
    assert np.histogram(alphas, 4, (0, 1))[0].min() > 3


VIEWS = np.random.default_rng(0).normal(size=(2, 32, 4, 4, 1)).astype("float32")


def twins(widths=(8, 6), **kwargs):
    keras.utils.set_random_seed(0)
    backbone = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()])
    model = BarlowTwins(backbone, projector(widths, 16), objective=MixedBarlowTwins(seed=3))
    model.compile(keras.optimizers.SGD(0.1), **kwargs)
    return model


def fit(model, steps):
    """Trains for the steps of a slice, 8 images each."""
    views = VIEWS[:, 8 * steps.start : 8 * steps.stop]
    return model.fit(*views, batch_size=8, shuffle=False, verbose=0).history


def state(model):
    return [np.asarray(v) for v in (*model.variables, *model.optimizer.variables)]


@pytest.mark.slow
def test_a_model_trains_with_it_and_goes_on_bit_for_bit(tmp_path):
    history = fit(whole := twins(), slice(0, 4))
    assert set(history) == {"loss", "excess", "on_diagonal", "off_diagonal", "mixed"}
    of_barlow_twins = history["on_diagonal"][0] + 5.1e-3 * history["off_diagonal"][0]
    mixed = 5 * 5.1e-3 * history["mixed"][0]
    assert mixed > 0.01
    assert history["loss"][0] == pytest.approx(of_barlow_twins + mixed, rel=1e-5)
    fit(first := twins(steps_per_execution=2), slice(0, 2))
    first.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.objective.get_config() == first.objective.get_config()
    fit(loaded, slice(2, 4))
    for ours, theirs in zip(state(loaded), state(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    whole.optimizer.learning_rate = 0.0
    again, other = (fit(whole, slice(0, 1)) for _ in range(2))  # as the steps go on, so do draws
    assert again["on_diagonal"] == other["on_diagonal"]
    assert again["mixed"] != other["mixed"]
    evaluated = [loaded.evaluate(*VIEWS, batch_size=8, verbose=0) for _ in range(2)]
    assert evaluated[0] == evaluated[1]


@pytest.mark.slow  # two devices
def test_a_model_trains_with_it_on_two_replicas():
    with choose_strategy("mirrored").scope():
        model = twins(widths=(6,))
    one, two = fit(model, slice(0, 2)), fit(twins(widths=(6,)), slice(0, 2))
    # The first step starts alike, and differs by what is mixed: within the rows of a replica.
    assert one["on_diagonal"] == pytest.approx(two["on_diagonal"], rel=0.1)
    assert 0 < one["mixed"][0] != two["mixed"][0]


def test_bad_arguments():
    for weight in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=f"≥ 0. Received: mixed_weight={weight}"):
            MixedBarlowTwins(mixed_weight=weight)
    z = tf.zeros((4, 3))
    with pytest.raises(ValueError, match="same shape"):
        MixedBarlowTwins().mixed_terms(z, z, z[:3], Mixing(0.5, [0, 1, 2, 3]), OneReplica())
