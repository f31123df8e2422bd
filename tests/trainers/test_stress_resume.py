"""The short version of `stress_resume.py`, which says what this is."""

import stress_resume


def test_killed_runs_resume_bit_for_bit(tmp_path):
    found = stress_resume.stress(tmp_path, kills=5, epochs=3)
    assert found["kills"] >= 3
    assert found["within an epoch"] >= 1
