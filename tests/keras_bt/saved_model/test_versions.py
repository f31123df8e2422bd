import os
import pathlib

import pytest
from processes import abandoned

from keras_bt.saved_model import versions as version_folders
from keras_bt.saved_model.versions import add_version


def write(text="x"):
    def write(folder):
        folder.mkdir()
        (folder / "file").write_text(text)

    return write


def test_versions_are_counted_from_the_greatest(tmp_path):
    models = tmp_path / "a" / "models"
    assert add_version(models, write("one")) == models / "1"
    (models / "12").mkdir()
    assert (models / "1").stat().st_mode == (models / "12").stat().st_mode  # as open as any other
    (models / "notes").mkdir()
    assert add_version(models, write("two")) == models / "13"
    (models / "14").write_text("no folder")
    assert add_version(models, write("three")) == models / "15"
    names = sorted(p.name for p in models.iterdir())
    assert names == ["1", "12", "13", "14", "15", "notes"]
    assert [(models / n / "file").read_text() for n in ("1", "13", "15")] == ["one", "two", "three"]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    somebodys = tmp_path / "video.partial"  # names no writer of ours, however old
    for path in (abandoned(tmp_path / "new"), somebodys):
        write()(pathlib.Path(path))
    os.utime(somebodys, (1e9, 1e9))
    add_version(tmp_path, write())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "video.partial"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failing_write_changes_nothing(tmp_path, error):
    def fail(folder):
        write()(folder)
        assert [p.name for p in folder.parent.parent.iterdir() if p.name.isdigit()] in ([], ["1"])
        raise error("broken")

    with pytest.raises(error, match="broken"):
        add_version(tmp_path / "a" / "models", fail)
    assert list(tmp_path.iterdir()) == []
    add_version(tmp_path / "models", write("kept"))
    with pytest.raises(error, match="broken"):
        add_version(tmp_path / "models", fail)
    found = [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))]
    assert found == ["models", "models/1", "models/1/file"]


def test_a_version_that_another_process_adds_meanwhile_is_kept(tmp_path, monkeypatch):
    # The other's version appears between choosing the number and taking it.
    numbers = iter([0, 1])
    monkeypatch.setattr(version_folders, "_greatest", lambda directory: next(numbers))
    write("theirs")(tmp_path / "1")
    assert add_version(tmp_path, write("ours")) == tmp_path / "2"
    assert (tmp_path / "1" / "file").read_text() == "theirs"
    assert (tmp_path / "2" / "file").read_text() == "ours"
