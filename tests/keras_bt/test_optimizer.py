import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bt import LARS

KERNELS = ("dense", "conv", "zero_init_kernel", "no_gradient_kernel")


@pytest.fixture
def reference(fixture_arrays):
    return fixture_arrays("lars")


def lars(reference, rate):
    return LARS(
        rate,
        bias_rate_ratio=float(
            reference["lr_biases_multiplier"] / reference["lr_weights_multiplier"]
        ),
        weight_decay=float(reference["weight_decay"]),
        momentum=float(reference["momentum"]),
        trust_coefficient=float(reference["trust_coefficient"]),
    )


class Steps(keras.optimizers.schedules.LearningRateSchedule):
    """A rate per step from a list."""

    def __init__(self, rates):
        self.rates = tf.constant(rates, "float32")

    def __call__(self, step):
        return tf.gather(self.rates, tf.cast(step, tf.int32))


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_equals_twenty_published_steps(reference, graph):
    steps = int(reference["steps"])
    names = sorted(key[len("initial/") :] for key in reference if key.startswith("initial/"))
    variables = [keras.Variable(reference[f"initial/{name}"], name=name) for name in names]
    rates = [reference[f"rate/{t}"] * reference["lr_weights_multiplier"] for t in range(steps)]
    optimizer = lars(reference, Steps(rates))
    optimizer.build(variables)

    def apply(gradients):
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    if graph:
        apply = tf.function(apply)
    for t in range(steps):
        apply([tf.constant(reference[f"grad/{t}/{name}"], "float32") for name in names])
        for name, variable in zip(names, variables, strict=True):
            expected = reference[f"after/{t}/{name}"]
            error = np.linalg.norm(variable.numpy() - expected)
            assert error <= 1e-5 * max(np.linalg.norm(expected), 1e-9), (t, name)


def test_the_fixture_covers_every_branch(reference):
    names = {key[len("initial/") :] for key in reference if key.startswith("initial/")}
    assert names == {*KERNELS, "bias", "gamma"}
    assert not reference["initial/zero_init_kernel"].any()
    assert not any(reference[f"grad/{t}/no_gradient_kernel"].any() for t in range(20))


@pytest.mark.slow
def test_survives_saving_with_a_model(tmp_path):
    def build():
        model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
        model.compile(LARS(0.5, bias_rate_ratio=0.1, weight_decay=1e-3, momentum=0.8), "mse")
        return model

    x, y = np.random.default_rng(0).normal(size=(2, 8, 4)).astype("float32")
    y = y[:, :3]
    model = build()
    model.fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    assert loaded.optimizer.kernel_decay == 1e-3
    assert loaded.optimizer.weight_decay is None  # Keras would decay once more
    for m in (model, loaded):
        m.fit(x, y, epochs=2, verbose=0, shuffle=False)
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "arguments",
    [
        {"bias_rate_ratio": -0.1},
        {"weight_decay": -1e-6},
        {"momentum": 1.0},
        {"trust_coefficient": 0.0},
    ],
)
def test_bad_arguments(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"{name} is out of range. Received: {name}={value}"):
        LARS(**arguments)
