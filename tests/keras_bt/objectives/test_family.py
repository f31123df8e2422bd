"""The objectives beside the paper's, against lightly's values and gradients in float64.

`family.npz` holds those of lightly 1.6 in PyTorch, at τ = 0.2 and with its default weights.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import relative_error

from keras_bt import BarlowTwins, projector
from keras_bt.objectives import (
    BarlowTwinsObjective,
    DecoupledContrastive,
    InfoNCE,
    MixedBarlowTwins,
    OneReplica,
    VICReg,
)
from keras_bt.strategy import choose_strategy, current_replicas

OBJECTIVES = {
    "info_nce": InfoNCE(0.2),
    "dcl": DecoupledContrastive(0.2),
    "vicreg": VICReg(form="correlation"),
    "vicreg, gram": VICReg(form="gram"),
}


def value_and_gradients(objective, za, zb):
    za, zb = tf.convert_to_tensor(za), tf.convert_to_tensor(zb)
    with tf.GradientTape() as tape:
        tape.watch([za, zb])
        loss = objective.loss(objective.terms(za, zb, OneReplica()))
    return loss, *tape.gradient(loss, [za, zb])


@pytest.mark.parametrize("case", ["wide", "tall"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_equals_lightly(fixture_arrays, name, case):
    reference = fixture_arrays("family", case)
    key = name.split(",")[0]
    expected = [reference[key], reference[f"{key}_grad_za"], reference[f"{key}_grad_zb"]]
    for dtype, tolerance in (("float32", 1e-5), ("float64", 1e-12)):
        views = (reference[z].astype(dtype) for z in ("za", "zb"))
        for ours, theirs in zip(
            value_and_gradients(OBJECTIVES[name], *views), expected, strict=True
        ):
            assert ours.dtype == dtype
            assert relative_error(ours, theirs) < tolerance


@pytest.mark.slow  # two devices
@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_replicas_of_unequal_size_equal_one(fixture_arrays, name):
    reference = fixture_arrays("family", "tall")
    objective, (za, zb) = OBJECTIVES[name], (reference[z].astype("float64") for z in ("za", "zb"))
    where = choose_strategy("mirrored")
    parts = [slice(0, 7), slice(7, None)]

    @tf.function(autograph=False)
    def share(za, zb):
        with tf.GradientTape() as tape:
            tape.watch([za, zb])
            found = objective.loss(objective.terms(za, zb, current_replicas()))
        return found, *tape.gradient(found, [za, zb])

    def distributed(z):
        return where.experimental_distribute_values_from_function(
            lambda context: tf.constant(z[parts[context.replica_id_in_sync_group]])
        )

    shares, *gradients = where.run(share, (distributed(za), distributed(zb)))
    shares = where.experimental_local_results(shares)
    assert len(shares) == 2
    loss, *expected = value_and_gradients(objective, za, zb)
    assert sum(map(float, shares)) == pytest.approx(float(loss), rel=1e-12)
    for ours, theirs in zip(gradients, expected, strict=True):
        rows = tf.concat(where.experimental_local_results(ours), 0)
        assert relative_error(rows, theirs) < 1e-10


@pytest.mark.parametrize(("n", "d"), [(8, 7), (8, 20), (3, 2)])
@pytest.mark.parametrize("make", [InfoNCE, DecoupledContrastive])
def test_the_floor_is_that_of_a_simplex(make, n, d):
    corners = np.eye(n) - 1 / n  # n points of equal distance in n − 1 dimensions
    z = np.pad(corners @ np.linalg.svd(corners)[2].T[:, : n - 1], ((0, 0), (0, d - n + 1)))
    objective = make(0.3)
    loss, *_ = value_and_gradients(objective, z, z)
    assert float(loss) == pytest.approx(objective.floor(n, d), rel=1e-6)
    for seed in range(3):
        z = np.random.default_rng(seed).normal(size=(n, d))
        assert value_and_gradients(objective, z, z)[0] > objective.floor(n, d)


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES.values())
def test_a_model_trains_with_it_and_is_loaded_with_it(objective, tmp_path):
    backbone = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()])
    model = BarlowTwins(backbone, projector((8, 6), 16), objective=objective)
    model.compile("sgd")
    views = np.random.default_rng(0).normal(size=(2, 8, 4, 4, 1)).astype("float32")
    history = model.fit(*views, epochs=1, batch_size=8, verbose=0).history
    terms = objective.terms(*(tf.zeros((2, 3)),) * 2, OneReplica())
    assert set(history) == {"loss", "excess", *terms}
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").objective
    assert type(loaded) is type(objective)
    assert loaded.get_config() == objective.get_config()


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (InfoNCE, {"temperature": 0}, "finite number > 0. Received: temperature=0"),
        (InfoNCE, {"temperature": float("nan")}, "temperature=nan"),
        (DecoupledContrastive, {"temperature": float("inf")}, "temperature=inf"),
        (VICReg, {"covariance_weight": -1.0}, "Received: covariance_weight=-1.0"),
        (VICReg, {"variance_weight": float("nan")}, "Received: variance_weight=nan"),
        (VICReg, {"form": "d"}, "form must be one of"),
    ],
)
def test_bad_arguments(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


@pytest.mark.parametrize("objective", OBJECTIVES.values())
def test_a_single_image_or_other_shapes_are_refused(objective):
    with pytest.raises(ValueError, match=r"at least two images.* Received: 1"):
        objective.terms(tf.zeros((1, 4)), tf.zeros((1, 4)), OneReplica())
    with pytest.raises(ValueError, match="same shape"):
        objective.terms(tf.zeros((2, 4)), tf.zeros((3, 4)), OneReplica())


class Variant(BarlowTwinsObjective):
    """Names no title."""


@pytest.mark.parametrize(
    ("objective", "title"),
    [
        (BarlowTwinsObjective(), "Barlow Twins"),
        (MixedBarlowTwins(), "Mixed Barlow Twins"),
        (InfoNCE(), "InfoNCE"),
        (DecoupledContrastive(), "DCL"),
        (VICReg(), "VICReg"),
        (Variant(), "Variant"),  # not the original's
    ],
)
def test_titles(objective, title):
    assert objective.title == title
