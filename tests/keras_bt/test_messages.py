import errno
import re
import tempfile

import pytest

from keras_bt.messages import check_writable


@pytest.mark.parametrize(
    ("name", "folder", "message"),
    [
        ("", False, r"--out must be a file that can be written to\. Received: .*, a folder\.$"),
        ("file", True, r"--out must be a folder that can be written to\. Received: .*, a file\.$"),
        ("file/x", True, "file/x, below the file .*/file"),
        ("file/x/y.png", False, "y.png, below the file .*/file"),
    ],
)
def test_what_is_in_the_way_is_said(tmp_path, name, folder, message):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=message):
        check_writable("--out", tmp_path / name, folder)


@pytest.mark.parametrize(("name", "folder"), [("", True), ("file", False), ("a/b", True)])
def test_nothing_is_created_and_permission_is_asked_for(tmp_path, monkeypatch, name, folder):
    (tmp_path / "file").touch()
    assert check_writable("--out", tmp_path / name, folder) == tmp_path / name
    monkeypatch.chdir(tmp_path)
    check_writable("--out", name, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def refuse(dir):  # root may write almost everywhere
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    refused = re.escape(f"where {tmp_path} may not be written to (Permission denied)")
    with pytest.raises(ValueError, match=refused):
        check_writable("--out", tmp_path / name, folder)
