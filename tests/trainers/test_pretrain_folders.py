"""Pretrains, with the real `main`, on a folder of every kind of file that real folders hold."""

import functools
import json
import os

import numpy as np
import pytest
import script
import small_network
import undrawn
from image_files import BROKEN, ENCODED, photo
from PIL import Image

from keras_bt import data
from trainers.runs import skipped_images

TINY = ["--projector=16-16", "--batch_size=128", "--epochs=1", "--noevaluate"]
TINY += ["--monitor_every=0"]
TINY += ["--nodeterministic"]  # which nothing can switch off again for the tests after these
TINY += small_network.PLAIN_VIEWS
ENDINGS = {"jpeg": "jpg", "png": "PNG", "gif": "gif", "bmp": "bmp", "webp": "webp"}
BROKEN_HERE = ("empty", "text", "truncated jpeg", "truncated png")


def run(workdir, folder):
    """Runs the command."""
    backbone = small_network.save(workdir.with_suffix(".keras"), side=32)
    flags = [f"--data=folder:{folder}", f"--workdir={workdir}", backbone, *TINY]
    with undrawn.runs():
        script.call("pretrain", *flags)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of every kind in nested folders: 400 images, 4 of them unreadable."""
    folder = tmp_path_factory.mktemp("photos") / "unlabeled"
    nested = folder / "größe" / "2024 中国"
    nested.mkdir(parents=True)
    for name, contents in ENCODED.items():
        ending = next(ending for kind, ending in ENDINGS.items() if kind in name)
        (nested / f"{name.replace(' × ', 'x')}.{ending}").write_bytes(contents)
    big = Image.fromarray(np.tile(photo(60, 80), (50, 50, 1)))
    big.save(folder / "large.jpeg", quality=60)
    assert big.size == (4000, 3000)
    for name in BROKEN_HERE:
        ending = "png" if "png" in name else "jpg"
        (nested / f"{name}.{ending}").write_bytes(BROKEN[name])
    (folder / "link.webp").symlink_to(nested / "webp.webp")
    # A name that is no UTF-8, as old archives hold.
    with open(os.fsencode(folder) + b"/gr\xf6\xdfe.jpg", "wb") as file:
        file.write(ENCODED["jpeg"])
    (folder / "notes.txt").write_text("no image, and not called one")
    (folder / ".hidden.jpg").write_text("not seen")
    total = sum(1 for _ in images_below(folder))
    for index in range(total, 400):
        (folder / f"{index}.jpg").write_bytes(ENCODED["jpeg"])
    return folder


def images_below(folder):
    for place, _, names in os.walk(folder):
        for name in names:
            if not name.startswith(".") and not name.endswith(".txt"):
                yield os.path.join(place, name)


UNREADABLE = [
    f"größe/2024 中国/{name}"
    for name in ("empty.jpg", "text.jpg", "truncated jpeg.jpg", "truncated png.png")
]


@pytest.mark.slow
def test_every_kind_of_file_pretrains_and_exactly_the_unreadable_are_named(
    tmp_path, folder, capsys
):
    run(tmp_path / "run", folder.parent)
    output = capsys.readouterr().out
    assert "400 images to train on" in output
    assert "  1 file was left out: 1 .txt." in output
    listed = tmp_path / "run" / "skipped_images.txt"
    assert f"Skipped 4 images that could not be read; {listed} lists them" in output
    lines = [line.split("\t") for line in listed.read_text().splitlines()]
    assert [name for _, name, _ in lines] == UNREADABLE
    assert lines[0][::2] == [f"folder:{folder}", "not an image"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["skipped_images"] == UNREADABLE
    assert np.isfinite(summary["loss"])


@pytest.mark.parametrize(
    "cache", ["decoded in memory", pytest.param("read from the disk", marks=pytest.mark.slow)]
)
def test_more_than_one_per_cent_stops_the_run_with_the_list(
    tmp_path, monkeypatch, capsys, folder, cache
):
    if cache == "read from the disk":
        uncached = functools.partial(data.open_source, cache_bytes=0)
        monkeypatch.setattr(data, "open_source", uncached)
    # Of 5 % no batch of 128 is without several.
    for index in range(380):
        (tmp_path / f"{index}.jpg").write_bytes(ENCODED["jpeg"])
    broken = [f"broken {index:02}.jpg" for index in range(20)]
    for name in broken:
        (tmp_path / name).write_bytes(BROKEN["truncated jpeg"])
    with pytest.raises(SystemExit, match="1"):
        run(tmp_path / "run", tmp_path)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert line.startswith("error: At most 1% of the images may be unreadable")
    named = [name for name in broken if name in line]
    assert len(named) == len(broken) if cache == "decoded in memory" else len(named) > 4
    assert not (tmp_path / "run" / "summary.json").exists()
    if cache == "read from the disk":  # else nothing is written at all
        listed = (tmp_path / "run" / "skipped_images.txt").read_text().splitlines()
        assert {line.split("\t")[1] for line in listed} >= set(named)


def test_the_list_of_skipped_images_outlives_a_stop(tmp_path):
    for names in (["b", "two\nlines"], ["a", "b"]):  # before a stop, and after it
        source = data.Source("folder:here", 100)
        for name in names:
            source.unreadable.add(name, "truncated")
        lines = skipped_images.write(tmp_path, source, data.Source("folder:test", 100))
    assert lines == [f"folder:here\t{name}\ttruncated" for name in ("a", "b", "two\\nlines")]
    assert (tmp_path / "skipped_images.txt").read_text().splitlines() == lines
    assert [entry.name for entry in tmp_path.iterdir()] == ["skipped_images.txt"]
    assert skipped_images.closing_lines(tmp_path, []) == []
