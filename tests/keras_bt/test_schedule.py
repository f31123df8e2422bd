import numpy as np
import pytest

from keras_bt import warmup_cosine


@pytest.mark.slow
@pytest.mark.parametrize("setting", "012")
def test_equals_the_published_schedule(fixture_arrays, setting):
    reference = fixture_arrays("schedule", setting)
    steps_per_epoch = int(reference["steps_per_epoch"])
    peak = int(reference["batch_size"]) / 256
    rate = warmup_cosine(
        peak,
        steps=int(reference["epochs"]) * steps_per_epoch,
        warmup_steps=int(reference["warmup_epochs"]) * steps_per_epoch,
    )
    rates = np.array([float(rate(step)) for step in reference["step"]])
    np.testing.assert_allclose(rates, reference["rate_before_multiplier"], atol=1e-6 * peak)


def test_without_warm_up_it_starts_at_the_peak_and_ends_at_a_thousandth():
    rate = warmup_cosine(2.0, steps=10, warmup_steps=0)
    assert float(rate(0)) == pytest.approx(2.0)
    assert float(rate(10)) == pytest.approx(0.002)
    assert float(rate(99)) == pytest.approx(0.002)


def test_a_warm_up_as_long_as_training_is_a_straight_line():
    rate = warmup_cosine(2.0, steps=10, warmup_steps=10)
    np.testing.assert_allclose([float(rate(t)) for t in range(11)], np.linspace(0, 2, 11))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 10, 1), "peak must be > 0. Received: peak=0.0"),
        ((float("nan"), 10, 1), "peak must be > 0"),
        ((1.0, 10, 11), "at most steps.* Received: warmup_steps=11, steps=10"),
        ((1.0, 0, 0), "steps, which must be at least 1. Received: warmup_steps=0, steps=0"),
        ((1.0, 10, -1), "warmup_steps must be at least 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        warmup_cosine(*arguments)
