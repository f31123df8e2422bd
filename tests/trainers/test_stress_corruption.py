"""The short version of `stress_corruption.py`, which says what this is."""

import stress_corruption


def test_what_is_damaged_is_noticed(tmp_path):
    found = stress_corruption.corrupt(tmp_path, 9, seed=1)
    assert all(sum(outcomes.values()) == 9 for outcomes in found.values())
    assert found["config.json"]["one line"] > 4  # and some are
