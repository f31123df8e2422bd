"""The short version of `wrong_commands.py`, which says what this is."""

import wrong_commands


def test_wrong_command_lines_end_in_one_line_and_change_nothing(tmp_path):
    given, wrong = wrong_commands.attempt(250, tmp_path, seed=1)
    assert not wrong
    assert len(given) == 25
    assert min(given.values()) == 10
