"""The short version of `stress_corruption.py`, which says what this is."""

import pytest
import stress_corruption


@pytest.mark.slow
def test_what_is_damaged_is_noticed(tmp_path):
    found = stress_corruption.corrupt(tmp_path, 40, seed=1, of_models=4)
    assert found["config.json"]["one line"] > 30  # the test itself does harm
    assert found["checkpoint folders"].total() == 4
