"""Against PyTorch itself, where it is installed: the published formula, and LARS."""

import numpy as np
import pytest
import tensorflow as tf

from keras_bt import LARS, barlow_twins_loss

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


def published_loss(za, zb, redundancy_weight):
    """The loss as the official repository writes it: batch norm, d×d matrix, masked diagonal."""
    d = za.shape[1]
    normalize = torch.nn.BatchNorm1d(d, affine=False, dtype=torch.float64)
    c = normalize(za).T @ normalize(zb) / len(za)
    on_diagonal = torch.diagonal(c).add(-1).pow(2).sum()
    off_diagonal = c.flatten()[:-1].view(d - 1, d + 1)[:, 1:].flatten().pow(2).sum()
    return on_diagonal + redundancy_weight * off_diagonal


@pytest.mark.parametrize("form", ["correlation", "gram"])
@pytest.mark.parametrize(("n", "d"), [(64, 256), (128, 32)])
def test_loss_and_gradients(n, d, form):
    za, zb = np.random.default_rng(d).normal(size=(2, n, d)).astype("float32")
    zb = zb + za
    torch_za, torch_zb = (
        torch.tensor(z, dtype=torch.float64, requires_grad=True) for z in (za, zb)
    )
    expected = published_loss(torch_za, torch_zb, 0.0051)
    expected.backward()
    za, zb = tf.constant(za), tf.constant(zb)
    with tf.GradientTape() as tape:
        tape.watch([za, zb])
        loss = barlow_twins_loss(za, zb, 0.0051, form)
    assert float(loss) == pytest.approx(expected.item(), rel=1e-5)
    gradients = tape.gradient(loss, [za, zb])
    for ours, theirs in zip(gradients, (torch_za.grad, torch_zb.grad), strict=True):
        theirs = theirs.numpy()
        assert np.linalg.norm(ours.numpy() - theirs) < 1e-4 * np.linalg.norm(theirs)


def test_lars_of_a_vector_is_pytorch_sgd_with_momentum():
    # Vectors get neither decay nor adaptation, which leaves torch.optim.SGD.
    start = np.linspace(-1, 1, 5).astype("float32")
    ours, theirs = tf.Variable(start), torch.nn.Parameter(torch.tensor(start))
    optimizer = LARS(0.5, bias_rate_ratio=0.1, weight_decay=0.3)
    torch_optimizer = torch.optim.SGD([theirs], lr=0.05, momentum=0.9)
    for step in range(5):
        gradient = np.cos(start + step).astype("float32")
        optimizer.apply_gradients([(tf.constant(gradient), ours)])
        theirs.grad = torch.tensor(gradient)
        torch_optimizer.step()
    np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), rtol=1e-6)
