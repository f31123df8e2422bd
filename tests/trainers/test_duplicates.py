"""Near-duplicates in a folder: what the table, the picture and the terminal say of them."""

import csv

import numpy as np
import pytest
import script
import small_collection
from PIL import Image


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return small_collection.write_backbone(tmp_path_factory.mktemp("backbone") / "tiny.keras")


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def call(backbone, folder, out, *flags):
    script.call(
        *("duplicates", f"--backbone={backbone}", f"--data=folder:{folder}", "--image_size=8"),
        *(f"--out={out}", *flags),
    )


@pytest.mark.slow
def test_copies_are_found_and_leaks_come_first(backbone, tmp_path, capsys):
    folder, out = tmp_path / "images", tmp_path / "new" / "groups.csv"
    paths = small_collection.write_folder(folder)
    lossy = folder / "train/a/lossy.png"
    (folder / "train/a/three.png").write_bytes((folder / 'train/a/quo"te, comma;.png').read_bytes())
    with Image.open(folder / "train/a/three.png") as image:
        pixels = np.array(image)
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(lossy)

    call(backbone, folder, out, "--nowhiten", "--similarity=0.999")
    output = capsys.readouterr().out
    rows = rows_of(out)
    quoted, copied = str(folder / 'train/a/quo"te, comma;.png'), str(folder / "train/a/three.png")
    leaked, original = paths[5], paths[4]
    assert [
        (row["group"], row["leak"], row["path"], row["split"], row["label"]) for row in rows
    ] == [
        ("1", "yes", original, "train", "b"),
        ("1", "yes", leaked, "test", "a"),
        ("2", "no", str(lossy), "train", "a"),
        ("2", "no", quoted, "train", "a"),
        ("2", "no", copied, "train", "a"),
    ]
    assert [row["nearest"] for row in rows[:2]] == [leaked, original]
    equal = [row["pixels"] for row in rows]
    assert equal[0] == equal[1] != equal[3] == equal[4]
    assert all(equal[i] for i in (0, 3))
    assert not equal[2]
    assert [row["similarity"] for row in rows if row["path"] != str(lossy)] == ["1.0000"] * 4
    assert 0.999 <= float(rows[2]["similarity"]) <= 1
    assert rows[2]["to_first"] == "1.0000"
    assert "2 groups of 5 of 9 images" in output
    assert "Leaks: 1 of 2 test images are in a group with training images:" in output
    assert f"  {leaked} is like {original}, 1.000" in output
    picture = out.with_suffix(".png")
    with Image.open(picture) as image:
        assert image.height > 400
    assert sorted(out.parent.iterdir()) == [out, picture]


def test_without_any_the_table_is_empty(backbone, tmp_path, capsys):
    out = tmp_path / "out" / "groups.csv"
    out.parent.mkdir()
    out.with_suffix(".png").write_text("the picture of an earlier run")
    images = np.random.RandomState(0).randint(0, 256, (6, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "images.npz", images=images)
    script.call(
        *("duplicates", f"--backbone={backbone}", f"--data=npz:{tmp_path}/images.npz"),
        *("--image_size=8", f"--out={out}"),
    )
    assert rows_of(out) == []
    assert list(out.parent.iterdir()) == [out]
    assert "0 groups of 0 of 6 images" in capsys.readouterr().out


def test_all_images_are_copies(backbone, tmp_path, capsys):
    np.savez(tmp_path / "images.npz", images=np.full((5, 8, 8, 3), 7, np.uint8))
    script.call(
        *("duplicates", f"--backbone={backbone}", f"--data=npz:{tmp_path}/images.npz"),
        *("--image_size=8", f"--out={tmp_path}/groups.csv"),
    )
    assert "Features are not whitened: all are equal." in capsys.readouterr().out
    assert [row["group"] for row in rows_of(tmp_path / "groups.csv")] == ["1"] * 5


def test_a_threshold_that_joins_everything_is_said_to(backbone, tmp_path, capsys):
    images = np.arange(12 * 192).reshape(12, 8, 8, 3) % 251
    np.savez(tmp_path / "images.npz", images=images.astype(np.uint8))
    script.call(
        *("duplicates", f"--backbone={backbone}", f"--data=npz:{tmp_path}/images.npz"),
        *("--image_size=8", "--nowhiten", "--similarity=0.001", f"--out={tmp_path}/groups.csv"),
    )
    output = capsys.readouterr().out
    assert "The largest group has 12 images, too many to be copies of one" in output
    assert "Leaks" not in output  # there is one part


MISTAKES = {
    "--out must end in .csv. Received: --out=f.txt": ["--out=f.txt"],
    "Received: small.npz/f.csv, below the file": ["--out=small.npz/f.csv"],
    "--similarity must be a number > 0": ["--similarity=0"],
    "--similarity must be at most 1": ["--similarity=1.5"],
    "must hold files ending in": ["--data=folder:empty"],
}


def test_mistakes(backbone, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    np.savez("small.npz", images=np.zeros((3, 8, 8, 3), np.uint8))
    for message, flags in MISTAKES.items():
        given = [f"--backbone={backbone}", "--data=digits", "--image_size=8", "--out=f.csv", *flags]
        assert message in script.mistake(capsys, "duplicates", *given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "small.npz"]
