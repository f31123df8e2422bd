"""Calls the real `main`, within this process, which saves TensorFlow's start."""

import re

import numpy as np
import pytest
import script
import undrawn
from PIL import Image
from places import ROOT

from keras_bt import data
from keras_bt.augmentations import RandomFlip, View
from trainers.runs import preview_grid


def preview(capsys, *arguments):
    """Runs the command and returns what it prints."""
    script.call("preview_views", *arguments)
    return capsys.readouterr().out


def write_images(folder, count, size):
    folder.mkdir(parents=True)
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")


def size(path):
    with Image.open(path) as picture:
        return picture.size


@pytest.mark.slow
def test_the_command_of_the_readme(tmp_path, capsys):
    out = tmp_path / "new" / "grid.png"
    with undrawn.pictures():
        output = preview(capsys, "--data=digits", f"--out={out}")
    assert "1,297 images to train on, in 10 classes: 0, 1, 2, 3, 4, …" in output
    assert "500 images to measure on" in output
    assert "Sizes of 1,000 of them: width 8, height 8" in output
    assert f"What the model will see: {out}" in output
    assert out.is_file()


@pytest.mark.slow
def test_takes_the_recipes_and_flags_of_a_run(tmp_path, capsys, monkeypatch):
    write_images(tmp_path / "data" / "train" / "中国 $x_1$", 3, (20, 60))
    write_images(tmp_path / "data" / "train" / "größe", 3, (40, 30))
    (tmp_path / "data" / "train" / "größe" / "broken.png").write_bytes(b"")
    seen = []
    monkeypatch.setattr(
        preview_grid, "draw_grid", lambda path, shown, drawn, title: seen.append((shown, drawn))
    )
    run = [f"--data=folder:{tmp_path / 'data'}", "--workdir=unused", "--batch_size=4"]
    run.append("--flagfile=trainers/recipes/small_images.flags")
    monkeypatch.chdir(ROOT)
    output = preview(capsys, *run, f"--out={tmp_path / 'a.png'}", "--images=5")
    assert "width 30 to 60, median 45; height 20 to 40, median 30" in output
    assert "All images are smaller than the views (32 pixels) and get enlarged." in output
    assert "1 could not be read; training would skip them:\n  größe/broken.png: not" in output
    ((shown, drawn),) = seen
    # Every image is readable, and all draws of the two views differ.
    assert sorted(image.shape for image, _ in shown)[::4] == [(20, 60, 3), (40, 30, 3)]
    assert {name for _, name in shown} == {"größe", "中国 $x_1$"}
    assert len(drawn) == 5
    for views in drawn:
        assert views.shape == (2, 3, 32, 32, 3)
        assert 0 <= views.min() < views.max() <= 1
        assert len({view.tobytes() for view in views.reshape(6, -1)}) == 6


@pytest.mark.slow
def test_all_unreadable_images_are_named_however_many(tmp_path, capsys):
    write_images(tmp_path / "data", 5, (30, 30))
    for index in range(60):
        (tmp_path / "data" / f"broken {index:02}.jpg").write_text("text")
    arguments = [f"--data=folder:{tmp_path / 'data'}", f"--out={tmp_path / 'a.png'}", "--draws=1"]
    with undrawn.pictures():
        lines = preview(capsys, *arguments).splitlines()
    first = lines.index("60 could not be read; training would stop, as these are over 1%:") + 1
    assert lines[first:-1] == [f"  broken {index:02}.jpg: not an image" for index in range(60)]
    assert (tmp_path / "a.png").is_file()


def test_views_are_those_of_the_settings_and_of_the_seed():
    flip = data.normalize
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    plain, mirrored = View([flip]), View([RandomFlip(1.0), flip])
    (view_a, view_b) = preview_grid.draw_views((plain, mirrored), image, 1, (0, 0))
    np.testing.assert_allclose(view_a[0] * 255, image, atol=1e-3)
    np.testing.assert_allclose(view_b[0] * 255, image[:, ::-1], atol=1e-3)
    sometimes = (View([RandomFlip(0.5), flip]),) * 2
    draws = [preview_grid.draw_views(sometimes, image, 8, (seed, 0)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


@pytest.mark.slow
def test_the_same_seed_draws_the_same_picture(tmp_path, capsys):
    out, pictures = tmp_path / "a.png", []
    for seed in (1, 1, 2):
        preview(capsys, f"--out={out}", f"--seed={seed}", "--images=1", "--draws=1")
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]
    assert size(out)[0] > 400


def test_class_names_of_any_script_are_drawn(tmp_path):
    image = np.zeros((9, 2000, 3), np.uint8)
    views = np.zeros((2, 1, 4, 4, 3))
    shown = [(image, "中国 $x_1$"), (image.transpose(1, 0, 2), "a long name " * 20), (image, None)]
    preview_grid.draw_grid(tmp_path / "a.png", shown, [views] * 3, "$folder:/tmp/größe")
    assert size(tmp_path / "a.png")[1] > 400


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data=imagenot"], ["Data must be one of", "imagenot"]),
        (["--data=folder:{tmp}/none"], ["none"]),
        (["--data=folder:{tmp}/broken"], ["one image must be readable", "broken"]),
        (["--out={tmp}/file.png/grid.png"], ["--out must be a file that can be written to"]),
        (["--out={tmp}/grid.jpg"], ["out must end in .png", "grid.jpg"]),
        (["--images=0"], ["images", "0"]),
        (["--images=64M"], ["error: --images must be a whole number. Received: --images=64M"]),
        (["--flip=half"], ["error: --flip must be a number. Received: --flip=half"]),
        (["--projector=8x"], ["projector must be layer widths"]),
        (["--flagfile=nowhere.flags"], ["nowhere.flags"]),
    ],
)
def test_a_mistake_ends_with_one_line(tmp_path, capsys, arguments, words):
    (tmp_path / "file.png").write_bytes(b"mine")
    for folder in ("none", "broken"):
        (tmp_path / folder).mkdir()
    for index in range(3):  # more than are tolerated
        (tmp_path / "broken" / f"{index}.jpg").write_text("text")
    arguments = [argument.format(tmp=tmp_path) for argument in arguments]
    if not any(argument.startswith("--out") for argument in arguments):
        arguments.append(f"--out={tmp_path / 'new' / 'grid.png'}")
    line = script.mistake(capsys, "preview_views", *arguments)
    for word in words:
        assert word in line
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "file.png").read_bytes() == b"mine"


@pytest.mark.slow
def test_draws_are_described(tmp_path, capsys):
    flags = ["--data=digits", f"--out={tmp_path / 'a.png'}", "--images=2", "--draws=2"]
    with undrawn.pictures():
        output = preview(capsys, *flags, "--print_draws", "--jitter=1", "--blur_a=0")
    lines = [line for line in output.splitlines() if line.startswith("image ")]
    assert [line.partition(":")[0] for line in lines] == [
        f"image {image}, view {view}, draw {draw}"
        for image in (1, 2)
        for view in "AB"
        for draw in (1, 2)
    ]
    for line in lines:
        assert re.search(r"resized crop \(box [0-8] +[0-8] +[1-8] +[1-8]\); ", line)
        assert re.search(r"color jitter \(brightness [01]\.\d*, ", line)
    assert len(set(lines)) == 8
    assert not any("blur" in line for line in lines if "view A" in line)
