"""A run that goes on finds its images again, wherever they are now, and notices others."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from keras_bt import data
from keras_bt.data import encoded


@pytest.fixture
def folder(tmp_path):
    """Two classes of four images; the bytes of BMPs of one size have one length."""
    for number in range(8):
        path = tmp_path / "images" / ("cat" if number % 2 else "dog") / f"{number}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(path, number)
    return tmp_path / "images"


def draw(path, number):
    Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(path)


def identity(folder):
    return data.open_source(f"folder:{folder}")[0].identity()


def copied(folder):
    shutil.copytree(folder, folder.parent / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(folder)
    return folder.parent / "copy"


def moved(folder):
    return folder.rename(folder.parent / "moved")


def touched(folder):
    for path in folder.glob("*/*"):
        os.utime(path, (1, 1))


def elsewhere(folder):
    return os.path.relpath(folder)


def half_deleted(folder):
    for path in sorted(folder.glob("*/*"))[::2]:
        path.unlink()


def doubled(folder):
    for path in sorted(folder.glob("*/*")):
        shutil.copy(path, path.with_name(f"again-{path.name}"))


def replaced(folder):
    for path in folder.glob("*/*"):
        draw(path, 100)


def renamed(folder):
    (folder / "cat" / "1.bmp").rename(folder / "cat" / "0.bmp")


def regrouped(folder):
    (folder / "cat" / "1.bmp").rename(folder / "dog" / "1.bmp")


def truncated(folder):
    os.truncate(folder / "cat" / "3.bmp", 30)


def unreadable(folder):
    (folder / "cat" / "3.bmp").unlink()
    (folder / "cat" / "3.bmp").symlink_to("nowhere")


@pytest.mark.parametrize("change", [copied, moved, touched, elsewhere])
def test_the_same_images(change, folder):
    before = identity(folder)
    assert identity(change(folder) or folder) == before


@pytest.mark.parametrize(
    "change", [half_deleted, doubled, replaced, renamed, regrouped, truncated, unreadable]
)
def test_other_images(change, folder):
    before = identity(folder)
    change(folder)
    assert identity(folder) != before


def test_of_many_files_some_are_looked_into(folder, monkeypatch):
    monkeypatch.setattr(encoded, "_CONTENTS", 2)
    before = identity(folder)
    draw(folder / "cat" / "3.bmp", 100)  # the second: not among the first, fifth, …
    assert identity(folder) == before
    replaced(folder)
    assert identity(folder) != before


def test_other_sources_are_known_by_their_pixels_and_records():
    train, test = data.open_source("digits")
    assert train.identity() == train.fingerprint() != test.identity()
