import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from oracles import barlow_twins_loss as oracle_loss
from oracles import barlow_twins_terms as oracle_terms

from keras_bt import barlow_twins_loss, loss_floor
from keras_bt.objectives import barlow_twins as objective

FORMS = ("correlation", "gram")
CASES = ("wide", "tall", "square", "near_identity", "dead_feature", "badly_scaled")


def relative_error(value, reference):
    value = np.asarray(value, np.float64)
    return np.linalg.norm(value - reference) / np.linalg.norm(reference)


def terms_and_gradients(za, zb, redundancy_weight, form):
    za, zb = tf.constant(za, "float32"), tf.constant(zb, "float32")
    with tf.GradientTape() as tape:
        tape.watch([za, zb])
        on_diagonal, off_diagonal = objective.barlow_twins_terms(za, zb, form)
        loss = on_diagonal + redundancy_weight * off_diagonal
    return loss, on_diagonal, off_diagonal, *tape.gradient(loss, [za, zb])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference(fixture_arrays, case, form):
    reference = fixture_arrays("loss", case)
    loss, on_diagonal, off_diagonal, grad_za, grad_zb = terms_and_gradients(
        reference["za"], reference["zb"], float(reference["lambda"]), form
    )
    assert relative_error(loss, reference["loss"]) < 1e-5
    assert relative_error(off_diagonal, reference["off_diagonal"]) < 1e-5
    if case != "near_identity":  # there it is 1e-9, below what float32 can tell from zero
        assert relative_error(on_diagonal, reference["on_diagonal"]) < 1e-5
    assert relative_error(grad_za, reference["grad_za"]) < 1e-4
    assert relative_error(grad_zb, reference["grad_zb"]) < 1e-4


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_each_term_equal_autodiff(form):
    # The gradients in the code are written by hand; here TensorFlow derives them in float64.
    za, zb = np.random.default_rng(0).normal(size=(2, 12, 7))
    zb = zb + za
    za64, zb64 = tf.constant(za), tf.constant(zb)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([za64, zb64])
        standardized = [
            (z - tf.reduce_mean(z, 0)) / tf.sqrt(tf.math.reduce_variance(z, 0) + 1e-5)
            for z in (za64, zb64)
        ]
        c = tf.transpose(standardized[0]) @ standardized[1] / 12
        on_diagonal = tf.reduce_sum((1 - tf.linalg.diag_part(c)) ** 2)
        off_diagonal = tf.reduce_sum(tf.linalg.set_diag(c, tf.zeros(7, "float64")) ** 2)
    za32, zb32 = tf.constant(za, "float32"), tf.constant(zb, "float32")
    with tf.GradientTape(persistent=True) as tape32:
        tape32.watch([za32, zb32])
        terms = objective.barlow_twins_terms(za32, zb32, form)
    for ours, theirs in zip(terms, (on_diagonal, off_diagonal), strict=True):
        for z32, z64 in ((za32, za64), (zb32, zb64)):
            assert relative_error(tape32.gradient(ours, z32), tape.gradient(theirs, z64)) < 1e-5


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("n", "d"), [(2, 3), (8, 300), (300, 8), (33, 33), (1027, 3)])
def test_equals_the_oracle(n, d, form):
    za, zb = np.random.default_rng(n).normal(size=(2, n, d)).astype("float32")
    assert relative_error(barlow_twins_loss(za, zb, 0.02, form), oracle_loss(za, zb, 0.02)) < 1e-5


@pytest.mark.parametrize("form", FORMS)
def test_large_batches_in_float64_have_the_gradient_of_autodiff(form):
    # Enough images for the n×n form to halve its matrices more than once, into unequal parts.
    za, zb = tf.constant(np.random.default_rng(0).normal(size=(2, 515, 7)) + 3.0)
    zb = zb + za
    with tf.GradientTape() as tape:
        tape.watch([za, zb])
        loss = barlow_twins_loss(za, zb, 0.02, form)
    with tf.GradientTape() as tape64:
        tape64.watch([za, zb])
        a, b = (
            (z - tf.reduce_mean(z, 0)) / tf.sqrt(tf.math.reduce_variance(z, 0) + 1e-5)
            for z in (za, zb)
        )
        c = tf.transpose(a) @ b / 515
        weights = tf.constant(0.02 + 0.98 * np.eye(7))
        expected = tf.reduce_sum(weights * (c - np.eye(7)) ** 2)
    assert loss.dtype == tf.float64
    assert relative_error(loss, expected) < 1e-12
    gradients = tape.gradient(loss, [za, zb]), tape64.gradient(expected, [za, zb])
    for ours, theirs in zip(*gradients, strict=True):
        assert relative_error(ours, theirs) < 1e-10


