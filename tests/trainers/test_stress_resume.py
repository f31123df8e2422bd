"""The short version of `stress_resume.py`, which says what this is."""

import pytest
import small_network
import stress_resume


@pytest.mark.slow
def test_killed_runs_resume_bit_for_bit(tmp_path):
    backbone = small_network.save(tmp_path / "small.keras")
    found = stress_resume.stress(tmp_path, kills=3, epochs=3, flags=[backbone])
    assert found["kills"] == 3
    assert found["within an epoch"] >= 1
