"""Files that appear whole or not at all, whoever else writes or was killed."""

import os
import pathlib
import re
import threading

import pytest
from full_disk import file_size_limit
from places import ROOT
from processes import abandoned

from keras_bt import files
from keras_bt.files import partial_of, whole


def test_writers_of_one_name_do_not_meet(tmp_path):
    path, errors = tmp_path / "name.json", []

    def write(text):
        try:
            for _ in range(20):
                with whole(path) as partial:
                    partial.write_text(text)
        except OSError as error:
            errors.append(error)

    texts = ["a" * 9, "b" * 9999, "c" * 99]
    writers = [threading.Thread(target=write, args=[text]) for text in texts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not errors
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_writers_left_is_removed_and_no_more(tmp_path, monkeypatch):
    path = tmp_path / "name.json"
    ours = partial_of(path)
    others = {
        "of a process that is gone": (abandoned(path), False),
        "of one before with our number": (re.sub(r"\w{8}(?=\.json)", "0" * 8, str(ours)), False),
        "of a day ago, on another host": (str(ours).replace(files._HOST, "1" * 8), False),
        "of a day ago, of an earlier version": (tmp_path / "name.partial.json", False),
        "ours": (ours, True),
        "of another process": (str(ours).replace(f"-{os.getpid()}-", f"-{os.getppid()}-"), True),
        "of another host": (str(ours).replace(files._HOST, "2" * 8), True),
        "of another file": (abandoned(tmp_path / "other.json"), True),
        "the user's": (tmp_path / "name.partial-draft.json", True),
    }
    for name, (other, _) in others.items():
        pathlib.Path(other).write_text(name)
        if "day ago" in name:
            os.utime(other, (1e9, 1e9))
    with whole(path) as partial:
        partial.write_text("new")
    assert {n: os.path.exists(other) for n, (other, _) in others.items()} == {
        name: stays for name, (_, stays) in others.items()
    }


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "name.json"
    path.write_text("old")
    with (
        file_size_limit(3),
        pytest.raises(OSError, match=f"large: '{path}'"),
        whole(path) as partial,
    ):
        partial.write_text("new and longer")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_everything_is_written_whole():
    writes = re.compile(r"\.write_(text|bytes)\(|np\.savez?\(|savefig\(|\bopen\(.*\"[wx]b?\"")
    found = {
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for folder in ("keras_bt", "trainers", "export")
        for path in (ROOT / folder).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if writes.search(line) and not re.search("partial|devnull|>>>|`", line)
    }
    assert {line.partition(":")[0] for line in found} == {
        "keras_bt/saved_model/export.py",  # into a folder that is renamed at the end
        "keras_bt/evaluation/feature_cache.py",  # into memory
        "keras_bt/data/npz.py",  # only says how users do it
    }