def test_invariances():
    rng = np.random.default_rng(0)
    za, zb = rng.normal(size=(2, 32, 16)).astype("float32")
    loss = float(barlow_twins_loss(za, zb))
    scale, shift = rng.uniform(0.5, 3, 16), rng.normal(size=16)
    order = rng.permutation(32)
    assert float(barlow_twins_loss(zb, za)) == pytest.approx(loss, rel=1e-5)
    assert float(barlow_twins_loss(za * scale + shift, zb)) == pytest.approx(loss, rel=1e-4)
    assert float(barlow_twins_loss(za[order], zb[order])) == pytest.approx(loss, rel=1e-5)
    assert float(barlow_twins_loss(za[order], zb)) != pytest.approx(loss, rel=1e-2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_computes_in_float32_whatever_comes_in(dtype):
    za, zb = ops.cast(keras.random.normal((2, 64, 32)), dtype)
    loss = barlow_twins_loss(za, zb)
    assert loss.dtype == tf.float32
    za, zb = np.asarray(ops.cast(za, "float32")), np.asarray(ops.cast(zb, "float32"))
    assert relative_error(loss, oracle_loss(za, zb)) < 1e-5
    keras.config.set_dtype_policy(f"mixed_{dtype}")
    try:
        assert relative_error(barlow_twins_loss(za, zb), oracle_loss(za, zb)) < 1e-5
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(("n", "d"), [(16, 64), (256, 8192), (64, 64), (65, 64)])
def test_floor_is_reached_and_never_passed(n, d):
    # Centered embeddings with equal singular values and equal feature norms attain the bound up to
    # their scale t, which standardization fixes to 1; so take C = t·P directly.
    rank = min(n - 1, d)
    redundancy_weight = 0.0051
    a = redundancy_weight * (d / rank - 1)
    t = 1 / (1 + a)
    # Diagonal t everywhere; off-diagonal energy (d t)²/r − d t² is the least for rank r.
    attained = d * (1 - t) ** 2 + redundancy_weight * ((d * t) ** 2 / rank - d * t**2)
    assert loss_floor(n, d, redundancy_weight) == pytest.approx(attained, rel=1e-9, abs=1e-9)


@pytest.mark.slow
def test_floor_bounds_optimized_embeddings_closely():
    # Descend on free embeddings: the loss comes close to the floor and stays above it.
    n, d, redundancy_weight = 8, 24, 0.05
    za, zb = (tf.Variable(keras.random.normal((n, d), seed=s)) for s in (1, 2))
    optimizer = keras.optimizers.Adam(0.02)
    step = tf.function(lambda: descend(za, zb, redundancy_weight, optimizer))
    for _ in range(1500):
        loss = step()
    floor = loss_floor(n, d, redundancy_weight)
    assert floor * (1 - 1e-4) < float(loss) < 1.02 * floor


def descend(za, zb, redundancy_weight, optimizer):
    with tf.GradientTape() as tape:
        loss = barlow_twins_loss(za, zb, redundancy_weight)
    optimizer.apply_gradients(zip(tape.gradient(loss, [za, zb]), [za, zb], strict=True))
    return loss


def test_floor_published_figures():
    assert loss_floor(256, 8192, 0.0051) == pytest.approx(1120, abs=5)
    assert loss_floor(2048, 8192, 0.0051) == pytest.approx(124, abs=1)
    assert loss_floor(256, 255) == 0
    assert float(loss_floor(tf.constant(256.0), 8192)) == pytest.approx(loss_floor(256, 8192))


def test_cross_correlation():
    za, zb = np.random.default_rng(0).normal(size=(2, 20, 6)).astype("float32")
    c = np.asarray(objective.cross_correlation(za, zb))
    on_diagonal, off_diagonal = oracle_terms(za, zb)
    assert np.sum((1 - np.diag(c)) ** 2) == pytest.approx(on_diagonal, rel=1e-5)
    assert np.sum(c**2) - np.sum(np.diag(c) ** 2) == pytest.approx(off_diagonal, rel=1e-5)


def test_auto_chooses_the_smaller_matrix():
    assert objective.choose_form(256, 8192) == "gram"
    assert objective.choose_form(512, 512) == "correlation"
    assert objective.choose_form(511, 512) == "gram"
    assert objective.choose_form(256, 512, replica_count=8) == "correlation"  # n is 2048
    assert objective.choose_form(None, 8192) == "gram"
    assert objective.choose_form(None, 128) == "correlation"
    assert objective.choose_form(256, 8192, "correlation") == "correlation"


def test_batch_size_may_be_unknown_when_traced():
    @tf.function(input_signature=[tf.TensorSpec((None, 16)), tf.TensorSpec((None, 16))])
    def loss(za, zb):
        return barlow_twins_loss(za, zb)

    for n in (4, 40):
        za, zb = np.random.default_rng(n).normal(size=(2, n, 16)).astype("float32")
        assert relative_error(loss(za, zb), oracle_loss(za, zb)) < 1e-5


@pytest.mark.parametrize("form", FORMS)
def test_compiles_with_xla(form):
    za, zb = keras.random.normal((2, 16, 24))

    @tf.function(jit_compile=True)
    def loss_and_gradients(za, zb):
        with tf.GradientTape() as tape:
            tape.watch([za, zb])
            loss = barlow_twins_loss(za, zb, form=form)
        return loss, *tape.gradient(loss, [za, zb])

    expected = terms_and_gradients(za, zb, 5.1e-3, form)
    for got, want in zip(loss_and_gradients(za, zb), (expected[0], *expected[3:]), strict=True):
        assert relative_error(got, want) < 1e-4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"redundancy_weight": -1.0}, "redundancy_weight must be .* Received: .*-1"),
        ({"redundancy_weight": float("nan")}, "redundancy_weight must be"),
        ({"form": "full"}, "form must be one of auto, correlation, gram. Received: form='full'"),
        ({"zb": np.ones((4, 9), "float32")}, r"same shape .* Received: \(4, 8\) and \(4, 9\)"),
        ({"za": np.ones((4, 2, 4), "float32")}, "same shape"),
        (
            {"za": np.ones((1, 8), "float32"), "zb": np.ones((1, 8), "float32")},
            "at least two images.* Received: 1",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    z = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    with pytest.raises(ValueError, match=message):
        barlow_twins_loss(**({"za": z, "zb": z} | arguments))
