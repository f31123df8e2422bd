"""The short version of `stress_resume.py`, which says what this is."""

import pytest
import small_network
import stress_resume
import undrawn


@pytest.mark.slow
def test_killed_runs_resume_bit_for_bit(tmp_path):
    backbone = small_network.save(tmp_path / "small.keras")
    flags = [backbone, *small_network.PLAIN_VIEWS, "--monitor_every=0"]
    with undrawn.pictures():
        found = stress_resume.stress(tmp_path, kills=1, epochs=2, flags=flags)
    assert found["kills"] == 1
    assert found["within an epoch"] == 1
