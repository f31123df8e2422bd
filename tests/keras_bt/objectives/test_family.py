"""The objectives beside the paper's, against lightly's values and gradients in float64.

`family.npz` holds those of lightly 1.6 in PyTorch, at τ = 0.2 and with its default weights.
"""

import numpy as np
import pytest
import tensorflow as tf

from keras_bt.objectives import DecoupledContrastive, InfoNCE, OneReplica, VICReg

OBJECTIVES = {
    "info_nce": InfoNCE(0.2),
    "dcl": DecoupledContrastive(0.2),
    "vicreg": VICReg(form="correlation"),
    "vicreg, gram": VICReg(form="gram"),
}


def relative_error(value, reference):
    return np.linalg.norm(np.asarray(value) - reference) / np.linalg.norm(reference)


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
